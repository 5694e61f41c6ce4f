"""What PyTorch's allocator really gave out while something ran."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes alive at once that were allocated inside ``run``, temporaries of the kernels included.

    On the CPU every allocation of PyTorch is counted, on CUDA the caching allocator's own maximum is read. Memory that
    was there before does not count, and what ``run`` gives back of it counts as negative.

    Raises: RuntimeError where the profiler reports no allocation.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    if not events:
        raise RuntimeError("the profiler reports no allocations")
    alive = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    return highest


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next tensor: half of the time goes into fresh pages otherwise.

    Returns:
        Whether it was asked for; other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    return bool(library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, 2**31 - 1))
