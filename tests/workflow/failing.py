"""Parts of a run that fail in the middle of its second round."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import psutil

from ovd_lightning.engines.base import Poll, Ready, Request, Sampling
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
            (core,) = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
            core.send_signal(signal.SIGKILL)
        return super().generate_as_ready(requests, sampling, ready, poll)
