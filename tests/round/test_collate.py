"""Micro-batches: what is trained on, and weights that make the cut into micro-batches invisible."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ovd_lightning.methods.base import Aggregation
from ovd_lightning.round.collate import collate, split_even, to_batch
from ovd_lightning.types import Batch, Group, Trajectory
from tests.helpers import PAD, problem, trajectory


def ragged(seed: int, groups: int = 6) -> list[Group]:
    """Groups of 3 to 6 trajectories of 0 to 20 tokens, some of them masked, with an advantage a token."""
    rng = random.Random(seed)
    made = []
    for g in range(groups):
        mixture = []
        for j in range(rng.randint(3, 6)):
            t = rng.choice([0, 1, rng.randint(2, 20)])
            kept = rng.randint(0, t)
            mixture.append(
                trajectory(
                    rng.randint(1, 9), t, g, j, completion_mask=[rng.random() < 0.8 for _ in range(t)],
                    advantages=[rng.gauss(0, 1) for _ in range(t)], student_tokens=kept,
                    behaviour_logprobs=None if kept < t else [-rng.random() for _ in range(t)],
                )
            )  # fmt: skip
        made.append(Group(problem=problem(), sampled=list(mixture), mixture=mixture))
    return made


def cut(groups: Sequence[Group], **settings: Any) -> list[list[Batch]]:
    defaults: dict[str, Any] = {
        "mini_batches": 1, "accumulate": 1, "aggregation": "token_mean", "max_tokens": 32, "pad_id": PAD,
        "temperature": 1.0, "round": 0, "policy_version": 0,
    }  # fmt: skip
    return collate(groups, **{**defaults, **settings})


def direct(trajectories: Sequence[Trajectory], aggregation: Aggregation, max_tokens: int = 32) -> float:
    """sum over tokens of their advantage, averaged as the rule says, without any micro-batch."""
    sums = [sum(a for a, m in zip(y.advantages, y.completion_mask, strict=True) if m) for y in trajectories]
    if aggregation == "token_mean":
        return sum(sums) / sum(y.trainable_tokens for y in trajectories)
    if aggregation == "trajectory_mean":
        return sum(s / max(y.trainable_tokens, 1) for s, y in zip(sums, trajectories, strict=True)) / len(sums)
    return sum(sums) / (len(sums) * max_tokens)


@pytest.mark.parametrize("aggregation", ["token_mean", "trajectory_mean", "constant"])
@pytest.mark.parametrize(("mini_batches", "accumulate"), [*itertools.product([1, 2], [1, 2, 3, 5])])
@pytest.mark.parametrize("seed", range(3))
def test_the_cut_does_not_change_the_loss(
    aggregation: Aggregation, mini_batches: int, accumulate: int, seed: int
) -> None:
    groups = ragged(seed)
    steps = cut(groups, aggregation=aggregation, mini_batches=mini_batches, accumulate=accumulate)
    assert [len(step) for step in steps] == [accumulate] * mini_batches
    lengths = [sum(len(y.completion_ids) for y in g.mixture) for g in groups]
    for step, members in zip(steps, split_even(lengths, mini_batches), strict=True):
        # Lightning divides each micro-batch's loss by their number
        total = sum(float((batch.advantages * batch.weights).double().sum()) for batch in step) / accumulate
        trajectories = [y for i in members for y in groups[i].mixture]
        assert total == pytest.approx(direct(trajectories, aggregation), rel=1e-5, abs=1e-7)
        assert sum(map(len, step)) == len(trajectories)


@pytest.mark.parametrize("aggregation", ["token_mean", "trajectory_mean", "constant"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_do_not_change_the_loss(aggregation: Aggregation, world_size: int) -> None:
    groups = ragged(7, groups=6)
    share = [groups[rank::world_size] for rank in range(world_size)]
    # what each rank contributes to the sums, by entering them with its own trajectories
    own: list[list[float]] = [[] for _ in range(world_size)]
    for rank in range(world_size):
        cut(share[rank], aggregation=aggregation, world_size=world_size, all_reduce_sum=recorder(own[rank]))
    assert {len(values) for values in own} == {2}, "every rank enters twice a mini-batch"
    everyone, imitated = (sum(values[i] for values in own) for i in range(2))
    assert imitated == 0
    total = 0.0
    for rank in range(world_size):
        (step,) = cut(
            share[rank], aggregation=aggregation, world_size=world_size, accumulate=2,
            all_reduce_sum=lambda value: everyone,
        )  # fmt: skip
        total += sum(float((batch.advantages * batch.weights).double().sum()) for batch in step) / 2 / world_size
    assert total == pytest.approx(direct([y for g in groups for y in g.mixture], aggregation), rel=1e-5)


def recorder(values: list[float]) -> Any:
    def record(value: float) -> float:
        values.append(value)
        return value

    return record


def test_every_trajectory_once_and_groups_whole() -> None:
    groups = ragged(3)
    for mini_batches, accumulate in ((1, 4), (2, 3), (3, 2), (6, 1)):
        steps = cut(groups, mini_batches=mini_batches, accumulate=accumulate)
        found = [
            tuple(batch.input_ids[b][: int(batch.attention_mask[b].sum())].tolist())
            for step in steps for batch in step for b in range(len(batch))
        ]  # fmt: skip
        wanted = [(*y.prompt_ids, *y.completion_ids) for g in groups for y in g.mixture]
        assert sorted(found) == sorted(wanted)


def test_a_row_by_hand() -> None:
    # prompt 11 12 13, completion 21 22 23 24; the student wrote 21 22, an observation is 23
    y = trajectory(
        3, 4, prompt_ids=[11, 12, 13], completion_ids=[21, 22, 23, 24], completion_mask=[True, True, False, True],
        advantages=[1.0, 2.0, 3.0, 4.0], student_tokens=2, behaviour_logprobs=[-1.0, -2.0, -3.0, -4.0],
    )  # fmt: skip
    other = trajectory(1, 1, prompt_ids=[31], completion_ids=[41], advantages=[-5.0], behaviour_logprobs=None)
    batch = to_batch([y, other], [0.5, 0.25], pad_id=PAD, temperature=0.6, round=3, version=12)
    assert batch.input_ids.tolist() == [[11, 12, 13, 21, 22, 23, 24], [31, 41, PAD, PAD, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1] * 7, [1, 1, 0, 0, 0, 0, 0]]
    # position j predicts token j + 1: 13 -> 21, 21 -> 22, (22 -> 23 is not trained), 23 -> 24; 31 -> 41
    assert batch.completion_mask.int().tolist() == [[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]]
    assert batch.teacher_mask.int().tolist() == [[0, 0, 0, 0, 0, 1], [0] * 6]
    assert batch.advantages.tolist() == [[0, 0, 1, 2, 0, 4], [-5, 0, 0, 0, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 0.5, 0.5, 0, 0.5], [0.25, 0, 0, 0, 0, 0]]
    nan = torch.nan
    assert torch.equal(
        batch.behaviour_logprobs.nan_to_num(9.0),
        torch.tensor([[nan, nan, -1, -2, -3, -4], [nan] * 6]).nan_to_num(9.0),
    )
    assert (batch.temperature, batch.round, batch.policy_version) == (0.6, 3, 12)
    assert batch.input_ids.dtype == torch.int64
    assert batch.advantages.dtype == batch.weights.dtype == torch.float32


def test_weights_by_hand() -> None:
    # trained tokens 3, 1, and 0 of an empty completion
    group = Group(problem=problem(), sampled=[])
    group.mixture = [trajectory(2, 4, completion_mask=[True, True, True, False]), trajectory(2, 1), trajectory(2, 0)]
    for aggregation, expected in (
        ("token_mean", [1 / 4, 1 / 4]),  # of four tokens
        ("trajectory_mean", [1 / 9, 1 / 3]),  # of three trajectories, of 3 and of 1 tokens
        ("constant", [1 / 30, 1 / 30]),  # of three trajectories, of ten tokens each
    ):
        ((batch,),) = cut([group], aggregation=aggregation, max_tokens=10)
        assert [batch.weights[b].max().item() for b in range(2)] == pytest.approx(expected)
        assert batch.weights[2].tolist() == [0.0] * (batch.input_ids.shape[1] - 1)
        # accumulation is undone
        (step,) = cut([group], aggregation=aggregation, max_tokens=10, accumulate=3, world_size=2)
        assert max(float(b.weights.max()) for b in step) == pytest.approx(6 * max(expected))


def test_completions_of_no_token_and_of_one() -> None:
    group = Group(problem=problem(), sampled=[])
    group.mixture = [trajectory(3, 0), trajectory(3, 1), trajectory(1, 0)]
    steps = cut([group], accumulate=3)
    masks = [batch.completion_mask.int().tolist() for batch in steps[0]]
    assert sorted(masks) == [[[]], [[0, 0]], [[0, 0, 1]]]
    for aggregation in ("token_mean", "trajectory_mean", "constant"):
        empty = Group(problem=problem(), sampled=[], mixture=[trajectory(3, 0)])
        ((batch,),) = cut([empty], aggregation=aggregation)
        assert torch.isfinite(batch.weights).all()


def test_imitated_trajectories_are_averaged_among_themselves() -> None:
    group = Group(problem=problem(), sampled=[])
    group.mixture = [
        trajectory(2, 4), trajectory(2, 1), trajectory(2, 3, imitation=0.5), trajectory(3, 2, imitation=0.5)
    ]  # fmt: skip
    for aggregation, policy, imitated in (
        ("token_mean", [1 / 5, 1 / 5], [0.5 / 5, 0.5 / 5]),
        ("trajectory_mean", [1 / 8, 1 / 2], [0.5 / 6, 0.5 / 4]),
        ("constant", [1 / 20, 1 / 20], [0.5 / 20, 0.5 / 20]),
    ):
        ((batch,),) = cut([group], aggregation=aggregation, max_tokens=10)
        longest_first = [policy[0], *imitated, policy[1]]  # 6, 5, 5 and 3 tokens
        assert [batch.weights[b].max().item() for b in range(4)] == pytest.approx(longest_first)
        assert batch.imitation_mask is not None
        assert batch.imitation_mask.sum(dim=-1).tolist() == [0, 3, 2, 0]
    group.mixture = group.mixture[:2]
    assert cut([group])[0][0].imitation_mask is None


def test_a_method_may_leave_trajectories_out() -> None:
    """Every micro-batch of every rank exists all the same, for gradients are averaged over all of them."""
    left = Group(problem=problem(), sampled=[], mixture=[trajectory(3, 2)])
    nothing = Group(problem=problem(), sampled=[], mixture=[])
    for groups, trained in (([left, nothing], 2), ([nothing, nothing], 0)):
        (step,) = cut(groups, accumulate=3)
        assert [len(batch) for batch in step] == [1, 1, 1]
        assert sum(int(batch.completion_mask.sum()) for batch in step) == trained
        total = sum(float(batch.weights.sum()) for batch in step) / 3
        assert total == pytest.approx(1.0 if trained else 0.0)


def test_a_teacher_may_read_the_same_completion_behind_another_prompt() -> None:
    y = trajectory(
        2, 3, prompt_ids=[11, 12], completion_ids=[21, 22, 23], completion_mask=[True, False, True],
        teacher_prompt_ids=[41, 42, 43, 44],
    )  # fmt: skip
    other = trajectory(1, 2, prompt_ids=[31], completion_ids=[32, 33])
    batch = to_batch([y, other], [1.0, 1.0], pad_id=PAD, temperature=1.0, round=0, version=0)
    read = batch.teacher_inputs
    assert read is not None
    assert read.input_ids.tolist() == [[41, 42, 43, 44, 21, 22, 23], [31, 32, 33, PAD, PAD, PAD, PAD]]
    assert read.attention_mask.sum(dim=-1).tolist() == [7, 3]
    assert torch.equal(read.input_ids[:, 1:][read.completion_mask], batch.input_ids[:, 1:][batch.completion_mask]), (
        "the same tokens in the same order"
    )
    assert batch.to("cpu").teacher_inputs is not None
    assert to_batch([other], [1.0], pad_id=PAD, temperature=1.0, round=0, version=0).teacher_inputs is None


def test_a_missing_advantage_is_an_error() -> None:
    group = Group(problem=problem(), sampled=[], mixture=[trajectory(3, 4, advantages=[])])
    with pytest.raises(RuntimeError):
        cut([group])


# ------------------------------------------------------------------ splitting


def test_split_even_counts_what_it_deals() -> None:
    # to and fro: 9 | 7 | 5, then back 4 | 3 | 2
    assert split_even([2, 9, 7, 5, 4, 3], 3) == [[0, 1], [2, 5], [3, 4]]
    # one very long group does not leave a step with one group
    assert sorted(map(len, split_even([1000, 1, 1, 1, 1, 1, 1, 1], 2))) == [4, 4]
    assert sorted(map(len, split_even([5] * 7, 3))) == [2, 2, 3]
    with pytest.raises(ValueError, match="2 groups cannot fill 3 optimiser steps"):
        split_even([1, 1], 3)


def test_one_long_group_leaves_enough_for_every_micro_batch() -> None:
    groups = [
        Group(problem=problem(), sampled=[], mixture=[trajectory(2, 200 if g == 0 else 2, g, j) for j in range(4)])
        for g in range(8)
    ]
    steps = cut(groups, mini_batches=2, accumulate=16)
    assert [len(step) for step in steps] == [16, 16]
