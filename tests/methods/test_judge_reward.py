"""The judge as reward, and OVD on a task without references."""

from __future__ import annotations

from typing import Any

import pytest

from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import MixedGroup, Reward, Score
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.helpers import ScriptedEngine, make_group, make_round, mean

TEXTS = ("a", "b", "c", "d")


def by_text(scores: dict[str, Any]) -> Any:
    return lambda prompt: scores[prompt.split("Solution: ")[1].splitlines()[0]]


def test_the_reward_is_the_mean_score_within_the_group(tokenizer: Any) -> None:
    scores = {"a": 9, "b": {"0": 0.5, "9": 0.5}, "c": 0, "d": {"x": 1.0}}
    teacher = VerbalTeacher(ScriptedEngine(by_text(scores), tokenizer=tokenizer))
    round = make_round(tokenizer)
    group = make_group(round, TEXTS)
    method = JudgeReward(teacher, group_size=4)
    method.consult([group], round)
    method.annotate([group], round)
    # R = 1, 1/2, 0, and none: mu = 1/2, sigma = 1/2 of the three that have a score
    assert [y.text for y in group.mixture] == ["a", "b", "c"]
    assert [y.advantages[0] for y in group.mixture] == pytest.approx([1, 0, -1], rel=1e-4, abs=1e-9)
    assert mean(round, "reward/judge") == 0.5
    assert [y.reward for y in group.mixture] == [1, 0.5, 0]
    assert round.metrics.sums["score/parse_failures"] == 1
    assert not teacher.demonstrator.written, "nothing is demonstrated"  # type: ignore[attr-defined]


def test_a_group_without_a_score_trains_nothing(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: {"x": 1.0}, tokenizer=tokenizer)
    round = make_round(tokenizer)
    group = make_group(round, TEXTS)
    method = JudgeReward(VerbalTeacher(engine, VerbalJudge(max_parse_failures=1.0)), group_size=4)
    method.consult([group], round)
    method.annotate([group], round)
    assert group.mixture == []


def test_ovd_credits_the_judges_score_where_there_is_no_outcome(tokenizer: Any) -> None:
    def judge(prompt: str) -> int:
        return 2 if "Current Step: a" in prompt else 9 if "Current Step: taught" in prompt else 6

    engine = ScriptedEngine(judge, lambda prompt, request: "taught", tokenizer)
    method = OVD(VerbalTeacher(engine), threshold=5, replace_when="score", credit=Score(), group_size=2)
    round = make_round(tokenizer)
    group = make_group(round, ("a", "b"))
    method.consult([group], round)
    method.annotate([group], round)
    assert [y.source for y in group.mixture] == ["teacher", "student"]
    assert [y.advantages[0] for y in group.mixture] == pytest.approx([1, 6 / 9])


def test_who_needs_references() -> None:
    teacher = VerbalTeacher(ScriptedEngine())
    assert not JudgeReward(teacher).needs_references
    assert not OVD(teacher, replace_when="score", credit=Score()).needs_references
    for settings in ({}, {"replace_when": "score"}, {"credit": Score()}, {"replace_when": "score", "credit": Reward()},
                     {"replace_when": "score", "credit": MixedGroup()}):  # fmt: skip
        assert OVD(teacher, **settings).needs_references, settings  # type: ignore[arg-type]
