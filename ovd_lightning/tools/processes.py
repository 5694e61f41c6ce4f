"""Watching over processes: what they print, whom they start, what they leave. Standard library only."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def tried(attempt: Callable[[], object]) -> str | None:
    """What goes wrong with it, tried in another process; None: nothing."""
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
        said = stream.read().decode()
    status = os.waitpid(pid, 0)[1]
    return None if status == 0 else said or f"status {status}"


class Kept:
    """Bytes of a stream: the first and the last ``limit`` / 2 of them."""

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
    """Soft and hard limit of this process, no higher than the hard one that it has."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def read(source: int, into: Kept, most: int = 1 << 26) -> bool:
    """Everything that is there, up to ``most`` bytes; False at the end of the stream."""
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
    """Children, their children and so on, as far as they are not orphans."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for task in os.listdir(f"/proc/{parent}/task"):
                children = [*map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())]
                found += children
                waiting += children
    return found


def tasks_of(user: int) -> int:
    """Threads of a user's processes."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    total += len(os.listdir(f"/proc/{name}/task"))
    return total


def open_up(retry: Callable[..., Any], path: str, _: object) -> None:
    """A folder that its owner had closed is opened, then removed all the same. Links are never followed."""
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
