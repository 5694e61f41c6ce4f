"""The state after the last finished round: what a checkpoint of a run holds, whenever it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from ovd_lightning.files import replacing

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
"""Of a Lightning checkpoint, what training changes. Its callbacks' state is always the present one."""


def whole_on_each_rank(trainer: L.Trainer) -> bool:
    """Whether a rank alone can write a checkpoint. A sharded student or optimiser takes all of them."""
    if type(trainer.strategy) is not DDPStrategy:
        return type(trainer.strategy) is SingleDeviceStrategy
    from torch.distributed.optim import ZeroRedundancyOptimizer  # a third of a second

    return not any(isinstance(o, ZeroRedundancyOptimizer) for o in trainer.optimizers)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their place and appear complete.

    Lightning's own go through memory and TMPDIR: on another file system, a kill then leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path, "wb") as file:
            torch.save(checkpoint, file)


class FinishedRound:
    """Follows a run, so that a checkpoint written in the middle of a round is that of the last finished one.

    Weights and optimiser change only in the optimiser's steps. Until a round's first step they are those of the
    round before, and only Lightning's loop counters are ahead. From then on a copy is needed, if the round has several
    steps; a single one is never left half done.
    """

    def __init__(self) -> None:
        self.step = 0
        """global_step after the round; 0: none is finished."""
        self.loops: dict[str, Any] | None = None
        self.touched = False
        """A step of the next round has begun."""
        self.copy: dict[str, Any] | None = None
        """In main memory; of the state that ``step`` and ``loops`` are of, while ``touched``."""
        self._buffers: dict[str, Any] = {}

    def record(self, trainer: L.Trainer) -> None:
        """A round is finished."""
        self.step, self.loops = trainer.global_step, deepcopy(_loops(trainer))
        self.touched, self.copy = False, None

    def restored(self, checkpoint: Mapping[str, Any]) -> None:
        """A round was finished by another process."""
        self.step, self.loops = int(checkpoint.get("global_step", 0)), deepcopy(checkpoint.get("loops"))
        self.touched, self.copy = False, None

    def before_update(self, trainer: L.Trainer, keep: bool) -> None:
        """The weights are about to change.

        Args:
            keep: a copy, of what they are now.
        """
        if not self.touched and keep and self.loops is not None:
            state = {
                "state_dict": trainer.strategy.lightning_module_state_dict(),
                "optimizer_states": [trainer.strategy.optimizer_state(o) for o in trainer.optimizers],
                "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            }
            self._buffers = _copied(state, self._buffers)
            self.copy = {**self._buffers, "loops": self.loops, "epoch": trainer.current_epoch, "global_step": self.step}
        self.touched = True

    def complete(self, trainer: L.Trainer, updates_per_round: int) -> bool:
        """All steps of a round are done, though it has not been recorded yet: the state is as good as recorded."""
        return self.touched and trainer.global_step - self.step >= updates_per_round

    def known(self, trainer: L.Trainer, updates_per_round: int) -> int | None:
        """global_step of the round that :meth:`correct` can give; 0: none is finished; None: it is lost."""
        if self.complete(trainer, updates_per_round):
            return trainer.global_step
        if not self.step:
            return 0
        return self.step if not self.touched or self.copy is not None else None

    def correct(self, trainer: L.Trainer, checkpoint: dict[str, Any], updates_per_round: int) -> None:
        """Make a checkpoint of the present one of the last finished round, where it can be."""
        if self.loops is None or self.complete(trainer, updates_per_round):
            return
        if not self.touched:
            checkpoint["loops"] = deepcopy(self.loops)
        elif self.copy is not None:
            checkpoint.update({name: self.copy[name] for name in PARTS})


def _loops(trainer: L.Trainer) -> dict[str, Any]:
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    return {name: getattr(trainer, name).state_dict() for name in loops}


def _copied(value: Any, into: Any) -> Any:
    """A copy in main memory, in the tensors of an earlier one where they fit."""
    if isinstance(value, torch.Tensor):
        fits = isinstance(into, torch.Tensor) and into.shape == value.shape and into.dtype == value.dtype
        return into.copy_(value) if fits else value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        known = into if isinstance(into, dict) else {}
        return {key: _copied(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        earlier = into if isinstance(into, list | tuple) and len(into) == len(value) else [None] * len(value)
        return type(value)(_copied(item, old) for item, old in zip(value, earlier, strict=True))
    return deepcopy(value)
