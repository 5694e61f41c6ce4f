"""The main curves of a run as one picture, for places that show no page: a model card."""

from __future__ import annotations

import importlib.util
import io

from ovd_lightning.evaluation.names import accuracies, label
from ovd_lightning.report.read import Run, Series
from ovd_lightning.report.rounds import over_rounds

TRAINING = {
    "reward/student": "reward of the student",
    "ovd/acceptance_rate": "accepted",
    "ovd/replaced_fraction": "replaced by the teacher",
}
STYLES = ("-", "--", ":", "-.")


def draw(run: Run) -> bytes | None:
    """A PNG of the training curves beside the evaluations; None without matplotlib, or where there is no curve."""
    metrics, axis = over_rounds(run.metrics)
    training = {text: metrics[name] for name, text in TRAINING.items() if len(metrics.get(name, ())) > 1}
    evaluations = {label(name): metrics[name] for name in accuracies(metrics) if len(metrics[name]) > 1}
    panels = [(title, curves) for title, curves in (("training", training), ("accuracy", evaluations)) if curves]
    if not panels or importlib.util.find_spec("matplotlib") is None:
        return None
    return _png(panels, axis)


def _png(panels: list[tuple[str, dict[str, Series]]], axis: str) -> bytes:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(5 * len(panels), 3.2), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (text, points), style in zip(curves.items(), STYLES * len(curves), strict=False):
            axes.plot(*zip(*points, strict=True), style, label=text, marker="o" if len(points) < 12 else None, ms=3)
        axes.set(title=title, xlabel=axis)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()
