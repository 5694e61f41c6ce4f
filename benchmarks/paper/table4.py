"""Table 4 of the paper: RLVR and OVD on one and two examples, at several steps, beside the paper's numbers.

    python -m benchmarks.paper.table4                 # the paper's grid: 4 GPU runs of configs/math_*.yaml, 17 rows
    python -m benchmarks.paper.table4 --quickstart    # the same grid on the embedded models and their task, on a laptop
    python -m benchmarks.paper.table4 --only ovd --examples 1 --steps 300 800 -- --trainer.devices 4

Flags after `--` are passed to every run. A run of the grid is one `fit`, which keeps the checkpoints of the given
steps, and one `test` per checkpoint. Interrupted runs continue, and finished ones in --out are not repeated. Printed,
and written to <out>/table4.md, .csv and .json: a row a checkpoint, in percent.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.paper.grid import evaluate, fit, markdown, read_csv, write_csv

PAPER = ROOT / "benchmarks" / "paper" / "table4.csv"
LABELS = {"zero_shot": "Zero-shot", "rlvr": "RLVR", "ovd": "OVD"}

BENCHMARKS = {
    f"operations_{n}": {
        "class_path": "ovd_lightning.tasks.arithmetic.ArithmeticTask",
        "init_args": {"operations": [n, n], "test_size": 200},
    }
    for n in (2, 3, 4)
}
"""The quickstart's columns: chains of two, three and, harder than anything trained on, four operations."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    method: str
    examples: int
    steps: int
    """Optimiser updates in the paper's grid, rounds in the quickstart's."""

    @property
    def label(self) -> str:
        counted = {1: "1 example", 2: "2 examples"}.get(self.examples)
        return f"{LABELS[self.method]}, {counted}" if counted else LABELS[self.method]


class Grid:
    """How the rows come about. ``configs``: flags of a run by (method, examples)."""

    steps: tuple[int, ...] = (300, 500, 600, 800)
    updates_per_step = 1
    common: tuple[str, ...] = ()

    def flags(self, method: str, examples: int) -> list[str]:
        config = {1: "math_one_example", 2: "math_two_examples"}[examples] if method == "ovd" else "math_rlvr"
        flags = [f"--config=configs/{config}.yaml"]
        if method == "rlvr" and examples == 2:
            flags.append("--task.init_args.ids=[problem-1,problem-2]")
        return flags

    def zero_shot(self) -> list[str]:
        return ["--config=configs/math_rlvr.yaml"]


class Quickstart(Grid):
    """The embedded student, one or two training problems of its task, three columns instead of ten."""

    steps = (15, 25, 30, 40)
    updates_per_step = 2  # configs/quickstart.yaml passes over a round twice
    common = (
        "--config=configs/quickstart.yaml",
        f"--data.benchmarks={json.dumps(BENCHMARKS)}",
        "--benchmark.samples=4",
        "--trainer.enable_progress_bar=false",
    )

    def flags(self, method: str, examples: int) -> list[str]:
        overlay = ["--method=configs/method/grpo.yaml"] if method == "rlvr" else []
        return [*self.common, *overlay, f"--task.init_args.train_size={examples}"]

    def zero_shot(self) -> list[str]:
        return [*self.common, "--method=configs/method/grpo.yaml"]


def train(grid: Grid, method: str, examples: int, steps: list[int], out: Path, extra: list[str]) -> Path:
    """The run's folder, with a checkpoint of every step; goes on from the last one of an interrupted run."""
    folder = out / f"{method}-{examples}"
    if not all(checkpoint(folder, grid, step).exists() for step in steps):
        fit(
            folder,
            [*grid.flags(method, examples), f"--run.name=table4-{method}-{examples}", *extra],
            f"--data.rounds={max(steps)}",
            f"--checkpoint.every_n_rounds={math.gcd(*steps)}",
            "--checkpoint.keep=-1",
        )
    return folder


def checkpoint(folder: Path, grid: Grid, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step * grid.updates_per_step:06d}.ckpt"


def test(grid: Grid, row: Row, out: Path, extra: list[str]) -> dict[str, Any]:
    """The evaluation's JSON of one row."""
    if row.method == "zero_shot":
        flags = grid.zero_shot()
    else:
        saved = checkpoint(out / f"{row.method}-{row.examples}", grid, row.steps)
        flags = [*grid.flags(row.method, row.examples), f"--ckpt_path={saved}"]
    folder = out / f"test-{row.method}-{row.examples}-{row.steps}"
    return evaluate(folder, [*flags, f"--run.name=table4-{row.label}", *extra])


def paper(row: Row) -> dict[str, str]:
    """The paper's cells of a row, {} where it has none."""
    for line in read_csv(PAPER):
        if (line["method"], int(line["examples"]), int(line["steps"])) == (row.method, row.examples, row.steps):
            return {k: v for k, v in line.items() if k not in ("method", "examples", "steps")}
    return {}


def table(rows: list[Row], results: list[dict], beside: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and cells. ``beside``: each cell is "measured (paper's)"."""
    names = list(results[0]["benchmarks"])
    heads = ["Method", "Steps", *(results[0]["benchmarks"][n]["title"] for n in names), "Avg."]
    sampled = "sampled_accuracy" in results[0]["benchmarks"][names[0]]["scores"]
    if sampled:
        heads.append("Avg. of samples")
    lines = []
    for row, result in zip(rows, results, strict=True):
        theirs = paper(row) if beside else {}
        cells = [100 * result["benchmarks"][n]["scores"]["accuracy"]["value"] for n in names]
        average = sum(cells) / len(cells)
        texts = [
            f"{value:.1f}" + (f" ({theirs[name]})" if name in theirs else "")
            for name, value in [*zip(names, cells, strict=True), ("average", average)]
        ]
        if sampled:
            values = [100 * result["benchmarks"][n]["scores"]["sampled_accuracy"]["value"] for n in names]
            texts.append(f"{sum(values) / len(values):.1f}")
        lines.append([row.label, str(row.steps), *texts])
    return heads, lines


def papers_table() -> str:
    lines = read_csv(PAPER)
    return markdown(list(lines[0]), [list(line.values()) for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", action="store_true", help="embedded models and task, on the CPU")
    parser.add_argument("--only", nargs="+", choices=["rlvr", "ovd"], default=["rlvr", "ovd"])
    parser.add_argument("--examples", nargs="+", type=int, choices=[1, 2], default=[1, 2])
    parser.add_argument("--steps", nargs="+", type=int, help="default: 300 500 600 800; --quickstart: 15 25 30 40")
    parser.add_argument("--out", type=Path, help="default: runs/table4 or runs/table4_quickstart")
    parser.add_argument("flags", nargs="*", help="behind --: further flags of every run")
    args = parser.parse_args()
    grid = Quickstart() if args.quickstart else Grid()
    steps = sorted(args.steps or grid.steps)
    out: Path = (args.out or ROOT / "runs" / ("table4_quickstart" if args.quickstart else "table4")).absolute()
    start = time.perf_counter()
    rows = [Row("zero_shot", 0, 0)]
    for examples in args.examples:
        for method in args.only:
            train(grid, method, examples, steps, out, args.flags)
            rows += [Row(method, examples, step) for step in steps]
    results = [test(grid, row, out, args.flags) for row in rows]
    heads, lines = table(rows, results, beside=not args.quickstart)
    text = markdown(heads, lines)
    if args.quickstart:
        text += "\nThe paper's, Qwen2.5-Math-1.5B on its ten benchmarks:\n\n" + papers_table()
    (out / "table4.md").write_text(text)
    records = [{"row": r.label, "steps": r.steps, **e} for r, e in zip(rows, results, strict=True)]
    (out / "table4.json").write_text(json.dumps(records, indent=1))
    write_csv(out / "table4.csv", heads, lines)
    print("\n" + text)
    print(f"{time.perf_counter() - start:.0f} s; {out}/table4.md, .csv, .json")


if __name__ == "__main__":
    main()
