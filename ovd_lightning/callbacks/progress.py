"""The progress bar: rounds' reward, acceptance and speed while they pass."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class RunProgressBar(RichProgressBar):
    """Lightning's rich bar without the logger's version number."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "micro-batches"  # a run is one epoch

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {name: value for name, value in metrics.items() if "/" not in name}
