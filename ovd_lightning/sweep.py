"""``python -m ovd_lightning.sweep FILE``: the runs of a W&B sweep file, one after the other, without W&B's service.

The file is the one that ``wandb sweep`` takes; ``grid`` and ``random`` are understood. The command lines are those
that W&B's agent would build. Each run gets its own folder under the sweep's, with its output in ``output.log``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError

Values = dict[str, Any]
"""One run's parameters: dotted name -> value."""

KEYS = {
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
}  # fmt: skip
"""What W&B's schema of sweep files knows at the top level."""
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
SEED = "data.seed"
"""The parameter that ``--seeds`` sets: of problem order and of every sample."""
RESULT = "sweep_run.json"


@dataclass(slots=True, kw_only=True)
class Sweep:
    """A sweep file that has been checked."""

    name: str
    method: str
    command: list[str]
    program: str
    parameters: dict[str, dict[str, Any]]
    metric: str | None
    run_cap: int | None


@dataclass(slots=True, kw_only=True)
class Job:
    """One run of the sweep, and what became of it."""

    values: Values
    command: list[str]
    folder: Path
    status: str = "waiting"
    seconds: float = 0.0


def read_sweep(path: Path) -> Sweep:
    """Raises: ConfigError for a file that is missing, that W&B would refuse, or that needs W&B's service."""
    import yaml

    if not path.is_file():
        raise ConfigError("sweep file", f"{path} is not there.", "Try configs/sweeps/threshold.yaml.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError("sweep file", f"{path} is not YAML: {error}.", "Mend its syntax.") from None
    if not isinstance(tree, dict):
        raise ConfigError("sweep file", f"{path} is no mapping.", "See configs/sweeps/threshold.yaml.")
    if unknown := sorted(set(tree) - KEYS):
        raise ConfigError(
            "sweep file", f"has unknown keys: {', '.join(unknown)}.", f"Known: {', '.join(sorted(KEYS))}."
        )
    method = tree.get("method")
    if method not in ("grid", "random"):
        raise ConfigError("method", f"is {method!r}.", "Use grid or random here; the others need `wandb agent`.")
    parameters = tree.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError("parameters", "is missing or empty.", "Give at least one, with its values.")
    for name, parameter in parameters.items():
        _check_parameter(name, parameter, method)
    metric = tree.get("metric") or {}
    return Sweep(
        name=str(tree.get("name") or path.stem),
        method=method,
        command=[str(part) for part in tree.get("command") or DEFAULT_COMMAND],
        program=str(tree.get("program") or ""),
        parameters=parameters,
        metric=metric.get("name"),
        run_cap=tree.get("run_cap"),
    )


def _check_parameter(name: str, parameter: Any, method: str) -> None:
    if not isinstance(parameter, dict):
        raise ConfigError(f"parameters.{name}", "is no mapping.", "Write values: [...], or value: ...")
    if "value" in parameter or parameter.get("values"):
        return
    if method == "grid":
        raise ConfigError(f"parameters.{name}", "has neither value nor values.", "A grid needs them; or use random.")
    if "min" not in parameter or "max" not in parameter:
        raise ConfigError(f"parameters.{name}", "has no values, and no min with max.", "Give one of them.")
    kind = parameter.get("distribution")
    if kind not in (None, "uniform", "int_uniform", "log_uniform_values"):
        raise ConfigError(f"parameters.{name}", f"distribution {kind!r} is not known here.", "Use `wandb agent`.")
    if kind is None and isinstance(parameter["min"], int) != isinstance(parameter["max"], int):
        raise ConfigError(f"parameters.{name}", "mixes a whole number with a fraction.", "Write both alike.")


def expand(sweep: Sweep, *, count: int | None = None, seeds: Sequence[int] = (), sample_seed: int = 0) -> list[Values]:
    """The runs' parameters. ``seeds`` stand in for whatever the file says of ``data.seed``.

    grid: every combination, the last parameter fastest. random: ``count`` draws (default: the file's run_cap) that
    depend on ``sample_seed`` alone, each under every seed. Raises: ConfigError for random without a count.
    """
    parameters = dict(sweep.parameters)
    if seeds:
        parameters.pop(SEED, None)
    cap = sweep.run_cap if count is None else count
    if sweep.method == "grid":
        choices = [[p["value"]] if "value" in p else list(p["values"]) for p in parameters.values()]
        drawn = [dict(zip(parameters, row, strict=True)) for row in itertools.product(*choices)]
    else:
        if cap is None:
            raise ConfigError("--count", "is not given and the sweep has no run_cap.", "Say how many runs to draw.")
        rng = random.Random(sample_seed)
        drawn = [{name: _draw(rng, parameter) for name, parameter in parameters.items()} for _ in range(cap)]
    drawn = drawn if cap is None else drawn[:cap]
    return [{**values, SEED: seed} for values in drawn for seed in seeds] if seeds else drawn


def _draw(rng: random.Random, parameter: Mapping[str, Any]) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return rng.choices(parameter["values"], weights=parameter.get("probabilities"))[0]
    low, high = parameter["min"], parameter["max"]
    kind = parameter.get("distribution") or ("int_uniform" if isinstance(low, int) else "uniform")
    if kind == "int_uniform":
        return rng.randint(int(low), int(high))
    if kind == "log_uniform_values":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return rng.uniform(low, high)


def command_line(sweep: Sweep, values: Values) -> list[str]:
    """What W&B's agent would run. Raises: ConfigError for a macro that only makes sense under the agent."""
    flags = [f"--{name}={value}" for name, value in values.items()]
    macros: dict[str, list[str]] = {
        "env": ["/usr/bin/env"] if os.name == "posix" else [],
        "interpreter": ["python"],
        "program": [sweep.program],
        "args": flags,
        "args_no_hyphens": [flag[2:] for flag in flags],
        "args_no_equals": [part for name, value in values.items() for part in (f"--{name}", str(value))],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in values.items()
            if value is not False
        ],
        "args_json": [json.dumps(values)],
    }
    line: list[str] = []
    for part in sweep.command:
        part = re.sub(r"\$\{envvar:(\w+)\}", lambda match: os.environ.get(match[1], match[1]), part)
        if part.startswith("${") and part.endswith("}"):
            if part[2:-1] not in macros:
                raise ConfigError("command", f"{part} is not known here.", f"Use one of {', '.join(macros)}.")
            line += macros[part[2:-1]]
        else:
            line.append(part)
    return line


def short_names(runs: Sequence[Values]) -> dict[str, str]:
    """Parameter -> its last component, or the whole name where two end alike."""
    names = list(dict.fromkeys(name for values in runs for name in values))
    last = [name.rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def folder_names(runs: Sequence[Values]) -> list[str]:
    """A folder's name for every run, from its parameters; repeated ones get a number."""
    short = short_names(runs)
    taken: dict[str, int] = {}
    found = []
    for values in runs:
        parts = (f"{short[name]}={value:.6g}" if isinstance(value, float) else f"{short[name]}={value}"
                 for name, value in values.items())  # fmt: skip
        name = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))[:120]
        taken[name] = taken.get(name, 0) + 1
        found.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return found


class Runner:
    """Runs jobs, ``jobs`` at a time. A failed one is reported and stops no other."""

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
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
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def _run(self, job: Job) -> None:
        set_aside(job.folder)
        job.folder.mkdir(parents=True)
        environment = dict(os.environ)
        # "python" of the command line is the interpreter that runs the sweep, and the run's folder is ours to name.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        environment["OVD_RUN_DIR"] = str(job.folder.resolve())
        start = time.monotonic()
        with (job.folder / "output.log").open("wb") as log:
            with self._lock:
                if self._stopped:
                    return
                try:
                    process = subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT, env=environment)
                except OSError as error:
                    log.write(f"{error}\n".encode())
                    job.status = "failed: could not start"
                    print(f"  {job.folder.name}: {job.status}: {error}", flush=True)
                    return
                self._running.add(process)
            print(f"  {job.folder.name}: started", flush=True)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        job.seconds = time.monotonic() - start
        job.status = "finished" if code == 0 else f"failed: exit {code}"
        record = {"command": job.command, "returncode": code, "seconds": round(job.seconds, 1)}
        (job.folder / RESULT).write_text(json.dumps(record, indent=1))
        print(f"  {job.folder.name}: {job.status} after {job.seconds:.0f} s", flush=True)
        if code != 0:
            print(
                f"    {last_line(job.folder / 'output.log')}\n    all its output: {job.folder / 'output.log'}",
                flush=True,
            )


def last_line(file: Path) -> str:
    """The last line with anything on it, which is where a failed run says why."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def set_aside(folder: Path) -> None:
    """Move what an unfinished attempt left to <folder>.attempt-1, the first free number."""
    for number in itertools.count(1):
        aside = folder.with_name(f"{folder.name}.attempt-{number}")
        if not folder.exists():
            return
        if not aside.exists():
            folder.rename(aside)


def finished(folder: Path) -> Iterator[tuple[list[str], Path, float]]:
    """Command, folder and seconds of every run in a sweep's folder that ended well."""
    for file in sorted(folder.glob(f"*/{RESULT}")):
        record = json.loads(file.read_text())
        if record["returncode"] == 0 and ".attempt-" not in file.parent.name:
            yield record["command"], file.parent, float(record["seconds"])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m ovd_lightning.sweep", description=__doc__)
    made.add_argument("sweep", type=Path, help="a sweep file, e.g. configs/sweeps/threshold.yaml")
    made.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    made.add_argument("--seeds", type=int, nargs="+", default=[], help=f"values of {SEED}, in place of the file's")
    made.add_argument("--count", type=int, help="number of draws (random), or a limit on the combinations (grid)")
    made.add_argument("--sample_seed", type=int, default=0, help="of the random method's draws")
    made.add_argument("--root", type=Path, default=Path("runs/sweeps"), help="the sweep's folder is ROOT/<name>/<time>")
    made.add_argument(
        "--resume", type=Path, metavar="DIR", help="a sweep's folder: run only what has not finished there"
    )
    made.add_argument("--dry_run", action="store_true", help="print the command lines and stop")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run ended well, 1 when one failed, 2 for a wrong file or option, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return run(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130


def run(arguments: argparse.Namespace) -> int:
    sweep = read_sweep(arguments.sweep)
    if arguments.jobs < 1:
        raise ConfigError("--jobs", f"is {arguments.jobs}.", "Use 1 or more.")
    runs = expand(sweep, count=arguments.count, seeds=arguments.seeds, sample_seed=arguments.sample_seed)
    lines = [command_line(sweep, values) for values in runs]
    if arguments.dry_run:
        for line in lines:
            print(shlex.join(line))
        return 0
    if arguments.resume and not arguments.resume.is_dir():
        raise ConfigError("--resume", f"{arguments.resume} is no folder.", "Give runs/sweeps/<name>/<time>.")
    folder = arguments.resume or arguments.root / sweep.name / datetime.now().strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(values=values, command=line, folder=folder / name)
        for values, line, name in zip(runs, lines, folder_names(runs), strict=True)
    ]
    before = {tuple(line): (path, seconds) for line, path, seconds in finished(folder)}
    for job in jobs:
        if found := before.get(tuple(job.command)):
            (job.folder, job.seconds), job.status = found, "finished before"
    waiting = [job for job in jobs if job.status == "waiting"]
    print(f"{sweep.name}: {len(waiting)} of {len(jobs)} runs to do, in {folder}", flush=True)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the runs with the sweep
    try:
        Runner(arguments.jobs).run(waiting)
    finally:
        signal.signal(signal.SIGTERM, previous)
        from ovd_lightning.sweep_table import print_tables

        print_tables(sweep, jobs, folder)
    return 0 if all(job.status.startswith("finished") for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
