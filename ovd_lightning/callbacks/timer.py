"""RoundTimer: Trainer.max_time, at the end of a round."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from ovd_lightning.types import Batch


class RoundTimer(Timer):
    """Lightning's Timer, which would end a run in the middle of a round, after a round's last update only."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch.last_in_round:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
