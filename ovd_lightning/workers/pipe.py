"""A worker's end of the pool's pipe: one JSON object a line, in and out. Standard library only."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any

_IDLE_S = 1.0
"""Seconds between two looks at whether the pool is still there."""


def take_over() -> tuple[int, int]:
    """(source, sink): the pipe's descriptors. What the process itself reads and prints goes nowhere from now on, and a
    Ctrl-C is for the trainer, which then closes the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return source, sink


def requests(source: int, abandoned: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Lines from the pool, until it closes the pipe or its process is gone (a fork of it may hold the pipe open)."""
    buffer = b""
    while not abandoned():
        if not select.select([source], [], [], _IDLE_S)[0]:
            continue
        data = os.read(source, 1 << 16)
        if not data:
            return
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            yield json.loads(line)


def send(sink: int, reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(sink, data) :]
