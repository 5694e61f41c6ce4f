"""Parts of a run that fail in the middle of its second round, or where an engine is awake that should sleep."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L

from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.engines.base import Completion, Poll, Ready, Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.context import Round
from ovd_lightning.types import Group


class FailingGRPO(GRPO):
    """Raises on the rank ``$FAILS``; the others go on to their next collective."""

    def annotate(self, groups: list[Group], round: Round) -> None:
        if round.index == 1 and os.environ["FAILS"] == os.environ.get("LOCAL_RANK", "0"):
            raise LookupError("no luck on this rank")
        super().annotate(groups, round)


class DyingEngine(VLLMEngine):
    """Its process is killed before the second round is sampled."""

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Ready, poll: Poll = lambda: None
    ) -> list[Any]:
        if self.version:
            (core,) = [p for p in multiprocessing.active_children() if "EngineCore" in p.name]
            core.kill()
        return super().generate_as_ready(requests, sampling, ready, poll)


class AwakeEngine(HFEngine):
    """Must be awake when it is used; `AsleepCallback` says when it must not."""

    depth = 0

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert self.depth
        return super().generate(requests, sampling)


class AsleepCallback(L.Callback):
    """The GPU's memory is the trainer's while it trains and while a checkpoint is put together; an evaluation keeps the
    engine awake from its first answer to its last."""

    def asleep(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        engine = RolloutCallback.of(trainer).engine
        assert isinstance(engine, AwakeEngine)
        assert engine.depth == 0

    on_train_batch_start = on_before_optimizer_step = on_save_checkpoint = on_fit_end = asleep

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        engine = RolloutCallback.of(trainer).engine
        assert isinstance(engine, AwakeEngine)
        assert engine.depth > 0
