"""DAPO and the other variants of GRPO: what is drawn again, what is masked, what is punished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.dapo import DAPO
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.types import Grade, Problem
from tests.helpers import ScriptedEngine, make_group, make_round, problem

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


class Sampled:
    """A round whose engine answers problems named in ``mixed`` half right, and all others wrong."""

    def __init__(self, tokenizer: Any, mixed: Sequence[str], further: Sequence[Sequence[str]]) -> None:
        self.asked: list[int] = []
        self.seeds: list[int] = []
        self.turn = 0

        def write(prompt: str, request: Request) -> str:
            self.turn += 1
            self.seeds.append(request.seed or 0)
            return RIGHT if any(m in prompt for m in mixed) and self.turn % 2 else WRONG

        def draw(attempt: int) -> list[Problem]:
            self.asked.append(attempt)
            return [problem(q, q) for q in further[attempt - 1]]

        self.round = make_round(
            tokenizer, engine=ScriptedEngine(write=write, tokenizer=tokenizer), further=draw, first_group=10
        )


def test_groups_without_variance_are_drawn_again(tokenizer: Any) -> None:
    run = Sampled(tokenizer, mixed=["a", "d", "f"], further=[["c", "d"], ["f"]])
    groups = DAPO(group_size=2, refills=3).sample([problem(q, q) for q in "abe"], run.round)
    # a stays; c (no variance) goes into b's slot and d into e's; then f goes into c's
    assert [g.problem.id for g in groups] == ["a", "f", "d"]
    assert [[y.group for y in g.sampled] for g in groups] == [[10, 10], [11, 11], [12, 12]]
    assert run.asked == [1, 2]
    assert len(set(run.seeds)) == len(run.seeds) == 12, "no sample is drawn twice with one seed"
    sums = run.round.metrics.sums
    assert (sums["dapo/further_groups"], sums["dapo/unfilled_groups"]) == (3, 0)
    assert run.round.metrics.means["dapo/filtered_fraction"] == (2, 3)


def test_drawing_again_is_bounded_and_the_number_of_groups_stays(tokenizer: Any) -> None:
    run = Sampled(tokenizer, mixed=[], further=[["c", "d"], ["e", "f"], ["g", "h"]])
    method = DAPO(group_size=2, refills=2)
    groups = method.sample([problem(q, q) for q in "ab"], run.round)
    method.annotate(groups, run.round)
    assert run.asked == [1, 2]
    assert [g.problem.id for g in groups] == ["e", "f"]
    assert all(a == 0 for g in groups for y in g.mixture for a in y.advantages)
    assert run.round.metrics.sums["dapo/unfilled_groups"] == 2
    run = Sampled(tokenizer, mixed=[], further=[])
    assert len(DAPO(group_size=2, refills=0).sample([problem()], run.round)) == 1


def test_constant_rewards_that_are_neither_0_nor_1_are_no_signal(tokenizer: Any) -> None:
    round = make_round(tokenizer)
    groups = [make_group(round, [RIGHT, WRONG]) for _ in range(2)]
    for y in groups[0].sampled:
        y.grade = Grade(reward=0.4, correct=False, answer=None)
    assert DAPO().slots_to_fill(groups) == [0]


def test_the_defaults_are_the_papers() -> None:
    method = DAPO()
    assert (method.clip, method.clip_high, method.kl_coefficient) == (0.2, 0.28, 0)
    assert (method.aggregation, method.overlong, method.needs_reference) == ("token_mean", "penalty", False)


def test_overlong_penalty(tokenizer: Any) -> None:
    round = make_round(tokenizer, max_tokens=20)
    group = make_group(round, [RIGHT, WRONG, RIGHT])
    for y, length in zip(group.sampled, (10, 16, 20), strict=True):
        y.completion_ids, y.completion_mask = [5] * length, [True] * length
    method = GRPO(overlong="penalty", overlong_buffer=8, scale_by_std=False)
    method.annotate([group], round)
    # rewards 1, 0, 1, less 0, (16 - 12) / 8 and 1: 1, -0.5, 0 with mean 1/6
    expected = [1 - 1 / 6, -0.5 - 1 / 6, -1 / 6]
    assert [y.advantages[0] for y in group.mixture] == pytest.approx(expected)
    assert [y.reward for y in group.sampled] == [1, 0, 1], "what is measured is the outcome"


def test_overlong_masking_keeps_the_reward_in_the_group(tokenizer: Any) -> None:
    round = make_round(tokenizer)
    group = make_group(round, [RIGHT, WRONG, WRONG, WRONG])
    group.sampled[3].stop_reason = "token_limit"
    GRPO(overlong="mask").annotate([group], round)
    assert [y.sample for y in group.mixture] == [0, 1, 2]
    assert group.mixture[0].advantages[0] == pytest.approx(1.5, rel=1e-5)  # sigma over all four is 1/2
    assert round.metrics.sums["grpo/masked_trajectories"] == 1


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"init_args\.clip: is null beside a clip_high"):
        GRPO(clip=None, clip_high=0.2)
