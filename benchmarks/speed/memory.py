"""The paper's memory claims (eq. 1, Table 1, Figures 1 and 2), recomputed, beside what is measured.

    python -m benchmarks.speed.memory                          # every table, about 3 minutes of one core
    python -m benchmarks.speed.memory --figures docs/figures   # ... and both figures
    python -m benchmarks.speed.memory --quick                  # small sizes, seconds
    python -m benchmarks.speed.memory --device cuda --tokens 512 2048 8192 --limit 40    # not tried: no GPU was at hand

Two quantities are separated: the teacher's signal, which is stored or sent for each trajectory, and the peak of a
training step, for which OVD, OPD and GKD get the same trajectories, the same student and the package's own code paths.
"Chunks" is what the package does; "whole logits" is `model(input_ids).logits`, which it never does. The models are
tiny, so that the vocabulary dominates the peaks. Peaks are in float32, beyond weights, gradients and optimiser state.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.paper.claims import not_derivable_table, numbers, numbers_table, statements
from benchmarks.paper.finding import table
from benchmarks.speed.allocator import keep_freed_memory
from benchmarks.speed.footprint import draw, tables
from benchmarks.speed.footprint.measure import AT_MOST, FORMS, Cell, Measurement, copies, measure
from benchmarks.speed.footprint.tables import ROLLOUT_FORMS, Results
from ovd_lightning.dry_run.shape import SINGLE

PROMPT = 16
"""Tokens of a prompt, at most."""
CHUNKED = tuple(f for f in FORMS if not f.naive)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    lengths: list[Cell]
    """Figure 1: every form."""
    rollouts: list[Cell]
    """Figure 2: `ROLLOUT_FORMS`."""
    chunks: list[Cell]
    """The chunked forms at another chunk, for the copies of a chunk."""


DEFAULT = Plan(
    lengths=[
        *(Cell(vocabulary=32_000, tokens=t) for t in (128, 512, 2048)),
        *(Cell(vocabulary=152_064, tokens=t) for t in (128, 512, 1024)),
    ],
    rollouts=[Cell(vocabulary=32_000, tokens=256, rows=n) for n in (1, 2, 4, 8)],
    chunks=[Cell(vocabulary=152_064, tokens=128, chunk=64)],
)
QUICK = Plan(
    lengths=[Cell(vocabulary=8_000, tokens=t, chunk=64) for t in (64, 256)],
    rollouts=[Cell(vocabulary=8_000, tokens=64, rows=n, chunk=64) for n in (1, 4)],
    chunks=[Cell(vocabulary=8_000, tokens=64, chunk=32)],
)


def by_length(plan: Plan, vocabularies: Sequence[int], lengths: Sequence[int]) -> Plan:
    """The plan with other sizes in Figure 1's part."""
    chunk = plan.lengths[0].chunk
    return Plan(
        lengths=[Cell(vocabulary=v, tokens=t, chunk=chunk) for v in vocabularies for t in lengths],
        rollouts=plan.rollouts,
        chunks=[Cell(vocabulary=max(vocabularies), tokens=min(lengths), chunk=chunk // 2)],
    )


def why_not(plan: Plan, limit: float) -> str | None:
    """What keeps the plan from being measured; None: nothing does."""
    words = max(c.vocabulary for c in plan.lengths)
    lengths = sorted({c.tokens for c in plan.lengths if c.vocabulary == words})
    if len(lengths) < 2:
        return "--tokens: growth needs two lengths or more."
    if lengths[0] <= 2 * plan.lengths[0].steps:
        return f"--tokens: {plan.lengths[0].steps} steps need more than {lengths[0]} tokens."
    if min(c.vocabulary for c in plan.lengths) < 32:
        return "--vocabulary: trajectories are written with 32 tokens."
    need = AT_MOST["GKD"] * plan.lengths[0].rows * (lengths[1] + PROMPT) * words * SINGLE
    if need > limit:
        return (
            f"--limit: whole logits of the two shortest lengths need {need / 2**30:.1f} GiB with V = {words:,}; raise "
            "it, or give smaller --tokens."
        )
    return None


def measured(plan: Plan, limit: float, device: str) -> Results:
    """Progress goes to the standard error."""

    def tell(m: Measurement) -> None:
        print(f"V {m.cell.vocabulary:,}, {m.cell.rows} x {m.cell.tokens}: {m.form.name}", file=sys.stderr, flush=True)

    lengths = measure(plan.lengths, FORMS, limit, device, tell)
    rollouts = measure(plan.rollouts, ROLLOUT_FORMS, limit, device, tell)
    again = measure(plan.chunks, CHUNKED, limit, device, tell)
    same = plan.chunks[0].vocabulary
    return Results(lengths, rollouts, copies([*(m for m in lengths if m.cell.vocabulary == same), *again]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: V = 8,000")
    parser.add_argument("--vocabulary", type=int, nargs="+", help="V of the steps by length")
    parser.add_argument("--tokens", type=int, nargs="+", help="T of the steps by length, two or more")
    parser.add_argument(
        "--limit", type=float, default=7.0, help="GiB above which whole logits are not tried (%(default)s)"
    )
    parser.add_argument("--figures", type=Path, help="folder for both figures as SVG; needs matplotlib")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, which has not been tried")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else DEFAULT
    if arguments.vocabulary or arguments.tokens:
        words = arguments.vocabulary or sorted({c.vocabulary for c in plan.lengths})
        plan = by_length(plan, words, arguments.tokens or sorted({c.tokens for c in plan.lengths}))
    if problem := why_not(plan, arguments.limit * 2**30):
        parser.error(problem)
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.perf_counter()
    results = measured(plan, arguments.limit * 2**30, arguments.device)
    largest = max((m.cell for m in results.lengths), key=lambda c: (c.vocabulary, c.tokens))
    for title, text in {
        "The paper's numbers": numbers_table(numbers()),
        "What the paper says without a number": table(statements()),
        "What cannot be recomputed": not_derivable_table(),
        "The teacher's signal of one trajectory, L = 8,192, V = 152,064, K = 10": tables.signals_table(),
        "... and as it really was": tables.measured_signals(largest, results.lengths),
        "Steps, by length": tables.measured_table(results.lengths),
        "Steps, by number of trajectories": tables.measured_table(results.rollouts),
        "Copies": tables.copies_table(results.copies),
        "What the paper says of a step": table(tables.measured_statements(results)),
        "At the paper's size (configs/math.yaml on one GPU), computed": tables.scale_table(results.copies),
    }.items():
        print(f"## {title}\n\n{text}\n")
    if arguments.figures is not None:
        draw.figure_1(results.lengths, results.copies, arguments.figures / "memory_1_length.svg")
        draw.figure_2(results.rollouts, results.copies, arguments.figures / "memory_2_rollouts.svg")
    print(f"{time.perf_counter() - start:.0f} s, {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
