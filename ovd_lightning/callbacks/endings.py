"""What ends training before its last round: Trainer.max_time, and signals."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from ovd_lightning import stop
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals = stop.current()
        if signals is not None:
            signals.take_over(signal.SIGUSR1, signal.SIGUSR2)

    on_validation_start = on_test_start = on_predict_start = on_train_start
