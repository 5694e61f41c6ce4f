"""``python -m ovd_lightning.sweep FILE``: the runs of a W&B sweep file, one after the other, without W&B's service.

The file is the one that ``wandb sweep`` takes, with ``method: grid``; other methods are for W&B's own agent. The
command lines are those that the agent would build, with one more parameter: the run's folder, under the sweep's, which
also holds its output in ``output.log``. An interrupted sweep keeps what has finished and goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ovd_lightning.errors import ConfigError
from ovd_lightning.files import first_free, new_folder, write_text
from ovd_lightning.report.read import read_metrics
from ovd_lightning.sweep.file import FOLDER, RECORD, SEED, Values, command_line, expand, folder_names, read_sweep
from ovd_lightning.sweep.table import Job, print_tables, write_results

GRACE_S = 60.0
"""How long a run may take to end before it is killed."""


class Runner:
    """Runs jobs, ``jobs`` at a time. A failed one is reported and stops no other.

    Args:
        directory: where the runs start.
        jobs: runs at a time.
        changed: called after every run, by whichever thread ran it, one at a time.
        lock: file descriptor that every run inherits, so that what is locked stays locked while one is alive.
    """

    def __init__(
        self, directory: Path, jobs: int = 1, changed: Callable[[], None] = lambda: None, lock: int | None = None
    ) -> None:
        self.directory, self.jobs, self.changed, self.lock = directory, jobs, changed, lock
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, waiting: Sequence[Job]) -> None:
        """Returns when all are done. An interrupt ends the running ones and leaves the others waiting."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run, job) for job in waiting]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the running ones as one ends a run, so that each keeps what it has; a second interrupt kills them."""
        with self._guard:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        try:
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            pass
        for process in running:
            if process.poll() is None:
                kill_tree(process.pid)

    def _run(self, job: Job) -> None:
        with self._guard:
            if self._stopped:
                return
        set_aside(job.folder)
        job.folder.mkdir(parents=True)
        record: dict[str, Any] = {"values": job.values, "command": job.command, "status": "running"}
        (job.folder / RECORD).write_text(json.dumps(record, indent=1))
        start = time.monotonic()
        with (job.folder / "output.log").open("wb") as log:
            code = self._start_and_wait(job, log.fileno())
        job.seconds = time.monotonic() - start
        self._judge(job, code)
        record |= {"status": job.status, "reason": job.reason, "returncode": code, "seconds": round(job.seconds, 1)}
        with self._guard:
            write_text(job.folder / RECORD, json.dumps(record, indent=1))
            print(f"  {job.folder.name}: {job.status} after {job.seconds:.0f} s", flush=True)
            if job.status == "failed":
                print(f"    {job.reason}\n    all its output: {job.folder / 'output.log'}", flush=True)
            self.changed()

    def _start_and_wait(self, job: Job, log: int) -> int | None:
        """The exit code; None where the run could not start."""
        # "python" of the command line is the interpreter that runs the sweep.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        with self._guard:
            if self._stopped:
                return -signal.SIGTERM
            try:
                process = subprocess.Popen(
                    job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory,
                    env={**os.environ, "PATH": path}, pass_fds=[] if self.lock is None else [self.lock],
                )  # fmt: skip
            except OSError as error:
                job.reason = f"could not start: {error}"
                return None
            self._running.add(process)
            job.status = "running"
            print(f"  {job.folder.name}: started", flush=True)
        code = process.wait()
        with self._guard:
            self._running.discard(process)
        return code

    def _judge(self, job: Job, code: int | None) -> None:
        """Fill in status and reason. A run that exited with 0 but left no metric has failed."""
        if code == 0 and read_metrics(job.folder):
            job.status = "finished"
        elif code and self._stopped:
            job.status = "interrupted"
        else:
            job.status = "failed"
            if code == 0:
                job.reason = f"it exited 0 but left no metric in {job.folder}: does the program take --{FOLDER}?"
            elif code is not None:
                how = f"exit {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
                job.reason = f"{how}: {last_line(job.folder / 'output.log')}"


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and everything under it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def last_line(file: Path) -> str:
    """The last line with anything on it, where a failed run gives its reason."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def set_aside(folder: Path) -> None:
    """Move what an unfinished attempt left to <folder>.attempt-1, the first free number."""
    if folder.exists():
        folder.rename(first_free(lambda n: folder.with_name(f"{folder.name}.attempt-{n}")))


def finished(folder: Path) -> Iterator[tuple[Values, Path, float]]:
    """Parameters, folder and seconds of every run in a sweep's folder that ended well."""
    for file in sorted(folder.glob(f"*/{RECORD}")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["status"] == "finished" and ".attempt-" not in file.parent.name:
            yield record["values"], file.parent, float(record["seconds"])


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """The sweep's folder, for one sweep at a time: its lock's descriptor, None where the system has no such locks.

    Runs inherit the descriptor: a sweep that was killed outright leaves them behind, and they would write into the
    folders that its successor sets aside.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                "--resume", f"another sweep, or a run that it left behind, is at work in {folder}.", "Wait, or end it."
            ) from None
        yield file.fileno()


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def existing_folder(text: str) -> Path:
    if not (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder; give runs/sweeps/<name>/<time>")
    return path


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m ovd_lightning.sweep", description=__doc__)
    made.add_argument("sweep", type=Path, help="a sweep file, e.g. configs/sweeps/threshold.yaml")
    made.add_argument("--jobs", type=positive, default=1, help="runs at a time (default 1)")
    made.add_argument("--seeds", type=int, nargs="+", default=[], help=f"values of {SEED}, in place of the file's")
    made.add_argument("--count", type=positive, help="run the first COUNT combinations; default: the file's run_cap")
    made.add_argument("--root", type=Path, default=Path("runs/sweeps"), help="the sweep's folder is ROOT/<name>/<time>")
    made.add_argument(
        "--resume", type=existing_folder, metavar="DIR", help="a sweep's folder: run only what has not finished there"
    )
    made.add_argument("--dry_run", action="store_true", help="print the command lines and stop")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run ended well, 1 when one failed, 2 for a wrong file or option, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(parser().parse_args(argv), argv)
    except ConfigError as error:
        print(*(f"error: {each}" for each in error.errors), sep="\n", file=sys.stderr)
        return 2


@contextmanager
def endings_as_interrupts() -> Iterator[None]:
    """SIGTERM and a closed terminal end a sweep as Ctrl-C does: its runs with it, its tables printed."""
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {each: signal.signal(each, signal.default_int_handler) for each in signals}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    sweep = read_sweep(arguments.sweep)
    runs = expand(sweep, count=arguments.count, seeds=arguments.seeds)
    if arguments.dry_run:
        for values in runs:
            print(shlex.join(command_line(sweep, values)))
        return 0
    folder = (arguments.resume or new_folder(arguments.root / sweep.name)).resolve()
    with locked(folder) as lock:
        before = {path.name: (values, seconds) for values, path, seconds in finished(folder)}
        jobs = []
        for values, name in zip(runs, folder_names(runs), strict=True):
            line = command_line(sweep, {**values, FOLDER: str(folder / name)})
            job = Job(values=values, command=line, folder=folder / name)
            if name in before and before[name][0] == values:
                job.status, job.seconds = "finished before", before[name][1]
            jobs.append(job)
        waiting = [job for job in jobs if job.status == "waiting"]
        print(f"{sweep.name}: {len(waiting)} of {len(jobs)} runs to do, in {folder}", flush=True)
        runner = Runner(sweep.directory, arguments.jobs, lambda: write_results(jobs, folder), lock)
        try:
            with endings_as_interrupts():
                runner.run(waiting)
        except KeyboardInterrupt:
            print_tables(sweep, jobs, folder)
            again = shlex.join(["python", "-m", "ovd_lightning.sweep", *argv, "--resume", str(folder)])
            print(f"interrupted; to go on: {again}", file=sys.stderr)
            return 130
        print_tables(sweep, jobs, folder)
    return 0 if all(job.status.startswith("finished") for job in jobs) else 1
