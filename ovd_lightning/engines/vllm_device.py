"""The GPU and the caches of an engine: vLLM would give every rank's engine the first GPU, and all of them one folder."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = "VLLM_CACHE_ROOT"


def own_device() -> list[int]:
    """vLLM's ``device_ids``: the GPU that Lightning made current for this rank, counted among the visible ones."""
    import torch

    return [torch.cuda.current_device()]


def use_own_cache() -> None:
    """Compiled graphs of every rank but the first go into a folder of its own: vLLM does not replace files as a whole.

    vLLM reads the variable when an engine starts, and keeps it: engines of one process have one folder.
    """
    import torch.distributed as dist
    import vllm.envs as envs

    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    root = Path(envs.VLLM_CACHE_ROOT)
    if rank and root.name != f"rank-{rank}":
        os.environ[ROOT] = str(root / f"rank-{rank}")
