"""What Algorithm 1 leaves open, as rules: who is accepted, what replaces the others, what is credited.

Each is a class with a hook or two; OVD names it by its `class_path`, also one from outside this package.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ovd_lightning import functional as F
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.judges.scale import Scale, ScoreReading
from ovd_lightning.settings.ranges import NonNegativeInt, OneOrMore, PositiveFloat
from ovd_lightning.types import Group, Step, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.teachers.verbal import VerbalTeacher

StepAggregation = Literal["min", "mean", "last"]

# ------------------------------------------------------------------------------------------------------------ scoring


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

    def judge(self, teacher: VerbalTeacher, trajectories: Sequence[Trajectory], round: Round) -> None:
        """S(tau): fill every step's, and so every trajectory's, distribution and score."""
        items: list[tuple[Trajectory, int]] = [
            (y, k) for y in trajectories for k in (range(len(y.steps)) if self.level == "step" else (-1,))
        ]
        requests = [
            JudgeRequest(problem=y.problem, response=y.text)
            if self.level == "trajectory"
            else JudgeRequest(problem=y.problem, previous=tuple(s.text for s in y.steps[:k]), step=y.steps[k].text)
            for y, k in items
        ]
        # How many of them have no score is looked at once the round is complete: see `log_judgements`.
        judgements = teacher.score(requests, seed=round.seed("judge"), unparsed=UnparsedScores(least=math.inf))
        for (y, k), judgement in zip(items, judgements, strict=True):
            judged = y if self.level == "trajectory" else y.steps[k]
            judged.distribution = judgement.distribution
            judged.score = self.read(judgement, teacher.scale, round.random("score", *y.key, k, y.source))
        for y in trajectories if self.level == "step" else ():
            y.score = self.aggregate(y.steps)

    def read(self, judgement: Judgement, scale: Scale, rng: random.Random) -> float | None:
        """One score, on the scale; None where the judge gave none."""
        return judgement.read(scale, self.reading, self.temperature, rng)

    def aggregate(self, steps: Sequence[Step]) -> float | None:
        """S(tau) from the scores of the steps; steps without a score do not count."""
        scores = [s.score for s in steps if s.score is not None]
        if not scores:
            return None
        return {"min": min(scores), "mean": sum(scores) / len(scores), "last": scores[-1]}[self.aggregation]


PAPER = Scoring()
MEAN_OF_RESPONSE = Scoring(level="trajectory", reading="mean")

# --------------------------------------------------------------------------------------------------------- acceptance


class Acceptance(ABC):
    """a(y) of eq. 5, for a trajectory with a score."""

    @abstractmethod
    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        """Whether ``y`` stays, as far as its score decides."""


class Threshold(Acceptance):
    """Eq. 5: a(y) = 1 where S(y) >= theta."""

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return score >= threshold


class Soft(Acceptance):
    """A.1.1: accepted with probability min(1, exp(S / beta) / M), whatever the threshold.

    Args:
        beta, bound: beta > 0 and M >= 1.
    """

    def __init__(self, beta: PositiveFloat = 3.0, bound: OneOrMore = 20.0) -> None:
        self.beta = beta
        self.bound = bound

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return rng.random() < F.soft_acceptance(score, self.beta, self.bound)


# -------------------------------------------------------------------------------------------------------- replacement


class Replacement:
    """Whole trajectories of the teacher, one for each rejected one (Algorithm 1)."""

    needs_step_scores = False
    adds = False
    """Whether teacher trajectories stand beside the rejected ones."""
    kept_share = 0.0
    """Share of a rejected trajectory that is likely to stay, in [0, 1]; for estimates of what a round asks."""

    def expected(self, rejected: float, groups: int) -> int:
        """Replacements of a round with so many rejected trajectories in so many groups."""
        return round(rejected)

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        """Those of a group's rejected trajectories that the teacher is asked to replace."""
        return rejected

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        """Leading completion tokens of a rejected trajectory that stay, the teacher going on from there."""
        return 0

    def mixture(self, group: Group, written: Mapping[tuple[int, int], Trajectory]) -> list[Trajectory]:
        """p_train of eq. 6, from the student's trajectories and the teacher's by the key of what they replace."""
        return [written.get(y.key, y) for y in group.sampled]


class Whole(Replacement):
    """The default, under its name."""


class Suffix(Replacement):
    """Section 3.3: the accepted prefix stays, the teacher goes on from the first step with a score under theta; where
    no single step was rejected, a whole trajectory."""

    needs_step_scores = True
    kept_share = 0.5

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        return next((s.start for s in y.steps if s.score is not None and s.score < threshold), 0)


class Added(Replacement):
    """The teacher's trajectories stand beside the rejected ones, which go on training."""

    adds = True

    def mixture(self, group: Group, written: Mapping[tuple[int, int], Trajectory]) -> list[Trajectory]:
        return [*group.sampled, *(written[y.key] for y in group.sampled if y.key in written)]


class Capped(Replacement):
    """At most ``limit`` replacements a group, lowest scores first.

    Args:
        limit: 0 or more.
        replacement: what is capped; null: whole trajectories.
    """

    def __init__(self, limit: NonNegativeInt, replacement: Replacement | None = None) -> None:
        self.limit = limit
        self.replacement = replacement or Whole()
        self.needs_step_scores = self.replacement.needs_step_scores
        self.adds, self.kept_share = self.replacement.adds, self.replacement.kept_share

    def expected(self, rejected: float, groups: int) -> int:
        return min(self.replacement.expected(rejected, groups), groups * self.limit)

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        worst_first = sorted(self.replacement.choose(rejected), key=lambda y: (y.score is None, y.score, y.sample))
        return worst_first[: self.limit]

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        return self.replacement.kept_tokens(y, threshold)

    def mixture(self, group: Group, written: Mapping[tuple[int, int], Trajectory]) -> list[Trajectory]:
        return self.replacement.mixture(group, written)


# ------------------------------------------------------------------------------------------------------------- credit


class Credit(ABC):
    """Advantages of a group's mixture."""

    needs_step_scores = False
    scores_demonstrations = False
    """Whether the teacher's own trajectories are judged, too."""
    needs_group = True
    """Whether a group of one has no signal."""
    needs_outcome = True
    """Whether a task without references, whose outcome reward is always 0, has no signal."""

    @abstractmethod
    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        """A from R, one each.

        Args:
            rewards: of the mixture.
            before: of the student's trajectories before replacement.
        """

    def reward(self, y: Trajectory, scale: Scale) -> float:
        """R(y): the outcome reward."""
        return y.reward

    def assign(self, group: Group, scale: Scale) -> None:
        """Fill ``advantages`` of the mixture: one value a trajectory, on every token."""
        before = [self.reward(y, scale) for y in group.sampled]
        values = self.advantages([self.reward(y, scale) for y in group.mixture], before)
        for y, value in zip(group.mixture, values, strict=True):
            y.advantages = [value] * len(y.completion_ids)


class Reward(Credit):
    """Eq. 7: A = R, without a baseline."""

    needs_group = False

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return list(rewards)


class MixedGroup(Credit):
    """Algorithm 1 as printed: A = (R - mu) / (sigma + eps) within the mixture."""

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return F.group_advantages(rewards)


class StudentGroup(Credit):
    """Baseline and scale from the student's group before replacement.

    Args:
        sigma_floor: least sigma, above 0: rewards before replacement are often all equal.
    """

    def __init__(self, sigma_floor: PositiveFloat = 0.25) -> None:
        self.sigma_floor = sigma_floor

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return F.group_advantages(rewards, reference=before or None, sigma_floor=self.sigma_floor)


class Score(Reward):
    """A = S(y) on [0, 1], the judge's score as the reward; the outcome where there is none. For tasks without a
    reference."""

    scores_demonstrations = True
    needs_outcome = False

    def reward(self, y: Trajectory, scale: Scale) -> float:
        return y.reward if y.score is None else scale.normalise(y.score)


class StepScores(Credit):
    """Eq. 3: every step is credited on its own, with R_k = S_k on [0, 1]; the outcome where it has no score.

    Args:
        credit: from rewards to advantages, over all steps of the mixture; null: A = R.
    """

    needs_step_scores = scores_demonstrations = True

    def __init__(self, credit: Credit | None = None) -> None:
        self.credit = credit or Reward()
        self.needs_group = self.credit.needs_group

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return self.credit.advantages(rewards, before)

    def assign(self, group: Group, scale: Scale) -> None:
        def reward(step: Step, y: Trajectory) -> float:
            return y.reward if step.score is None else scale.normalise(step.score)

        rewards = [reward(s, y) for y in group.mixture for s in y.steps]
        before = [reward(s, y) for y in group.sampled for s in y.steps]
        values = iter(self.advantages(rewards, before) if rewards else [])
        for y in group.mixture:
            y.advantages = [0.0] * len(y.completion_ids)
            for step in y.steps:
                y.advantages[step.start : step.end] = [next(values)] * (step.end - step.start)


def check_threshold(threshold: float, scale: Scale) -> None:
    """Raises: ConfigError for a threshold that is not on the scale."""
    if not scale.low <= threshold <= scale.reject_all:
        raise ConfigError(
            "method.init_args.threshold",
            f"is {threshold}, outside the teacher's score scale {scale.low}-{scale.high}.",
            f"Use {scale.low} (accept all) to {scale.reject_all} (reject all), or change the judge's scale.",
        )


def check_rules(scoring: Scoring, replacement: Replacement, credit: Credit, group_size: int) -> None:
    """Rules that do not go together. Raises: ConfigError."""
    for name, rule in (("replacement", replacement), ("credit", credit)):
        if rule.needs_step_scores and scoring.level != "step":
            raise ConfigError(
                f"method.init_args.{name}",
                f"is {type(rule).__name__}, which needs scored steps.",
                "Use scoring.level: step with it.",
            )
    if group_size < 2 and credit.needs_group and not replacement.adds:
        raise ConfigError(
            "method.init_args.group_size",
            f"is 1, and credit: {type(credit).__name__} normalises within the group, which gives 0 for a group of one.",
            "Use 2 or more, or credit: ovd_lightning.methods.rules.Reward.",
        )
