"""What Algorithm 1 leaves open, as rules: who is accepted, what replaces the others, what is credited.

Each is a class with a hook or two; OVD names it by its `class_path`, also one from outside this package.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from ovd_lightning import functional as F
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.scale import Scale
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, OneOrMore, PositiveFloat
from ovd_lightning.types import Group, Step, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round

# --------------------------------------------------------------------------------------------------------- acceptance


class Acceptance(ABC):
    """a(y) of eq. 5, for a trajectory with a score.

    ``lazy``: nothing but the score matters, and at the same draw whatever is accepted is accepted with a higher score,
    so that bounds of the score may decide. Otherwise it is asked about complete scores only.
    """

    lazy = False
    drawn = True
    """a(y) is drawn from ``rng``. False: that is never used, and may be any."""

    @abstractmethod
    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        """Whether ``y`` stays, as far as its score decides."""


class Threshold(Acceptance):
    """Eq. 5: a(y) = 1 where S(y) >= theta."""

    lazy, drawn = True, False

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return score >= threshold


class Soft(Acceptance):
    """A.1.1: accepted with probability min(1, exp(S / beta) / M), whatever the threshold.

    Args:
        beta, bound: beta > 0 and M >= 1.
    """

    lazy = True

    def __init__(self, beta: PositiveFloat = 3.0, bound: OneOrMore = 20.0) -> None:
        self.beta = beta
        self.bound = bound

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return rng.random() < F.soft_acceptance(score, self.beta, self.bound)


# -------------------------------------------------------------------------------------------------------- replacement


class Replacement:
    """Whole trajectories of the teacher, one for each rejected one (Algorithm 1).

    ``lazy``: scores matter only as far as :meth:`settled` says. Otherwise everything is judged.
    """

    lazy = False
    needs_step_scores = False
    adds = False
    """Whether teacher trajectories stand beside the rejected ones."""
    kept_share = 0.0
    """Share of a rejected trajectory that is likely to stay, in [0, 1]; for estimates of what a round asks."""
    composes = True
    """Whether it may stand inside another rule."""

    def expected(self, rejected: float, groups: int) -> int:
        """Replacements of a round with so many rejected trajectories in so many groups."""
        return round(rejected)

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        """Those of a group's rejected trajectories that the teacher is asked to replace."""
        return rejected

    def settled(self, y: Trajectory, threshold: float, scale: Scale) -> bool:
        """Whether further scores of a rejected trajectory could not change what takes its place."""
        return True

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        """Leading completion tokens of a rejected trajectory that stay, the teacher going on from there."""
        return 0

    def prepare(self, groups: Sequence[Group], round: Round) -> None:
        """Once a round, with all its groups, before their mixtures: what these depend on beside the judgements."""
        return

    def mixture(self, group: Group, written: Mapping[tuple[int, int], Trajectory]) -> list[Trajectory]:
        """p_train of eq. 6, from the student's trajectories and the teacher's by the key of what they replace."""
        return [written.get(y.key, y) for y in group.sampled]


class Whole(Replacement):
    """The default, under its name."""

    lazy = True


class Suffix(Replacement):
    """Section 3.3: the accepted prefix stays, the teacher goes on from the first step with a score under theta; where
    no single step was rejected, a whole trajectory."""

    lazy = needs_step_scores = True
    kept_share = 0.5

    def settled(self, y: Trajectory, threshold: float, scale: Scale) -> bool:
        nothing = not any(s.judged for s in y.steps)
        if threshold <= scale.low or (
            threshold > scale.high and nothing
        ):  # every step is accepted, or the first is not
            return True
        judged = list(takewhile(lambda s: s.judged, y.steps))
        return len(judged) == len(y.steps) or any(s.score is not None and s.score < threshold for s in judged)

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        return next((s.start for s in y.steps if s.score is not None and s.score < threshold), 0)


class Added(Replacement):
    """The teacher's trajectories stand beside the rejected ones, which go on training.

    Args:
        replacement: what the teacher writes; null: whole trajectories.
    """

    lazy = adds = True

    def __init__(self, replacement: Replacement | None = None) -> None:
        self.replacement = replacement or Whole()
        self.needs_step_scores = self.replacement.needs_step_scores
        self.kept_share = self.replacement.kept_share

    def expected(self, rejected: float, groups: int) -> int:
        return self.replacement.expected(rejected, groups)

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        return self.replacement.choose(rejected)

    def settled(self, y: Trajectory, threshold: float, scale: Scale) -> bool:
        return self.replacement.settled(y, threshold, scale)

    def kept_tokens(self, y: Trajectory, threshold: float) -> int:
        return self.replacement.kept_tokens(y, threshold)

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
    """Advantages of a group's mixture.

    ``lazy``: no score matters. Otherwise everything is judged.
    """

    lazy = False
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

    lazy = True
    needs_group = False

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return list(rewards)


class MixedGroup(Credit):
    """Algorithm 1 as printed: A = (R - mu) / (sigma + eps) within the mixture."""

    lazy = True

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return F.group_advantages(rewards)


class StudentGroup(Credit):
    """Baseline and scale from the student's group before replacement.

    Args:
        sigma_floor: least sigma, above 0: rewards before replacement are often all equal.
    """

    lazy = True

    def __init__(self, sigma_floor: PositiveFloat = 0.25) -> None:
        self.sigma_floor = sigma_floor

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return F.group_advantages(rewards, reference=before or None, sigma_floor=self.sigma_floor)


class Decoupled(Reward):
    """The student's own trajectories, wrong ones included, as GRPO has them: A = (R - mu) / (sigma + eps) within what
    the student sampled. The teacher's beside them: A = weight R. Ours; with `Added`, which keeps the rejected ones.

    Args:
        weight: of the teacher's trajectories.
    """

    lazy = True

    def __init__(self, weight: NonNegativeFloat = 1.0) -> None:
        self.weight = weight

    def assign(self, group: Group, scale: Scale) -> None:
        own = F.group_advantages([y.reward for y in group.sampled])
        credited = {id(y): value for y, value in zip(group.sampled, own, strict=True)}
        for y in group.mixture:
            value = credited.get(id(y), self.weight * y.reward)
            y.advantages = [value] * len(y.completion_ids)


class RejectedStep(Reward):
    """A = R, and -weight on the step that the teacher wrote anew: with `Added` of `Suffix`, which keeps the rejected
    trajectory beside its continuation, the rejected step is the negative example and the rest of that trajectory
    trains nothing. Ours. Where no prefix was kept (the first step was rejected, or none), nothing of it trains.

    Args:
        weight: of the rejected step.
    """

    lazy = needs_step_scores = True
    needs_group = False

    def __init__(self, weight: NonNegativeFloat = 0.5) -> None:
        self.weight = weight

    def assign(self, group: Group, scale: Scale) -> None:
        super().assign(group, scale)
        kept = {y.key: y.student_tokens for y in group.mixture if y.source != "student"}
        for y in group.mixture:
            if y.source == "student" and y.key in kept:
                y.advantages = [0.0] * len(y.completion_ids)
                for step in y.steps:
                    if 0 < step.start == kept[y.key]:
                        y.advantages[step.start : step.end] = [-self.weight] * (step.end - step.start)


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


def is_lazy(rule: Acceptance | Replacement | Credit) -> bool:
    """Whether a rule does without scores that cannot matter. Its class must say so itself: a subclass that overrides
    something may need more; as may a rule inside."""
    inside = getattr(rule, "replacement", None)
    return bool(vars(type(rule)).get("lazy", False)) and (inside is None or is_lazy(inside))


def is_drawn(rule: Acceptance) -> bool:
    """Whether a rule may draw: unless its class itself says that it does not."""
    return bool(vars(type(rule)).get("drawn", True))


def threshold_errors(setting: str, threshold: float, scale: Scale) -> Iterator[ConfigError]:
    """Whether a threshold is on the scale."""
    if not scale.low <= threshold <= scale.reject_all:
        yield ConfigError(
            setting,
            f"is {threshold}, outside the teacher's score scale {scale.low}-{scale.high}.",
            f"Use {scale.low} (accept all) to {scale.reject_all} (reject all), or change the judge's scale.",
        )
