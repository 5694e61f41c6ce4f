"""Curves of a group of runs: their mean in every round, and from the smallest to the largest of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ovd_lightning.report.read import Series

LAST = 5
"""Rounds whose mean is a run's final value of what every round measures: a single one is noisy."""


@dataclass(slots=True, kw_only=True)
class Curve:
    """One group's, where all of its runs have a value."""

    x: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    """The smallest of the runs."""
    high: list[float] = field(default_factory=list)
    runs: int = 0
    """How many logged anything."""
    further: list[Series] = field(default_factory=list)
    """Of each run that goes on behind the last common value, the rest by itself, from there."""


def curve(series: Sequence[Series]) -> Curve:
    """A mean of some of the runs would jump where one is missing: it ends, and each goes on by itself."""
    runs = [dict(points) for points in series if points]
    if not runs:
        return Curve()
    common = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[x] for run in runs] for x in common]
    end = common[-1] if common else -math.inf
    further = [sorted((x, value) for x, value in run.items() if x >= end) for run in runs]
    return Curve(
        x=common,
        mean=[statistics.fmean(at) for at in values],
        low=[min(at) for at in values],
        high=[max(at) for at in values],
        runs=len(runs),
        further=[rest for rest in further if rest[-1][0] > end],
    )


def final(points: Series, last: int = LAST) -> float:
    """A run's last value; the mean of its ``last`` ones."""
    return statistics.fmean(value for _, value in points[-last:])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None of a single value. At least one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def running_total(*series: Series) -> Series:
    """(round, sum up to and with that round) of several metrics together."""
    per_round: dict[float, float] = {}
    for points in series:
        for x, value in points:
            per_round[x] = per_round.get(x, 0.0) + value
    rounds = sorted(per_round)
    return list(zip(rounds, accumulate(per_round[x] for x in rounds), strict=True))


def against(values: Series, totals: Series) -> list[tuple[float, float, float]]:
    """(round, total of the rounds before it, value): what had been spent when a value was measured."""
    found = []
    for x, value in values:
        spent = [total for at, total in totals if at < x]
        found.append((x, spent[-1] if spent else 0.0, value))
    return found
