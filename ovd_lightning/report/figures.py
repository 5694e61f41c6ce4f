"""The curves of a run, as Plotly figures ready for JSON. Colours of text and grid are set in the browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from ovd_lightning.evaluation.names import accuracies
from ovd_lightning.report.read import Record, Run, Series, evenly, read_round
from ovd_lightning.report.rounds import over_rounds
from ovd_lightning.report.style import area, layout, line, short

HEATMAP_ROUNDS = 60
"""Rounds read for the score heat map; more would be slow to read and too narrow to see."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Panel:
    """What one figure shows."""

    id: str
    title: str
    metrics: tuple[str, ...]
    """Names of metrics; a trailing ``*`` takes all that begin so."""
    unit: str = ""
    kind: Literal["line", "stack"] = "line"
    choose: Callable[[Iterable[str]], list[str]] | None = None
    """Names of the metrics -> those that are drawn; None: all."""
    share: bool = False
    """Values lie in [0, 1]: the axis shows all of it."""
    optional: bool = False
    """Of some methods or tasks only: no panel where it was not logged."""


def parts_of_time(names: Iterable[str]) -> list[str]:
    """Those that add up: without their sum, and without what went on beside the sampling."""
    return [name for name in names if name not in ("time/round", "time/overlapped")]


PANELS = (
    Panel(id="accuracy", title="Validation problems", metrics=("eval/*",), choose=accuracies, share=True),
    Panel(id="test", title="Test problems", metrics=("test/*",), choose=accuracies, share=True),
    Panel(id="reward", title="Reward", metrics=("reward/student", "reward/mixture")),
    Panel(
        id="acceptance",
        title="Acceptance and replacement",
        metrics=("ovd/acceptance_rate", "ovd/replaced_fraction"),
        unit="share of trajectories",
        share=True,
    ),
    Panel(
        id="zero-advantage",
        title="Zero-advantage groups",
        metrics=("ovd/zero_advantage_groups",),
        unit="share of groups",
        share=True,
    ),
    Panel(id="score", title="Verbal score, mean", metrics=("score/mean",), unit="score"),
    Panel(id="score-entropy", title="Entropy of the score distribution", metrics=("score/entropy",), unit="nats"),
    Panel(id="kl", title="KL to the initial student", metrics=("policy/kl",), unit="nats per token"),
    Panel(id="entropy", title="Policy entropy", metrics=("policy/entropy",), unit="nats per token"),
    Panel(id="clip", title="Clipped tokens", metrics=("policy/clip_fraction",), unit="share of tokens"),
    Panel(id="mismatch", title="Sampler-trainer mismatch", metrics=("mismatch/logprob_abs_mean",), unit="nats"),
    Panel(id="learning-rate", title="Learning rate", metrics=("optim/learning_rate",), optional=True),
    Panel(id="length", title="Completion length", metrics=("completion/length_mean",), unit="tokens"),
    Panel(
        id="stop",
        title="Why completions end",
        metrics=("completion/stop/*",),
        unit="share of trajectories",
        share=True,
        optional=True,
    ),
    Panel(
        id="time",
        title="Time per phase",
        metrics=(
            "time/sync",
            "time/generate",
            "time/environment",
            "time/grade",
            "time/score",
            "time/replace",
            "time/logprobs",
            "time/train",
            "time/checkpoint",
            "time/other",
            "time/*",
        ),
        unit="seconds a round",
        kind="stack",
        choose=parts_of_time,
    ),
    Panel(
        id="throughput",
        title="Throughput",
        metrics=("throughput/generated_tokens_per_s", "throughput/trained_tokens_per_s"),
        unit="tokens per second",
    ),
    Panel(
        id="teacher",
        title="Tokens of the teacher",
        metrics=("teacher/prompt_tokens", "teacher/completion_tokens"),
        unit="tokens a round",
        optional=True,
    ),
    Panel(
        id="teacher-failures",
        title="What the teacher failed at",
        metrics=(
            "teacher/failed_calls",
            "teacher/retried_calls",
            "teacher/failed/*",
            "teacher/demonstration_failures",
            "score/parse_failures",
        ),
        unit="a round",
        optional=True,
    ),
    Panel(
        id="divergence",
        title="Divergence from the token-level teacher",
        metrics=("opd/reverse_kl", "gkd/divergence", "opsd/divergence"),
        unit="nats per token",
        optional=True,
    ),
    Panel(
        id="step-weight",
        title="SOD: weights of steps",
        metrics=("sod/step_weight", "sod/step_weight_later"),
        unit="weight",
        optional=True,
    ),
    Panel(
        id="turns",
        title="Turns of a trajectory",
        metrics=("environment/turns_mean", "environment/invalid_mean", "environment/failed_mean"),
        unit="turns",
        optional=True,
    ),
)


def figures(run: Run) -> list[dict[str, Any]]:
    """One entry per panel: ``id``, ``title``, ``summary`` (for readers who see no picture), ``missing`` (names of
    metrics that the run did not log) and ``figure`` (Plotly's JSON, None when nothing is there to draw)."""
    metrics, axis = over_rounds(run.metrics)
    drawn = [panel for panel in PANELS if not panel.optional or select(metrics, panel.metrics)]
    entries = [_panel(metrics, panel, axis) for panel in drawn]
    entries.append(_score_heatmap(run))
    return entries


def select(metrics: dict[str, Series], names: Sequence[str]) -> dict[str, Series]:
    """The metrics that a panel asks for, each once, in the panel's order."""
    chosen: dict[str, Series] = {}
    for name in names:
        if name.endswith("*"):
            chosen |= {m: s for m, s in metrics.items() if m.startswith(name[:-1]) and m not in chosen}
        elif name in metrics:
            chosen[name] = metrics[name]
    return chosen


def _panel(metrics: dict[str, Series], panel: Panel, axis: str) -> dict[str, Any]:
    import plotly.graph_objects as go

    series = select(metrics, panel.metrics)
    if panel.choose is not None:
        series = {name: series[name] for name in panel.choose(series)}
    missing = [name for name in panel.metrics if not name.endswith("*") and name not in series and not panel.optional]
    if not series:
        return {"id": panel.id, "title": panel.title, "missing": list(panel.metrics), "summary": "", "figure": None}
    # The prefix that all names share is left out: "reward/student" is "student" in a figure about reward.
    prefix = min((name.rpartition("/")[0] + "/" for name in series), key=len)
    if not all(name.startswith(prefix) for name in series):
        prefix = ""
    figure = go.Figure()
    for i, (name, points) in enumerate(series.items()):
        x, y = [at for at, _ in points], [short(value) for _, value in points]
        style = line(i, len(points)) if panel.kind == "line" else {**area(i), "stackgroup": "phases"}
        figure.add_scatter(x=x, y=y, name=name.removeprefix(prefix), hovertemplate="%{y:.4g}", **style)
    figure.update_layout(layout(panel.unit, entries=len(series)))
    figure.update_xaxes(title_text=axis)
    values = [value for points in series.values() for _, value in points]
    if panel.share and min(values) >= 0 and max(values) <= 1:
        figure.update_yaxes(range=[-0.02, 1.02])
    else:
        figure.update_yaxes(rangemode="tozero")
    summary = "; ".join(f"{name} from {s[0][1]:.4g} to {s[-1][1]:.4g}" for name, s in series.items())
    return {
        "id": panel.id,
        "title": panel.title,
        "missing": missing,
        "summary": summary,
        "figure": figure.to_plotly_json() | {"layout": figure.layout.to_plotly_json()},
    }


def step_scores(records: Iterable[Record]) -> list[float]:
    """Scores of what the student wrote: its steps', or its trajectories' where no step was scored."""
    scores: list[float] = []
    for record in records:
        if record.get("source") != "student":
            continue
        steps = [step.get("score") for step in record.get("steps") or []]
        found = [s for s in steps if s is not None] or [record.get("score")]
        scores += [float(s) for s in found if s is not None and math.isfinite(s)]
    return scores


def _score_heatmap(run: Run) -> dict[str, Any]:
    import plotly.graph_objects as go

    entry: dict[str, Any] = {"id": "score-heatmap", "title": "Verbal scores of the student's steps, share by round"}
    columns: dict[int, list[float]] = {}
    for number in evenly(list(run.transcripts), HEATMAP_ROUNDS):
        if scores := step_scores(chain.from_iterable(read_round(run.transcripts[number]))):
            columns[number] = scores
    if not columns:
        return entry | {"missing": ["scores in transcripts/"], "summary": "", "figure": None}
    low = run.score_low
    bins = range(low, low + 10)
    shares = {n: [0.0] * len(bins) for n in columns}
    for number, scores in columns.items():
        for score in scores:
            shares[number][min(max(math.floor(score + 0.5) - low, 0), len(bins) - 1)] += 1 / len(scores)
    figure = go.Figure(
        go.Heatmap(
            x=list(columns),
            y=list(bins),
            z=[[short(shares[n][i]) for n in columns] for i in range(len(bins))],
            zmin=0,
            colorscale="Cividis",
            colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}},
            hovertemplate="round %{x}, score %{y}: %{z:.1%}<extra></extra>",
        )
    )
    figure.update_layout(layout("score", entries=1) | {"hovermode": "closest"})
    figure.update_xaxes(title_text="round", dtick=max(1, (max(columns) - min(columns)) // 8))
    figure.update_yaxes(dtick=1)
    means = [sum(s) / len(s) for s in columns.values()]
    summary = f"mean score from {means[0]:.3g} in round {min(columns)} to {means[-1]:.3g} in round {max(columns)}"
    return entry | {"missing": [], "summary": summary, "figure": figure.to_plotly_json()}
