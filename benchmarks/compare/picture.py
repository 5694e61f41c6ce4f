"""Accuracy against teacher tokens, with the spread over seeds, as one picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def points(runs: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float, float]]:
    """(teacher tokens, accuracy, its standard deviation) at each evaluation, over the seeds of a method."""
    return [
        (
            statistics.mean(point["spent"] for point in same),
            statistics.mean(values := [point[kind] for point in same]),
            statistics.stdev(values) if len(values) > 1 else 0.0,
        )
        for same in zip(*(run["curve"] for run in runs), strict=True)
    ]


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], kinds: Mapping[str, str], path: Path) -> None:
    """A panel for each kind of accuracy.

    Args:
        runs: a method's name -> its seeds; a method without teacher tokens is a dashed line at where it ends.
        kinds: key of a curve's points -> label of the axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "compare"  # the same picture from the same numbers, byte for byte
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(kinds), figsize=(4.5 * len(kinds) + 2, 3.4), sharex=True, squeeze=False)
    for axis, (kind, label) in zip(axes[0], kinds.items(), strict=True):
        for number, (name, own) in enumerate(runs.items()):
            colour = plt.cm.tab20(number % 20)
            found = points(own, kind)
            mean, deviation = 100 * found[-1][1], 100 * found[-1][2]
            if found[-1][0] == 0:
                axis.axhline(mean, color=colour, linestyle="--", linewidth=1.2, label=name)
                axis.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.1)
                continue
            spent = [x / 1000 for x, _, _ in found]
            axis.plot(
                spent, [100 * y for _, y, _ in found], "o-", markersize=3, color=colour, linewidth=1.5, label=name
            )
            low, high = ([100 * (y + sign * d) for _, y, d in found] for sign in (-1, 1))
            axis.fill_between(spent, low, high, color=colour, alpha=0.15)
        axis.set(xlabel="teacher tokens read and written, thousands", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
