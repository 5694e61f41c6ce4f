"""Ranks that share an engine: tensor parallelism over the processes that train, by vLLM's external launcher.

Each rank's process holds a part of every weight, and a scheduler of its own. All must compute the same requests in the
same order, so what one rank asks, every rank of its group computes. Ranks may ask different numbers of times: one that
is through keeps computing what the others ask until they are through as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

Asked = tuple[list[list[int]], list[Any]]
"""Prompts, and vLLM's sampling parameters of each."""


def ranks() -> int:
    """Processes that train together."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def launched() -> Iterator[None]:
    """In it an engine starts on this rank and its device. vLLM would read both of variables that torchrun sets and
    Lightning's launcher does not, and would call the CPU build's shared memory the same in every run of a machine."""
    import torch
    import torch.distributed as dist
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher as Executor

    name = [f"run:{uuid4().hex}"]  # in the place of an address, for the process group is there already
    dist.broadcast_object_list(name)
    device = torch.cuda.current_device() if torch.cuda.is_available() else 0
    found = (name[0], dist.get_rank(), device)
    own = Executor._distributed_args
    Executor._distributed_args = lambda executor: found
    try:
        yield
    finally:
        Executor._distributed_args = own


class SharedBy:
    """The ranks that share this process's engine: ``size`` consecutive ones, as vLLM divides them."""

    def __init__(self, size: int) -> None:
        import torch.distributed as dist

        self.size, self.place = size, dist.get_rank() % size

    def exchange(self, asked: Asked | None) -> list[Asked | None]:
        """What every rank of the group asks now; None: it is through. Collective."""
        import torch.distributed as dist
        from vllm.distributed.parallel_state import get_tp_group

        found: list[Asked | None] = [None] * self.size
        dist.all_gather_object(found, asked, group=get_tp_group().cpu_group)
        return found

    def together(self, found: list[Asked | None]) -> tuple[list[list[int]], list[Any], range]:
        """(all prompts, all parameters, which of them are this rank's)."""
        asked = [([], []) if one is None else one for one in found]
        prompts = [prompt for one in asked for prompt in one[0]]
        parameters = [each for one in asked for each in one[1]]
        first = sum(len(one[0]) for one in asked[: self.place])
        return prompts, parameters, range(first, first + len(asked[self.place][0]))
