"""Finished groups are graded, and the teacher is consulted about them, while others are still being sampled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ovd_lightning import progress
from ovd_lightning.round.metrics import RoundMetrics
from ovd_lightning.types import Group

Work = Callable[[Sequence[Group], RoundMetrics, Callable[[], float]], None]
"""(finished groups, where to log, the clock of its phases): grades them and consults the teacher."""


class Overlap:
    """A thread that grades groups and consults the teacher about them, in calls about all that are finished by then.

    One call at a time, so that methods, teachers, judges and tasks need not be safe for threads. What is logged goes to
    the round's metrics when all are done. The phases' clock stands still until everything is sampled: their seconds are
    those that the round waits for. ``time/overlapped`` is what went on beside the sampling.

    Args:
        metrics: the round's.
    """

    def __init__(self, work: Work, metrics: RoundMetrics) -> None:
        self._work = work
        self._metrics, self._aside = metrics, RoundMetrics()
        self._progress = progress.RunProgress()
        self._changed = threading.Condition()
        self._finished: list[Group] = []
        self._given = self._done = 0
        self._error: BaseException | None = None
        self._closed = False
        self._sampled_at: float | None = None
        """None: sampling goes on."""

    @contextmanager
    def running(self) -> Iterator[None]:
        # A daemon: a signal ends the process whatever it waits for.
        threading.Thread(target=self._run, name="consult", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def give(self, group: Group) -> None:
        """A group whose trajectories are finished."""
        with self._changed:
            self._finished.append(group)
            self._given += 1
            self._changed.notify_all()

    def check(self) -> None:
        """Raises: what ended the thread."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Everything is sampled: wait until the teacher was consulted about all of it. Raises: see :meth:`check`."""
        self._sampled_at = time.perf_counter()
        with progress.following(self._progress), self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._done == self._given)
        self.check()
        self._metrics.add(self._aside)

    def _clock(self) -> float:
        return 0.0 if self._sampled_at is None else time.perf_counter() - self._sampled_at

    def _run(self) -> None:
        progress.watch(self._progress)  # in this thread's context
        try:
            while groups := self._next():
                start, waited = time.perf_counter(), self._clock()
                self._work(groups, self._aside, self._clock)
                beside = time.perf_counter() - start - (self._clock() - waited)
                self._aside.seconds["overlapped"] += beside
                with self._changed:
                    self._done += len(groups)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> list[Group]:
        """All groups that are finished and were not yet consulted about, at least one; none where there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or self._closed)
            groups, self._finished = sorted(self._finished, key=lambda group: group.index), []
            return [] if self._closed else groups
