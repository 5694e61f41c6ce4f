"""One round of on-policy distillation, from the student's weights to the micro-batches that train it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ovd_lightning.progress import expect, finished, phase
from ovd_lightning.round.collate import collate
from ovd_lightning.round.metrics import log_environment, log_mixture
from ovd_lightning.teachers.troubles import report_troubles
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.methods.base import Method
    from ovd_lightning.round.context import Round


@dataclass(slots=True, kw_only=True, frozen=True)
class Training:
    """What a round needs of the process that trains."""

    send_weights: Callable[[], None]
    """Gives the engine the student's weights. Collective: every rank enters."""
    fill_logprobs: Callable[[Batch, bool], Batch]
    """(micro-batch, whether old log-probabilities are needed) -> the same with log-probabilities of frozen weights."""
    mini_batches: int
    """Optimiser steps of a pass over the mixture."""
    epochs: int
    """Passes over the mixture."""
    accumulate: int
    """Micro-batches of an optimiser step."""
    world_size: int
    all_reduce_sum: Callable[[float], float]
    """Sums a number over ranks."""


def run_round(
    problems: Sequence[Problem],
    method: Method,
    round: Round,
    training: Training,
    record: Callable[[int, Sequence[Group]], object] | None = None,
) -> list[Batch]:
    """The micro-batches of one round, in the order in which they train.

    Args:
        problems: this rank's.
        record: is given the round's index and groups before they train, to write every trajectory.
    Raises: RuntimeError where the engine does not hold the weights that train.
    """
    with round.engine.awake():
        # The student's weights go to the engine: what samples is what trains.
        with round.phase("sync"):
            training.send_weights()
        if round.engine.version != round.policy_version:
            raise RuntimeError(f"the engine holds step {round.engine.version}, the trainer {round.policy_version}")
        # The student samples a group of trajectories a problem, turn by turn where there is an environment, and the
        # task grades them: a method may draw further groups by their grades.
        groups = method.sample(problems, round)
    # The method fills each group's mixture: it has trajectories judged, replaces those that the teacher rejects, and
    # credits every token of the mixture with an advantage.
    method.annotate(groups, round)
    if method.teacher is not None:
        report_troubles(method.teacher, round)
    log_environment(round.task.environment, round.metrics)
    log_mixture(groups, round.metrics, method.credits_trajectories)
    if record is not None:
        record(round.index, groups)
    # The mixture becomes optimiser steps of micro-batches, with log-probabilities under the weights as they are now.
    # With one update a round, rho = 1 and the old ones need no pass of their own.
    with round.phase("logprobs"):
        steps = collate(
            groups,
            mini_batches=training.mini_batches,
            accumulate=training.accumulate,
            aggregation=method.aggregation,
            max_tokens=round.sampling.max_tokens,
            pad_id=round.pad_id,
            temperature=round.sampling.temperature,
            round=round.index,
            policy_version=round.policy_version,
            world_size=training.world_size,
            all_reduce_sum=training.all_reduce_sum,
        )
        old = training.epochs * training.mini_batches > 1
        expect(sum(map(len, steps)))
        steps = [[_filled(batch, old, training) for batch in step] for step in steps]
    return in_order(steps, training.epochs)


def _filled(batch: Batch, old: bool, training: Training) -> Batch:
    with phase("requests"):  # of a teacher that is asked for log-probabilities
        batch = training.fill_logprobs(batch, old)
    finished()
    return batch


def in_order(steps: Sequence[Sequence[Batch]], epochs: int) -> list[Batch]:
    """The micro-batches of every optimiser step, pass after pass, each with the index of its update."""
    batches = [
        replace(batch, update=epoch * len(steps) + i)
        for epoch in range(epochs)
        for i, step in enumerate(steps)
        for batch in step
    ]
    batches[-1].last_in_round = True
    return batches
