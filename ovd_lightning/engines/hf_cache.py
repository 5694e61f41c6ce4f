"""Keys and values that grow in place, for the generation loop of the hf engine. Written against transformers 5.16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of new room, at least; beyond, a quarter of what is there."""


class GrowingLayer(DynamicLayer):
    """Appends to buffers with room, and moves only the rows that change their place.

    transformers' own layer copies all keys and values for every token, and for every sequence that ends.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        """Takes over what a layer holds."""
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._buffers = [layer.keys, layer.values]
        self._show(layer.keys.shape[0], layer.keys.shape[-2])

    def _show(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        self._rows, self._length = rows, length
        keys, values = (buffer[:rows, :, :length] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [self._longer(buffer, end + max(ROOM, end // 4)) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._length : end] = states
        return self._show(self._rows, end)

    def _longer(self, buffer: Tensor, length: int) -> Tensor:
        longer = buffer.new_empty(self._rows, buffer.shape[1], length, buffer.shape[-1])
        longer[:, :, : self._length] = buffer[: self._rows, :, : self._length]
        return longer

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes row ``beam_idx[i]``; of these, none may be a place that another row moves to."""
        moved = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero()[:, 0]
        for buffer in self._buffers:
            buffer[moved, :, : self._length] = buffer[beam_idx[moved], :, : self._length]
        self._show(len(beam_idx), self._length)


def let_grow(cache: Any) -> None:
    """Replace a cache's plain layers; those of sliding windows, states or experts keep their own ways."""
    layers = getattr(cache, "layers", [])
    for i, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[i] = GrowingLayer(layer)


def places(kept: list[int]) -> list[int]:
    """Which row takes each of the first ``len(kept)`` places: its own if it is kept, else one from behind them."""
    stay = set(kept)
    behind = iter([row for row in kept if row >= len(kept)])
    return [row if row in stay else next(behind) for row in range(len(kept))]
