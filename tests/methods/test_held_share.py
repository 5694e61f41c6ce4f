"""theta holds the share of accepted trajectories, and goes on where a checkpoint has it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.held_share import Between, OVDHeldShare
from ovd_lightning.methods.rules import Acceptance, Suffix
from ovd_lightning.methods.scoring import MEAN_OF_RESPONSE, Scoring
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.helpers import ScriptedEngine, make_group, make_round, mean, trajectory


def accepted(rule: Acceptance, score: float, threshold: float, draw: int) -> bool:
    return rule.accepts(trajectory(1, 1), score, threshold, random.Random(draw))


def test_between_two_scores_theta_is_the_probability_of_the_higher_one() -> None:
    rule, draws = Between(), range(2000)
    assert all(accepted(rule, 8, 7.3, d) and not accepted(rule, 6, 7.3, d) for d in draws)
    assert sum(accepted(rule, 7, 7.3, d) for d in draws) / 2000 == pytest.approx(0.7, abs=0.03)
    for score in range(10):
        for whole in (0, 7, 10):
            assert {accepted(rule, score, whole, d) for d in range(50)} == {score >= whole}, "as Threshold"


def test_a_higher_score_is_accepted_at_the_same_draw() -> None:
    """What `lazy` says of it: bounds of a score may decide."""
    for draw in range(200):
        verdicts = [accepted(Between(), score, 4.6, draw) for score in range(10)]
        assert verdicts == sorted(verdicts)


def ovd(**settings: Any) -> OVDHeldShare:
    """A judge that gives a response its last digit."""

    def judge(prompt: str) -> int:
        return int(prompt.split("\nRate")[0].strip()[-1])

    teacher = VerbalTeacher(ScriptedEngine(judge, lambda p, r: "\\boxed{2}"), VerbalJudge())
    defaults = {"threshold": 5, "replace_when": "score", "scoring": MEAN_OF_RESPONSE, "group_size": 4}
    return OVDHeldShare(teacher, **{**defaults, **settings})


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("masses", [[1] * 10, [5, 0, 0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 1, 2, 97]])
def test_the_share_is_held(masses: list[int], target: float) -> None:
    """Also where nearly all scores are equal, so that no threshold of whole numbers could."""
    method, rng, shares = ovd(target=target, threshold=7), random.Random(0), []
    for _ in range(80):
        scores = rng.choices(range(10), masses, k=64)
        rule, theta = method.rejection.acceptance, method.threshold
        share = sum(rule.accepts(trajectory(1, 1), s, theta, rng) for s in scores) / 64
        method.load_state_dict({"threshold": method.next_threshold(share)})
        shares.append(share)
    assert sum(shares[30:]) / 50 == pytest.approx(target, abs=0.03)


def test_theta_stays_on_the_scale() -> None:
    assert ovd(threshold=9, rate=4).next_threshold(1.0) == 10, "which rejects all"
    assert ovd(threshold=1, rate=4).next_threshold(0.0) == 0
    assert ovd(threshold=6, rate=4).next_threshold(0.75) == 7


def play(method: OVDHeldShare, tokenizer: Any, texts: tuple[str, ...] = ("9", "8", "7", "1"), index: int = 0) -> Any:
    round = make_round(tokenizer, index)
    group = make_group(round, texts)
    method.consult([group], round)
    method.annotate([group], round)
    return group, round


def doubled(tensor: Tensor) -> Tensor:
    """Over two ranks, the other of which accepted 1 of 4."""
    return tensor + torch.tensor([1.0, 4.0])


def test_it_moves_between_rounds_and_over_all_ranks(tokenizer: Any) -> None:
    method = ovd(target=0.25)
    group, round = play(method, tokenizer)
    assert [y.accepted for y in group.sampled] == [True, True, True, False]
    assert mean(round, "ovd/threshold") == 5
    assert (method.threshold, method.state_dict()) == (5, {"threshold": 5}), "not before the round ends"
    method.end_round(doubled)
    assert method.threshold == 5 + (3 + 1) / 8 - 0.25
    assert method.rejection.threshold == method.threshold
    _, round = play(method, tokenizer, index=1)
    assert mean(round, "ovd/threshold") == 5.25
    method.end_round(lambda t: t * 0)
    assert method.threshold == 5.25, "nothing is known of a round without judgements"


def test_a_resumed_run_goes_on_with_its_theta(tokenizer: Any) -> None:
    whole, resumed = ovd(target=0.25), ovd(target=0.25)
    for index in range(3):
        play(whole, tokenizer, index=index)
        whole.end_round(lambda t: t)
    resumed.load_state_dict(whole.state_dict())
    verdicts = []
    for method in (whole, resumed):
        group, _ = play(method, tokenizer, ("6", "6", "6", "6"), index=3)
        verdicts.append([y.accepted for y in group.sampled])
        method.end_round(lambda t: t)
    assert verdicts[0] == verdicts[1]
    assert len(set(verdicts[0])) == 2, "theta 6.5 lies between two scores"
    assert whole.threshold == resumed.threshold


def test_a_suffix_is_cut_by_the_theta_that_moved(tokenizer: Any) -> None:
    """A step with a score of 5 is kept at theta 5 and rejected at 5.5."""
    method = ovd(target=0.25, replacement=Suffix(), scoring=Scoring(aggregation="last"), group_size=1)
    texts = ("1+1=5\n\\boxed{2}=3",)
    group, _ = play(method, tokenizer, texts)
    assert [y.source for y in group.mixture] == ["mixed"]
    method.load_state_dict({"threshold": 5.5})
    group, _ = play(method, tokenizer, texts)
    assert [y.source for y in group.mixture] == ["teacher"]
