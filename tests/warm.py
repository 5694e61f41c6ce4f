"""Commands in processes of their own that need not import torch, transformers and Lightning first.

That takes eight of the ten seconds of a small ``fit``, and the tests run hundreds. So one process imports the libraries
once, and forks for every command: the child gets the arguments, environment, folder and streams that the command asked
for, runs the module as ``python -m`` does, in its main thread, and ends as an interpreter ends. The parent runs nothing
of its own, and has one thread. What a library reads from the environment while it is imported is the server's, so a
command that sets such a variable needs a cold process: see ``LATE``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
BEFORE = dict(os.environ)
"""The environment of the test session: engines that tests start in their own process set variables for vLLM."""
LATE = ("PYTEST_", "WANDB_", "OVD_", "SLURM_", "STAND", "TMPDIR", "PATH", "OPENAI_API_KEY")
"""Variables that are read when they are needed: they may differ from the server's."""
LOADED = ("ovd_lightning.cli", "wandb.sdk.launch", "vllm.entrypoints.llm", "peft", "pandas")
WAIT_S = 120.0


@cache
def possible() -> bool:
    """Linux, where a server can wait for its children and for commands at once."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another system, or a container that forbids it
        return False
    return True


@cache
def server() -> Server:
    """The one of this process; it ends with it."""
    return Server()


class Server:
    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.environment = late_removed(BEFORE) | {
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(other.fileno())], cwd=ROOT, env=self.environment,
                pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether it has been started with this environment, but for variables that are read later."""
        return late_removed(environment) == self.environment

    def start(self, module: str, args: Sequence[str], fds: Sequence[int], **how: Any) -> None:
        message = json.dumps({"module": module, "args": list(args), **how}).encode()
        socket.send_fds(self._socket, [message], list(fds))


def late_removed(environment: Any) -> dict[str, str]:
    return {k: v for k, v in environment.items() if not k.startswith(LATE)}


class Process:
    """A command in a session of its own, with the part of subprocess.Popen's interface that tests use. Its output is
    text, its input empty."""

    def __init__(
        self,
        module: str,
        args: Sequence[str],
        cwd: Path,
        env: dict[str, str],
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.args = [sys.executable, "-m", module, *args]
        self.returncode: int | None = None
        self._status, status = os.pipe()
        reading: list[TextIO | None] = [None, None]
        given = [os.open(os.devnull, os.O_RDONLY)]
        for i, wanted in enumerate((stdout, stderr)):
            if wanted == subprocess.PIPE:
                read, write = os.pipe()
                reading[i] = os.fdopen(read, encoding="utf-8", errors="replace")
            else:
                write = os.dup(given[1]) if wanted == subprocess.STDOUT else os.open(os.devnull, os.O_WRONLY)
            given.append(write)
        self.stdout, self.stderr = reading
        server().start(module, args, [*given, status], cwd=str(cwd), environment=env)
        for fd in (*given, status):
            os.close(fd)
        line = self._line(WAIT_S)
        assert line, "the server of tests/warm.py has ended"
        self.pid = int(line)

    def _line(self, timeout: float | None) -> str:
        """The next line of the status; empty where none comes in time. Raises: EOFError."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._status], [], [], timeout)[0]:
                return ""
            if not (byte := os.read(self._status, 1)):
                raise EOFError("the server of tests/warm.py has ended")
            line += byte
        return line.decode()

    def poll(self) -> int | None:
        if self.returncode is None and (line := self._line(0)):
            self._ended(line)
        return self.returncode

    def _ended(self, line: str) -> None:
        self.returncode = int(line)
        os.close(self._status)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not (line := self._line(timeout)):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._ended(line)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it writes and was not read yet, once it and what it started have closed their streams."""
        texts = {stream: "" for stream in (self.stdout, self.stderr) if stream is not None}

        def read(stream: TextIO) -> None:
            with stream:
                texts[stream] = stream.read()

        until = None if timeout is None else time.monotonic() + timeout
        readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in texts]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if until is None else max(0.1, until - time.monotonic()))
        out, err = (texts.get(stream, "") for stream in (self.stdout, self.stderr))
        return out, err


# ------------------------------------------------------------------------------------------------ the server's side


def load() -> dict[str, str]:
    """Import what a run imports; the variables that this added to the environment."""
    before = dict(os.environ)
    os.environ |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "VLLM_LOGGING_LEVEL": "WARNING"}  # as a run does before importing
    for module in LOADED:
        with contextlib.suppress(ImportError):  # vLLM is not everywhere
            importlib.import_module(module)
    with contextlib.suppress(ImportError):
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            type(current_platform).simple_compile_backend = "eager"  # as the engine says before it imports the worker
            importlib.import_module("vllm.v1.worker.cpu_worker")
    gc.collect()
    gc.freeze()  # what is here stays, and shared
    if threading.active_count() > 1:
        raise RuntimeError(f"importing started threads, which no fork has: {threading.enumerate()}")
    return {k: v for k, v in os.environ.items() if before.get(k) != v}


def run(module: str, args: Sequence[str]) -> None:
    """As ``python -m`` does."""
    sys.argv = [module, *args]
    sys.orig_argv = [sys.executable, "-m", module, *args]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    from wandb.sdk.data_types._private import MEDIA_TMP  # a folder that it makes while it is imported: one for each

    MEDIA_TMP._finalizer.detach()
    MEDIA_TMP.__init__("wandb-media")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(fd: int) -> None:
    """Until the process that asks has ended. Returns in every child, too, and its interpreter ends with it."""
    added = load()
    requests = socket.socket(fileno=fd)
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}  # file of the process -> (id, where its status is told)
    while True:
        for ready, _ in poll.poll():
            if ready in children:
                pid, status = children.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                tell(status, code)
                os.close(status)
                continue
            message, fds, _, _ = socket.recv_fds(requests, 1 << 20, 8)
            if not message:
                return
            *streams, status = fds
            pid = os.fork()
            if pid:
                for stream in streams:
                    os.close(stream)
                tell(status, pid)
                process = os.pidfd_open(pid)
                children[process] = (pid, status)
                poll.register(process, select.POLLIN)
                continue
            for i, stream in enumerate(streams):
                os.dup2(stream, i)
                os.close(stream)
            os.close(status)
            for process, (_, other) in children.items():
                os.close(process)
                os.close(other)
            requests.close()
            asked = json.loads(message)
            os.setsid()
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(added | asked["environment"])
            run(asked["module"], asked["args"])
            return


def tell(fd: int, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked is gone
        os.write(fd, f"{number}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
