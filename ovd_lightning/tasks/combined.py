"""Tasks of tasks: several at once with weights, and one from the easy to the hard."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.settings.ranges import ClosedUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.tasks.base import PART, Split, Task
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTING = "task.init_args"
GOLDEN = (5**0.5 - 1) / 2


class MixtureTask(Task):
    """Several tasks in every round. Each is evaluated on its own, and has its own `reward/student/<name>`.

    Its share of a round's problems is its weight, give or take a few problems, and over the rounds exactly. Tasks with
    an environment, or with steps or system messages of their own, cannot be mixed.

    Args:
        tasks: name -> task.
        weights: name -> weight, above 0, of any sum; null: equal weights.
    """

    name = "mixture"

    def __init__(self, tasks: dict[str, Task], weights: dict[str, PositiveFloat] | None = None) -> None:
        super().__init__()
        weights = dict.fromkeys(tasks, 1.0) if weights is None else weights
        raise_errors(self._errors(tasks, weights))
        self._parts = dict(tasks)
        self.weights = {name: weights[name] / math.fsum(weights.values()) for name in tasks}
        first = next(iter(tasks.values()))
        self.step_separator, self.system, self.graded = first.step_separator, first.system, first.graded

    @staticmethod
    def _errors(tasks: dict[str, Task], weights: dict[str, float]) -> Iterator[ConfigError]:
        if len(tasks) < 2:
            yield ConfigError(f"{SETTING}.tasks", f"has {len(tasks)}.", "Name two tasks or more.")
        if set(weights) != set(tasks):
            yield ConfigError(f"{SETTING}.weights", f"is of {list(weights)}.", f"Give each of {list(tasks)} one.")
        for what in ("step_separator", "system", "graded"):
            values = {name: getattr(task, what) for name, task in tasks.items()}
            if len(set(values.values())) > 1:
                yield ConfigError(f"{SETTING}.tasks", f"differ in {what}: {values}.", "Mix tasks that agree in it.")
        if any(task.environment is not None for task in tasks.values()):
            yield ConfigError(f"{SETTING}.tasks", "holds one with an environment.", "Train on it alone.")
        if len({(type(task).split_steps, task.step_rule == task.step_separator) for task in tasks.values()}) > 1:
            yield ConfigError(f"{SETTING}.tasks", "cut steps in different ways.", "Mix tasks that agree in it.")

    @property
    def parts(self) -> dict[str, Task]:
        return self._parts

    def problems(self, split: Split) -> Sequence[Problem]:
        return [p for name, task in self._parts.items() for p in _named(name, task.problems(split))]

    def ordered(self, start: int, count: int, seed: int) -> list[Problem]:
        """Every task's own order, interleaved by a golden-ratio sequence, whose shares are even over any stretch."""
        places = (np.arange(start + count) * GOLDEN + random.Random(f"{seed}/mixture").random()) % 1
        whose = np.searchsorted(np.cumsum(list(self.weights.values()))[:-1], places, side="right")
        drawn = []
        for i, (name, task) in enumerate(self._parts.items()):
            before, now = int((whose[:start] == i).sum()), int((whose[start:] == i).sum())
            drawn.append(iter(_named(name, task.ordered(before, now, seed))))
        return [next(drawn[i]) for i in whose[start:]]

    @property
    def shares(self) -> dict[str, float]:
        return self.weights

    def _of(self, problem: Problem) -> Task:
        return self._parts[problem.meta[PART]]

    def prompt(self, problem: Problem) -> str:
        return self._of(problem).prompt(problem)

    def grade(self, response: str, problem: Problem) -> Grade:
        return self._of(problem).grade(response, problem)

    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """Each task grades its own in one call."""
        grades: dict[int, Grade] = {}
        for task in self._parts.values():
            own = [i for i, problem in enumerate(problems) if self._of(problem) is task]
            graded = task.grade_many([responses[i] for i in own], [problems[i] for i in own]) if own else []
            grades.update(zip(own, graded, strict=True))
        return [grades[i] for i in range(len(problems))]

    def check(self, problems: Sequence[Problem]) -> None:
        for name, task in self._parts.items():
            task.check([problem for problem in problems if problem.meta[PART] == name])

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        return next(iter(self._parts.values())).split_steps(token_ids, tokenizer, mask)


def _named(name: str, problems: Sequence[Problem]) -> list[Problem]:
    return [replace(p, id=f"{name}/{p.id}", meta={**p.meta, PART: name}) for p in problems]


class CurriculumTask(Task):
    """One task, from its easy problems to all of them.

    A problem is drawn, with replacement, from the easiest share of the problems; that share grows from ``begin`` to 1
    over the first ``over`` problems of the run (rounds x data.problems_per_round). Validation and test are the task's.

    Args:
        task: whose problems have a difficulty.
        difficulty: the field of a problem's meta data that holds it, a number; the smaller, the easier.
        over: problems drawn until every problem may come.
        begin: share of the problems, in [0, 1], that may come first; at least one does.
    """

    def __init__(self, task: Task, difficulty: str, over: PositiveInt, begin: ClosedUnitInterval = 0.2) -> None:
        super().__init__()
        self.task, self.over, self.begin = task, over, begin
        self.name, self.system, self.metrics = task.name, task.system, task.metrics
        self.graded, self.tells_answer, self.environment = task.graded, task.tells_answer, task.environment
        self.step_separator = task.step_separator
        self._easiest_first = sorted(task.problems("train"), key=lambda p: (self._difficulty(p, difficulty), p.id))

    @staticmethod
    def _difficulty(problem: Problem, field: str) -> float:
        value = problem.meta.get(field)
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ConfigError(
                f"{SETTING}.difficulty",
                f"is {field}, and of problem {problem.id!r} that is {value!r}.",
                f"Name a field that holds a number; the problem has {', '.join(problem.meta) or 'none'}.",
            ) from None

    @property
    def parts(self) -> dict[str, Task]:
        return self.task.parts

    @property
    def shares(self) -> dict[str, float]:
        return self.task.shares

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.task.problems(split)

    def ordered(self, start: int, count: int, seed: int) -> list[Problem]:
        chosen = []
        for position in range(start, start + count):
            share = self.begin + (1 - self.begin) * min(1.0, position / self.over)
            allowed = max(1, math.ceil(share * len(self._easiest_first)))
            chosen.append(self._easiest_first[random.Random(f"{seed}/curriculum/{position}").randrange(allowed)])
        return chosen

    def prompt(self, problem: Problem) -> str:
        return self.task.prompt(problem)

    def grade(self, response: str, problem: Problem) -> Grade:
        return self.task.grade(response, problem)

    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        return self.task.grade_many(responses, problems)

    def check(self, problems: Sequence[Problem]) -> None:
        self.task.check(problems)

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        return self.task.split_steps(token_ids, tokenizer, mask)
