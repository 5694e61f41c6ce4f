"""The trainer as it was before it was made faster, for `benchmarks.speed.trainer` to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovd_lightning.functional import token_entropy
from ovd_lightning.loss_head import Expected
from ovd_lightning.student import Student


class CheckpointedHead(Student):
    """Its loss head is automatic differentiation's: a chunk's logits are recomputed in the backward pass."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        entropy: bool = True,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Tensor]:
        rows = self.rows(input_ids, attention_mask, mask)
        return tuple(
            torch.zeros(mask.shape).masked_scatter(mask, v)
            for v in checkpointed(self, rows, input_ids[:, 1:][mask], temperature)
        )  # type: ignore[return-value]


def checkpointed(student: Student, rows: Tensor, targets: Tensor, temperature: float) -> list[Tensor]:
    """(log-probabilities [M], entropies [M])"""

    def chunk(rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = student._head.logits(rows).float() / temperature
        log_z = torch.logsumexp(logits, dim=-1)
        return logits.gather(-1, targets[:, None])[:, 0] - log_z, token_entropy(logits, log_z)

    starts = range(0, len(rows), student.chunk_size)
    spans = [slice(start, start + student.chunk_size) for start in starts]
    parts = [
        checkpoint(chunk, rows[s], targets[s], use_reentrant=False)
        if torch.is_grad_enabled()
        else chunk(rows[s], targets[s])
        for s in spans
    ]
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def split_balanced(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Longest first into the bin with the fewest tokens."""
    bins: list[list[int]] = [[] for _ in range(parts)]
    for rank, i in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        lightest = min(range(parts), key=lambda b: sum(lengths[j] for j in bins[b]))
        bins[rank if rank < parts else lightest].append(i)
    return [sorted(b) for b in bins]
