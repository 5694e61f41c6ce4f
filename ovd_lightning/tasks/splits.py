"""Training, validation and test problems from one set of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.base import Split
from ovd_lightning.types import Problem


class Splits:
    """The problems of a task's splits, each loaded when it is first asked for.

    Args:
        task: the task's class, for the names of settings in errors.
        data: what the splits are taken of.
        parts: split -> the part of the data, with slices as in "train[:90%]"; None: there is none.
        load: makes the problems of a split from its part.
    """

    def __init__(
        self, task: str, data: str, parts: Mapping[Split, str | None], load: Callable[[Split, str], list[Problem]]
    ) -> None:
        self._task, self._data, self._parts, self._load = task, data, parts, load
        self._problems: dict[Split, list[Problem]] = {}

    def problems(self, split: Split) -> list[Problem]:
        """Raises: ConfigError for a split that is not set, and for one that shares a question with training."""
        if split not in self._problems:
            self._problems[split] = self._loaded(split)
        return self._problems[split]

    def _loaded(self, split: Split) -> list[Problem]:
        part = self._parts[split]
        if part is None:
            raise ConfigError(
                f"{self._task}.{split}_split",
                f"is not set, so there is nothing of {self._data} to evaluate on.",
                "Set it, or choose in data.benchmarks what to evaluate.",
            )
        problems = self._load(split, part)
        known = set() if split == "train" else {problem.question for problem in self.problems("train")}
        shared = [problem.id for problem in problems if problem.question in known]
        if shared:
            raise ConfigError(
                f"{self._task}.{split}_split",
                f"is {part!r}; {len(shared)} of its questions are trained on, the first is {shared[0]!r}.",
                "Choose splits that share no question.",
            )
        return problems
