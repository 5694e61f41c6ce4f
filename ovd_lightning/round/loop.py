"""One round of on-policy distillation, from the student's weights to the micro-batches that train it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ovd_lightning.engines.base import Engine
from ovd_lightning.methods.base import Method
from ovd_lightning.progress import expect, finished, phase
from ovd_lightning.round.collate import collate
from ovd_lightning.round.metrics import log_environment, log_mixture
from ovd_lightning.teachers.troubles import report_troubles
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
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
    packed: bool = False
    """A micro-batch's trajectories are computed without padding."""


def run_round(
    problems: Sequence[Problem],
    method: Method,
    round: Round,
    training: Training,
    record: Callable[[int, Sequence[Group]], object] | None = None,
    overlap: bool = True,
) -> list[Batch]:
    """The micro-batches of one round, in the order in which they train.

    Args:
        problems: this rank's.
        record: is given the round's index and groups before they train, to write every trajectory.
        overlap: consult the teacher about finished groups while others are sampled, where that is possible.
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
        early = overlap and bool(problems) and can_overlap(method, round)
        round.consult = method.consult if early else None
        groups = method.sample(problems, round)
    # The teacher is asked: for judgements of what was sampled, and for trajectories of its own. Where that takes no
    # device from the student's engine, it was asked about each group as soon as it was finished.
    if not early:
        method.consult(groups, round)
    # The method fills each group's mixture and credits every token of it with an advantage.
    method.annotate(groups, round)
    if method.teacher is not None:
        report_troubles(method.teacher, round)
    log_environment(round.task.environment, round.metrics)
    log_mixture(groups, round.metrics, method.credits_trajectories)
    if record is not None:
        record(round.index, groups)
    # The mixture becomes optimiser steps of micro-batches, with log-probabilities under the weights as they are now.
    # The first step begins with these weights: its old log-probabilities need no pass of their own.
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
            packed=training.packed,
            world_size=training.world_size,
            all_reduce_sum=training.all_reduce_sum,
        )
        expect(sum(map(len, steps)))
        steps = [[_filled(batch, i > 0, training) for batch in step] for i, step in enumerate(steps)]
    return in_order(steps, training.epochs)


def can_overlap(method: Method, round: Round) -> bool:
    """Whether the method's teacher may be consulted about a group before the round is sampled.

    Its engines must be `Engine.concurrent`, and the student's must hand out completions as they are finished. A method
    that samples in its own way may discard groups, and an environment serves one caller at a time: with these, the
    teacher is consulted when everything is sampled.
    """
    if type(round.engine).generate_as_ready is Engine.generate_as_ready:
        return False
    engines = [] if method.teacher is None else method.teacher.engines
    asks = type(method).consult is not Method.consult and type(method).sample is Method.sample
    return asks and round.task.environment is None and bool(engines) and all(e.concurrent for e in engines)


def _filled(batch: Batch, old: bool, training: Training) -> Batch:
    with phase("requests"):  # of a teacher that is asked for log-probabilities
        batch = training.fill_logprobs(batch, old)
    finished()
    return batch


def in_order(steps: Sequence[Sequence[Batch]], epochs: int) -> list[Batch]:
    """The micro-batches of every optimiser step, pass after pass, each with the index of its update. Those of the first
    step leave their log-probabilities to their copies in later passes."""
    first = steps[0]
    if epochs > 1:
        first = [replace(batch, kept_logprobs=torch.full_like(batch.behaviour_logprobs, torch.nan)) for batch in first]
    again = [replace(batch, old_logprobs=batch.kept_logprobs, kept_logprobs=None) for batch in first]
    batches = [
        replace(batch, update=epoch * len(steps) + i)
        for epoch in range(epochs)
        for i, step in enumerate([again if epoch else first, *steps[1:]])
        for batch in step
    ]
    batches[-1].last_in_round = True
    return batches
