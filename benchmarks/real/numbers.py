"""What the tables are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Probability that a right answer's score is above a wrong one's, ties counting half; NaN without both."""
    if not right or not wrong:
        return math.nan
    return sum((r > w) + (r == w) / 2 for r in right for w in wrong) / (len(right) * len(wrong))


def auc_error(area: float, right: int, wrong: int) -> float:
    """Standard error of an AUC (Hanley and McNeil, 1982)."""
    if not right or not wrong:
        return math.nan
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (right - 1) * (q1 - area**2) + (wrong - 1) * (q2 - area**2)
    return math.sqrt(max(0.0, variance) / (right * wrong))


def calibration_error(chances: Sequence[float], correct: Sequence[bool], bins: int = 5) -> float:
    """Expected calibration error: |mean chance - share correct|, averaged over bins of equal width by their counts."""
    places = [min(int(p * bins), bins - 1) for p in chances]
    total = 0.0
    for place in range(bins):
        inside = [i for i, b in enumerate(places) if b == place]
        total += abs(sum(chances[i] for i in inside) - sum(correct[i] for i in inside))
    return total / len(chances)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
