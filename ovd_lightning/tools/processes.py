"""Processes: their output, descendants, limits and files. Standard library only."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def tried(attempt: Callable[[], object]) -> str | None:
    """The error of ``attempt``, which runs in a forked process; None: it succeeded."""
    source, sink = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            attempt()
            os._exit(0)
        except BaseException as error:
            os.write(sink, str(error).encode()[:500])
        finally:
            os._exit(1)
    os.close(sink)
    with open(source, "rb") as stream:
        message = stream.read().decode()
    status = os.waitpid(pid, 0)[1]
    return None if status == 0 else message or f"status {status}"


class Kept:
    """The first and the last ``limit`` / 2 bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self.half, self.head, self.tail, self.total = max(1, limit // 2), bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.half - len(self.head)
        self.head += data[:room] if room > 0 else b""
        self.tail += data[max(0, room) :]
        if len(self.tail) > 4 * self.half:
            del self.tail[: -self.half]

    @property
    def left_out(self) -> int:
        return max(0, self.total - 2 * self.half)

    def text(self) -> str:
        tail = bytes(self.tail[-self.half :])
        if not self.left_out:
            return (bytes(self.head) + tail).decode("utf-8", "replace")
        middle = f"\n[{self.left_out} bytes left out]\n"
        return bytes(self.head).decode("utf-8", "replace") + middle + tail.decode("utf-8", "replace")


def limit(kind: int, most: int) -> None:
    """Set this process's soft and hard limit, at most to its present hard limit."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def read(source: int, into: Kept, most: int = 1 << 26) -> bool:
    """Read what is available, up to ``most`` bytes; False at the end of the stream."""
    while most > 0:
        try:
            data = os.read(source, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        into.add(data)
        most -= len(data)
    return True


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, without orphans."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):  # it has ended in the meantime
            for task in os.listdir(f"/proc/{parent}/task"):
                children = [*map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())]
                found += children
                waiting += children
    return found


def tasks_of(user: int) -> int:
    """Number of threads of a user's processes."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    total += len(os.listdir(f"/proc/{name}/task"))
    return total


def open_up(retry: Callable[..., Any], path: str, _: object) -> None:
    """Error handler of shutil.rmtree: grants permissions on a folder and removes it. Links are never followed."""
    parent = os.path.dirname(path)
    for folder in (parent, path):
        if not os.path.islink(folder):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
    if retry is os.rmdir or not os.path.isdir(path) or os.path.islink(path):
        with contextlib.suppress(OSError):
            retry(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
