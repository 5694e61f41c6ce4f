"""The progress bar: a run's bar, its present phase and the time to its end; lines where there is no terminal."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomTimeColumn
from rich import get_console
from rich.console import RenderableType
from rich.progress import Task, TaskID
from rich.table import Column
from rich.text import Text

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.progress import RunProgress, Stage, finished, phase, watch
from ovd_lightning.types import Batch

log = logging.getLogger(__name__)

FRAME_S = 0.25
"""Between two looks at what a terminal shows."""


class Repeat(threading.Thread):
    """Calls ``action`` every ``seconds``, the first time after as many, until it is stopped."""

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        super().__init__(name="progress", daemon=True)
        self.seconds, self.action, self._over = seconds, action, threading.Event()

    def run(self) -> None:
        while not self._over.wait(self.seconds):
            try:
                self.action()
            except Exception:  # a display is never worth a run
                log.debug("no progress can be shown", exc_info=True)
                return

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=2)


def to_come(benchmark: BenchmarkCallback, rounds: int, over: int) -> list[tuple[int, str]]:
    """(rounds that are over by then, split) of each evaluation that a ``fit`` still has before it.

    Args:
        over: rounds finished so far; 0 includes the evaluation before training.
    """
    every = benchmark.every_n_rounds
    plan: list[tuple[int, str]] = [(n, "validation") for n in range(1, rounds + 1) if every and not n % every]
    last = [(rounds, split) for split in benchmark.after_training if (rounds, split) not in plan]
    first = [(0, split) for split in benchmark.before_training if not over]
    return [*first, *((n, split) for n, split in plan if n > over), *last]


class CountColumn(BatchesProcessedColumn):
    """Nothing where the total is not known."""

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total == math.inf else super().render(task)


class TimeColumn(CustomTimeColumn):
    """Elapsed and remaining time. Of the bar of all micro-batches, the remaining time is the run's own estimate: they
    come in bursts, once a round."""

    def __init__(self, bar: RunProgressBar) -> None:
        super().__init__(style=bar.theme.time)
        self.bar = bar

    def render(self, task: Task) -> Text:
        if task.id != self.bar.train_progress_bar_id or task.finished:
            return super().render(task)
        elapsed, left = (
            "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
            for seconds in (task.elapsed, self.bar.run.seconds_left)
        )
        return Text(f"{elapsed} • {left}", style=self.style)

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)


def console_handlers() -> list[logging.StreamHandler[Any]]:
    """Handlers that hold the terminal itself, from before rich put something before it."""
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in known if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [
        h for h in handlers if isinstance(h, logging.StreamHandler) and h.stream in (sys.__stdout__, sys.__stderr__)
    ]


class RunProgressBar(RichProgressBar):
    """Lightning's rich bar, with a row for the phase under way. Where there is no terminal, a line now and then:
    ``round 3/100 | scored 412/1024 | 2 min 10 s in this round | about 3 h 40 min to go``.

    With several ranks, the counts are those of rank 0.

    Args:
        every_s: seconds from one such line to the next; 0: none.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        super().__init__(console_kwargs={"force_jupyter": False})  # in a notebook: lines, as in a file
        self.every_s = every_s
        self.run = RunProgress()
        self._row: TaskID | None = None
        self._drawn: Stage | None = None
        self._repeat: Repeat | None = None
        self._redirected: list[tuple[logging.StreamHandler[Any], Any]] = []
        """Handlers whose lines are printed above the display, and where they wrote before."""
        self._training = ExitStack()
        """The phase of a round's micro-batches."""

    # -------------------------------------------------------------- lifetime

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._end()
        if not self.is_enabled:
            return
        self.run = RunProgress()
        watch(self.run)
        if self._animated:
            self._repeat = Repeat(FRAME_S, self._draw)
        elif self.every_s:
            self._repeat = Repeat(self.every_s, self._print)
        if self._repeat is not None:
            self._repeat.start()

    @property
    def _animated(self) -> bool:
        """As rich sees it."""
        return get_console().is_interactive

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        if self._row is None and self.progress is not None and self._animated:
            self._row = self.progress.add_task("", total=math.inf, visible=False)
            for handler in console_handlers():
                self._redirected.append((handler, handler.stream))
                handler.setStream(sys.stderr)

    def _stop_progress(self) -> None:
        super()._stop_progress()
        for handler, stream in self._redirected:
            handler.setStream(stream)
        self._redirected.clear()

    def _end(self) -> None:
        if self._repeat is not None:
            self._repeat.stop()
        self._training.close()
        if self.progress is not None and self._row is not None:
            self.progress.update(self._row, visible=False)  # what stays on the screen is what came of the run
        self._repeat = self._row = None
        watch(None)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._end()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end()
        super().on_exception(trainer, pl_module, exception)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_repeat": None, "_redirected": [], "_training": ExitStack()}

    # ---------------------------------------------------------------- rounds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, OVDDataModule)
        over = data.first_round()
        benchmark = next((c for c in trainer.callbacks if isinstance(c, BenchmarkCallback)), None)  # type: ignore[attr-defined]
        self.run.begin(data.rounds, over, to_come(benchmark, data.rounds, over) if benchmark else ())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.is_enabled and not self.run.stages:
            self._training.enter_context(phase("train", data.updates_per_round * trainer.accumulate_grad_batches))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        finished()
        if batch.last_in_round:
            self._training.close()
            self.run.end_round()

    # --------------------------------------------------------------- display

    def _print(self) -> None:
        """The line, for files."""
        if line := self.run.line():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def _draw(self) -> None:
        """The row, for terminals."""
        progress, row, stage = self.progress, self._row, self.run.stage
        if progress is None or row is None or self._progress_stopped:
            return
        place = self.run.evaluating[0] if self.run.evaluating else self.run.where
        shown: dict[str, Any] = {
            "description": ": ".join(text for text in (place, stage.label if stage else "") if text),
            "total": stage.total if stage and stage.total else math.inf,
            "completed": stage.done if stage else 0,
            "visible": bool(place),
        }
        if stage is not self._drawn:
            progress.reset(row, **shown)
        else:
            progress.update(row, **shown)
        self._drawn = stage
        self.refresh()

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's, without the speed: micro-batches come in bursts, and 80 columns are not many."""
        description, bar, *_ = super().configure_columns(trainer)
        return [description, bar, CountColumn(style=self.theme.batch_progress), TimeColumn(self)]

    def _get_train_description(self, current_epoch: int) -> str:
        return "micro-batches"  # a run is one epoch

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if "tokens_per_s" in metrics:
            metrics["tokens_per_s"] = f"{metrics['tokens_per_s']:.0f}"
        return {name: value for name, value in metrics.items() if "/" not in name}
