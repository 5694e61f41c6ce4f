"""Engines that take the weights, say nothing, and do not answer as the student does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ovd_lightning.engines.hf import HFEngine


class KeepsItsHead(HFEngine):
    """Like an engine that multiplies by a packed copy of the head: what is synchronised never gets there. It starts
    with whatever weights, as its `start_empty` says."""

    def start_empty(self) -> None:
        self.start()
        self.network.get_output_embeddings().weight.data.mul_(0.5)

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        head: Any = self.network.get_output_embeddings()
        before = head.weight.detach().clone()
        super().sync(named_weights, version)
        head.weight.data.copy_(before)


class KnowsNoHead(HFEngine):
    """Its loader stops at a name."""

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        raise KeyError("model.layers.0.mlp.experts.gate_up_proj")
