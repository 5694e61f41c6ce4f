"""A sum of losses of which one at a time has its activations: its gradient is formed before the next is computed.

For a micro-batch that is cut by a budget of tokens. Whoever takes the gradient of the sum, Lightning and DDP included,
sees one forward and one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def summed(losses: Callable[[], Iterable[Tensor]], parameters: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, with its gradient with respect to the ``parameters``, of which it holds one copy.

    Args:
        losses: gives them one after the other, each with a graph of its own.
    """
    total: Tensor = _Summed.apply(losses, *parameters)
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Callable[[], Iterable[Tensor]], *parameters: Tensor) -> Tensor:
        ctx.sums = [torch.zeros_like(p) for p in parameters]
        total = torch.zeros((), dtype=torch.float32, device=parameters[0].device)
        with torch.enable_grad():
            for loss in losses():
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for whole, part in zip(ctx.sums, gradients, strict=True):
                    if part is not None:
                        whole.add_(part)
                total += loss.detach()
                del loss, gradients  # before the next loss is computed
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sums, ctx.sums = ctx.sums, None  # scaled in place, so they serve once
        return None, *(total.mul_(gradients[0]) for total in sums)
