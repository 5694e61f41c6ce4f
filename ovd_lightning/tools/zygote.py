"""The local sandbox's helper: ``python -I -S zygote.py SETTINGS``, one JSON object per line in and out.

It is trusted and runs no program itself. It imports once what programs may import and forks for each program, which
takes milliseconds where a new interpreter takes half a second. Its processes, where the kernel has namespaces:

    helper         started by the trainer's pool; only waits
    └ zygote       first process of new namespaces: sees no process, no network, no file but libraries
      └ init       one per program: first process of a process namespace, with an empty file system to write to
        └ program  under limits, without rights, behind Landlock and seccomp

A process namespace ends with its first process, so killing ``init`` kills everything that a program started. Where a
mechanism is missing the others are still used; ``describe`` reports them. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import resource
import selectors
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ovd_lightning.tools import program
from ovd_lightning.tools.confinement import DEVICES, LINUX, WORKSPACE, Confinement
from ovd_lightning.tools.processes import Kept, descendants, limit, open_up, read, tasks_of
from ovd_lightning.workers import pipe

if LINUX:
    from ovd_lightning.tools import linux

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": WORKSPACE,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # threads of numerical libraries would count as processes, and cannot be forked
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
"""What extension modules may load at run time."""
OPEN_FILES = 64
LOOK_S = 0.05
"""Seconds between checks of the memory of a program's processes."""
END_S = 10.0
"""Seconds to end everything that a program started, where the kernel does not do it at once."""
STATUS = 3
"""Descriptor to which a program's process writes that it begins, or why it cannot; closed before the program runs."""
BEGUN = "+"
START_S = 30.0
"""Seconds in which a program must begin; its own time starts then."""
NOT_BEGUN = f"it did not begin within {START_S:g} s"


class Zygote(Confinement):
    """Confines itself as far as the machine permits and runs programs one after the other.

    Settings: time_s, memory_mb, processes, file_mb, output_bytes, print_value; ``modules`` to import ahead and the
    ``paths`` that contain them; ``without``: mechanisms not to use.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings["without"])
        self.time_s, self.memory = float(settings["time_s"]), int(settings["memory_mb"]) << 20
        self.processes, self.file_bytes = int(settings["processes"]), int(settings["file_mb"]) << 20
        self.output_bytes = int(settings["output_bytes"])
        self.print_value = bool(settings["print_value"])
        self.modules, self.paths = list(settings["modules"]), list(settings["paths"])

    def prepare(self) -> None:
        """Import what programs may import, then hide everything else."""
        standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
        sys.path[:] = [p for p in sys.path if p and not p.endswith(".zip") and Path(p) != Path(__file__).parents[2]]
        sys.path += [path for path in self.paths if path not in sys.path]
        import site

        site.setquit()  # exit() and quit(), which an interpreter without site packages lacks
        for name in self.modules:
            importlib.import_module(name)
        if "numpy" in self.modules:
            importlib.import_module("numpy.random")  # which numpy imports late: its state must always be the same
        for name in [name for name in sys.modules if name.partition(".")[0] == "ovd_lightning"]:
            del sys.modules[name]
        shown = {*standard, *self.paths, *(p for p in sys.path if os.path.isdir(p)), *LIBRARIES}
        inside = [os.path.realpath(path) for path in shown if os.path.exists(path)]
        # both a link and its target
        names = sorted({*(p for p in shown if os.path.exists(p)), *inside})
        self.readable = [p for p in names if not any(p.startswith(q + "/") for q in names)]
        gc.collect()
        gc.freeze()  # a collection does not write to what was imported, so its memory stays shared
        if LINUX:
            self.choose()

    def run(self, code: str) -> dict[str, Any]:
        """See `ovd_lightning.tools.base.Execution`."""
        with self._workspace() as workspace, contextlib.ExitStack() as stack:
            pipes = [os.pipe() for _ in range(3)]
            for source, _ in pipes:
                stack.callback(os.close, source)
                os.set_blocking(source, False)
            if self.namespaces:
                linux.unshare(linux.CLONE_NEWPID)
            if (init := os.fork()) == 0:
                try:
                    self._init(code, workspace, [sink for _, sink in pipes])
                except BaseException as error:
                    os.write(pipes[2][1], f"its first process failed: {error!r}".encode())
                finally:
                    os._exit(70)
            if self.namespaces:
                linux.setns(self.own_processes, linux.CLONE_NEWPID)
            for _, sink in pipes:
                os.close(sink)
            out, err, status = Kept(self.output_bytes), Kept(self.output_bytes), Kept(1 << 12)
            kept = dict(zip((source for source, _ in pipes), (out, err, status), strict=True))
            killed, begun = self._follow(kept, status)
            seconds = time.monotonic() - begun
            self._end(init)
            for source, stream in kept.items():
                read(source, stream)
        return self._result(out, err, status.text(), killed, seconds)

    def _follow(self, kept: dict[int, Kept], status: Kept) -> tuple[str | None, float]:
        """Read the output until the program ends: (why it must be killed, or None; when it began)."""
        begun = time.monotonic()
        look, deadline = begun + LOOK_S, begun + START_S
        with selectors.DefaultSelector() as selector:
            for source in kept:
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    return f"{self.time_s:g} s are over" if status.total else NOT_BEGUN, begun
                if now >= look:
                    if self.abandoned():
                        return "the trainer is gone", begun
                    if self._memory() > self.memory:
                        return "memory", begun
                    look = time.monotonic() + LOOK_S
                waiting = not status.total
                for key, _ in selector.select(min(deadline, look) - now):
                    if not read(key.fd, kept[key.fd], 1 << 20):
                        selector.unregister(key.fd)
                if waiting and status.text().startswith(BEGUN):
                    begun = time.monotonic()
                    deadline = begun + self.time_s
                if status.text() not in ("", BEGUN):
                    break
        return None, begun

    def _memory(self) -> int:
        """Bytes used by the program's processes, roughly: memory shared with this process is not counted."""
        if self.proc is None:
            return 0
        own, total = self._anonymous("self"), 0
        for name in os.listdir(self.proc):
            if name.isdigit() and name != "1":
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    total += max(0, self._anonymous(name) - own)
        return total

    def _anonymous(self, process: str) -> int:
        descriptor = os.open(f"{process}/statm", os.O_RDONLY, dir_fd=self.proc)
        with open(descriptor, "rb") as stream:
            _, resident, shared, *_ = map(int, stream.read().split())
        return (resident - shared) * resource.getpagesize()

    def _result(self, out: Kept, err: Kept, status: str, killed: str | None, seconds: float) -> dict[str, Any]:
        if not status.startswith(BEGUN):
            return {"failure": status or killed or "its first process was killed"}
        status = status.removeprefix(BEGUN)
        timed_out, exit_code = killed is not None and killed != "memory", None
        if killed is None:
            code = int(status) if status.lstrip("-").isdigit() else None
            if code is None:
                killed = "its first process was killed"
            elif code == -signal.SIGXCPU:
                killed, timed_out = "its processor time is over", True
            elif code < 0:
                known = {s.value: s.name for s in signal.Signals}
                killed = f"signal {known.get(-code, -code)}"
            else:
                exit_code = code
        return {
            "stdout": out.text(),
            "stderr": err.text(),
            "exit_code": exit_code,
            "timed_out": timed_out,
            "killed": killed,
            "seconds": seconds,
            "left_out": out.left_out + err.left_out,
        }

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[str]:
        """An empty folder. With namespaces it is a file system mounted later, which ends with them."""
        if self.namespaces:
            yield WORKSPACE
            return
        folder = os.path.realpath(tempfile.mkdtemp(prefix="sandbox-", dir=None))
        try:
            if self.user is not None:
                os.chown(folder, self.user, self.user)
            yield folder
        finally:
            shutil.rmtree(folder, onerror=open_up)

    def _init(self, code: str, workspace: str, sinks: list[int]) -> None:
        """The first process of a program: waits for it, reports its status and ends, and everything with it."""
        # no new session: Linux schedules each as a group of its own, and a new group may wait for seconds
        os.setpgid(0, 0)
        if LINUX:
            linux.die_with_parent()
        if self.namespaces:
            linux.unshare(linux.CLONE_NEWNS)
            owner = self.user or 0
            linux.mount(
                "tmpfs", WORKSPACE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV,
                f"size={self.file_bytes},nr_inodes=4096,mode=0700,uid={owner},gid={owner}",
            )  # fmt: skip
        elif LINUX:
            linux.adopt_orphans()
        if (pid := os.fork()) == 0:
            try:
                self._confine(workspace, sinks)
            except BaseException as error:
                os.write(STATUS, f"it could not be confined: {error!r}".encode())
                os._exit(71)
            os.write(STATUS, BEGUN.encode())
            os.close(STATUS)
            program.execute(code, self.print_value)
        for sink in sinks[:2]:
            os.close(sink)
        while True:
            ended, status = os.wait()
            if ended == pid:
                os.write(sinks[2], str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)

    def _confine(self, workspace: str, sinks: list[int]) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in zip((null, *sinks[:2]), (0, 1, 2), strict=True):
            os.dup2(descriptor, target)
        os.dup2(sinks[2], STATUS)
        os.closerange(STATUS + 1, 1 << 16)
        os.chdir(workspace)
        os.environ["HOME"] = os.environ["TMPDIR"] = workspace
        tempfile.tempdir = None  # cached
        os.umask(0o077)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limits = {
            resource.RLIMIT_AS: self.memory,
            resource.RLIMIT_CPU: math.ceil(self.time_s) + 1,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_NOFILE: OPEN_FILES,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
        }
        for kind, most in limits.items():
            limit(kind, most)
        if LINUX:
            linux.drop_bounding_set()  # now: a user namespace has a set of its own, another user may not drop it
        if LINUX and self.own_count:
            self.count_alone()
        else:
            self.become()
        if LINUX:
            limit(resource.RLIMIT_NPROC, self._counted_with_it() + self.processes)
            linux.drop_capabilities()
            if self.landlock:
                linux.landlock([*self.readable, *DEVICES], [workspace, "/dev/null"])
            if self.seccomp:
                linux.seccomp(not self.namespaces)

    def _counted_with_it(self) -> int:
        """Processes besides the program's that count towards its limit."""
        if self.own_count or self.user is not None:
            return 0
        # in a user namespace of the zygote: that, its parent, and the program's first process
        return 3 if self.namespaces else tasks_of(os.getuid())

    def _end(self, init: int) -> None:
        """End everything that the program started."""
        if not LINUX:
            with contextlib.suppress(OSError):
                os.killpg(init, signal.SIGKILL)
        if not self.namespaces and LINUX:
            self._hunt(init)
            return
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)

    def _hunt(self, init: int) -> None:
        """Kill descendants until there are none: orphans are adopted by this process, so none can escape."""
        until = time.monotonic() + END_S
        while time.monotonic() < until:
            for pid in descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)
        raise RuntimeError("a program's processes could not be ended")


def main() -> None:
    if dict(os.environ) != ENVIRONMENT:  # the trainer's may contain keys: remove them from memory and from /proc
        os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, sys.argv[1]], ENVIRONMENT)
    source, sink = pipe.take_over()
    os.chdir("/")
    zygote = Zygote(json.loads(sys.argv[1]))
    zygote.prepare()
    pipe.send(sink, {"ready": True})
    for request in pipe.requests(source, zygote.abandoned):
        pipe.send(sink, zygote.run(request["code"]) if "code" in request else zygote.describe())


if __name__ == "__main__":
    main()
