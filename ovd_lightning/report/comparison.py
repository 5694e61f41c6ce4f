"""Groups of runs -> figures and tables of their comparison, ready for the page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ovd_lightning.evaluation.names import accuracies
from ovd_lightning.evaluation.names import label as metric_label
from ovd_lightning.report.groups import Group, Member
from ovd_lightning.report.read import Series, evenly
from ovd_lightning.report.spread import LAST, Curve, against, curve, final, mean_and_deviation, running_total
from ovd_lightning.report.style import LIGHT, PATTERNS, layout, line, short

TOKENS = ("teacher/prompt_tokens", "teacher/completion_tokens")
CURVES = (
    ("reward/student", "Reward of the student", "reward", False),
    ("reward/judge", "Reward by the judge", "reward", True),
    ("ovd/acceptance_rate", "Acceptance", "share of trajectories", False),
    ("ovd/replaced_fraction", "Replaced by the teacher", "share of trajectories", True),
)
"""(metric, title, unit, whether there is no figure where no run logged it)."""
VALUES = 12
"""Rows of a figure's table."""
HISTOGRAM = re.compile(r"score/histogram/(.+)")


def figures(groups: Sequence[Group], metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One entry a figure: ``id``, ``title``, ``summary`` (for readers who see no picture), ``missing`` (why runs are
    not in it), ``columns`` and ``rows`` (its numbers) and ``figure`` (Plotly's JSON; None: nothing to draw).

    Args:
        metrics: further ones to draw.
    """
    members = [member for group in groups for member in group.members]
    logged = {name for member in members for name in member.metrics}
    axis = members[0].axis if len({member.axis for member in members}) == 1 else "round or optimiser step"
    wanted = [c for c in CURVES if not c[3] or c[0] in logged] + [(name, name, "", False) for name in metrics]
    entries = [_curves(groups, name, title, unit, axis, logged_as(name)) for name, title, unit, _ in wanted]
    entries.append(_histogram(groups))
    shown = accuracies(logged)
    for name in shown:
        title = metric_label(name)
        entries.append(_curves(groups, name, title[0].upper() + title[1:], "share", axis, logged_as(name)))
    entries.append(_curves(groups, "teacher tokens", "Tokens of the teacher", "tokens so far", axis, tokens))
    entries += [_accuracy_against_tokens(groups, name) for name in shown if name.startswith("eval/")]
    return [entry | {"id": f"figure-{i}"} for i, entry in enumerate(entries)]


def logged_as(name: str) -> Callable[[Member], Series]:
    return lambda member: member.metrics.get(name, [])


def tokens(member: Member) -> Series:
    """(round, tokens that the teacher read and wrote until its end)."""
    return running_total(*(member.metrics.get(name, []) for name in TOKENS))


def _entry(title: str, what: str, groups: Sequence[Group], series: dict[int, list[Series]]) -> dict[str, Any]:
    """An entry without its picture. ``series``: by slot, a member each, [] where it logged none."""
    missing = []
    for group in groups:
        without = [m for m, points in zip(group.members, series[group.slot], strict=True) if not points]
        if len(without) == len(group.members):
            missing.append(f"{group.label} (no run logged {what})")
        elif without:
            seeds = ", ".join(member.seed for member in without)
            missing.append(f"{group.label}, seed {seeds} (logged no {what} yet)")
    return {"title": title, "missing": missing, "summary": "", "columns": [], "rows": [], "figure": None}


def _curves(
    groups: Sequence[Group], what: str, title: str, unit: str, axis: str, of: Callable[[Member], Series]
) -> dict[str, Any]:
    import plotly.graph_objects as go

    series = {group.slot: [of(member) for member in group.members] for group in groups}
    entry = _entry(title, what, groups, series)
    curves = [curve(series[group.slot]) for group in groups]
    figure, parts = go.Figure(), []
    for group, found in zip(groups, curves, strict=True):
        _add_band(figure, group, found)
        if found.x:
            parts.append(f"{group.label} from {found.mean[0]:.4g} to {found.mean[-1]:.4g}")
    if not any(found.runs for found in curves):
        return entry
    figure.update_layout(layout(unit, entries=1))
    figure.update_xaxes(title_text=axis)
    figure.update_yaxes(rangemode="tozero")
    rows = evenly(sorted({x for found in curves for x in found.x}), VALUES)
    at = [dict(zip(found.x, found.mean, strict=True)) for found in curves]
    return entry | {
        "summary": "; ".join(parts),
        "columns": [axis, *(group.label for group in groups)],
        "rows": [[f"{x:g}", *(f"{means[x]:.4g}" if x in means else "" for means in at)] for x in rows],
        "figure": figure.to_plotly_json() | {"layout": figure.layout.to_plotly_json()},
    }


def _add_band(figure: Any, group: Group, found: Curve) -> None:
    style = line(group.slot, max(len(found.x), *(len(rest) for rest in found.further), 0))
    meta, colour = style["meta"], style["line"]["color"]
    y = [short(v) for v in found.mean]
    if found.runs > 1 and found.x:
        edge = {"mode": "lines", "line": {"width": 0, "color": colour}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=found.x, y=[short(v) for v in found.high], **edge, meta=meta)
        figure.add_scatter(
            x=found.x, y=[short(v) for v in found.low], **edge, meta=meta | {"alpha": 0.2}, fill="tonexty",
            fillcolor=colour,
        )  # fmt: skip
    spread = [f"{low:.4g} to {high:.4g}" for low, high in zip(found.low, found.high, strict=True)]
    if found.x:
        hover = f"%{{y:.4g}} (%{{customdata}}, n {found.runs})"
        figure.add_scatter(x=found.x, y=y, customdata=spread, name=group.label, hovertemplate=hover, **style)
    for points in found.further:
        figure.add_scatter(
            x=[x for x, _ in points], y=[short(v) for _, v in points], mode=style["mode"], showlegend=False,
            hoverinfo="skip", line=style["line"] | {"width": 1}, marker=style["marker"] | {"size": 4}, meta=meta,
        )  # fmt: skip


def scores(member: Member) -> dict[float, float]:
    """Score -> its mean share over the last rounds of a run; empty where nothing was judged."""
    found = {}
    for name, points in member.metrics.items():
        if match := HISTOGRAM.fullmatch(name):
            found[float(match[1])] = final(points)
    return found if any(found.values()) else {}


def _histogram(groups: Sequence[Group]) -> dict[str, Any]:
    import plotly.graph_objects as go

    shares = {group.slot: [scores(member) for member in group.members] for group in groups}
    series: dict[int, list[Series]] = {slot: [list(s.items()) for s in found] for slot, found in shares.items()}
    entry = _entry(f"Verbal scores of the last {LAST} rounds", "scores", groups, series)
    bins = sorted({b for found in shares.values() for run in found for b in run})
    if not bins:
        return entry
    figure, parts, rows = go.Figure(), [], [[f"{b:g}"] for b in bins]
    for group in groups:
        runs = [run for run in shares[group.slot] if run]
        at = [[run.get(b, 0.0) for run in runs] for b in bins]
        for row, values in zip(rows, at, strict=True):
            row.append(f"{statistics.fmean(values):.3f}" if values else "")
        if not runs:
            continue
        mean = [statistics.fmean(values) for values in at]
        i = group.slot % len(LIGHT)
        pattern = {"shape": PATTERNS[i], "size": 6, "solidity": 0.25, "fgcolor": "#ffffff"}
        error = {
            "type": "data", "symmetric": False, "thickness": 1, "width": 2,
            "array": [short(max(v) - m) for v, m in zip(at, mean, strict=True)],
            "arrayminus": [short(m - min(v)) for v, m in zip(at, mean, strict=True)],
        }  # fmt: skip
        figure.add_bar(
            x=bins, y=[short(m) for m in mean], name=group.label, meta={"slot": i}, hovertemplate="%{y:.1%}",
            marker={"color": LIGHT[i], "pattern": pattern}, error_y=error if len(runs) > 1 else None,
        )  # fmt: skip
        average = sum(b * m for b, m in zip(bins, mean, strict=True)) / max(sum(mean), 1e-9)
        parts.append(f"{group.label}: mean score {average:.3g}")
    figure.update_layout(layout("share of scores", entries=1) | {"barmode": "group"})
    figure.update_xaxes(title_text="score", dtick=1)
    return entry | {
        "summary": "; ".join(parts),
        "columns": ["score", *(group.label for group in groups)],
        "rows": rows,
        "figure": figure.to_plotly_json() | {"layout": figure.layout.to_plotly_json()},
    }


def _accuracy_against_tokens(groups: Sequence[Group], name: str) -> dict[str, Any]:
    import plotly.graph_objects as go

    spent: dict[int, list[list[tuple[float, float, float]]]] = {}
    for group in groups:
        spent[group.slot] = [
            against(member.metrics.get(name, []), tokens(member)) if tokens(member) else [] for member in group.members
        ]
    title = f"{metric_label(name)}, against tokens of the teacher"
    series: dict[int, list[Series]] = {s: [[(x, v) for x, _, v in run] for run in found] for s, found in spent.items()}
    entry = _entry(title[0].upper() + title[1:], "evaluation and tokens", groups, series)
    figure, parts, rows = go.Figure(), [], []
    for group in groups:
        runs = spent[group.slot]
        cost = curve([[(x, total) for x, total, _ in run] for run in runs])
        value = curve(series[group.slot])
        if not cost.x:
            continue
        style = line(group.slot, 1)
        error = {
            "type": "data", "symmetric": False, "thickness": 1, "width": 3,
            "array": [short(h - m) for h, m in zip(value.high, value.mean, strict=True)],
            "arrayminus": [short(m - low) for low, m in zip(value.low, value.mean, strict=True)],
        }  # fmt: skip
        figure.add_scatter(
            x=[short(x) for x in cost.mean], y=[short(v) for v in value.mean], name=group.label, error_y=error,
            customdata=value.x, hovertemplate="%{y:.4g} after round %{customdata}, %{x:.4s} tokens", **style,
        )  # fmt: skip
        parts.append(f"{group.label}: {value.mean[-1]:.4g} after {cost.mean[-1]:,.0f} tokens")
        rows += [
            [group.label, f"{x:g}", f"{t:,.0f}", f"{v:.4g}"]
            for x, t, v in evenly(list(zip(value.x, cost.mean, value.mean, strict=True)), VALUES)
        ]
    if not parts:
        return entry
    figure.update_layout(layout("share", entries=1) | {"hovermode": "closest"})
    figure.update_xaxes(title_text="tokens read and written by the teacher", rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return entry | {
        "summary": "; ".join(parts),
        "columns": ["", "round", "tokens", "accuracy"],
        "rows": rows,
        "figure": figure.to_plotly_json() | {"layout": figure.layout.to_plotly_json()},
    }


def final_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """(columns, a row a group): runs, rounds, and mean ± sample standard deviation over the runs of their last values:
    of evaluations the last one, of other metrics the mean of the last rounds, of tokens the sum."""
    logged = {name for group in groups for member in group.members for name in member.metrics}
    columns: dict[str, tuple[Callable[[Member], Series], int]] = {
        title.lower(): (logged_as(name), LAST) for name, title, _, _ in CURVES if name in logged
    }
    columns |= {metric_label(name): (logged_as(name), 1) for name in accuracies(logged)}
    if logged & set(TOKENS):
        columns["tokens of the teacher"] = (tokens, 1)
    rows = []
    for group in groups:
        rounds = sorted({member.rounds for member in group.members})
        length = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
        cells = [_cell([final(s, last) for m in group.members if (s := of(m))]) for of, last in columns.values()]
        rows.append([group.label, str(len(group.members)), length, *cells])
    return ["runs", "rounds", *columns], rows


def _cell(values: Sequence[float]) -> str:
    """``mean ± deviation``; "" of no value."""
    if not values:
        return ""
    mean, deviation = mean_and_deviation(values)
    style = ",.0f" if mean >= 1000 else ".3f"
    return f"{mean:{style}}" + ("" if deviation is None else f" ± {deviation:{style}}")
