"""What data-parallel strategies need beside Lightning's own part: sharding by FSDP2, and when gradients are reduced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ovd_lightning.errors import ConfigError


def data_parallel(mesh: DeviceMesh) -> DeviceMesh:
    """The dimension over which a model is sharded. Raises: ConfigError where it is not all of the mesh."""
    shard = mesh["data_parallel"]
    if shard.size() != mesh.size():
        raise ConfigError(
            "trainer.strategy.init_args.data_parallel_size",
            f"comes to {shard.size()} of {mesh.size()} ranks; the student is sharded over all of them.",
            "Set it to the number of ranks, and tensor_parallel_size to 1: configs/strategy/fsdp2.yaml.",
        )
    return shard


def computed_in(precision: str) -> torch.dtype | None:
    """The dtype in which FSDP2 gathers parameters; None: as they are kept."""
    return torch.bfloat16 if precision == "bf16-mixed" else None


def shard(model: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, half: torch.dtype | None) -> None:
    """FSDP2: each block and what is outside of them is gathered when it computes, and moved to the mesh's device now.

    Args:
        half: parameters are gathered in it, so that half as much is sent and held; gradients are reduced in float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for name in ("divergence", "representations", "last_states"):
        register_fsdp_forward_method(model, name)


def reduce_gradients(model: Any, now: bool) -> None:
    """FSDP2: whether the next backward pass reduces gradients over the ranks. DDP's part is Lightning's."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)


def share_buckets(strategy: Strategy) -> None:
    """DDP's buckets are the gradients' memory, not a copy of it."""
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
