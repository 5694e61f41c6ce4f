"""What ends training before its last round: Trainer.max_time, and signals."""

from __future__ import annotations

import signal
import traceback
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from ovd_lightning import stop
from ovd_lightning.errors import ConfigError
from ovd_lightning.files import write_text
from ovd_lightning.types import Batch


class RoundTimer(Timer):
    """Lightning's Timer, which would end a run in the middle of a round, after a round's last update only."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch.last_in_round:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class SignalsCallback(L.Callback):
    """Lightning puts its own handler before ours: it waits for other ranks, and for the end of a round.

    First among the callbacks: the others' evaluations before training must be interruptible. What Lightning does on
    SLURM's signal to requeue stays, but not in the middle of an update.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            for file in Path(trainer.default_root_dir).glob(PATTERN):  # of an earlier attempt in the same folder
                file.unlink()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A rank that fails leaves its error in the run's folder and has rank 0 end the others, which would wait for it
        in their next collective for half an hour."""
        if not trainer.global_rank or isinstance(exception, stop.Stopped):
            return
        if not isinstance(exception, ConfigError):
            write_failure(Path(trainer.default_root_dir), trainer.global_rank, exception)
        stop.tell_rank_zero()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals = stop.current()
        if signals is not None:
            signals.take_over(signal.SIGUSR1, signal.SIGUSR2)

    on_validation_start = on_test_start = on_predict_start = on_train_start


PATTERN = "rank-*.error"


def write_failure(folder: Path, rank: int, exception: BaseException) -> None:
    """What ended a rank, as a file beside what the others write."""
    lines = [f"{type(exception).__name__}: {exception}\n\n", *traceback.format_exception(exception)]
    write_text(folder / PATTERN.replace("*", str(rank)), "".join(lines))


def read_failure(folder: Path) -> str | None:
    """Which rank of this run failed, and why, in one line; None where none did."""
    for file in sorted(folder.glob(PATTERN)):
        return f"{file.stem.replace('-', ' ')} ended by {file.read_text().splitlines()[0]} (see {file})"
    return None
