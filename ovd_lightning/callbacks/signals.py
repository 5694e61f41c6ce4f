"""SignalsCallback: the process's own handlers of SIGTERM and SIGINT stay in place while a trainer runs."""

from __future__ import annotations

import signal

import lightning as L

from ovd_lightning import stop


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
