"""What a round measures: sums that add up over ranks, and what every method reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from ovd_lightning.tasks.base import PART, Task
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.types import Group, StopReason, Trajectory

OF_SOME_RUNS = ("time/environment", "time/overlapped")
"""Not logged where they are 0: of runs with an environment, or with a teacher that is asked beside the sampling."""


@dataclass(slots=True)
class RoundMetrics:
    """Metric name -> what this rank measured."""

    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    """name -> (sum, count)"""
    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, tuple[list[float], list[int]]] = field(default_factory=dict)
    """name -> (values, counts)"""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """phase -> seconds"""
    failures: list[str] = field(default_factory=list)
    """What the teacher failed at and why, in words; of this rank."""

    def log_mean(self, name: str, values: Sequence[float]) -> None:
        """The mean over every value of the round, of all ranks; nothing is logged for no values at all."""
        self.add_mean(name, float(sum(values)), len(values))

    def log_histogram(self, name: str, values: Sequence[float], bins: Sequence[float]) -> None:
        """Counts of ``values`` in the bin of the nearest of ``bins`` (a mean score falls between two)."""
        counts = [0] * len(bins)
        for value, times in Counter(values).items():
            counts[min(range(len(bins)), key=lambda i: abs(bins[i] - value))] += times
        self.histograms[name] = (list(bins), counts)

    def add_mean(self, name: str, total: float, count: float) -> None:
        """``total``: the sum of ``count`` values."""
        before, number = self.means.get(name, (0.0, 0.0))
        self.means[name] = (before + total, number + count)

    def add_sum(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def add_maximum(self, name: str, value: float) -> None:
        self.maxima[name] = max(self.maxima.get(name, float("-inf")), value)

    def update(self, other: RoundMetrics) -> None:
        """Take over the means, sums and maxima of ``other``, which have names of their own."""
        self.means.update(other.means)
        self.sums.update(other.sums)
        self.maxima.update(other.maxima)

    def add(self, other: RoundMetrics) -> None:
        """Add what another thread measured in this round: sums, means and seconds add up."""
        for name, (total, count) in other.means.items():
            self.add_mean(name, total, count)
        for name, value in other.sums.items():
            self.add_sum(name, value)
        for name, value in other.maxima.items():
            self.add_maximum(name, value)
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds

    def reduce(
        self, phases: Sequence[str], over_ranks: Callable[[Sequence[float], str], list[float]]
    ) -> dict[str, float]:
        """The round's numbers: sums, means and histograms add up; maxima and seconds take the largest. Collective.

        Args:
            phases: whose seconds are among the numbers, as ``time/<phase>``.
            over_ranks: (values, "sum" or "max") -> the same values over all ranks.
        """
        names = sorted(self.means)
        flat = [part for name in names for part in self.means[name]]
        flat += [self.sums[name] for name in sorted(self.sums)]
        for name in sorted(self.histograms):
            flat += self.histograms[name][1]
        total = iter(over_ranks(flat, "sum"))
        highest = over_ranks(
            [*(self.maxima[n] for n in sorted(self.maxima)), *(self.seconds[p] for p in phases)], "max"
        )
        values: dict[str, float] = {}
        for name in names:
            amount, count = next(total), next(total)
            if count:
                values[name] = amount / count
        for name in sorted(self.sums):
            values[name] = next(total)
        for name in sorted(self.histograms):
            bins, counts = self.histograms[name]
            self.histograms[name] = (bins, [int(next(total)) for _ in counts])
        for name, value in zip([*sorted(self.maxima), *(f"time/{p}" for p in phases)], highest, strict=True):
            if value != float("-inf") and (value or name not in OF_SOME_RUNS):
                values[name] = value
        return values


def log_sampled(sampled: Sequence[Trajectory], task: Task, metrics: RoundMetrics) -> None:
    """What the student sampled, before anything is replaced."""
    metrics.log_mean("reward/student", [y.reward for y in sampled])
    lengths = [y.trainable_tokens for y in sampled]
    metrics.log_mean("completion/length_mean", lengths)
    metrics.log_mean("completion/truncated_fraction", [float(y.truncated) for y in sampled])
    stopped = Counter(y.stop_reason for y in sampled)
    for reason in get_args(StopReason):
        metrics.add_mean(f"completion/stop/{reason}", float(stopped[reason]), len(sampled))
    metrics.log_mean("completion/steps_mean", [float(len(y.steps)) for y in sampled])
    metrics.add_sum("throughput/generated_tokens", sum(lengths))
    metrics.log_mean("reward/student_unanswered", [float(y.grade.answer is None) for y in sampled if y.grade])
    for name in task.parts:
        metrics.log_mean(f"reward/student/{name}", [y.reward for y in sampled if y.problem.meta.get(PART) == name])
    for name in task.metrics:
        metrics.log_mean(f"reward/student_{name}", [y.grade.metrics[name] for y in sampled if y.grade])
    if task.environment is not None:
        metrics.log_mean("environment/turns_mean", [float(y.turns) for y in sampled])
        metrics.log_mean("environment/invalid_mean", [float(y.invalid) for y in sampled])
        metrics.log_mean("environment/failed_mean", [float(y.failed) for y in sampled])
        metrics.log_mean("environment/observation_tokens_mean", [float(y.observation_tokens) for y in sampled])


def log_mixture(groups: Sequence[Group], metrics: RoundMetrics, credited: bool) -> None:
    """What the round trains on.

    Args:
        credited: the method decides on advantages, so that a group may have none.
    """
    mixture = [y for g in groups for y in g.mixture]
    if credited:
        idle = [float(all(abs(a) < 1e-8 for y in g.mixture for a in y.advantages)) for g in groups]
        metrics.log_mean("ovd/zero_advantage_groups", idle)
    metrics.log_mean("reward/mixture", [y.reward for y in mixture])
    metrics.log_mean("ovd/teacher_token_fraction", [
        y.completion_mask[y.student_tokens:].count(True) / y.trainable_tokens for y in mixture if y.trainable_tokens
    ])  # fmt: skip
    right = [sum(y.grade.correct for y in g.sampled if y.grade) / len(g.sampled) for g in groups if g.sampled]
    metrics.log_mean("reward/groups_all_correct", [float(share == 1) for share in right])
    metrics.log_mean("reward/groups_all_wrong", [float(share == 0) for share in right])


def log_environment(environment: Environment | None, metrics: RoundMetrics) -> None:
    """What the environment counted in this round, for the student's and the teacher's trajectories together."""
    if environment is not None:
        counts = environment.take_counts()
        for name in environment.counted:
            metrics.add_sum(f"environment/{name}", counts.get(name, 0.0))
