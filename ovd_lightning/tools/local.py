"""A sandbox on this machine: every program in its own processes, under the limits that the kernel offers."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.settings.ranges import PositiveFloat, PositiveInt
from ovd_lightning.tools.base import SETTINGS, Execution, Sandbox
from ovd_lightning.workers.pool import Pool, WorkerError

log = logging.getLogger(__name__)

Protection = Literal[
    "time", "memory", "processes", "survivors", "files", "disk", "network", "programs", "output", "environment",
]  # fmt: skip
Mechanism = Literal["namespaces", "user namespaces", "landlock", "seccomp"]
HELPER = Path(__file__).with_name("zygote.py")
TRIALS = 3
"""Of the first program, which may time out on a machine that is busy starting."""
GRACE_S = 60.0
"""Seconds after a program's limit at which the helper itself is replaced."""
ROOM = "Allow it more memory_mb, time_s or processes, or fewer packages; or see docs/sandbox.md."


class LocalSandbox(Sandbox):
    """Runs programs in processes that are killed, with everything that they started, when they exceed a limit.

    The protection of files, network and other processes depends on the kernel; docs/sandbox.md describes what each
    mechanism does, and what none of them does. `protections` lists those in use.

    Args:
        time_s: wall-clock seconds for one program. Most need milliseconds, and a round waits for its slowest program;
            SOD's reference code allows 60.
        memory_mb: for one program: address space of each of its processes, and the memory of all of them together.
        processes: processes and threads of one program at a time, itself included.
        file_mb: what one program may write, in a folder that is removed with it.
        output_bytes: kept bytes of standard output and of standard error, half from the start, half from the end.
        packages: what programs may import besides the standard library; imported once, at no cost to a program. The
            complete folder of their installation is readable.
        print_value: print the value of a program's last line if it is an expression, like an interactive interpreter:
            models often omit the print.
        workers: programs at a time; null: one per processor of this machine, at most 16.
        require: protections that must be available, from time, memory, processes, survivors, files, disk, network,
            programs, output, environment.
        without: mechanisms not to use, from namespaces, user namespaces, landlock, seccomp: for a machine on which one
            of them misbehaves.

    Raises:
        ConfigError: a setting is wrong; at the start, also that a required protection is missing.
    """

    def __init__(
        self,
        time_s: PositiveFloat = 10.0,
        memory_mb: PositiveInt = 2048,
        processes: PositiveInt = 32,
        file_mb: PositiveInt = 64,
        output_bytes: PositiveInt = 65536,
        packages: Sequence[str] = ("numpy", "sympy"),
        print_value: bool = True,
        workers: PositiveInt | None = None,
        require: Sequence[Protection] = (),
        without: Sequence[Mechanism] = (),
    ) -> None:
        super().__init__()
        self.time_s, self.memory_mb, self.processes = time_s, memory_mb, processes
        self.file_mb, self.output_bytes = file_mb, output_bytes
        self.packages, self.require, self.without = tuple(packages), tuple(require), tuple(without)
        self.print_value = print_value
        self.workers = workers or min(16, os.cpu_count() or 1)
        self._pool: Pool | None = None
        self._protections: dict[str, str | None] | None = None

    @property
    def name(self) -> str:
        return "local"

    def settings(self) -> dict[str, Any]:
        return {
            "sandbox": self.name,
            "python": sys.version.split()[0],
            "time_s": self.time_s,
            "memory_mb": self.memory_mb,
            "processes": self.processes,
            "file_mb": self.file_mb,
            "packages": list(self.packages),
            "print_value": self.print_value,
        }

    def _folders(self) -> list[str]:
        """The folders of the packages. Raises: ConfigError when one is not installed."""
        folders = []
        for package in self.packages:
            try:
                found = importlib.util.find_spec(package)
            except (ImportError, ValueError):
                found = None
            if found is None or not found.origin:
                raise ConfigError(f"{SETTINGS}.packages", f"{package} is not installed.", "Install it or leave it out.")
            origin = Path(found.origin)
            folder = origin.parents[1] if found.submodule_search_locations else origin.parent
            if "site-packages" in folder.parts or "dist-packages" in folder.parts:
                folders.append(str(folder))
        return list(dict.fromkeys(folders))

    def check(self) -> None:
        """Start the helper and run a program. Raises: ConfigError."""
        self.start()

    def start(self) -> None:
        if self._pool is not None:
            return
        given = {
            "time_s": self.time_s,
            "memory_mb": self.memory_mb,
            "processes": self.processes,
            "file_mb": self.file_mb,
            "output_bytes": self.output_bytes,
            "print_value": self.print_value,
            "modules": list(self.packages),
            "paths": self._folders(),
            "without": list(self.without),
        }
        self._pool = Pool(
            [sys.executable, "-I", "-S", str(HELPER), json.dumps(given)], self.workers, self.time_s + GRACE_S
        )
        errors: list[ConfigError] = []
        try:
            (found,) = self._pool.run([{}])
            self._protections = {name: (found or {}).get(name) for name in get_args(Protection)}
            errors = [*self._protection_errors(found or {}), *self._trial_errors()]
        except WorkerError as error:
            problem = f"the sandbox does not start ({error}); its own message stands above."
            errors = [ConfigError(SETTINGS, problem, ROOM)]
        if errors:
            self.close()
        raise_errors(errors)

    def _trial_errors(self) -> Iterator[ConfigError]:
        """Runs a first program."""
        trial = "\n".join([*(f"import {p}" for p in self.packages), "x = bytearray(16 << 20)", "print(6 * 7)"])
        for _ in range(TRIALS):
            (first,) = self.run([trial])
            if not first.timed_out:
                break
        if first.stdout != "42\n":
            output = first.failed or first.killed or first.stderr.strip() or first.stdout
            yield ConfigError(SETTINGS, f"a first program does not run: {output[-500:]}", ROOM)

    def _protection_errors(self, found: dict[str, Any]) -> Iterator[ConfigError]:
        """A required protection that is missing; otherwise, a warning where an important one is."""
        notes = "; ".join(f"{name[6:]}: {why}" for name, why in found.items() if name.startswith("note: "))
        if missing := [name for name in self.require if self._protections and self._protections[name] is None]:
            yield ConfigError(
                f"{SETTINGS}.require",
                f"{', '.join(missing)}: this machine offers no such protection ({notes or 'no reason known'}).",
                "Use another machine, or RemoteSandbox; docs/sandbox.md says what is needed.",
            )
            return
        important = [n for n in ("files", "network", "survivors") if self._protections and not self._protections[n]]
        if important:
            log.warning(
                "THE SANDBOX DOES NOT PROTECT %s HERE: programs that the model writes run with this user's access "
                "(%s). See docs/sandbox.md.",
                ", ".join(important).upper(), notes or "no reason known",
            )  # fmt: skip

    @property
    def pids(self) -> list[int]:
        """Process ids of the helpers; a program is a descendant of one."""
        return [] if self._pool is None else self._pool.pids

    def protections(self) -> dict[str, str | None]:
        """Protection -> its mechanism; None where this machine has none. Starts the sandbox."""
        self.start()
        return dict(self._protections or {})

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def run(self, codes: Sequence[str]) -> list[Execution]:
        self.start()
        assert self._pool is not None
        try:
            replies = self._pool.run([{"code": code} for code in codes])
        except WorkerError as error:
            return [Execution(failed=str(error))] * len(codes)
        return [self._execution(reply) for reply in replies]

    @staticmethod
    def _execution(reply: dict[str, Any] | None) -> Execution:
        if reply is None:
            return Execution(failed="the helper process died or hung")
        return Execution(failed=reply["failure"]) if "failure" in reply else Execution(**reply)
