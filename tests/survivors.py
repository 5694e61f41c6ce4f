"""Nothing that a test started outlives the test session, however the session ends: kill -9 included.

Every process of a session finds the session's mark in its environment, and passes it on to what it starts, across new
sessions and groups (vLLM's server starts its engine in a process of its own). A process beside pytest waits for
pytest's end and then kills what carries the mark. A pytest plugin, loaded by tests/conftest.py; workers of
pytest-xdist are sessions within a session.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid

import psutil

VARIABLE = "PROCESSES_OF_TEST_SESSION"
POLL_S = 0.3
QUIET_ROUNDS = 3
"""Looks in a row without a survivor after which there is none: one may be starting another."""


def pytest_configure() -> None:
    mark = uuid.uuid4().hex
    os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')}:{mark}"
    subprocess.Popen(
        [sys.executable, __file__, str(os.getpid()), mark],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def carrying(mark: str) -> set[psutil.Process]:
    """The processes that carry a mark and all below them, but for this one."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if mark in process.environ().get(VARIABLE, ""):
                found |= {process, *process.children(recursive=True)}
    return found - {psutil.Process()}


def main(session: int, mark: str) -> None:
    while os.getppid() == session:
        time.sleep(POLL_S)
    quiet = 0
    while quiet < QUIET_ROUNDS:
        survivors = carrying(mark)
        for process in survivors:
            with contextlib.suppress(psutil.Error):
                process.kill()
        quiet = 0 if survivors else quiet + 1
        time.sleep(POLL_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
