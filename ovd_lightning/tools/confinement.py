"""Which protections a machine offers, and the confinement of the sandbox's helper by them. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from ovd_lightning.tools.processes import tried

LINUX = sys.platform == "linux"
if LINUX:
    from ovd_lightning.tools import linux

WORKSPACE = "/home/sandbox"
"""Folder of a program that has its own file system. No library is below it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_IDLE_S = 1.0
"""Seconds between checks that the trainer still runs."""


class Confinement:
    """The mechanisms in use, found by trying them in a process that may fail.

    Args:
        without: mechanisms not to use.
    """

    def __init__(self, without: Iterable[str]) -> None:
        self.without = set(without)
        self.notes: dict[str, str] = {}
        """Mechanism -> why it is not used."""
        self.readable: list[str] = []
        """Files and folders that programs may read."""
        self.namespaces = self.own_count = self.seccomp = False
        self.landlock = 0
        """Version; 0: none."""
        self.parent = os.getppid()
        self.superuser = os.geteuid() == 0
        self.user: int | None = None
        """User id of programs; None: that of this process."""
        self.proc: int | None = None
        """Descriptor of a /proc that shows this process and a running program's, nothing else."""

    def _use(self, mechanism: str, attempt: Callable[[], object]) -> bool:
        reason = "switched off" if mechanism in self.without else tried(attempt)
        if reason is not None:
            self.notes[mechanism] = reason
        return reason is None

    def choose(self) -> None:
        """Try each mechanism, and use those that work. Afterwards this process itself is confined."""
        if self.superuser and self._use("namespaces", lambda: self._enter(False)):
            self.namespaces = True
            self._enter(False)
        elif self._use("namespaces", lambda: self._enter(True)):
            self.notes.pop("namespaces", None)
            self.namespaces = True
            self._enter(True)
        if self.superuser:
            self.user = next((u for u in (1_879_048_192 + os.getpid(), 65534) if self._can_be(u)), None)
        self.own_count = self._use("user namespaces", self.count_alone)
        if self._use("landlock", lambda: linux.landlock(self.readable, [WORKSPACE])):
            self.landlock = linux.landlock_version()
        self.seccomp = linux.seccomp_known() and self._use("seccomp", lambda: linux.seccomp(not self.namespaces))
        if self.namespaces:
            linux.seccomp_filter(2, False)  # every program is the second process of its namespace
        else:
            linux.adopt_orphans()

    def _enter(self, as_superuser: bool) -> None:
        """Continue as the first process of new namespaces, in a new root. The old process waits for this one's end."""
        if as_superuser:
            linux.new_user_namespace()
        linux.unshare(
            linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        )
        if (pid := os.fork()) != 0:
            self._wait_for(pid)
        linux.die_with_parent()
        self.own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        linux.keep_mounts_private()
        with contextlib.suppress(OSError):  # a container that hides parts of /proc does not allow a new one
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.enter_new_root(self.readable, DEVICES, WORKSPACE)
        linux.unshare(linux.CLONE_NEWPID)  # as every call will, there and back
        linux.setns(self.own_processes, linux.CLONE_NEWPID)

    def _wait_for(self, pid: int) -> NoReturn:
        """All that the helper's first process still does: it ends with the zygote, or when the trainer is gone."""
        os.closerange(0, 2)
        os.closerange(3, 1 << 16)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that it wakes the wait below
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if os.getppid() != self.parent:
                os._exit(0)  # and the zygote dies with its parent
            signal.sigtimedwait({signal.SIGCHLD}, _IDLE_S)
        os._exit(os.waitstatus_to_exitcode(ended[1]) & 0xFF)

    def abandoned(self) -> bool:
        """The trainer is gone, though a fork of it may still hold the pipe open."""
        return not self.namespaces and os.getppid() != self.parent

    def _can_be(self, user: int) -> bool:
        """Whether a process of this user can read the libraries, which may be in someone's home."""

        def attempt() -> None:
            self.become(user)
            for path in self.readable:
                with os.scandir(path) if os.path.isdir(path) else open(path, "rb"):
                    pass

        reason = tried(attempt)
        if reason is not None:
            self.notes["another user"] = reason
        return reason is None

    def become(self, user: int | None = None) -> None:
        user = self.user if user is None else user
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)

    def count_alone(self) -> None:
        """Enter a user namespace, in which the limit of processes counts this one's descendants only."""
        self.become()
        linux.unshare(linux.CLONE_NEWUSER)

    def describe(self) -> dict[str, str | None]:
        """Protection -> mechanism; None: there is none on this machine."""
        separate = self.user is not None or not self.superuser
        guards = [name for name, there in (("seccomp", self.seccomp), ("namespace", self.namespaces)) if there]
        files = [f"Landlock {self.landlock}"] * bool(self.landlock) + ["own root"] * self.namespaces
        if self.landlock >= 4:
            guards.append(f"Landlock {self.landlock}")
        memory = "limit of each process" + (", watch over all of them" if self.proc is not None else "")
        ends = "process namespace" if self.namespaces else "search for descendants" if LINUX else None
        alone = self.own_count or (self.namespaces and not self.superuser)
        counted = "counted in a namespace" if alone else "counted by user" if self.user else "of this user"
        return {
            "time": "clock, processor time",
            "memory": memory if LINUX else None,
            "processes": counted if LINUX and separate else None,
            "survivors": ends,
            "files": " + ".join(files) or None,
            "disk": "own file system" if self.namespaces else "limit of each file",
            "network": " + ".join(guards) or None,
            "programs": "seccomp" if self.seccomp else None,
            "output": "both ends kept",
            "environment": "own",
            **{f"note: {name}": reason for name, reason in self.notes.items()},
        }
