"""Metrics over rounds instead of optimiser steps.

Round r is the r-th from 0, as in transcripts/round-00000r.jsonl and in the metric "round". Its metrics are logged after
its updates, and stand at r. An evaluation of the weights that begin round r stands at r as well: both show the same
student. The one after the last round therefore lies one round behind it.
"""

from __future__ import annotations

from ovd_lightning.report.read import Series

MEASURED_WEIGHTS = ("eval/", "test/", "mismatch/first_sync")
"""Beginnings of the metrics that are of the weights as they are at a step; others are of the round that ends there."""


def rounds_before(metrics: dict[str, Series], step: float) -> float | None:
    """Rounds that are over at an optimiser step; None where no round was logged."""
    ends = metrics.get("round", [])
    return max((number + 1 for end, number in ends if end <= step), default=0.0) if ends else None


def over_rounds(metrics: dict[str, Series]) -> tuple[dict[str, Series], str]:
    """(metrics with (round, value), the axis' title); (optimiser step, value) where no round was logged."""
    ends = dict(metrics.get("round", []))
    if not ends:
        return metrics, "optimiser step"

    def of(name: str, step: float) -> float:
        if name.startswith(MEASURED_WEIGHTS) or step not in ends:
            return rounds_before(metrics, step) or 0.0
        return ends[step]

    return {name: [(of(name, step), value) for step, value in points] for name, points in metrics.items()}, "round"
