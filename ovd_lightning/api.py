"""The command line from Python, for notebooks: the same settings, by the same names.

from ovd_lightning import Run

run = Run("quickstart", {"data.rounds": 10, "task": MyTask}).fit()
run.metrics["reward/student"].plot()
run.page()
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.errors import ConfigError
from ovd_lightning.report import write_report
from ovd_lightning.report.read import read_metrics, read_run

if TYPE_CHECKING:
    import pandas as pd

    from ovd_lightning.cli import OVDCLI


class Run:
    """An experiment in this process, on one device; for several ranks there is the command line.

    Args:
        given: names of the package's configs (``ovd-lightning configs``), files, and mappings of dotted names to
            values, each over those before it. A value is a number, a text, a list or mapping, or a class or function:
            ``{"task": MyTask, "task.init_args.reward": my_reward}``. Those of a notebook are found as well.
        folder: of a run that is there already: to look at it, evaluate it, or continue it.
    """

    def __init__(self, *given: str | Path | Mapping[str, Any], folder: str | Path | None = None) -> None:
        self.arguments: list[str] = []
        for part in given:
            named = part if isinstance(part, Mapping) else {"config": part}
            self.arguments += [f"--{name}={written(value)}" for name, value in named.items()]
        self.folder = None if folder is None else Path(folder)

    def fit(self, resume: bool = False) -> Run:
        """Train; a new folder, or with ``resume`` that of this run, behind its last checkpoint.

        Raises: ConfigError for a wrong setting, before any model is loaded.
        """
        more = [f"--ckpt_path={self._existing() / 'checkpoints/last.ckpt'}"] if resume else []
        return self._command("fit", more)

    def evaluate(self, split: Literal["validation", "test"] = "test", student: str | Path | None = None) -> Run:
        """Answer a split's problems, with this run's student or another. Raises: ConfigError."""
        path = self._existing() / "student" if student is None else student
        return self._command("test" if split == "test" else "validate", [f"--ckpt_path={path}"])

    @property
    def metrics(self) -> pd.DataFrame:
        """[optimiser steps at which something was logged, metrics]; NaN where a metric was not. docs/methods.md."""
        import pandas as pd

        series = read_metrics(self._existing())
        frame = pd.DataFrame({name: pd.Series(dict(points), dtype=float) for name, points in sorted(series.items())})
        return frame.rename_axis("step").sort_index()

    @property
    def config(self) -> dict[str, Any]:
        """Every setting as it was, defaults included."""
        return dict(read_run(self._existing()).config)

    def page(self) -> Path:
        """Write the run's page, one HTML file, and return its path."""
        return write_report(self._existing())

    def _existing(self) -> Path:
        if self.folder is None:
            raise ConfigError("folder", "is not known: nothing has run.", "Call fit, or give Run the folder of a run.")
        return self.folder

    def _command(self, name: str, more: Sequence[str]) -> Run:
        import wandb

        from ovd_lightning.cli import OVDCLI, config_error, quiet
        from ovd_lightning.settings.parser import RunParser

        place = [] if self.folder is None else [f"--trainer.default_root_dir={self.folder}"]
        quiet()
        with as_command_line([name, *self.arguments, *place, *more]), RunParser.raising():
            already = wandb.run
            try:
                cli = OVDCLI()
            except Exception as error:
                if (found := config_error(error)) is not None and found is not error:
                    raise found from error
                raise
            finally:
                if wandb.run is not None and wandb.run is not already:
                    wandb.finish()  # the next run of this process would log into it
        self.folder = Path(cli.trainer.default_root_dir)
        _close(cli)
        return self


def written(value: Any) -> str:
    """A value as the command line takes it; a class or function by its import path."""
    if isinstance(value, (str, Path)):
        return str(value)
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return json.dumps(value)


@contextmanager
def as_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """The run's record has the command that would do the same."""
    before, sys.argv = sys.argv, ["ovd-lightning", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _close(cli: OVDCLI) -> None:
    """Frees the folder, and the models of student and teacher: the next run of this process loads its own."""
    from ovd_lightning.callbacks.rollout import RolloutCallback

    cli.lock.release()
    RolloutCallback.of(cli.trainer).engine.close()
    if cli.model.method.teacher is not None:
        cli.model.method.teacher.close()
