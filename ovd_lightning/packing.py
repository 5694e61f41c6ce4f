"""Several sequences in one row, without padding: where each begins, as transformers is told.

The positions of a row restart with each sequence. From them transformers makes the mask of sdpa and eager attention,
[T, T] for T tokens, in which the sequences do not see one another. flash attention has no mask: its kernels compute
sequence by sequence, and are told where each begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED = ("sdpa", "eager")
"""Attention that is told by a mask, which transformers makes from the positions."""
STAND_IN = "by_sequence"


def is_flash(attention: str | None) -> bool:
    """Whether an attention, as transformers names it, is one of flash attention's kernels."""
    return attention is not None and "flash" in attention and "|" not in attention


def layout(lengths: Sequence[int], device: torch.device, flash: bool) -> dict[str, Any]:
    """What a transformer is told beside the [1, T] token ids of sequences of these lengths, one behind the other.

    Args:
        flash: with what flash attention's kernels take, so that no layer has to find it again.
    """
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    positions = torch.arange(int(ends[-1])) - (ends - sizes).repeat_interleave(sizes)
    given: dict[str, Any] = {"position_ids": positions[None].to(device)}
    if flash:
        bounds = torch.nn.functional.pad(ends, (1, 0)).to(device, torch.int32)
        given |= {f"cu_seq_lens_{of}": bounds for of in "qk"} | {f"max_length_{of}": max(lengths) for of in "qk"}
    return given


@contextmanager
def by_sequence(model: PreTrainedModel) -> Iterator[None]:
    """In it, attention is computed on any device as flash attention's kernels do on a GPU: without a mask, and sequence
    by sequence if, and only if, what :func:`layout` tells arrives at it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(STAND_IN, _by_sequence)
    AttentionMaskInterface.register(STAND_IN, flash_attention_mask)
    own = model.config._attn_implementation
    model.set_attn_implementation(STAND_IN)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _by_sequence(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[B, heads, T, d] each -> [B, T, heads, d]. Soft caps, windows and sinks are left out: they are the kernel's."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    bounds = [0, query.shape[2]]
    if cu_seq_lens_q is not None:
        bounds = cu_seq_lens_q.tolist()
    elif position_ids is not None and len(query) == 1:  # from which transformers finds it where it was not told
        bounds = [*(position_ids[0] == 0).nonzero()[:, 0].tolist(), query.shape[2]]
    known: dict[str, Any] = {name: kwargs[name] for name in ("scaling", "is_causal") if name in kwargs}

    def within(start: int, stop: int) -> Tensor:
        q, k, v = (x[:, :, start:stop] for x in (query, key, value))
        return sdpa_attention_forward(module, q, k, v, None, **known)[0]

    return torch.cat([within(start, stop) for start, stop in pairwise(bounds)], dim=1), None
