"""LUFFY: the loss is the formula, and the teacher's trajectories are members of the group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ovd_lightning import functional as F
from ovd_lightning.methods.luffy import LUFFY
from ovd_lightning.teachers.demonstrator import Demonstrator
from tests.helpers import ScriptedEngine, make_group, make_round, mean
from tests.methods.slow import assert_same, batches, exact, in_float64, moved, rows, several_turns

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


def luffy(tokenizer: Any = None, text: str | None = RIGHT, **settings: Any) -> LUFFY:
    return LUFFY(Demonstrator(ScriptedEngine(write=lambda p, r: text, tokenizer=tokenizer)), **settings)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("updates", [1, 2])
def test_luffy_is_the_formula(tiny_model: str, updates: int, clip: Any) -> None:
    student = moved(tiny_model, 1)
    old = moved(tiny_model, 2) if updates > 1 else None
    now, before = exact(student, tiny_model), exact(student if old is None else old, tiny_model)
    method, trajectories = luffy(gamma=0.2, clip=clip, kl_coefficient=0.0), several_turns()
    trajectories[3:5] = [replace(y, source="teacher", student_tokens=0) for y in trajectories[3:5]]
    losses = []
    for y in trajectories:
        own, start = rows(now, y), rows(before, y)
        for t in own:
            new, begin, a = own[t][y.completion_ids[t]], start[t][y.completion_ids[t]].detach(), y.advantages[t]
            if y.source == "teacher":
                losses.append(-a * new.exp() / (new.exp() + 0.2))
                continue
            rho = (new - begin).exp()
            bounded = rho if clip is None else rho.clamp(1 - clip, 1 + clip)
            losses.append(-torch.minimum(rho * a, bounded * a))
    parts = batches(method, trajectories, old, None)
    assert_same(method, student, parts, torch.stack(losses).mean(), now)
    # ... and from log-probabilities in float64, up to what advantages and weights lose in float32
    fast = in_float64(method, trajectories, now, None if old is None else before)
    assert fast == pytest.approx(torch.stack(losses).mean().item(), rel=2e-7)


def test_the_shape_by_hand() -> None:
    logprobs = torch.tensor([math.log(0.1), math.log(0.01), 0.0, -800.0], dtype=torch.float64, requires_grad=True)
    shaped = F.shaped_probability(logprobs, 0.1)
    assert shaped.tolist() == pytest.approx([0.5, 0.01 / 0.11, 1 / 1.1, 0.0])
    shaped.sum().backward()
    # d f / d log pi = f (1 - f) = pi gamma / (pi + gamma)^2
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.25, 0.001 / 0.0121, 0.1 / 1.21, 0.0])


def test_the_teachers_trajectory_is_a_member_of_the_group(tokenizer: Any) -> None:
    method = luffy(tokenizer, group_size=3)
    round = make_round(tokenizer)
    group = make_group(round, [RIGHT, WRONG, WRONG])
    method.consult([group], round)
    method.annotate([group], round)
    assert [y.source for y in group.mixture] == ["student"] * 3 + ["teacher"]
    # R = 1, 0, 0 and 1 of the teacher's: R - 1/2, without a standard deviation
    assert [y.advantages[0] for y in group.mixture] == [0.5, -0.5, -0.5, 0.5]
    assert mean(round, "luffy/teacher_reward") == 1
    assert round.metrics.sums["teacher/demonstrations"] == 1


def test_a_group_in_which_all_are_wrong_learns_from_the_teacher_and_one_without_it_from_nothing(tokenizer: Any) -> None:
    for text, expected in ((RIGHT, [-1 / 3, -1 / 3, 2 / 3]), (None, [0, 0])):
        round = make_round(tokenizer)
        group = make_group(round, [WRONG, WRONG])
        method = luffy(tokenizer, text, group_size=2)
        method.consult([group], round)
        method.annotate([group], round)
        assert [y.advantages[0] for y in group.mixture] == pytest.approx(expected)
