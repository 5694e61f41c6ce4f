"""How a round's time grows with problems, steps of a trajectory, and lengths.

    python -m benchmarks.speed growth

Problems and steps: the quickstart with transformers in place of vLLM, whose students write one step more than a problem
has operations. Lengths: GRPO with a random model whose completions are as long as they are meant to be.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.speed.report import Section
from benchmarks.speed.rounds.drive import HEADER, Side, cost_rows, interleave
from benchmarks.speed.rounds.workload import Workload, prepare

WALK = Workload(
    name="walk",
    problems=4,
    group_size=4,
    micro_batches=4,
    max_tokens=32,
    vocabulary=4096,
    width=128,
    layers=2,
    lengths=(8, 16, 24, 32),
    prompts=(8, 8),
    positions=64,
)


def sizes(folder: Path, factors: list[int], rounds: int) -> dict[str, list[Side]]:
    """What grows -> a worker for every size."""
    worker = [sys.executable, "-m", "benchmarks.speed.rounds.project"]
    quickstart = [
        *worker, "--config=configs/quickstart.yaml", "--config=configs/overlays/no_vllm.yaml", f"--data.rounds={rounds}"
    ]  # fmt: skip
    grown: dict[str, list[Side]] = {"problems": [], "operations": [], "longest completion": []}
    for factor in factors:
        name = f"{8 * factor}"
        command = [*quickstart, f"--data.problems_per_round={name}"]
        grown["problems"].append(Side(name=name, command=command))
        walk = replace(
            WALK,
            lengths=tuple(factor * n for n in WALK.lengths),
            max_tokens=factor * WALK.max_tokens,
            positions=factor * WALK.positions,
        )
        prepare(walk, folder / f"{factor}")
        command = [*worker, "grpo", "hf", str(folder / f"{factor}"), str(rounds)]
        grown["longest completion"].append(Side(name=f"{walk.max_tokens}", command=command))
    for operations in ("2", "3", "4"):
        command = [*quickstart, f"--task.init_args.operations=[{operations},{operations}]"]
        grown["operations"].append(Side(name=operations, command=command))
    return grown


def main(factors: list[int] = [1, 2, 4], rounds: int = 5, warmup: int = 1, threads: int = 1) -> Section:  # noqa: B006
    """How a round's time grows.

    Args:
        factors: of problems and lengths.
        rounds: measured rounds of every size.
        warmup: rounds before them.
        threads: OpenMP threads of each process; only one works at a time.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, sides in sizes(Path(folder), factors, rounds + warmup).items():
            rows += cost_rows(what, interleave(sides, rounds, warmup, threads))
    note = f"Medians of {rounds} rounds after {warmup} to warm up; {threads} threads a process."
    return Section(["what grows", "size", *HEADER[2:]], rows, [note])
