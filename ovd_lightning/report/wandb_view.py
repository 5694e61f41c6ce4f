"""The panels of a comparison in W&B: a saved view of a project and a report, runs grouped by a setting.

Written with the package ``wandb-workspaces`` (the extra ``[wandb]``), which W&B calls a public preview.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.evaluation.names import accuracies, label
from ovd_lightning.report.comparison import CURVES

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

DEFAULT_BY = ("method.init_args.threshold",)
NAME = "OVD, runs compared"
STEP = "trainer/global_step"
"""What Lightning's logger counts by; evaluations and rounds share it."""
TOTAL = "teacher/total_tokens"
LOOKED_AT = 20
"""Newest runs of the project whose metrics' names are read."""


@dataclass(frozen=True)
class Drawn:
    """What is drawn.

    Args:
        by: settings whose values make the groups.
        accuracies: names of metrics that are.
        metrics: further ones.
    """

    by: Sequence[str] = DEFAULT_BY
    accuracies: Sequence[str] = ()
    metrics: Sequence[str] = ()


def save(where: str, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[str]:
    """Make the view and the report in W&B; returns their addresses.

    Args:
        where: ENTITY/PROJECT.
        by: settings whose values make the groups; none: the threshold.
        metrics: further ones to draw.
    Raises: ConfigError without the package, without a key, and where W&B does not know the project.
    """
    entity, project = checked(where)
    import wandb

    try:
        runs = list(wandb.Api().runs(where, per_page=LOOKED_AT)[:LOOKED_AT])
        drawn = Drawn(tuple(by or DEFAULT_BY), accuracies({key for run in runs for key in run.summary}), metrics)
        view, report = workspace(entity, project, drawn), comparison_report(entity, project, drawn)
        view.save_as_new_view()
        report.save()
    except (ValueError, OSError, RuntimeError) as error:  # W&B's and the network's
        raise ConfigError(
            "--wandb", f"W&B refused {where}: {error}", "Check the names, and the key's rights."
        ) from error
    return [view.url, report.url]


def checked(where: str) -> tuple[str, str]:
    """(entity, project). Raises: ConfigError."""
    raise_errors(_errors(where))
    entity, _, project = where.partition("/")
    return entity, project


def _errors(where: str) -> Iterator[ConfigError]:
    if [bool(part) for part in where.split("/")] != [True, True]:
        yield ConfigError("--wandb", f"is {where!r}.", "Write ENTITY/PROJECT, as in the address of the project's page.")
        return  # W&B itself, which prints what it likes, is not asked
    if importlib.util.find_spec("wandb_workspaces") is None:
        yield ConfigError("--wandb", "needs the package wandb-workspaces.", "pip install wandb-workspaces")
    import wandb

    if not wandb.login(prompt=False, verify=False):
        yield ConfigError("--wandb", "needs a key of W&B, and none is configured.", "wandb login, or WANDB_API_KEY.")


def sections(drawn: Drawn) -> dict[str, list[Any]]:
    """Title -> panels: those of the page, as far as W&B has them."""
    import wandb_workspaces.reports.v2 as wr

    group = wr.Config(drawn.by[0])

    def lines(title: str, x: str, y: str) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=x, y=[y], groupby=group, groupby_aggfunc="mean", groupby_rangefunc="minmax")

    return {
        "Rewards": [lines(title, "round", name) for name, title, _, _ in CURVES],
        "Scores": [
            lines("Verbal score, mean", "round", "score/mean"),
            wr.LinePlot(title="Verbal scores (choose one run)", x=STEP, y=["score/histogram"]),
        ],
        "Evaluations": [
            panel
            for name in drawn.accuracies
            for panel in (
                lines(label(name), STEP, name),
                wr.ScatterPlot(
                    title=f"{label(name)}, against tokens of the teacher, a point a run",
                    x=wr.SummaryMetric(TOTAL),
                    y=wr.SummaryMetric(name),
                ),
            )
        ],
        "Tokens of the teacher": [lines("Tokens so far", "round", TOTAL)],
        **({"Further": [lines(name, STEP, name) for name in drawn.metrics]} if drawn.metrics else {}),
    }


def workspace(entity: str, project: str, drawn: Drawn) -> Workspace:
    """The saved view, not yet sent."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=t, panels=p, is_open=True) for t, p in sections(drawn).items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(name) for name in drawn.by]),
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
    )


def comparison_report(entity: str, project: str, drawn: Drawn) -> Report:
    """The report, not yet sent; with the table of rollouts, which the page has not."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, groupby=[f"config.{name}" for name in drawn.by])
    blocks: list[Any] = [
        wr.P(f"Runs grouped by {', '.join(drawn.by)}: lines are means, bands go from the smallest run to the largest.")
    ]
    for title, panels in sections(drawn).items():
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=panels)]
    blocks += [
        wr.H2("Rollouts"),
        wr.PanelGrid(runsets=[runs], panels=[wr.WeavePanelSummaryTable(table_name="rollouts")]),
    ]
    return wr.Report(entity=entity, project=project, title=NAME, blocks=blocks, width="fluid")
