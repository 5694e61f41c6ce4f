"""Series that can be told apart: by colour on either background, and without colour."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from itertools import combinations, pairwise

import pytest

from ovd_lightning.report.style import DARK, DASHES, LIGHT, MARKERS, PATTERNS, area, line

CSS = (files("ovd_lightning.report") / "templates/report.css").read_text(encoding="utf-8")


def linear(colour: str) -> list[float]:
    """Red, green and blue in [0, 1], of light and not of the screen's voltage (WCAG 2, relative luminance)."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def contrast(a: str, b: str) -> float:
    light, dark = sorted(
        (sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear(c), strict=True)) for c in (a, b)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65): distances are differences as people see them."""
    r, g, b = linear(colour)
    x, y, z = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize(("theme", "palette"), [(0, LIGHT), (1, DARK)])
def test_colours_stand_out_from_the_background_and_from_one_another(theme: int, palette: tuple[str, ...]) -> None:
    backgrounds = [re.findall(rf"--{name}: (#\w{{6}})", CSS)[theme] for name in ("page", "card")]
    assert all(contrast(colour, background) >= 3 for colour in palette for background in backgrounds)
    assert min(math.dist(lab(a), lab(b)) for a, b in combinations(palette, 2)) > 20


def test_series_differ_without_colour() -> None:
    lines = [line(i, 3) for i in range(len(LIGHT))]
    assert len({style["line"]["dash"] for style in lines}) == len(DASHES) == len(LIGHT)
    assert len({style["marker"]["symbol"] for style in lines}) == len(MARKERS) == len(LIGHT)
    shapes = [area(i)["fillpattern"]["shape"] for i in range(len(LIGHT))]
    assert all(a != b for a, b in pairwise(shapes))
    assert tuple(shapes) == PATTERNS
