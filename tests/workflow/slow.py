"""Parts of a run that stand still in one phase of it, and say so: for tests of what happens to it then.

The environment variable STAND is "<phase> <file>": where the run comes to the phase, the file appears. A phase stands
still in its second round, where it has one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from ovd_lightning.engines.base import Completion, Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.methods.base import LossOutput
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.context import Round
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Group

PACE_S = 0.03


def stand(phase: str, seconds: float = 300.0) -> None:
    wanted, _, file = os.environ.get("STAND", "").partition(" ")
    if phase == wanted and not Path(file).exists():
        Path(file).touch()
        time.sleep(seconds)


class PacedEngine(HFEngine):
    """Takes a time for each token that can be watched, however fast the machine is."""

    def start(self) -> None:
        super().start()
        self.network.register_forward_pre_hook(lambda *_: time.sleep(PACE_S))


class PacedCallback(L.Callback):
    """The same for a micro-batch."""

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(10 * PACE_S)


class SlowEngine(HFEngine):
    def start(self) -> None:
        stand("loading")
        super().start()

    def sync(self, named_parameters: Iterable[tuple[str, Tensor]], version: int) -> None:
        if version:
            stand("sync")
        super().sync(named_parameters, version)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if self.version and sampling.temperature:
            stand("generation")
        return super().generate(requests, sampling)


class SlowGRPO(GRPO):
    def annotate(self, groups: list[Group], round: Round) -> None:
        if round.index == 1:
            stand("annotation")
        super().annotate(groups, round)

    def annotate_batch(self, batch: Batch) -> None:
        if batch.round == 1:
            stand("log-probabilities")
        super().annotate_batch(batch)

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        if batch.round == 1:
            stand(f"update-{batch.update}")
        return super().loss(student, batch)


class SlowCallback(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stand("before-training")

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step and args[2] == 2:  # two batches are answered
            stand("validation")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        stand("checkpoint", 2.0)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stand("export")
