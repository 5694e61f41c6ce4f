"""RoundCheckpoint: Lightning's ModelCheckpoint, at round boundaries, where a resumed run is exact."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import phase
from ovd_lightning.types import Batch


class RoundCheckpoint(ModelCheckpoint):
    """Writes <run>/checkpoints/step-….ckpt and last.ckpt, after the last round in any case.

    Args:
        every_n_rounds: how often.
        keep: how many to keep; -1: all. With ``monitor``, the best; without, the newest.
        monitor: metric to rank by, e.g. eval/arithmetic/accuracy.
        mode: whether a larger (max) or a smaller (min) value is better.
    """

    def __init__(self, every_n_rounds: int = 10, keep: int = 1, monitor: str | None = None, mode: str = "max") -> None:
        if every_n_rounds < 1:
            raise ConfigError("checkpoint.every_n_rounds", f"is {every_n_rounds}.", "Use 1 or more.")
        super().__init__(
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_rounds,
            save_top_k=keep,
            monitor=monitor,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
        )
        self.every_n_rounds = every_n_rounds
        self.seconds = 0.0
        """Spent on checkpoints so far."""

    @property
    def state_key(self) -> str:
        """The same whatever the interval, so that a run may be resumed with another."""
        return "RoundCheckpoint"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        self._every_n_train_steps = self.every_n_rounds * trainer.datamodule.updates_per_round  # type: ignore[attr-defined]
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        every = self._every_n_train_steps
        if batch.last_in_round and batch.round == trainer.datamodule.rounds - 1:  # type: ignore[attr-defined]
            self._every_n_train_steps = trainer.global_step  # the last round always
        start = time.perf_counter()
        with phase("checkpoint"):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.seconds += time.perf_counter() - start
        self._every_n_train_steps = every
