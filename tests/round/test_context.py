"""Demonstrations of a reasoning teacher, as a round turns them into trajectories."""

from __future__ import annotations

from typing import Any

from ovd_lightning.round.context import Round
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Trajectory
from tests.helpers import EOS, ScriptedEngine, make_group, make_round, problem

WRONG, RIGHT = "1+1=3\n3+0=3\n\\boxed{3}", "1+1=2\n2+0=2\n\\boxed{2}"
THOUGHT = "<think>\nlet me see " * 20 + "\n</think>\n\n"


def written(
    tokenizer: Any, says: str, max_tokens: int = 64, kept: int = 0, **settings: Any
) -> tuple[Trajectory | None, Round, ScriptedEngine]:
    engine = ScriptedEngine(write=lambda prompt, request: says)
    round = make_round(tokenizer, max_tokens=max_tokens)
    (rejected,) = make_group(round, [WRONG], problem()).sampled
    teacher = VerbalTeacher(engine, **{"demonstration_thinking": "strip", "demonstration_tokens": 500, **settings})
    (y,) = round.demonstrate(teacher, [rejected], [kept])
    return y, round, engine


def test_the_student_learns_from_the_answer_alone(tokenizer: Any) -> None:
    """The thought is many times longer than what the student may write."""
    y, round, engine = written(tokenizer, THOUGHT + RIGHT)
    assert y is not None
    assert y.completion_ids == [*tokenizer.encode(RIGHT, add_special_tokens=False), EOS]
    assert (y.text, y.truncated, y.source) == (RIGHT, False, "teacher")
    assert y.grade is not None
    assert y.grade.correct
    assert [s.text for s in y.steps] == RIGHT.split("\n")
    assert round.metrics.sums["teacher/demonstration_failures"] == 0
    assert [request.max_tokens for request in engine.written] == [500]


def test_a_thought_that_never_ends_is_a_failure_and_not_a_truncated_demonstration(tokenizer: Any) -> None:
    for says in (THOUGHT.replace("</think>", "") + RIGHT, "x" * 501):
        y, round, _ = written(tokenizer, says)
        assert y is None
        assert round.metrics.sums["teacher/demonstration_failures"] == 1


def test_an_answer_that_is_longer_than_the_students_limit_is_cut_and_says_so(tokenizer: Any) -> None:
    y, _, _ = written(tokenizer, THOUGHT + RIGHT, max_tokens=10)
    assert y is not None
    assert y.completion_ids == tokenizer.encode(RIGHT, add_special_tokens=False)[:10]
    assert y.truncated
    y, _, _ = written(tokenizer, THOUGHT + RIGHT, max_tokens=12, kept=6)
    assert y is not None
    assert (y.text, y.truncated, y.source) == ("1+1=3\n" + RIGHT[:6], True, "mixed")


def test_a_thought_that_is_kept_is_part_of_the_demonstration(tokenizer: Any) -> None:
    y, _, _ = written(tokenizer, "(hm)\n" + RIGHT, demonstration_thinking="keep")
    assert y is not None
    assert y.text == "(hm)\n" + RIGHT


def test_a_chat_demonstrator_gets_the_tasks_system_message(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: RIGHT)
    round = make_round(tokenizer)
    round.task.system = "Be brief."
    rejected = make_group(round, [WRONG, WRONG], problem()).sampled
    round.demonstrate(VerbalTeacher(engine, demonstrator_chat=True), rejected, [0, 6])
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1+0=?\n"}]
    assert [request.prompt for request in engine.written] == [
        asked, [*asked, {"role": "assistant", "content": "1+1=3\n"}],
    ]  # fmt: skip
