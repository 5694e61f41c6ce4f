"""Rounds of this project beside TRL's, on the same students, prompts, rewards and numbers of tokens.

    python -m benchmarks.speed compare                        # GRPO (hf, vLLM), GKD, OPD at both sizes
    python -m benchmarks.speed compare --tiny --trl false     # this project alone, in a minute

Both sides run in processes of their own, which take turns round by round. What is compared is the processor's time:
wall-clock time counts what else the machine does. TRL is installed on first use (``--environment``).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.speed.report import Section
from benchmarks.speed.rounds.drive import HEADER, Side, cost_rows, interleave, ratio
from benchmarks.speed.rounds.environment import DEFAULT, install
from benchmarks.speed.rounds.workload import WORKLOADS, prepare

MEASURED = ["grpo/hf", "grpo/vllm", "gkd/hf", "opd/hf"]
OURS, TRL = "this project", "TRL"
WORKERS = "benchmarks.speed.rounds"


def sides(method: str, engine: str, folder: Path, rounds: int, trl: Path | None) -> list[Side]:
    """Who trains on the workload of ``folder``. ``trl``: the interpreter of its environment; None: without TRL."""
    arguments = [method, engine, str(folder), str(rounds)]
    both = [Side(name=OURS, command=[sys.executable, "-m", f"{WORKERS}.project", *arguments])]
    if trl is not None:
        both.append(Side(name=TRL, command=[str(trl), "-m", f"{WORKERS}.rival", *arguments]))
    return both


def compare(
    sizes: list[str],
    methods: list[str],
    rounds: int = 5,
    warmup: int = 1,
    threads: int = 2,
    trl: Path | None = None,
) -> Section:
    """``methods``: e.g. grpo/vllm."""
    rows: list[list[str]] = []
    summary: list[str] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(WORKLOADS[size], folder)
            for what in methods:
                method, engine = what.split("/")
                label = f"{size}, {method} {engine}"
                costs = interleave(sides(method, engine, folder, rounds + warmup, trl), rounds, warmup, threads)
                rows += cost_rows(label, costs)
                if trl is not None:
                    cpu, wall = (ratio(costs, OURS, TRL, name, by_token=True) for name in ("cpu", "wall"))
                    summary.append(f"- {label}: {cpu:.2f} in CPU seconds, {wall:.2f} by the clock")
                print(label, "done", file=sys.stderr, flush=True)
    notes = [f"Medians of {rounds} rounds after {warmup} to warm up; {threads} threads a process."]
    if summary:
        notes.append("\n".join(["TRL's time a token over this project's, medians of the rounds' pairs:", "", *summary]))
    return Section(HEADER, rows, notes)


def main(
    sizes: list[str] = ["embedded", "41M"],  # noqa: B006 -- jsonargparse reads it
    methods: list[str] = MEASURED,
    rounds: int = 5,
    warmup: int = 1,
    threads: int = 2,
    trl: bool = True,
    environment: Path = DEFAULT,
    tiny: bool = False,
) -> Section:
    """Rounds of this project beside TRL's.

    Args:
        sizes: workloads: embedded, 41M, tiny.
        methods: method/engine: grpo, gkd, opd with hf or vllm.
        rounds: measured rounds of each side.
        warmup: rounds before them.
        threads: OpenMP threads of each process; only one works at a time.
        trl: beside TRL, which is installed if need be.
        environment: folder of TRL's own environment.
        tiny: the plumbing alone: two rounds of a tiny model.
    """
    if tiny:
        sizes, rounds, threads = ["tiny"], 2, 1
    return compare(sizes, methods, rounds, warmup, threads, install(environment) if trl else None)
