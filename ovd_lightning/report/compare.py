"""``python -m ovd_lightning compare RUN [RUN ...]``: runs side by side, as one HTML page or as a dashboard in W&B."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.files import write_text
from ovd_lightning.report.comparison import figures, final_table
from ovd_lightning.report.groups import SEED, Group, find_runs, group_by
from ovd_lightning.report.rollouts import compressed
from ovd_lightning.report.style import DASHES, LIGHT, MARKERS, palettes


def render(groups: Sequence[Group], by: Sequence[str], notes: Sequence[str], metrics: Sequence[str] = ()) -> str:
    """The page's text.

    Args:
        by: the settings that make the groups.
        notes: what a reader has to know: what was left out, what differs within groups.
        metrics: further ones to draw.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    templates = files("ovd_lightning.report") / "templates"
    drawn = figures(groups, metrics)
    columns, rows = final_table(groups)
    data = {
        "figures": [{"id": entry["id"], "figure": entry["figure"]} for entry in drawn],
        "palette": palettes(),
        "groups": [{"label": g.label, "slot": g.slot % len(LIGHT), "n": len(g.members)} for g in groups],
        "dashes": DASHES,
        "markers": MARKERS,
    }
    environment = Environment(
        loader=PackageLoader("ovd_lightning.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("compare.html.j2").render(
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup("".join((templates / n).read_text(encoding="utf-8") for n in ("curves.js", "compare.js"))),
        groups=groups,
        runs=sum(len(group.members) for group in groups),
        by=by,
        notes=notes,
        columns=columns,
        rows=rows,
        panels=drawn,
        plotly=compressed(get_plotlyjs().encode()),
        data=compressed(json.dumps(data, allow_nan=False, separators=(",", ":")).encode()),
    )


def compare(given: Sequence[str], out: Path, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[str]:
    """Write the page of a comparison; returns its notes. Raises: ConfigError."""
    members, notes = find_runs(given)
    groups, chosen, within = group_by(members, by)
    known = {name for member in members for name in member.metrics}
    if unknown := [name for name in metrics if name not in known]:
        raise ConfigError("--metric", f"no run logged {unknown[0]}.", "Names are the columns of metrics.csv.")
    if within:
        notes.append(f"runs of one group differ in {', '.join(within)}")
    if len({member.axis for member in members}) > 1:
        notes.append("some runs logged no round: their curves are over optimiser steps")
    going = [f"{m.name} ({m.rounds} rounds)" for m in members if m.state == "not finished"]
    if going:
        notes.append(f"not finished: {', '.join(going)}")
    if len(groups) > len(LIGHT):
        notes.append(f"of {len(groups)} groups only {len(LIGHT)} differ in colour and dash: choose fewer with --by")
    for group in groups:
        seeds = [member.seed for member in group.members]
        if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            notes.append(f"{group.label}: several runs have the seed {', '.join(repeated)}")
    write_text(out, render(groups, chosen, notes, metrics))
    return notes


def _wrong(options: argparse.Namespace) -> Iterator[ConfigError]:
    if options.wandb is None and not options.runs:
        yield ConfigError("compare", "no run is given.", "Give their folders, or --wandb ENTITY/PROJECT.")
    if options.wandb is not None and options.runs:
        yield ConfigError("--wandb", "takes the runs of its project.", "Leave out the folders.")


def main(argv: Sequence[str] | None = None) -> int:
    """0; 2 for an error that the user can correct."""
    parser = argparse.ArgumentParser(
        prog="python -m ovd_lightning compare",
        description="Runs side by side: one HTML page from their files, that needs no network.",
    )
    parser.add_argument("runs", nargs="*", help="runs/<name>/<time>, folders that hold such (a sweep's), or patterns")
    parser.add_argument(
        "--by", action="append", default=[], metavar="SETTING",
        help="what makes a group, e.g. method.init_args.threshold, or threshold; may be given several times "
        f"(default: all settings that differ, but for {SEED}, names, and data.rounds)",
    )  # fmt: skip
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="draw this one as well")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), metavar="FILE", help="(%(default)s)")
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT",
        help="instead of a page: a saved view and a report of that project's runs in W&B; without runs",
    )  # fmt: skip
    options = parser.parse_args(argv)
    try:
        raise_errors(_wrong(options))
        if options.wandb is not None:
            from ovd_lightning.report.wandb_view import save

            for url in save(options.wandb, options.by, options.metric):
                print(url)
            return 0
        for note in compare(options.runs, options.out, options.by, options.metric):
            print(f"note: {note}", file=sys.stderr)
        print(options.out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
