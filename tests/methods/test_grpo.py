"""GRPO: the loss of OVD without a teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.student import Student
from tests.helpers import make_group, make_round
from tests.methods.slow import assert_same, batches, exact, moved, rows, several_turns

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


@pytest.mark.parametrize(
    ("scale_by_std", "expected"),
    [
        (True, [1.5, -0.5, -0.5, -0.5]),  # mu = 1/4, sigma = sqrt((9/16 + 3/16) / 3) = 1/2
        (False, [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_advantages_within_each_group(tokenizer: Any, scale_by_std: bool, expected: list[float]) -> None:
    round = make_round(tokenizer)
    groups = [make_group(round, texts, group=g) for g, texts in enumerate(([RIGHT, *[WRONG] * 3], [WRONG] * 4))]
    GRPO(scale_by_std=scale_by_std).annotate(groups, round)
    assert groups[0].mixture == groups[0].sampled
    for y, advantage in zip(groups[0].mixture, expected, strict=True):
        assert y.advantages == pytest.approx([advantage] * len(y.completion_ids), rel=1e-5)
    assert all(y.advantages == [0.0] * len(y.completion_ids) for y in groups[1].mixture)


def test_the_reference_is_needed_for_the_kl_only() -> None:
    assert GRPO().needs_reference
    assert not GRPO(kl_coefficient=0).needs_reference


@pytest.mark.parametrize("updates", [1, 2])
def test_the_second_kl_term_is_taken_off_the_reward_of_the_whole_trajectory(tiny_model: str, updates: int) -> None:
    student, initial = moved(tiny_model, 1), Student(tiny_model)
    old = moved(tiny_model, 2) if updates > 1 else None
    now, first = exact(student, tiny_model), exact(initial, tiny_model)
    before = exact(student if old is None else old, tiny_model)
    method, trajectories = GRPO(kl_coefficient=0, kl_in_reward=0.3, clip=None), several_turns()
    assert method.needs_reference
    losses = []
    for y in trajectories:
        own, start, begin = rows(now, y), rows(before, y), rows(first, y)
        drift = sum((start[t][y.completion_ids[t]] - begin[t][y.completion_ids[t]]).item() for t in own)
        for t in own:
            token = y.completion_ids[t]
            rho = (own[t][token] - start[t][token].detach()).exp()
            losses.append(-rho * (y.advantages[t] - 0.3 * drift))
    parts = batches(method, trajectories, old, initial)
    assert_same(method, student, parts, torch.stack(losses).mean(), now)


def test_clips_are_equal_unless_told_otherwise() -> None:
    assert (GRPO(clip=0.3).clip, GRPO(clip=0.3).clip_high) == (0.3, 0.3)
    assert (GRPO(clip_high=0.28).clip, GRPO(clip_high=0.28).clip_high) == (0.2, 0.28)
