"""S(tau): what the judge is asked about trajectories, and how a score comes about."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ovd_lightning.judges.base import Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.judges.scale import Scale, ScoreReading
from ovd_lightning.settings.ranges import PositiveFloat
from ovd_lightning.types import Step, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.teachers.verbal import VerbalTeacher

StepAggregation = Literal["min", "mean", "last"]


@dataclass(frozen=True)
class Scoring:
    """S(tau): how a trajectory's score comes about."""

    level: Literal["step", "trajectory"] = "step"
    """"step": every step s_k is judged with the prompt of A.4; "trajectory": the whole response at once."""
    reading: ScoreReading = "sample"
    """A score is drawn from the judge's distribution (the paper), or is its mean, or argmax."""
    temperature: PositiveFloat = 0.7
    """Of a drawn score (A.6.2)."""
    aggregation: StepAggregation = "min"
    """The trajectory's score from its steps'. The paper does not say; the minimum ranks right before wrong
    trajectories best."""

    def judge(
        self,
        teacher: VerbalTeacher,
        trajectories: Sequence[Trajectory],
        round: Round,
        settled: Callable[[Trajectory], bool] | None = None,
    ) -> None:
        """S(tau): fill every step's, and so every trajectory's, distribution and score.

        Args:
            settled: whether no further score of a trajectory matters. Those that are settled are not judged; of the
                others one step each is judged at a time, until they are. None: everything is judged, at once.
        """
        if settled is None:
            self._ask(teacher, [(y, k) for y in trajectories for k in self._unjudged(y)], round)
        else:
            pending = [y for y in trajectories if not settled(y)]
            while asked := [(y, left[0]) for y in pending if (left := self._unjudged(y))]:
                self._ask(teacher, asked, round)
                pending = [y for y, _ in asked if not settled(y)]
        for y in trajectories:
            low, high = self.bounds(y, teacher.scale)
            y.score = low if low == high else None

    def _unjudged(self, y: Trajectory) -> list[int]:
        """Steps to judge, in the order in which they settle the score; [-1]: the whole response."""
        if self.level == "trajectory":
            return [] if y.judged else [-1]
        left = [k for k, step in enumerate(y.steps) if not step.judged]
        return left[::-1] if self.aggregation == "last" else left

    def _ask(self, teacher: VerbalTeacher, items: Sequence[tuple[Trajectory, int]], round: Round) -> None:
        requests = [
            JudgeRequest(problem=y.problem, response=y.text)
            if self.level == "trajectory"
            else JudgeRequest(problem=y.problem, previous=tuple(s.text for s in y.steps[:k]), step=y.steps[k].text)
            for y, k in items
        ]
        # How many of them have no score is looked at once the round is complete: see `log_judgements`.
        judgements = teacher.score(requests, seed=round.seed("judge"), unparsed=UnparsedScores(least=math.inf))
        for (y, k), judgement in zip(items, judgements, strict=True):
            item = y if self.level == "trajectory" else y.steps[k]
            item.judged, item.distribution = True, judgement.distribution
            item.score = self.read(judgement, teacher.scale, round.random("score", *y.key, k, y.source))

    def bounds(self, y: Trajectory, scale: Scale) -> tuple[float | None, float | None]:
        """The least and the largest S(tau) that the judgements so far allow; equal where they settle it, None where
        the judge gave no score."""
        items: Sequence[Step | Trajectory] = y.steps if self.level == "step" else [y]
        low, high = (
            self.aggregate([item.score if item.judged else float(limit) for item in items])
            for limit in (scale.low, scale.high)
        )
        return low, high

    def read(self, judgement: Judgement, scale: Scale, rng: random.Random) -> float | None:
        """One score, on the scale; None where the judge gave none."""
        return judgement.read(scale, self.reading, self.temperature, rng)

    def aggregate(self, of_steps: Sequence[float | None]) -> float | None:
        """S(tau) from the scores of the steps, none of which lowers it by being higher; steps without a score do not
        count."""
        scores = [score for score in of_steps if score is not None]
        if not scores:
            return None
        if self.aggregation == "mean":
            return sum(scores) / len(scores)
        return min(scores) if self.aggregation == "min" else scores[-1]


PAPER = Scoring()
MEAN_OF_RESPONSE = Scoring(level="trajectory", reading="mean")
