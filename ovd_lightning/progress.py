"""What a run is at: its phase with counts, its round, when it will be over. Knows neither Lightning nor a terminal.

Whoever works says so by three functions: :func:`phase`, :func:`expect` and :func:`finished`. Engines, services and
pools of workers count what they were asked for; rounds and evaluations name the phase that it is part of. They find the
run in a context variable, since every method, teacher, environment and engine would otherwise carry a parameter that
none of them uses. Where nobody watches, the three do nothing; they never raise.

The thread that trains writes; another may read at any time, and sees numbers that were true a moment ago.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

LABELS = {
    "sync": "weights to the engine",
    "generate": "sampled",
    "environment": "trajectories ended",
    "reply": "replies of the environment",
    "grade": "graded",
    "score": "scored",
    "replace": "written",
    "logprobs": "log-probabilities",
    "train": "micro-batches",
    "checkpoint": "checkpoint",
    "requests": "requests",
}
"""What a phase is called where people read it; others by their name."""

_watched: ContextVar[RunProgress | None] = ContextVar("watched", default=None)


@dataclass(slots=True, eq=False)
class Stage:
    """A phase under way."""

    name: str
    start: float
    """Seconds of the run's clock."""
    total: int = 0
    """0: nobody has said how much there is to do."""
    done: int = 0
    fixed: bool = False
    """Whether the total was given by who opened the phase: then nobody else adds to it."""

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)

    def __str__(self) -> str:
        """Empty for requests that nobody has counted."""
        if self.total:
            return f"{self.label} {self.done}/{self.total}"
        return "" if self.name == "requests" else self.label


@contextmanager
def phase(name: str, total: int | None = None, done: int = 0) -> Iterator[None]:
    """What is done inside is this phase. Phases may stand in one another; counts go to the innermost.

    Args:
        name: a key of `LABELS`, or what people read.
        total: how much there is to do; None: what is expected inside (see :func:`expect`).
        done: how much of it was done before.
    """
    run = _watched.get()
    if run is None:
        yield
        return
    before = run.stages
    run.stages = (*before, Stage(name, run.clock(), total or 0, done, fixed=total is not None))
    try:
        yield
    finally:
        run.stages = before


def expect(count: int) -> None:
    """``count`` more items are now asked for in this phase."""
    run = _watched.get()
    if run is not None and run.stages and not run.stages[-1].fixed:
        run.stages[-1].total += count


def finished(count: int = 1) -> None:
    """``count`` more items of this phase are finished."""
    run = _watched.get()
    if run is not None and run.stages:
        stage = run.stages[-1]
        stage.done = min(stage.done + count, stage.total)


@contextmanager
def evaluation(split: str) -> Iterator[None]:
    """The problems of ``split`` are answered inside; no part of any round."""
    run = _watched.get()
    if run is None:
        yield
        return
    run.evaluating = (split, run.clock())
    try:
        yield
    finally:
        run.evaluated()


@contextmanager
def following(other: RunProgress) -> Iterator[None]:
    """Inside, this run waits for another thread, whose phases are shown as its own."""
    run = _watched.get()
    if run is None:
        yield
        return
    run.followed = other
    try:
        yield
    finally:
        run.followed = None


def watch(run: RunProgress | None) -> None:
    """``run`` is told of everything from now on; None: nobody is."""
    _watched.set(run)


@dataclass(slots=True)
class RunProgress:
    """A run's position and its estimate of the end. Times are in seconds of ``clock``."""

    clock: Callable[[], float] = time.monotonic
    start: float = math.nan
    rounds: int = 0
    """Of the whole run; 0: an evaluation alone, or training has not begun."""
    over: int = 0
    """Rounds that are over, those before a resumed run's checkpoint included."""
    stages: tuple[Stage, ...] = ()
    """Outermost first."""
    followed: RunProgress | None = None
    """Of another thread, see `following`."""
    evaluating: tuple[str, float] | None = None
    """The split that is being evaluated, and since when."""
    began: float | None = None
    """When the present round began; None: not yet."""
    plan: list[tuple[int, str]] = field(default_factory=list)
    """(rounds that are over then, split) of each evaluation that is still to come."""
    _rounds: list[float] = field(default_factory=list)
    """Seconds of each finished round of this process, evaluations left out."""
    _evaluations: dict[str, list[float]] = field(default_factory=dict)
    _aside: float = 0.0
    """Seconds of evaluations since the present round began."""

    def __post_init__(self) -> None:
        self.start = self.clock()

    # ---------------------------------------------------------------- writing

    def begin(self, rounds: int, over: int = 0, plan: Sequence[tuple[int, str]] = ()) -> None:
        """Training begins, with round ``over``."""
        self.rounds, self.over, self.plan = rounds, over, list(plan)
        self.began, self._aside = self.clock(), 0.0

    def end_round(self) -> None:
        """A round is over, the next begins."""
        self._rounds.append(self.in_round)
        self.over += 1
        self.began, self._aside = self.clock(), 0.0

    def evaluated(self) -> None:
        """The evaluation under way is over."""
        if self.evaluating is None:
            return
        split, _ = self.evaluating
        self._evaluations.setdefault(split, []).append(self.in_evaluation)
        self._aside += self.in_evaluation
        self.evaluating = None
        if (self.over, split) in self.plan:
            self.plan.remove((self.over, split))

    # ---------------------------------------------------------------- reading

    @property
    def in_evaluation(self) -> float:
        """Seconds of the evaluation under way."""
        evaluating = self.evaluating
        return 0.0 if evaluating is None else self.clock() - evaluating[1]

    @property
    def in_round(self) -> float:
        """Seconds of the present round, evaluations left out."""
        return 0.0 if self.began is None else max(self.clock() - self.began - self._aside - self.in_evaluation, 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Until the run's end, evaluations included: from the mean time of the finished rounds, and of each split's
        evaluations. None before the first round is over, and when rounds and evaluations are.

        An evaluation of a split that was never timed is taken for as long as the others, or left out without any.
        """
        if not self._rounds or (self.over >= self.rounds and not self.plan and self.evaluating is None):
            return None
        mean = sum(self._rounds) / len(self._rounds)
        left = self.rounds - self.over
        seconds = mean * left - (min(self.in_round, mean) if left else 0.0)
        every = [value for values in self._evaluations.values() for value in values]
        for _, split in list(self.plan):
            known = self._evaluations.get(split, every)
            seconds += sum(known) / len(known) if known else 0.0
        return max(seconds - self.in_evaluation, 0.0)

    @property
    def phase_left(self) -> float | None:
        """Seconds until the innermost phase with a count is over, at its mean speed so far."""
        counted = [stage for stage in self.shown if stage.total]
        if not counted or not counted[-1].done:
            return None
        stage = counted[-1]
        return (self.clock() - stage.start) / stage.done * (stage.total - stage.done)

    @property
    def where(self) -> str:
        """The round, or where an evaluation stands between rounds."""
        evaluating, rounds = self.evaluating, self.rounds
        if evaluating is None:
            if not rounds:
                return "" if self._evaluations else "starting"
            return f"round {self.over + 1}/{rounds}" if self.over < rounds else f"after round {self.over}/{rounds}"
        if not rounds:
            return evaluating[0]
        return f"{evaluating[0]} " + (f"after round {self.over}/{rounds}" if self.over else f"before round 1/{rounds}")

    @property
    def stage(self) -> Stage | None:
        """The innermost phase that says anything."""
        return next((stage for stage in reversed(self.shown) if str(stage)), None)

    @property
    def shown(self) -> tuple[Stage, ...]:
        """The phases under way, outermost first."""
        followed = self.followed
        return self.stages if followed is None else (*self.stages, *followed.stages)

    def line(self) -> str:
        """``round 3/100 | scored 412/1024 | 2 min 10 s in this round | about 3 h 40 min to go``"""
        stages = self.shown
        parts = [self.where, *(str(s) for s in stages[:-1] if s.total or s.name not in LABELS), *map(str, stages[-1:])]
        if self.evaluating is not None:
            parts.append(f"{duration(self.in_evaluation)} in this evaluation")
        elif self.over < self.rounds:
            parts.append(f"{duration(self.in_round)} in this round")
        else:
            parts.append(duration(self.clock() - self.start) + (" in all" if self.rounds else ""))
        left, here = self.seconds_left, self.phase_left
        if left is not None:
            parts.append(f"about {duration(left)} to go")
        elif here is not None:
            parts.append(f"about {duration(here)} to go in this phase")
        return " | ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """``40 s``, ``2 min 10 s``, ``3 h 40 min``, ``2 d 5 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
