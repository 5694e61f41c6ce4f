"""How the figures of every page look: series differ in colour and in dash, marker or pattern.

A colour is given by its place in the palette (``meta.slot`` of a Plotly trace): the browser takes it from the palette
of its light or dark theme. Both have a contrast of at least 3:1 with their backgrounds.
"""

from __future__ import annotations

from typing import Any

LIGHT = (
    "#0072B2", "#C44E00", "#00805C", "#A67200", "#8E2F8A", "#D6336C", "#6B6B6B", "#3F6F1F", "#6A4C00", "#2B2F77",
    "#00778F",
)  # fmt: skip
DARK = (
    "#4FA8E8", "#FF8A4C", "#2FC79A", "#F0C040", "#D88BE0", "#FF8FB1", "#B4B4B4", "#9BCB6B", "#C9A46A", "#9AA4FF",
    "#7FE7F2",
)  # fmt: skip
DASHES = (
    "solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "10px 2px 2px 2px 2px 2px", "2px 8px", "14px 4px",
    "6px 2px", "4px 2px 12px 2px",
)  # fmt: skip
MARKERS = (
    "circle",
    "square",
    "diamond",
    "cross",
    "x",
    "triangle-up",
    "pentagon",
    "star",
    "hexagon",
    "bowtie",
    "hourglass",
)
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|", "", "/", "x")
"""Of areas and bars."""
FEW_POINTS = 15
"""A line of fewer points has markers."""


def palettes() -> dict[str, list[str]]:
    return {"light": list(LIGHT), "dark": list(DARK)}


def line(slot: int, points: int) -> dict[str, Any]:
    """A line's style; of ``points`` points."""
    i = slot % len(LIGHT)
    return {
        "mode": "lines+markers" if points < FEW_POINTS else "lines",
        "line": {"width": 2, "color": LIGHT[i], "dash": DASHES[i]},
        "marker": {"symbol": MARKERS[i], "size": 6, "color": LIGHT[i]},
        "meta": {"slot": i},
    }


def area(slot: int) -> dict[str, Any]:
    """An area's, of a stack; its pattern is in the background's colour."""
    i = slot % len(LIGHT)
    return {
        "mode": "lines",
        "line": {"width": 0.5, "color": LIGHT[i]},
        "fillpattern": {"shape": PATTERNS[i], "size": 7, "solidity": 0.16, "fgcolor": "#ffffff", "bgcolor": LIGHT[i]},
        "meta": {"slot": i},
    }


def layout(unit: str, *, entries: int) -> dict[str, Any]:
    """A figure's, with room for a legend of ``entries`` entries; ``unit`` is the title of the vertical axis."""
    return {
        "template": None,
        "height": 260 + 19 * max(0, (entries - 1) // 2),  # room for the legend's rows
        "margin": {"l": 48, "r": 12, "t": 8, "b": 44},
        "hovermode": "x unified",
        "showlegend": entries > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        "yaxis": {"title": {"text": unit, "font": {"size": 11}, "standoff": 10}, "automargin": True},
        "xaxis": {"title": {"font": {"size": 11}, "standoff": 6}, "automargin": True},
    }


def short(value: float) -> float:
    """Five digits: more are invisible in a picture and swell the page."""
    return float(f"{value:.5g}")
