"""What the tests of tools share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from ovd_lightning.tools.base import Execution, Sandbox
from ovd_lightning.tools.local import LocalSandbox
from tests.limits import patient

SMALL: dict[str, Any] = {
    "time_s": 2.0, "memory_mb": 256, "processes": 12, "file_mb": 4, "output_bytes": 4096, "packages": (), "workers": 1,
    "print_value": False,
}  # fmt: skip
"""Limits at which an attack that gets through harms nobody."""


def one(sandbox: Sandbox, code: str, endless: bool = False) -> Execution:
    """A program that is not ``endless`` is run again where a crowded machine gave it no time."""
    for _ in range(5):
        (execution,) = sandbox.run([code])
        assert execution.failed is None
        if endless or not execution.timed_out:
            break
    return execution


def needs(sandbox: LocalSandbox, *protections: str) -> None:
    """Skip where the platform lacks one: the attack would succeed."""
    for name in protections:
        if sandbox.protections()[name] is None:
            pytest.skip(f"no protection of {name} with these mechanisms on this machine")


def descendants(sandbox: LocalSandbox) -> list[psutil.Process]:
    """Everything below the helpers, the zygotes included."""
    found = []
    for pid in sandbox.pids:
        found += psutil.Process(pid).children(recursive=True)
    return found


def idle(sandbox: LocalSandbox) -> int:
    """How many processes of a sandbox there are while it does nothing; waits until nothing more ends."""
    until = time.monotonic() + patient(5)
    while True:
        count = len(descendants(sandbox))
        if count <= len(sandbox.pids) or time.monotonic() > until:
            return count
        time.sleep(0.02)


def world_readable(folder: Path) -> Path:
    """A folder that every user may enter, and write to."""
    for part in [folder, *folder.parents]:
        if part.stat().st_uid == os.geteuid() and part not in (Path("/"), Path("/tmp")):
            os.chmod(part, 0o777 if part == folder else 0o755)
    return folder


def calls(code: str) -> str:
    """A turn that calls the tool."""
    from ovd_lightning.tools.calls import hermes_call

    return hermes_call(code)


Write = Callable[[str, Any], str]


def in_order(*turns: str) -> Write:
    """A student that says these, by the number of results so far; the last is repeated."""
    return lambda said, _: turns[min(said.count("</tool_response>"), len(turns) - 1)]


def outputs(executions: Sequence[Execution]) -> list[str]:
    return [execution.stdout for execution in executions]
