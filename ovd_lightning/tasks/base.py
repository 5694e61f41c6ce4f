"""The contract of a task: data, prompt, steps, checker and reward in one file."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import expect, finished
from ovd_lightning.tasks import rewards
from ovd_lightning.tasks.order import shuffled
from ovd_lightning.tokens import decode, decoded, from_first_word
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.environment import Environment

Split = Literal["train", "validation", "test"]
PART = "part"
"""Field of a problem's meta data that names its task among :attr:`Task.parts`."""
Entry = TypeVar("Entry")
"""What is known of a test set."""


class Task(ABC):
    """What a method needs to know of a problem family.

    Adding a task is one file that implements the abstract methods; configs name it by ``class_path``.

    Args:
        reward: module.function that gives the reward of a response to a problem instead of the task's own, see
            `ovd_lightning.tasks.rewards`; null: the task's own.

    Raises:
        ConfigError: there is no such function, or it takes something else.
    """

    name: str
    system: str | None = None
    """System message where prompts go through a chat template; None: the template's own, if it has one."""
    metrics: tuple[str, ...] = ()
    """What ``Grade.metrics`` holds of every response; averaged over a benchmark, like its accuracy."""

    graded: bool = True
    """Problems have references. False: an open-ended task, whose outcome reward is 0; a judge gives the reward."""

    tells_answer: bool = False
    """The environment sees the answers (a search engine played by a model that is given them): results are flagged."""
    environment: Environment | None = None
    """Replies to the turns of a trajectory; None: a trajectory is one generation."""

    own_rewards: tuple[str, ...] = ()
    """Names by which ``reward`` chooses among the task's own."""
    reward_function: rewards.RewardFunction | None = None
    """Gives the reward instead of the task's own; the checker still decides what is correct."""

    def __init__(self, reward: str | rewards.RewardFunction | None = None) -> None:
        if reward is not None:
            self.reward_function = rewards.find(reward, f"{type(self).__name__}.reward", self.own_rewards)
            self.grade_many = self._rewarded  # type: ignore[method-assign]
            self.grade = self._rewarded_one  # type: ignore[method-assign]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A task that overrides ``grade`` is graded by it, also where a parent has a ``grade_many`` of its own."""
        super().__init_subclass__(**kwargs)
        order = [next(i for i, one in enumerate(cls.__mro__) if name in vars(one)) for name in ("grade", "grade_many")]
        if order[0] < order[1]:
            cls.grade_many = Task.grade_many  # type: ignore[method-assign]

    @abstractmethod
    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split, always in the same order. Splits share no question."""

    @abstractmethod
    def grade(self, response: str, problem: Problem) -> Grade:
        """Outcome reward of a response (what was written, never the prompt nor an observation), eq. 2."""

    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """Grades of many responses, in order; a task whose checker works in parallel overrides it. Where a subclass
        of such a task overrides ``grade`` alone, that counts."""
        expect(len(responses))
        grades = []
        for response, problem in zip(responses, problems, strict=True):
            grades.append(self.grade(response, problem))
            finished()
        return grades

    def _rewarded(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """The checker's grades with the rewards of ``reward_function``. Raises: RewardError."""
        assert self.reward_function is not None
        checker = copy.copy(self)
        del checker.grade, checker.grade_many, checker.reward_function
        grades = checker.grade_many(responses, problems)
        return [rewards.apply(self.reward_function, *one) for one in zip(grades, responses, problems, strict=True)]

    def _rewarded_one(self, response: str, problem: Problem) -> Grade:
        return self._rewarded([response], [problem])[0]

    @property
    def parts(self) -> dict[str, Task]:
        """Name -> task, of a task that is made of others; each is evaluated, and its reward logged, on its own."""
        return {}

    @property
    def shares(self) -> dict[str, float]:
        """Name -> share of the problems of a round, of a task that is made of others."""
        return {}

    def ordered(self, start: int, count: int, seed: int) -> list[Problem]:
        """The training problems at positions ``start`` to ``start + count`` of an endless order: a pure function of the
        arguments. By default epoch after epoch, each shuffled anew."""
        return shuffled(self.problems("train"), start, count, seed)

    def check(self, problems: Sequence[Problem]) -> None:
        """What can be known of the grading of some problems before a model is loaded. Raises: ConfigError."""
        if self.reward_function is not None and problems:
            try:
                self.grade("", problems[0])
            except rewards.RewardError as error:
                raise ConfigError(
                    f"{type(self).__name__}.reward", f"{error}.", "It must return a number for every response."
                ) from error

    @abstractmethod
    def prompt(self, problem: Problem) -> str:
        """The text the student (and the teacher as demonstrator) completes."""

    step_separator: str = "\n"
    """A step ends with this text (paper, section 2: "sentences or logical derivations")."""

    @property
    def step_rule(self) -> str:
        """What decides where a step ends, for the record of what depends on it."""
        return self.step_separator

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        """Half-open token spans [start, end) of the steps; they cover ``token_ids`` without gap or overlap.

        Args:
            mask: [T] False on observations, for tasks with an environment; None: all tokens were written.

        A span ends with the token that completes ``step_separator`` after a letter or digit: what has none (an empty
        line, a LaTeX ``\\[`` on a line of its own) begins the next step, and what is left at the end (an end of
        sequence, a ``\\]``) belongs to the last. Empty input gives no step.
        """
        spans: list[tuple[int, int]] = []
        start, alone, last = 0, decoded(tokenizer), self.step_separator[-1]
        for i, token in enumerate(token_ids):
            if last not in alone[token]:
                continue  # cannot complete the separator: spares a decoding for each token
            if self.step_separator in from_first_word(decode(tokenizer, token_ids[start : i + 1])):
                spans.append((start, i + 1))
                start = i + 1
        if start < len(token_ids):
            if spans and not from_first_word(decode(tokenizer, token_ids[start:])):
                spans[-1] = (spans[-1][0], len(token_ids))
            else:
                spans.append((start, len(token_ids)))
        return spans


class Benchmark(Task):
    """A published test set: the same problems, whether they validate or test."""

    title: str
    trained_on: str
    """The task to train on instead."""
    _problems: list[Problem] | None = None

    @abstractmethod
    def load(self) -> list[Problem]:
        """Raises: ConfigError for a set that is not available, or not of its size."""

    def problems(self, split: Split) -> Sequence[Problem]:
        if split == "train":
            raise ConfigError("data.task", f"is {self.title}, a test set.", f"Train on a {self.trained_on}.")
        if self._problems is None:
            self._problems = self.load()
        return self._problems


def check_names(setting: str, names: Sequence[str]) -> None:
    """Raises: ConfigError for a list of names that is empty or has one twice."""
    if not names or len(set(names)) < len(names):
        raise ConfigError(setting, f"is {list(names)}.", "Name each once, and at least one.")


def find_entry(entries: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """The test set of that name. Raises: ConfigError with the names there are."""
    if name not in entries:
        raise ConfigError(setting, f"is {name!r}, which is no test set.", f"There are {', '.join(entries)}.")
    return entries[name]


class Suite(ABC):
    """Several benchmarks under one setting, e.g. the ten of a table: what ``data.benchmarks`` takes besides a dict."""

    @abstractmethod
    def tasks(self, split: Split) -> dict[str, Task]:
        """Name -> task of what is evaluated on ``split`` ("validation" during training, "test" at its ends)."""
