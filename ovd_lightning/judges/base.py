"""The contract of a judge: requests in, judgements out."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.judges.scale import SCALES, Scale, ScoreReading
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine
    from ovd_lightning.tasks.base import Task

SETTING = "method.init_args.teacher.init_args.judge.init_args"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest:
    """What is to be judged: one step after others, or a whole response."""

    problem: Problem
    previous: tuple[str, ...] = ()
    """Texts of the steps before."""
    step: str | None = None
    response: str | None = None
    """Exactly one of ``step`` and ``response`` is given."""

    @classmethod
    def of_text(cls, question: str, **what: Any) -> JudgeRequest:
        """A request about a question that belongs to no data set."""
        return cls(problem=Problem(id="", question=question, answers=()), **what)


@dataclass(slots=True)
class Judgement:
    """A judge's verdict on one request."""

    distribution: list[float] | None
    """[v] over the score vocabulary, at temperature 1, normalised; one-hot when parsed from text, the share of each
    score among several samples; None: no score, or one that is no draw from the vocabulary."""
    mass: float
    """Probability that the judge gave to score tokens at all, before normalising; share of the samples with a score.
    0 where the call failed."""
    value: float | None = None
    """The score itself, on the scale, where there is no distribution: the weighted mean of a rubric."""

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score under the distribution, in points of the scale; None without one."""
        if self.distribution is None:
            return None
        mean = sum(i * p for i, p in enumerate(self.distribution))
        return math.sqrt(sum(p * (i - mean) ** 2 for i, p in enumerate(self.distribution)))

    @property
    def scored(self) -> bool:
        return self.distribution is not None or self.value is not None

    def mean(self, scale: Scale) -> float | None:
        """E[S], on the scale; None where the judge gave no score."""
        return self.value if self.value is not None else scale.mean(self.distribution)

    def read(self, scale: Scale, how: ScoreReading, temperature: float, rng: random.Random) -> float | None:
        """One score, on the scale; None where the judge gave none. See `Scale.read`."""
        return self.value if self.value is not None else scale.read(self.distribution, how, temperature, rng)


@dataclass(slots=True)
class Ledger:
    """What was asked of a teacher in a round; what it cost is counted by its engines."""

    scores: int = 0
    """Judgements wanted."""
    asked: int = 0
    """Prompts really sent for them: not repeated in the round, not in the cache."""
    parse_failures: int = 0
    """Judgements without a score."""
    unscored: str | None = None
    """What the last answer without a score contained."""
    demonstrations: int = 0
    """Wanted."""
    pooled: int = 0
    """Those of them that a pool had already."""
    mass: list[float] = field(default_factory=list)


@dataclass(slots=True)
class UnparsedScores:
    """Judgements without a score, counted until there are enough of them to blame the judge."""

    failures: int = 0
    prompts: int = 0
    least: float = 0
    """No share of failures is looked at until more than these were judged; infinite: `Judge.check_scored` is called
    once all of them are."""


class Judge(ABC):
    """Scores steps and responses through an engine. Never wrapped, sharded or checkpointed.

    Args:
        engine: null: the teacher's own (see `VerbalTeacher`), so that one model that judges and demonstrates is
            loaded once.
    """

    scale: Scale = SCALES["zero_to_nine"]

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self.own_engine = engine is not None
        self.cache = AnswerCache()
        self.ledger = Ledger()

    def bind(self, engine: Engine, cache: AnswerCache) -> None:
        """Use the teacher's engine, where the judge has none of its own, and its cache."""
        self._engine = self._engine or engine
        self.cache = cache

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "a judge without an engine belongs to a teacher"
        return self._engine

    @abstractmethod
    def judge(
        self, requests: Sequence[JudgeRequest], seed: int = 0, unparsed: UnparsedScores | None = None
    ) -> list[Judgement]:
        """One judgement a request. Equal requests are sent once.

        Args:
            seed: random state of answers that are sampled.
            unparsed: counts over several calls that are each too small for a share of failures to mean anything.
        Raises: RunError when too many got no score.
        """

    def check_scored(self, counted: UnparsedScores) -> None:
        """Raises: RunError when too many of these got no score."""
        return

    def check(self) -> None:
        """What the engine's vocabulary and template decide; loads nothing. Raises: ConfigError."""
        return

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Whether these problems, with responses of up to ``max_tokens``, can be judged. Raises: ConfigError."""
        return

    @abstractmethod
    def self_test(self, problem: Problem, response: str) -> str:
        """Judge a response with real calls; what came back, in words. Raises: ConfigError where no score did."""

    # For estimates of what a round asks; a judge without a model asks nothing.

    @property
    def prompts_per_request(self) -> int:
        """Sent to the engine for one judgement."""
        return 0

    @property
    def answer_tokens(self) -> int:
        """Of the answer to one prompt, at most."""
        return 0

    def prompt_characters(self, of_step: bool) -> int:
        """Of the fixed words of a prompt about a step, or about a whole response."""
        return 0

    def settings(self) -> dict[str, Any]:
        """What judgements depend on, as JSON can hold it."""
        return {"engine": self.engine.name}

    def take_ledger(self) -> Ledger:
        """What was asked since the last call."""
        ledger, self.ledger = self.ledger, Ledger()
        return ledger
