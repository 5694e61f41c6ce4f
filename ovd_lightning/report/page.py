"""A run -> one HTML page. Plotly's code and the run's data are embedded compressed and unpacked in the browser.

Model output is hostile text. It reaches the page in two ways only: through Jinja with autoescaping on, and inside
the compressed data, from where the script puts it into text nodes.
"""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files
from typing import Any

from ovd_lightning.evaluation.names import accuracies
from ovd_lightning.evaluation.names import label as metric_label
from ovd_lightning.report.figures import figures, parts_of_time
from ovd_lightning.report.read import Record, Run, Series, evenly, read_round

VIEWER_ROUNDS = 12
DATA_LIMIT = 2_900_000
"""Compressed bytes of data; a third more in the page, which stays under 6 MB with Plotly's 2 MB."""
RAW_LIMIT = 8_000_000
"""Bytes of trajectories before compression, the first guess at what fits."""
STEP_TEXT_LIMIT = 20_000
"""Characters of one step."""
KEPT = (
    "sample source in_mixture reward correct answer score accepted advantage stop_reason tokens student_tokens "
    "policy_version"
).split()


def render(run: Run) -> str:
    """The page's text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    templates = files("ovd_lightning.report") / "templates"
    drawn = figures(run)
    data, shown = _packed({"figures": drawn, "scoreLow": run.score_low}, run)
    environment = Environment(
        loader=PackageLoader("ovd_lightning.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        run=run,
        tiles=tiles(run),
        options=method_options(run),
        evaluations=evaluation_tables(run),
        panels=drawn,
        last_values=sorted((name, series[0][1], series[-1][1]) for name, series in run.metrics.items()),
        shown=shown,
        plotly=_compressed(get_plotlyjs().encode()),
        data=data,
    )


def tiles(run: Run) -> list[dict[str, str]]:
    """The numbers a reader looks for first: ``label``, ``value``, ``note``. Only those that were logged."""
    found: list[dict[str, str]] = []

    def moved(label: str, series: Series, style: str) -> None:
        first, last = format(series[0][1], style), format(series[-1][1], style)
        note = f"from {first}" if len(series) > 1 else f"at step {series[0][0]:g}"
        found.append({"label": label, "value": last, "note": note})

    shown = accuracies(run.metrics)
    for name in sorted(shown, key=lambda name: not name.startswith("test/")):
        moved(metric_label(name).replace("greedy ", ""), run.metrics[name], ".1%")
    for name, label, style in (
        ("reward/student", "student reward", ".3f"),
        ("ovd/acceptance_rate", "acceptance rate", ".1%"),
        ("ovd/zero_advantage_groups", "zero-advantage groups", ".1%"),
        ("score/mean", "verbal score", ".2f"),
        ("policy/kl", "KL to initial student", ".4f"),
    ):
        if series := run.metrics.get(name, []):
            moved(label, series, style)
    times = parts_of_time(name for name in run.metrics if name.startswith("time/"))
    phases = {name: sum(v for _, v in run.metrics[name]) for name in times}
    if total := sum(phases.values()):
        longest = max(phases, key=lambda name: phases[name])
        note = f"{phases[longest] / total:.0%} {longest.removeprefix('time/')}"
        found.append({"label": "time in phases", "value": _duration(total), "note": note})
    if run.transcripts:
        found.append({"label": "rounds", "value": str(len(run.transcripts)), "note": "with a transcript"})
    return found


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def method_options(run: Run) -> list[tuple[str, str]]:
    """The method's plain settings; nested ones (a teacher's engine) stay in the config below."""
    options = run.method.get("init_args") or {}
    return [(name, str(value)) for name, value in options.items() if isinstance(value, str | int | float | bool)]


def _packed(base: dict[str, Any], run: Run) -> tuple[str, str]:
    """Figures and as many trajectories as fit, compressed; and a sentence on what is shown."""
    numbers = evenly(list(run.transcripts), VIEWER_ROUNDS)
    groups_by_round = {n: read_round(run.transcripts[n]) for n in numbers}
    total = sum(len(groups) for groups in groups_by_round.values())
    budget = RAW_LIMIT
    while True:
        rounds = [_round(n, groups, budget // len(numbers)) for n, groups in groups_by_round.items()]
        packed = _compressed(json.dumps(base | {"rounds": rounds}, allow_nan=False, separators=(",", ":")).encode())
        kept = sum(len(r["groups"]) for r in rounds)
        if len(packed) * 3 // 4 <= DATA_LIMIT or kept <= len(rounds):
            break
        budget //= 2
    if not rounds:
        return packed, ""
    shown = f"Shown: {len(rounds)} of {len(run.transcripts)} rounds"
    if kept < total:
        shown += f", and {kept} of the {total} groups of those rounds, to bound the size of this page"
    return packed, shown + ". The files in transcripts/ hold everything."


def _round(number: int, groups: list[list[Record]], budget: int) -> dict[str, Any]:
    """The first groups of a round whose JSON stays within ``budget`` bytes; at least one."""
    kept: list[dict[str, Any]] = []
    for records in groups:
        group = _group(records)
        budget -= len(json.dumps(group))
        if kept and budget < 0:
            break
        kept.append(group)
    return {"round": number, "groups": kept}


def _group(records: list[Record]) -> dict[str, Any]:
    first = records[0]
    return {
        "problem": str(first.get("problem_id")),
        "question": str(first.get("question") or ""),
        "answers": [str(answer) for answer in first.get("answers") or []],
        "trajectories": [_trajectory(record) for record in records],
    }


def _trajectory(record: Record) -> dict[str, Any]:
    """What the viewer needs; numbers shortened. Without steps, all of the text is one."""
    steps = record.get("steps") or [{**record, "text": record.get("text"), "start": 0, "end": record.get("tokens")}]
    kept = {name: _clean(record.get(name)) for name in KEPT}
    # A trajectory-level distribution (all was scored at once) belongs to the trajectory, not to its steps.
    kept["distribution"] = _clean(record.get("distribution")) if record.get("steps") else None
    kept["steps"] = [
        {
            "text": _shortened(str(step.get("text") or "")),
            "score": _clean(step.get("score")),
            "distribution": _clean(step.get("distribution")),
            "start": step.get("start"),
        }
        for step in steps
    ]
    return kept


def _shortened(text: str) -> str:
    if len(text) <= STEP_TEXT_LIMIT:
        return text
    return f"{text[:STEP_TEXT_LIMIT]} [… {len(text) - STEP_TEXT_LIMIT} more characters in the transcript]"


def _clean(value: Any) -> Any:
    """Floats to four digits, non-finite ones to null, lists likewise."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else None
    return value


def _compressed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def evaluation_tables(run: Run) -> list[dict[str, Any]]:
    """One a split, "validation" first: ``split``, ``columns``, ``what`` (the accuracy that ``steps`` shows: [step,
    cells]), ``last`` (every row of the last evaluation) and ``caption``, how that was done.

    Only evaluations of the same benchmarks as the last one are in ``steps``.
    """
    tables = []
    for split in ("validation", "test"):
        found = [e for e in run.evaluations if e["split"] == split]
        if not found:
            continue
        last = found[-1]
        alike = [e for e in found if e["table"]["columns"] == last["table"]["columns"]]
        tables.append(
            {
                "split": split,
                "columns": [str(column) for column in last["table"]["columns"][1:]],
                "what": str(last["table"]["rows"][0][0]),
                "steps": [(e["step"], [_cell(c) for c in e["table"]["rows"][0][1:]]) for e in alike],
                "last": [(str(row[0]), [_cell(c) for c in row[1:]]) for row in last["table"]["rows"]],
                "caption": str(last.get("caption", "")),
            }
        )
    return tables


def _cell(value: Any) -> str:
    """A count as it is, a percentage with one digit; "" where there is none."""
    return f"{value:.1f}" if isinstance(value, float) else "" if value is None else str(value)
