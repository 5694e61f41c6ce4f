"""Mixtures and curricula: what comes when, who grades, and what cannot be combined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.tasks.combined import CurriculumTask, MixtureTask
from ovd_lightning.types import Grade, Problem
from tests.workflow import cli


class Words(Task):
    """Problems of one length each, right where the response is the answer."""

    def __init__(self, name: str = "words", size: int = 10, separator: str = "\n") -> None:
        super().__init__()
        self.name, self.size, self.step_separator = name, size, separator

    def problems(self, split: Split) -> Sequence[Problem]:
        return [
            Problem(id=str(i), question=f"{self.name} {i}", answers=(f"{self.name}{i}",), meta={"hard": self.size - i})
            for i in range(self.size)
        ]

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}?"

    def grade(self, response: str, problem: Problem) -> Grade:
        right = response in problem.answers
        return Grade(reward=float(right), correct=right, answer=response)


def mixture(**weights: float) -> MixtureTask:
    return MixtureTask({"a": Words("a", 10), "b": Words("b", 3)}, weights or None)


def parts(problems: Sequence[Problem]) -> Counter[str]:
    return Counter(p.meta["part"] for p in problems)


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 1, "b": 3}, {"a": 0.999, "b": 0.001}])
def test_shares_are_the_weights(weights: dict[str, float]) -> None:
    task, whole = mixture(**weights), sum(weights.values())
    for start in range(0, 2000, 40):
        chosen = task.ordered(start, 40, seed=1)
        assert len(chosen) == 40
        assert abs(parts(chosen)["b"] - 40 * weights["b"] / whole) < 4
    assert abs(parts(task.ordered(0, 10_000, 1))["b"] - 10_000 * weights["b"] / whole) < 5


def test_rounds_are_pieces_of_one_order() -> None:
    task = mixture(a=2, b=1)
    pieces = [p for start in range(0, 60, 6) for p in task.ordered(start, 6, seed=0)]
    assert pieces == task.ordered(0, 60, seed=0)
    assert pieces != task.ordered(0, 60, seed=1)
    of_b = [p.id for p in pieces if p.meta["part"] == "b"]
    assert all(len(set(of_b[i : i + 3])) == 3 for i in range(0, len(of_b) - 2, 3)), "each once an epoch of its own"


def test_each_task_prompts_and_grades_its_own() -> None:
    task = mixture()
    problems = [p for p in task.problems("train") if p.id in ("a/2", "b/2")]
    assert [task.prompt(p) for p in problems] == ["a 2?", "b 2?"]
    assert [g.correct for g in task.grade_many(["a2", "a2"], problems)] == [True, False]
    assert [g.correct for g in task.grade_many(["b2", "b2"], problems[::-1])] == [True, False]
    assert list(OVDDataModule(task).benchmarks("test")) == ["a", "b"]


@pytest.mark.parametrize(
    ("tasks", "weights", "message"),
    [
        ({"a": Words()}, None, "has 1. Name two"),
        ({"a": Words(), "b": Words()}, {"a": 1.0}, "weights: is of .'a'."),
        ({"a": Words(), "b": Words(separator=".")}, None, "differ in step_separator"),
    ],
)
def test_what_cannot_be_mixed(tasks: dict[str, Task], weights: dict[str, float] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureTask(tasks, weights)


def test_everything_that_keeps_tasks_from_being_mixed_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MixtureTask({"a": Words(), "b": Words(separator=".")}, {"a": 1.0})
    assert [e.setting for e in caught.value.errors] == ["task.init_args.weights", "task.init_args.tasks"]


def test_from_easy_to_hard() -> None:
    task = CurriculumTask(Words(size=100), "hard", over=1000, begin=0.1)
    hardest = [max(p.meta["hard"] for p in task.ordered(start, 50, seed=0)) for start in (0, 450, 950)]
    assert hardest[0] <= 15
    assert 45 <= hardest[1] <= 60
    assert hardest[2] > 90
    assert task.ordered(50, 10, seed=0) == task.ordered(0, 60, seed=0)[50:]


def test_a_difficulty_is_a_number() -> None:
    with pytest.raises(ConfigError, match="the problem has solution"):
        CurriculumTask(ArithmeticTask(), "hops", over=10)
    with pytest.raises(ConfigError, match="'0' that is None"):
        CurriculumTask(Words(), "hop", over=10)


@pytest.mark.slow
def test_a_run_on_a_mixture_logs_and_evaluates_each_part(tmp_path: Path) -> None:
    arithmetic: dict[str, Any] = {"class_path": "ovd_lightning.tasks.arithmetic.ArithmeticTask"}
    members = {name: {**arithmetic, "init_args": {"seed": seed}} for seed, name in enumerate(("one", "two"))}
    task = {"class_path": "MixtureTask", "init_args": {"tasks": members, "weights": {"one": 3, "two": 1}}}
    overlay = tmp_path / "mixture.yaml"
    overlay.write_text(yaml.safe_dump({"task": {**task, "class_path": "ovd_lightning.tasks.combined.MixtureTask"}}))
    cli.fit(tmp_path / "run", f"--config={overlay}", *cli.HF, *cli.GRPO, "--data.rounds=2")
    rows = cli.rounds(tmp_path / "run")
    for row in rows:
        both = (3 * row["reward/student/one"] + row["reward/student/two"]) / 4
        assert row["reward/student"] == pytest.approx(both), "three groups of one, one of the other"
    assert {"test/one/accuracy", "test/two/accuracy"} <= set(cli.metrics(tmp_path / "run")[-1])
