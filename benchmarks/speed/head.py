"""The loss head alone: naive, this project's, TRL's; forward and backward of a micro-batch.

python -m benchmarks.speed head
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.speed.report import Section
from benchmarks.speed.rounds.drive import Side, interleave, middle
from benchmarks.speed.rounds.environment import DEFAULT, install


def main(
    vocabularies: list[int] = [32_000, 151_936],  # noqa: B006 -- jsonargparse reads it
    tokens: int = 2048,
    width: int = 512,
    rounds: int = 5,
    threads: int = 2,
    trl: bool = True,
    environment: Path = DEFAULT,
) -> Section:
    """The loss head: naive, this project's, TRL's.

    Args:
        vocabularies: sizes; 151,936 is Qwen2.5's.
        tokens: trained tokens of a micro-batch.
        width: of the hidden states.
        rounds: measured passes of each form.
        threads: OpenMP threads.
        trl: TRL's too, which is installed if need be.
        environment: folder of TRL's own environment.
    """
    forms = {"naive": sys.executable, "this project": sys.executable}
    if trl:
        forms["TRL"] = str(install(environment))
    rows = []
    for vocabulary in vocabularies:
        sizes = [str(vocabulary), str(tokens), str(width)]
        worker = ["-m", "benchmarks.speed.rounds.one_head"]
        sides = [Side(name=form, command=[python, *worker, form, *sizes]) for form, python in forms.items()]
        costs = interleave(sides, rounds, 1, threads)
        for form, of in costs.items():
            cpu, wall, peak = (middle(of, name) for name in ("cpu", "wall", "peak_mib"))
            rows.append([f"{vocabulary:,}", form, f"{cpu:.2f}", f"{wall:.2f}", f"{peak:,.0f}"])
        rows.append([f"{vocabulary:,}", "Liger", "not here", "not here", "not here"])
    header = ["vocabulary", "form", "CPU s", "wall s", "peak MiB"]
    notes = [
        f"{tokens:,} tokens of width {width}, medians of {rounds}, {threads} threads. The peak is of what a pass "
        "allocates, beyond weights and gradients. Liger's kernels need CUDA."
    ]
    return Section(header, rows, notes)
