"""Which weights answered: a digest that is the same on any device, under any sharding, in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 1 << 22
"""Entries that are looked at together: 32 MiB of temporary memory as int64."""


def fingerprint(named_weights: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits of every bit of every parameter and saved buffer, its name, shape and dtype.

    Bits are read as integers and summed modulo 2^64 with odd factors that depend on the position. Integer sums do not
    depend on their order, as float sums do, so a GPU and a CPU agree; an odd factor lets no single change vanish.
    Collective where ``named_weights`` gathers shards: every rank enters.
    """
    import torch

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
    import torch

    return (2 * torch.arange(count, device=device) + 1) * 0x1E3779B97F4A7C15


def _integer(dtype: torch.dtype) -> torch.dtype:
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
