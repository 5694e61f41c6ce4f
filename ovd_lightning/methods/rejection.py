"""Who is rejected, from complete judgements or from as many as decide it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ovd_lightning.judges.scale import Scale
from ovd_lightning.methods import rules
from ovd_lightning.methods.calls import ExpectedRound
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.types import Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round

ReplaceWhen = Literal["score", "incorrect", "score_or_incorrect"]
UNUSED = random.Random()
"""For a rule that draws nothing: to seed a generator takes longer than to compare a score."""


@dataclass(frozen=True)
class Rejection:
    """S(tau) < theta or incorrect."""

    threshold: float
    when: ReplaceWhen
    scale: Scale
    scoring: Scoring
    acceptance: rules.Acceptance
    replacement: rules.Replacement

    def accepts(self, y: Trajectory, round: Round) -> bool | None:
        """a(y), eq. 5; None where the judgements so far do not decide it. One without a score counts as accepted."""
        low, high = self.scoring.bounds(y, self.scale)
        if low is None or high is None:
            return True
        if low != high and not rules.is_lazy(self.acceptance):
            return None
        seed = round.seed("accept", *y.key) if rules.is_drawn(self.acceptance) else None
        verdicts = {
            self.acceptance.accepts(y, score, self.threshold, UNUSED if seed is None else random.Random(seed))
            for score in {low, high}
        }
        return verdicts.pop() if len(verdicts) == 1 else None

    def decide(self, y: Trajectory, round: Round) -> tuple[bool | None, bool | None]:
        """(a(y), whether ``y`` is to be replaced); None where the judgements so far do not decide it."""
        accepted, incorrect = self.accepts(y, round), not y.grade.correct  # type: ignore[union-attr]
        if self.when == "incorrect" or (incorrect and self.when == "score_or_incorrect"):
            return accepted, incorrect
        return accepted, None if accepted is None else not accepted

    def settled(self, y: Trajectory, round: Round) -> bool:
        """Whether no further score of a student's trajectory can change the mixture."""
        _, rejected = self.decide(y, round)
        if rejected:
            return self.replacement.settled(y, self.threshold, self.scale)
        return rejected is False

    def judged(self, trajectories: float, expected: ExpectedRound) -> float:
        """Of so many trajectories of the student, those that are judged; a part of the steps counts as that part.

        The rejected ones are taken to be wrong where that is enough, and to be judged up to the middle otherwise.
        """
        on_scale = self.scale.low < self.threshold <= self.scale.high
        by_score = self.when != "incorrect" and (on_scale or not isinstance(self.acceptance, rules.Threshold))
        kept_by_score = self.replacement.needs_step_scores and on_scale
        if expected.at_most:
            return trajectories if by_score or kept_by_score else 0
        up_to = 0.5 if self.scoring.level == "step" and self.scoring.aggregation == "min" else 1.0
        of_rejected = up_to if kept_by_score or (by_score and self.when == "score") else 0.0
        return trajectories * ((1 - expected.rejected) * by_score + expected.rejected * of_rejected)
