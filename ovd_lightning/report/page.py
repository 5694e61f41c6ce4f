"""A run -> one HTML page. Plotly's code and the run's data are embedded compressed and unpacked in the browser.

Model output is hostile text. It reaches the page in two ways only: through Jinja with autoescaping on, and inside
the compressed data, from where the script puts it into text nodes.
"""

from __future__ import annotations

from importlib.resources import files

from ovd_lightning.evaluation.names import accuracies
from ovd_lightning.evaluation.names import label as metric_label
from ovd_lightning.report.evaluations import evaluation_tables
from ovd_lightning.report.figures import figures, parts_of_time
from ovd_lightning.report.read import Run, Series
from ovd_lightning.report.rollouts import compressed, failures, packed
from ovd_lightning.report.rounds import over_rounds
from ovd_lightning.report.style import palettes


def render(run: Run) -> str:
    """The page's text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    templates = files("ovd_lightning.report") / "templates"
    drawn = figures(run)
    data, shown = packed({"figures": drawn, "palette": palettes(), "scoreLow": run.score_low}, run)
    environment = Environment(
        loader=PackageLoader("ovd_lightning.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup("".join((templates / name).read_text(encoding="utf-8") for name in ("curves.js", "report.js"))),
        run=run,
        tiles=tiles(run),
        axis=over_rounds(run.metrics)[1],
        options=method_options(run),
        evaluations=evaluation_tables(run),
        panels=drawn,
        last_values=sorted((name, series[0][1], series[-1][1]) for name, series in run.metrics.items()),
        shown=shown,
        failures=failures(run),
        plotly=compressed(get_plotlyjs().encode()),
        data=data,
    )


def tiles(run: Run) -> list[dict[str, str]]:
    """The numbers a reader looks for first: ``label``, ``value``, ``note``. Only those that were logged."""
    found: list[dict[str, str]] = []
    metrics, axis = over_rounds(run.metrics)

    def moved(label: str, series: Series, style: str) -> None:
        first, last = format(series[0][1], style), format(series[-1][1], style)
        note = f"from {first}" if len(series) > 1 else f"at {axis} {series[0][0]:g}"
        found.append({"label": label, "value": last, "note": note})

    shown = accuracies(metrics)
    for name in sorted(shown, key=lambda name: not name.startswith("test/")):
        moved(metric_label(name).replace("greedy ", ""), metrics[name], ".1%")
    for name, label, style in (
        ("reward/student", "student reward", ".3f"),
        ("ovd/acceptance_rate", "acceptance rate", ".1%"),
        ("ovd/zero_advantage_groups", "zero-advantage groups", ".1%"),
        ("score/mean", "verbal score", ".2f"),
        ("policy/kl", "KL to initial student", ".4f"),
    ):
        if series := metrics.get(name, []):
            moved(label, series, style)
    times = parts_of_time(name for name in metrics if name.startswith("time/"))
    phases = {name: sum(v for _, v in metrics[name]) for name in times}
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
