"""GRPO: the loss of OVD without a teacher."""

from __future__ import annotations

from typing import Any

import pytest

from ovd_lightning.methods.grpo import GRPO
from tests.helpers import make_group, make_round

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


def test_clips_are_equal_unless_told_otherwise() -> None:
    assert (GRPO(clip=0.3).clip, GRPO(clip=0.3).clip_high) == (0.3, 0.3)
    assert (GRPO(clip_high=0.28).clip, GRPO(clip_high=0.28).clip_high) == (0.2, 0.28)
