"""ROPD: a rubric a group from teacher against student answers; the share of it that is met is the reward."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.contrast import Contrast, ContrastJudge, parse_rubric
from ovd_lightning.judges.rubric import Criterion
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.ropd import ROPD
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.helpers import ScriptedEngine, make_group, make_round, mean, problem

RUBRIC = [{"criterion": "adds", "weight": 5}, {"criterion": "boxes", "weight": 2}, "is short"]
TEXTS = ["1+1=2", "\\boxed{2}", "no", "1+1=2\n\\boxed{2}"]


def meets(criterion: str, response: str) -> bool:
    return {"adds": "+" in response, "boxes": "box" in response, "is short": len(response) < 10}[criterion]


def verify(prompt: str) -> Any:
    found = re.search(r"(?:Response|Current Step): (.*)\nCriterion: (.*)\n", prompt, re.DOTALL)
    assert found is not None
    return {"Yes": 1.0} if meets(found[2], found[1]) else {"No": 1.0}


def ropd(rubric: str | None = json.dumps(RUBRIC), references: int = 1, tokenizer: Any = None, context: int = 0) -> ROPD:
    """Its engine hides its vocabulary, unless one is given: that of the tiny models has no brackets."""

    def write(prompt: str, request: Request) -> str | None:
        return rubric if prompt.startswith("You design a rubric") else "1+1=2"

    engine = ScriptedEngine(verify, write, tokenizer, context=context or None)
    return ROPD(VerbalTeacher(engine, ContrastJudge()), references, group_size=4)


def test_the_reward_is_the_weighted_share_of_criteria_that_are_met(tokenizer: Any) -> None:
    method, round = ropd(), make_round(tokenizer)
    group = make_group(round, TEXTS)
    method.consult([group], round)
    method.annotate([group], round)
    # adds 5, boxes 2, is short 1: (5 + 1) / 8, (2 + 1) / 8, 1 / 8, (5 + 2) / 8
    rewards = [6 / 8, 3 / 8, 1 / 8, 7 / 8]
    assert [y.reward for y in group.mixture] == pytest.approx(rewards, abs=1e-12)
    mu = sum(rewards) / 4
    sigma = (sum((r - mu) ** 2 for r in rewards) / 3) ** 0.5
    slow = [(r - mu) / (sigma + 1e-6) for r in rewards]
    assert [y.advantages[0] for y in group.mixture] == pytest.approx(slow, rel=1e-9)
    assert (mean(round, "ropd/criteria"), mean(round, "reward/judge")) == (3, pytest.approx(mu))
    assert [y.grade.correct for y in group.sampled if y.grade] == [False, True, False, True], "the checker's verdict"
    assert all(y.meta["rubric"][0] == {"criterion": "adds", "weight": 5.0} for y in group.sampled)


def test_any_rubric_against_a_plain_sum(tokenizer: Any) -> None:
    rng = random.Random(0)
    for _ in range(30):
        names = rng.choices(["adds", "boxes", "is short"], k=rng.randint(1, 6))
        weights = [rng.choice([1, 2, 3.5, 5]) for _ in names]
        rubric = [{"criterion": n, "weight": w} for n, w in zip(names, weights, strict=True)]
        method, round = ropd(json.dumps(rubric)), make_round(tokenizer)
        group = make_group(round, TEXTS)
        method.consult([group], round)
        method.annotate([group], round)
        assert len(group.mixture) == 4
        for y in group.mixture:
            met = sum(w for n, w in zip(names, weights, strict=True) if meets(n, y.text))
            assert y.reward == pytest.approx(met / sum(weights), abs=1e-12)


def test_the_rubricator_sees_the_question_and_all_answers_and_no_reference_answer(tokenizer: Any) -> None:
    method, round = ropd(references=2), make_round(tokenizer)
    group = make_group(round, TEXTS, problem(question="1+1+0=?", answer="2222"))
    method.consult([group], round)
    (asked,) = [r.prompt for r in method.teacher.judge.engine.written if str(r.prompt).startswith("You design")]  # type: ignore[attr-defined]
    assert "Question: 1+1+0=?" in asked
    assert "Reference 1:\n1+1=2" in asked
    assert "Reference 2:" in asked
    assert all(f"Student {i}:\n{text}\n" in asked for i, text in enumerate(TEXTS, 1))
    assert "2222" not in asked


@pytest.mark.parametrize("rubric", [None, "I would rather not.", '[{"criterion": 3}]', "[]", '["a", {"weight": 2}]'])
def test_a_group_without_a_rubric_does_not_train(tokenizer: Any, rubric: str | None) -> None:
    method, round = ropd(rubric), make_round(tokenizer)
    group = make_group(round, TEXTS)
    method.consult([group], round)
    method.annotate([group], round)
    assert group.mixture == []
    assert round.metrics.sums["ropd/groups_without_rubric"] == 1


def test_a_rubric_in_a_text() -> None:
    found = [Criterion("a", 1.0), Criterion("b", 4.0)]
    given = '["a", {"criterion": "b", "weight": 4}]'
    for text in (
        given,
        f"Here [1] it is:\n```json\n{given}\n```",
        f'<think>["no"]</think>{given}',
        f'{{"r": {given}}}',
    ):
        assert parse_rubric(text) == found
    assert parse_rubric('[{"criterion": "a", "weight": 0}]') is None


def test_what_cannot_work_is_known_before_the_first_round(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"judge: is a VerbalJudge, which writes no rubrics.*ContrastJudge"):
        ROPD(VerbalTeacher(ScriptedEngine(), VerbalJudge()))
    method = ropd(tokenizer=tokenizer, context=4000)
    method.check_problems(make_round(tokenizer).task, [problem()], 64)
    with pytest.raises(ConfigError, match=r"rubric_tokens: .* holds 1500 tokens; .* may need"):
        ropd(tokenizer=tokenizer, context=1500).check_problems(make_round(tokenizer).task, [problem()], 64)
    with pytest.raises(ConfigError, match=r"judge\.init_args\.engine: scripted wrote no rubric"):
        ropd("no").teacher.judge.self_test(problem(), "1+1=2")
    assert ropd().teacher.judge.self_test(problem(), "1+1=2").startswith("a rubric of 3 criteria; mean score")


def test_a_rubric_is_drawn_with_its_groups_seed() -> None:
    judge = ROPD.judge_of(ropd().teacher)
    contrasts = [Contrast(problem=problem(), references=["r"], answers=["a"], seed=s) for s in (1, 2)]
    judge.write(contrasts)
    assert [r.seed for r in judge.engine.written] == [1, 2]  # type: ignore[attr-defined]
