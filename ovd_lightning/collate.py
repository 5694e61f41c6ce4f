"""Groups -> micro-batches: right padding, masks, and the loss weights that make micro-batching invisible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ovd_lightning.methods.base import Aggregation
from ovd_lightning.types import Batch, Group, Trajectory


def split_balanced(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in ``parts`` non-empty bins of nearly equal total length (longest first into the lightest bin).

    Raises: ValueError with fewer items than parts.
    """
    if len(lengths) < parts:
        raise ValueError(f"{len(lengths)} trajectories cannot fill {parts} micro-batches")
    bins: list[list[int]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for rank, i in enumerate(_longest_first(lengths)):
        # Every bin gets its first item before any gets a second.
        target = rank if rank < parts else min(range(parts), key=lambda b: (totals[b], b))
        bins[target].append(i)
        totals[target] += lengths[i]
    return [sorted(b) for b in bins]


def split_even(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in ``parts`` bins of equal count (one more or less), the longest dealt out to and fro.

    Raises: ValueError with fewer items than parts.
    """
    if len(lengths) < parts:
        raise ValueError(f"{len(lengths)} groups cannot fill {parts} optimiser steps")
    bins: list[list[int]] = [[] for _ in range(parts)]
    for rank, i in enumerate(_longest_first(lengths)):
        row, column = divmod(rank, parts)
        bins[column if row % 2 == 0 else parts - 1 - column].append(i)
    return [sorted(b) for b in bins]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def to_batch(
    trajectories: Sequence[Trajectory],
    weights: Sequence[float],
    pad_id: int,
    temperature: float,
    round: int,
    version: int,
) -> Batch:
    """One micro-batch. ``weights``: per trajectory, what each of its trained tokens weighs in the loss."""
    rows = len(trajectories)
    length = max(len(y.prompt_ids) + len(y.completion_ids) for y in trajectories)
    input_ids = torch.full((rows, length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((rows, length), dtype=torch.long)
    mask = torch.zeros((rows, length - 1), dtype=torch.bool)
    teacher_mask = torch.zeros_like(mask)
    advantages = torch.zeros((rows, length - 1))
    token_weights = torch.zeros((rows, length - 1))
    behaviour = torch.full((rows, length - 1), torch.nan)
    for b, (y, weight) in enumerate(zip(trajectories, weights, strict=True)):
        p, t = len(y.prompt_ids), len(y.completion_ids)
        input_ids[b, : p + t] = torch.tensor([*y.prompt_ids, *y.completion_ids])
        attention_mask[b, : p + t] = 1
        span = slice(p - 1, p - 1 + t)  # position j predicts token j + 1
        trained = torch.tensor(y.completion_mask, dtype=torch.bool)
        mask[b, span] = trained
        teacher_mask[b, p - 1 + y.student_tokens : p - 1 + t] = trained[y.student_tokens :]
        advantages[b, span] = torch.tensor(y.advantages) * trained
        token_weights[b, span] = weight * trained
        if y.behaviour_logprobs is not None:
            behaviour[b, span] = torch.tensor(y.behaviour_logprobs)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        completion_mask=mask,
        advantages=advantages,
        teacher_mask=teacher_mask,
        weights=token_weights,
        behaviour_logprobs=behaviour,
        temperature=temperature,
        round=round,
        policy_version=version,
    )


def collate(
    groups: Sequence[Group],
    *,
    mini_batches: int,
    accumulate: int,
    aggregation: Aggregation,
    max_tokens: int,
    pad_id: int,
    temperature: float,
    round: int,
    policy_version: int,
    world_size: int = 1,
    all_reduce_sum: Callable[[float], float] = lambda value: value,
) -> list[list[Batch]]:
    """A round's mixture as ``mini_batches`` optimiser steps of ``accumulate`` micro-batches each.

    Lightning divides a micro-batch's loss by ``accumulate`` and averages gradients over ``world_size`` ranks; the
    weights undo both, so that each step's loss is sum_tokens(loss) / denominator over all its tokens wherever they
    are. Whole groups go to one optimiser step, equally many to each (the paper's mini-batch counts problems).

    Args:
        all_reduce_sum: sums a number over ranks; entered once per mini-batch by every rank.
    """
    order = split_even([sum(len(y.completion_ids) for y in g.mixture) for g in groups], mini_batches)
    steps: list[list[Batch]] = []
    for indices in order:
        trajectories = [y for i in indices for y in groups[i].mixture]
        trained = [y.trainable_tokens for y in trajectories]
        if aggregation == "token_mean":
            denominators = [all_reduce_sum(float(sum(trained)))] * len(trajectories)
        else:
            count = all_reduce_sum(float(len(trajectories)))
            per = [max_tokens if aggregation == "constant" else max(t, 1) for t in trained]
            denominators = [count * p for p in per]
        weights = [accumulate * world_size / max(d, 1.0) for d in denominators]
        lengths = [len(y.prompt_ids) + len(y.completion_ids) for y in trajectories]
        steps.append(
            [
                to_batch(
                    [trajectories[i] for i in part],
                    [weights[i] for i in part],
                    pad_id,
                    temperature,
                    round,
                    policy_version,
                )
                for part in split_balanced(lengths, accumulate)
            ]
        )
    return steps
