"""A reward that is a plain function, and tasks that override their grading."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.tasks.math import MathBenchmark, MathTask
from ovd_lightning.tasks.rewards import RewardError
from ovd_lightning.tasks.small_world import SmallWorldTask
from ovd_lightning.tasks.tool_arithmetic import ToolArithmeticTask
from ovd_lightning.tasks.web_qa import WebQATask
from ovd_lightning.types import Grade, Problem
from tests.workflow import cli

TWELVE = Problem(id="twelve", question="5+7=?", answers=("12",))
HERE = "tests.tasks.test_rewards"


def brevity(response: str, problem: Problem) -> float:
    """Shorter is better."""
    return 1.0 / (1 + len(response))


def length_of(response: str, problem: Problem) -> int:
    return len(response)


def mentions(response: str, problem: Problem) -> bool:
    return problem.answers[0] in response


def whole(response: str, problem: Problem) -> Grade:
    return Grade(reward=0.25, correct=True, answer=response)


def one_argument(response: str) -> float:
    return 0.0


def raises(response: str, problem: Problem) -> float:
    raise KeyError("solution")


TASKS: list[Callable[[Any], Task]] = [
    lambda reward: ArithmeticTask(reward=reward),
    lambda reward: MathTask("x.jsonl", reward=reward),
    lambda reward: MathBenchmark("svamp", reward=reward),
    lambda reward: WebQATask("x.jsonl", reward=reward),
    lambda reward: SmallWorldTask(train_size=2, validation_size=2, test_size=2, reward=reward),
    lambda reward: ToolArithmeticTask(environment=None, reward=reward),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("make", TASKS)
def test_any_task_takes_a_function(make: Callable[[Any], Task]) -> None:
    task = make(f"{HERE}.length_of")
    responses = ["\\boxed{12}", "<answer>12</answer>", ""]
    grades = task.grade_many(responses, [TWELVE] * 3)
    assert [grade.reward for grade in grades] == [10.0, 19.0, 0.0]
    assert task.grade(responses[1], TWELVE).reward == 19.0
    own = [grade.correct for grade in make(f"{HERE}:brevity").grade_many(responses, [TWELVE] * 3)]
    assert [grade.correct for grade in grades] == own
    assert sum(own) >= 1, "the checker says what is correct, as before"


def test_what_a_function_may_return() -> None:
    wrong = "12"  # no box
    assert ArithmeticTask(reward=brevity).grade(wrong, TWELVE) == Grade(reward=1 / 3, correct=False, answer=None)
    assert ArithmeticTask(reward=mentions).grade(wrong, TWELVE) == Grade(reward=1.0, correct=True, answer=None)
    assert ArithmeticTask(reward=whole).grade(wrong, TWELVE) == Grade(reward=0.25, correct=True, answer="12")


@pytest.mark.parametrize("value", [None, "1", float("nan"), float("inf"), [1.0]])
def test_no_number_is_no_reward(value: Any) -> None:
    task = ArithmeticTask(reward=lambda response, problem: value)
    with pytest.raises(RewardError, match="'twelve'"):
        task.grade_many(["12"], [TWELVE])
    with pytest.raises(ConfigError, match="'twelve'") as raised:
        task.check([TWELVE])
    assert raised.value.setting == "ArithmeticTask.reward"


def test_a_function_that_raises_stops_the_run_before_training() -> None:
    task = ArithmeticTask(reward=f"{HERE}.raises")
    with pytest.raises(RewardError, match=r"raises of problem 'twelve' raised KeyError: 'solution'"):
        task.grade("a", TWELVE)
    with pytest.raises(ConfigError, match="KeyError"):
        task.check([TWELVE])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module.reward", "cannot be imported"),
        (f"{HERE}.no_such", "has no no_such. Its functions are"),
        ("reward", "no import path"),
        (f"{HERE}.TWELVE", "is no function"),
        (f"{HERE}.one_argument", "cannot be called with a response and a problem"),
        ("", "no import path"),
    ],
)
def test_a_function_that_is_not_there_is_named_at_once(path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        ArithmeticTask(reward=path)
    assert raised.value.setting == "ArithmeticTask.reward"


def test_web_qa_keeps_its_own_names() -> None:
    with pytest.raises(ConfigError, match="f1"):
        WebQATask("x.jsonl", reward="f2")
    assert WebQATask("x.jsonl", reward="em").reward == "em"


def test_a_task_with_a_function_can_be_copied_and_sent() -> None:
    for task in (
        copy.deepcopy(ArithmeticTask(reward=length_of)),
        pickle.loads(pickle.dumps(ArithmeticTask(reward=length_of))),
    ):
        assert task.grade_many(["abc"], [TWELVE])[0].reward == 3.0


# --------------------------------------------------------------------- overriding grade


class Lenient(MathTask):
    """Counts the number anywhere."""

    def grade(self, response: str, problem: Problem) -> Grade:
        strict = super().grade(response, problem)
        return (
            strict
            if strict.correct
            else Grade(reward=0.5 * (problem.answers[0] in response), correct=False, answer=None)
        )


class Mixin:
    def grade(self, response: str, problem: Problem) -> Grade:
        return Grade(reward=7.0, correct=True, answer=response)


class Mixed(Mixin, MathTask):
    """Overrides by inheritance."""


class Parallel(Lenient):
    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        return [Grade(reward=9.0, correct=True, answer=None) for _ in responses]


def test_a_task_that_overrides_grade_counts() -> None:
    responses = ["\\boxed{12}", "12", "13"]
    assert [g.reward for g in Lenient("x.jsonl").grade_many(responses, [TWELVE] * 3)] == [1.0, 0.5, 0.0]
    assert [g.reward for g in Mixed("x.jsonl").grade_many(responses, [TWELVE] * 3)] == [7.0] * 3
    assert [g.reward for g in Parallel("x.jsonl").grade_many(responses, [TWELVE] * 3)] == [9.0] * 3, "the last word"
    rewarded = Lenient("x.jsonl", reward=length_of)
    assert [g.reward for g in rewarded.grade_many(responses, [TWELVE] * 3)] == [10.0, 2.0, 2.0]


class Own(Task):
    """A task of somebody else, without a constructor."""

    name = "own"

    def problems(self, split: Split) -> list[Problem]:
        return [TWELVE]

    def prompt(self, problem: Problem) -> str:
        return problem.question

    def grade(self, response: str, problem: Problem) -> Grade:
        return Grade(reward=0.0, correct=False, answer=None)


def test_a_task_of_ones_own_takes_one_too() -> None:
    assert Own(reward=length_of).grade("abc", TWELVE).reward == 3.0
    assert Own().grade("abc", TWELVE).reward == 0.0


# --------------------------------------------------------------------- a run


@pytest.mark.slow
def test_a_run_is_rewarded_by_a_function(tmp_path: Path) -> None:
    """As a user has it: a file beside the command, named in the configuration."""
    done = cli.fit(
        tmp_path, *cli.HF, *cli.GRPO, f"--task.init_args.reward={HERE}.length_of", "--data.rounds=1",
    )  # fmt: skip
    lines = cli.transcripts(tmp_path)
    assert lines
    assert all(line["reward"] == float(len(line["text"])) for line in lines), done.stdout[-2000:]
    wrong = cli.run(
        "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO,
        f"--task.init_args.reward={HERE}.raises", f"--trainer.default_root_dir={tmp_path}/none",
    )  # fmt: skip
    assert wrong.returncode != 0
    assert "ArithmeticTask.reward" in wrong.stderr + wrong.stdout
