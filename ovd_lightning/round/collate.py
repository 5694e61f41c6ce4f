"""Groups -> micro-batches: right padding, masks, and the loss weights that make micro-batching invisible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovd_lightning.lengths import split_by_length, split_by_tokens
from ovd_lightning.types import Batch, Group, TeacherInputs, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.methods.base import Aggregation


def split_even(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in ``parts`` bins of equal count (one more or less), the longest dealt out to and fro.

    Raises: ValueError with fewer items than parts.
    """
    if len(lengths) < parts:
        raise ValueError(f"{len(lengths)} groups cannot fill {parts} optimiser steps")
    bins: list[list[int]] = [[] for _ in range(parts)]
    for rank, i in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        row, column = divmod(rank, parts)
        bins[column if row % 2 == 0 else parts - 1 - column].append(i)
    return [sorted(b) for b in bins]


def padded(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(input ids [B, L] right-padded, attention mask [B, L], the positions [B, L-1] that predict completion tokens)."""
    rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    starts, ends = (torch.tensor([*map(len, of)])[:, None] for of in (prompts, rows))
    at = torch.arange(int(ends.max()))
    real = at < ends
    ids = torch.full(real.shape, pad_id)
    ids[real] = torch.tensor([*chain.from_iterable(rows)])
    return ids, real.long(), (real & (at >= starts))[:, 1:]


def to_batch(
    trajectories: Sequence[Trajectory],
    weights: Sequence[float],
    pad_id: int,
    temperature: float,
    round: int,
    version: int,
) -> Batch:
    """One micro-batch. ``weights``: per trajectory, what each of its trained tokens weighs in the loss."""
    input_ids, attention_mask, spans = padded(
        [y.prompt_ids for y in trajectories], [y.completion_ids for y in trajectories], pad_id
    )

    def spread(values: Iterable[Sequence[float]], outside: float | bool) -> Tensor:
        """[B, L-1] from a trajectory's values of its completion tokens each."""
        whole = torch.full(spans.shape, outside)
        whole[spans] = torch.tensor([*chain.from_iterable(values)], dtype=whole.dtype)
        return whole

    def column(values: Iterable[float]) -> Tensor:
        return torch.tensor([*values])[:, None]

    mask = spread((y.completion_mask for y in trajectories), False)
    written = column(len(y.prompt_ids) - 1 + y.student_tokens for y in trajectories)
    behaviour = [y.behaviour_logprobs or [torch.nan] * len(y.completion_ids) for y in trajectories]
    imitation_mask = mask & column(y.imitation is not None for y in trajectories)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        completion_mask=mask,
        advantages=spread((y.advantages for y in trajectories), 0.0) * mask,
        teacher_mask=mask & (torch.arange(mask.shape[1]) >= written),
        weights=column(weights) * mask,
        behaviour_logprobs=spread(behaviour, torch.nan),
        imitation_mask=imitation_mask if imitation_mask.any() else None,
        teacher_inputs=teacher_inputs(trajectories, pad_id),
        temperature=temperature,
        round=round,
        policy_version=version,
    )


def teacher_inputs(trajectories: Sequence[Trajectory], pad_id: int) -> TeacherInputs | None:
    """The rows behind the prompts of a teacher; None where no trajectory has such a prompt."""
    if all(y.teacher_prompt_ids is None for y in trajectories):
        return None
    prompts = [y.prompt_ids if y.teacher_prompt_ids is None else y.teacher_prompt_ids for y in trajectories]
    input_ids, attention_mask, spans = padded(prompts, [y.completion_ids for y in trajectories], pad_id)
    mask = spans.clone()
    mask[spans] = torch.tensor([value for y in trajectories for value in y.completion_mask], dtype=torch.bool)
    return TeacherInputs(input_ids=input_ids, attention_mask=attention_mask, completion_mask=mask)


def loss_weights(
    trajectories: Sequence[Trajectory],
    aggregation: Aggregation,
    max_tokens: int,
    all_reduce_sum: Callable[[float], float],
) -> list[float]:
    """What each trained token of a trajectory weighs in its optimiser step's loss: one over what is averaged over."""
    denominators: dict[bool, float] = {}
    for imitated in (False, True):
        members = [y for y in trajectories if (y.imitation is not None) is imitated]
        tokens = sum(y.trainable_tokens for y in members)
        denominators[imitated] = all_reduce_sum(float(tokens if aggregation == "token_mean" else len(members)))
    weights = []
    for y in trajectories:
        within = {"token_mean": 1, "trajectory_mean": max(y.trainable_tokens, 1), "constant": max_tokens}[aggregation]
        scale = 1.0 if y.imitation is None else y.imitation
        weights.append(scale / max(denominators[y.imitation is not None] * within, 1.0))
    return weights


def idle_row(groups: Sequence[Group], pad_id: int) -> Trajectory:
    """A trajectory of no tokens, which trains nothing: every micro-batch needs a row, whatever a method left out."""
    return Trajectory(problem=groups[0].problem, group=-1, sample=-1, prompt_ids=[pad_id])


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
    packed: bool = False,
    world_size: int = 1,
    all_reduce_sum: Callable[[float], float] = lambda value: value,
) -> list[list[Batch]]:
    """A round's mixture as ``mini_batches`` optimiser steps of ``accumulate`` micro-batches each.

    Lightning divides a micro-batch's loss by ``accumulate`` and averages gradients over ``world_size`` ranks; the
    weights undo both, so that each step's loss is sum_tokens(loss) / denominator over all its tokens wherever they
    are. Whole groups go to one optimiser step, equally many to each (the paper's mini-batch counts problems). Within a
    step, micro-batches hold rows of similar length: long ones few, short ones many. Where rows are packed, they hold
    about equally many tokens.

    Imitated trajectories are averaged among themselves, by the same rule, and weighted by their ``imitation``. A method
    may leave trajectories out of its mixtures: micro-batches that get none are filled with a row that trains nothing.

    Args:
        packed: a micro-batch's rows are computed without padding.
        all_reduce_sum: sums a number over ranks; entered twice per mini-batch by every rank.
    """
    split = split_by_tokens if packed else split_by_length
    order = split_even([sum(len(y.completion_ids) for y in g.mixture) for g in groups], mini_batches)
    steps: list[list[Batch]] = []
    for indices in order:
        trajectories = [y for i in indices for y in groups[i].mixture]
        missing = max(accumulate - len(trajectories), 0)
        weights = [
            accumulate * world_size * w for w in loss_weights(trajectories, aggregation, max_tokens, all_reduce_sum)
        ]
        trajectories += [idle_row(groups, pad_id)] * missing
        weights += [0.0] * missing
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
                for part in split(lengths, accumulate)
            ]
        )
    return steps
