"""What a test may use: processor time of itself and of all that it starts, so that a busy machine decides nothing.

A test fails once its processes have used ``CPU_LIMIT_S`` seconds, or what ``@pytest.mark.cpu_limit(20)`` says. Behind
that stands pytest-timeout's limit in real time, for what waits for ever; it is generous. So nothing that a test starts
or waits for needs a limit of its own. A pytest plugin, loaded by tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

CPU_LIMIT_S = 600.0
POLL_S = 1.0
TEARDOWN_S = 60.0
"""Processor time that is left to clean up with, once a test has used its own."""


def cpu_seconds() -> float:
    """Processor time of this process, of its children that have ended, and of its descendants that run."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            total += used.user + used.system + getattr(used, "children_user", 0) + getattr(used, "children_system", 0)
    return total


@dataclass
class Used:
    """``seconds``: processor time of a block, once it has ended."""

    seconds: float = 0.0


@contextmanager
def measured() -> Iterator[Used]:
    """The processor time of a block and of all that it started and waited for."""
    used, begun = Used(), cpu_seconds()
    yield used
    used.seconds = cpu_seconds() - begun


def patient(seconds: float) -> float:
    """Real time that an idle machine's ``seconds`` may take on this one now, for what waits more than it works."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    return seconds * (2 + 2 * load)


class Watch:
    """Looks at the processor time of one test from a thread, and fails the test from within when it is used up."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.armed = False
        """Whether the main thread is in a phase of the test, where an exception is the test's."""
        self._begun = cpu_seconds()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            if cpu_seconds() - self._begun > self.limit and self.armed:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _fail(self, number: int, frame: Any) -> None:
        if self.armed and (used := cpu_seconds() - self._begun) > self.limit:
            limit, self.limit = self.limit, used + TEARDOWN_S
            pytest.fail(f"used {used:.0f} s of processor time; its limit is {limit:.0f} s")

    @contextmanager
    def watching(self) -> Iterator[None]:
        previous = signal.signal(signal.SIGUSR1, self._fail)
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
            signal.signal(signal.SIGUSR1, previous)

    @contextmanager
    def in_phase(self) -> Iterator[None]:
        self.armed = True
        try:
            yield
        finally:
            self.armed = False


WATCH = pytest.StashKey[Watch]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    marker = item.get_closest_marker("cpu_limit")
    item.stash[WATCH] = Watch(float(marker.args[0] if marker else CPU_LIMIT_S))
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        return (yield)  # no signal reaches it
    with item.stash[WATCH].watching():
        return (yield)


def _phase(item: pytest.Item) -> Generator[None, Any, Any]:
    with item.stash[WATCH].in_phase():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))
