"""The findings of a check as a table, and the style of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#8c8c8c"
"""Okabe-Ito, safe for colour-blind readers."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement, whether it holds, and the numbers that say so."""

    where: str
    """Equation or section of the paper; "corrected" where the statement is ours."""
    statement: str
    holds: bool
    numbers: str


def table(findings: Sequence[Finding]) -> str:
    """A Markdown table."""
    rows = ["| where | statement | holds | numbers |", "| --- | --- | --- | --- |"]
    for f in findings:
        cells = (f.where, f.statement, "yes" if f.holds else "**no**", f.numbers)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def panels(count: int, width: float = 4.2, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes side by side; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes: Any = figure.subplots(1, count, squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes[0])


def save(figure: Figure, path: Path) -> None:
    """As SVG on white, the same bytes for the same numbers."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "theory", "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
