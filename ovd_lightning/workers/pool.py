"""Worker processes that are killed on timeout and replaced. Standard library only; knows nothing of their work.

Plain subprocesses instead of ``multiprocessing``: its spawned and forkserver children import the parent's main module
again, which for a trainer is torch, Lightning and vLLM in every worker; and a fork of a process with threads and CUDA
is no option. The parent runs no thread either: :meth:`Pool.run` is a loop over the workers' pipes, in the caller's
thread.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ovd_lightning.errors import RunError
from ovd_lightning.progress import expect, finished

log = logging.getLogger(__name__)

STARTUP_S = 60.0
"""Seconds that a worker may take to start; a machine that is busy compiling is slow."""
STARTS = 3
"""Workers in a row that may fail to start before the pool gives up."""

Reply = dict[str, Any]


class WorkerError(RunError):
    """No worker can be started: a broken installation, not a hostile answer."""


class _Worker:
    """One process. ``job`` is the index of the request it works on, ``deadline`` on the monotonic clock."""

    def __init__(self, command: Sequence[str]):
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.source, self.sink = self.process.stdout, self.process.stdin
        self.buffer = b""
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + STARTUP_S

    def send(self, job: int, request: Mapping[str, Any], timeout_s: float) -> None:
        """Hand over a request. Raises BrokenPipeError where the process is gone."""
        if self.process.poll() is not None:
            raise BrokenPipeError
        data = json.dumps(request).encode() + b"\n"
        while data:
            data = data[self.sink.write(data) or 0 :]
        self.job, self.deadline = job, time.monotonic() + timeout_s

    def receive(self) -> list[Reply] | None:
        """Complete replies that have arrived; None at the end of the pipe."""
        data = self.source.read(1 << 16)
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """Kill, wait for the end and close the pipes."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close the pipes alone: an idle worker ends by itself."""
        for pipe in (self.sink, self.source):
            try:
                pipe.close()
            except OSError:
                log.debug("a worker's pipe was closed already")


def _close(workers: list[_Worker], owner: int) -> None:
    """End all workers; those of another process, of which this one is a fork, are only let go."""
    for worker in workers:
        if owner == os.getpid():
            worker.stop()
        else:
            worker.forget()
    workers.clear()


class Pool:
    """Runs requests in worker processes, each with a time limit. May be used from any thread, one call at a time.

    Args:
        command: starts a worker that writes ``{"ready": true}`` and then a JSON line for every JSON line it reads.
        size: most workers at a time; they are started as requests need them and live until the pool is closed.
        timeout_s: seconds for one request; then its worker is killed (SIGKILL) and replaced.
    """

    def __init__(self, command: Sequence[str], size: int, timeout_s: float):
        self.command, self.size, self.timeout_s = list(command), size, timeout_s
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._adopt()

    def _adopt(self) -> None:
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _close, self._workers, self._owner)

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers; a later :meth:`run` starts new ones."""
        with self._lock:
            _close(self._workers, self._owner)

    def run(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply | None]:
        """Replies in the order of the requests; None where a worker was killed at the time limit or died.

        Raises:
            WorkerError: several workers in a row could not be started.
        """
        with self._lock:
            if self._owner != os.getpid():  # this process is a fork: the workers and their pipes are its parent's
                self._finalizer.detach()
                _close(self._workers, self._owner)
                self._adopt()
            try:
                return self._run(requests)
            finally:
                for worker in [w for w in self._workers if w.job is not None]:  # interrupted: its reply has no owner
                    self._drop(worker)

    def _run(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply | None]:
        replies: list[Reply | None] = [None] * len(requests)
        waiting, open_, failed = deque(range(len(requests))), len(requests), 0
        expect(len(requests))
        while open_:
            before = open_
            while len(self._workers) < min(self.size, open_):
                self._workers.append(_Worker(self.command))
            for worker in [w for w in self._workers if w.ready and w.job is None]:
                if waiting:
                    try:
                        worker.send(waiting[0], requests[waiting[0]], self.timeout_s)
                        waiting.popleft()
                    except BrokenPipeError:  # it died while it was idle; the request goes to another
                        self._drop(worker)
            for worker in self._wait():
                messages = worker.receive()
                for message in messages or ():
                    if message.get("ready"):
                        worker.ready, failed = True, 0
                    elif worker.job is not None:
                        replies[worker.job] = None if "failed" in message else message
                        worker.job, open_ = None, open_ - 1
                if messages is None:
                    log.info("a worker died (exit code %s)", worker.process.wait())
                    open_ -= worker.job is not None
                    failed += self._replace(worker)
            now = time.monotonic()
            for worker in [w for w in self._workers if w.deadline < now and (w.job is not None or not w.ready)]:
                log.info("a worker was killed after %.1f s", self.timeout_s if worker.ready else STARTUP_S)
                open_ -= worker.job is not None
                failed += self._replace(worker)
            finished(before - open_)
            if failed >= STARTS:
                raise WorkerError(f"{failed} workers in a row could not be started: {' '.join(self.command)}")
        return replies

    def _wait(self) -> list[_Worker]:
        """Workers with something to read, at the latest when the next time limit is over."""
        busy = [w for w in self._workers if w.job is not None or not w.ready]
        if not busy:
            return []
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.source, selectors.EVENT_READ, worker)
            left = min(worker.deadline for worker in busy) - time.monotonic()
            return [key.data for key, _ in selector.select(max(0.0, left))]

    def _replace(self, worker: _Worker) -> bool:
        """Start a worker in place of another, at once: it gets ready while others work. True for a failed start."""
        self._drop(worker)
        if worker.ready:
            self._workers.append(_Worker(self.command))
        return not worker.ready

    def _drop(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.remove(worker)
