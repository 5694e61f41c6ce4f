"""A model's weights under their two names, and a digest of them.

In memory transformers may hold a checkpoint's tensors fused, renamed or transposed (the experts of a mixture, say).
What leaves the process, for vLLM or for a file, has the names and shapes that ``save_pretrained`` writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_lightning import lora
from ovd_lightning.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]
CHUNK = 1 << 22
"""Entries that are looked at together: 32 MiB of temporary memory as int64."""


@dataclass(slots=True, frozen=True)
class _Weight:
    """A weight before it is gathered from its shards, dequantised, or summed with its adapter's."""

    shape: torch.Size
    dtype: torch.dtype
    full: Callable[[], Tensor]


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(name in memory, full tensor) of every parameter, a tied one once, and of every buffer that a checkpoint holds.

    With an adapter, of the model that it makes of the base, under the base's names. Collective under a sharding
    strategy: every rank must take them all.
    """
    for name, weight in _own(model):
        yield name, weight.full()


def checkpoint_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, full tensor). Gathered and named one by one, or layer by layer where transformers joins
    tensors: of a sharded model no more than that exists as a whole at a time, unless the receiver keeps it.

    Collective like :func:`named_weights`.
    Raises: ConfigError where transformers cannot turn its names back.
    """
    for group in _groups(model):
        yield from _written(model, {name: weight.full() for name, weight in group.items()}).items()


def checkpoint_shapes(model: PreTrainedModel) -> tuple[Shapes, set[str]]:
    """Names and shapes that :func:`checkpoint_weights` gives, and further names that only repeat a tied weight."""
    everything = _empty(dict(_own(model)))
    shapes = {name: tuple(tensor.shape) for name, tensor in _written(model, everything).items()}
    once = {name for name, _ in model.named_parameters()}
    tied = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False) if name not in once}
    return {**tied, **shapes}, set(tied)


def _own(model: PreTrainedModel) -> Iterator[tuple[str, _Weight]]:
    for name, parameter in model.named_parameters():
        plain = lora.base_name(name)
        if plain is None:  # a part of an adapter: it comes with the weight that it adapts
            continue
        composed = lora.composed(model, name, parameter)
        if composed is None:
            yield plain, _Weight(parameter.shape, parameter.dtype, partial(lora.full, parameter.detach()))
        else:
            yield plain, _Weight(*composed, partial(lora.compose, model, name, parameter))
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            yield name, _Weight(buffer.shape, buffer.dtype, partial(lora.full, buffer))


def _empty(weights: dict[str, _Weight]) -> dict[str, Tensor]:
    return {name: torch.empty(w.shape, dtype=w.dtype, device="meta") for name, w in weights.items()}


def _written(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    try:
        return revert_weight_conversion(model, {n: t for n, t in state.items() if n not in ignored})
    except Exception as error:  # whatever a conversion of transformers raises
        raise ConfigError(
            "model.student",
            f"transformers cannot name the weights of {type(model).__name__} as a checkpoint does ({error}).",
            "Use another model.",
        ) from error


def _groups(model: PreTrainedModel) -> list[dict[str, _Weight]]:
    """The weights in the smallest parts that can be converted apart from one another: tensors, layers, everything."""
    own = dict(_own(model))

    def shapes(state: dict[str, _Weight]) -> Shapes:
        return {name: tuple(tensor.shape) for name, tensor in _written(model, _empty(state)).items()}

    def layer(name: str) -> str:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        return name if number is None else ".".join(parts[: number + 1])

    whole = shapes(own)
    for part in (str, layer):
        groups: dict[str, dict[str, _Weight]] = {}
        for name, tensor in own.items():
            groups.setdefault(part(name), {})[name] = tensor
        apart: Shapes = {}
        with suppress(ConfigError):  # of a tensor that is nothing without another
            for group in groups.values():
                apart |= shapes(group)
        if apart == whole:
            return list(groups.values())
    return [own]


def fingerprint(named_weights: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits of every bit of every parameter and saved buffer, its name, shape and dtype.

    Bits are read as integers and summed modulo 2^64 with odd factors that depend on the position. Integer sums do not
    depend on their order, as float sums do, so a GPU and a CPU agree; an odd factor lets no single change vanish.
    Collective where ``named_weights`` gathers shards: every rank enters.
    """
    digest = hashlib.sha256()
    factors: dict[torch.device, Tensor] = {}
    with torch.no_grad():
        for name, weight in named_weights:
            value = weight.detach().contiguous().view(-1)
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            needed = min(CHUNK, value.numel())
            if value.device not in factors or factors[value.device].numel() < needed:
                factors[value.device] = _odd(needed, value.device)
            weights = factors[value.device]
            bits = value.view(_integer(value.dtype))
            sums = [(part.to(torch.int64) * weights[: part.numel()]).sum() for part in bits.split(CHUNK)]
            if sums:
                digest.update(torch.stack(sums).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _odd(count: int, device: torch.device) -> Tensor:
    """[count] odd int64 factors, no two alike, spread over all 64 bits."""
    return (2 * torch.arange(count, device=device) + 1) * 0x1E3779B97F4A7C15


def _integer(dtype: torch.dtype) -> torch.dtype:
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
