"""The device and the caches of an engine: vLLM would give every rank's engine the first GPU, and one folder to all.
And what is said where one dies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ovd_lightning.errors import RunError

ROOT = "VLLM_CACHE_ROOT"


def own_device() -> list[int]:
    """vLLM's ``device_ids``: the GPU that Lightning made current for this rank, counted among the visible ones."""
    import torch

    return [torch.cuda.current_device()]


def cpu_cache_bytes(config: Any, head_dim: int, length: int) -> int:
    """Keys and values on the CPU: room for 32 sequences of full length between 64 MiB and 4 GiB, for two at least."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * 4 * config.num_hidden_layers * heads * head_dim
    return max(2 * token * length, min(max(32 * token * length, 64 << 20), 4 << 30))


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


@contextmanager
def alive(name: str, llm: Any) -> Iterator[None]:
    """Raises: RunError where the process of an engine has ended, or its GPU's memory.

    Args:
        llm: of vLLM. What it raises when its process is gone depends on where that is noticed.
    """
    import torch
    from vllm.v1.engine.exceptions import EngineDeadError

    core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    try:
        with _woken(core):
            yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition(". ")[0]
        raise RunError(
            f"{name}: {first}. Lower engine.init_args.gpu_memory_utilization; `dry_run` shows what else takes memory."
        ) from error
    except Exception as error:
        if isinstance(error, EngineDeadError) or getattr(getattr(core, "resources", None), "engine_dead", False):
            raise RunError(f"{name}: the engine's process has ended; why is in its own lines above.") from error
        raise


@contextmanager
def _woken(core: Any) -> Iterator[None]:
    """vLLM 0.32 notices when its engine's process is gone, but leaves whoever waits for an answer of it waiting."""
    if not hasattr(core, "outputs_queue"):  # the engine is in this process
        yield
        return
    from vllm.v1.engine.exceptions import EngineDeadError

    left = threading.Event()

    def watch() -> None:
        while not left.wait(0.5):
            if core.resources.engine_dead:
                core.outputs_queue.put_nowait(EngineDeadError())
                for future in list(core.utility_results.values()):
                    with suppress(InvalidStateError):
                        future.set_exception(EngineDeadError())
                return

    threading.Thread(target=watch, daemon=True, name="engine-watch").start()
    try:
        yield
    finally:
        left.set()
