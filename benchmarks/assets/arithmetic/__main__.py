"""Train the tokenizer, student and teacher of ``configs/quickstart.yaml`` from nothing, and measure them.

    python -m benchmarks.assets.arithmetic --out DIR [--stages tokenizer student second unseen teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher``, ``DIR/second_student`` (for comparisons over initial students),
``DIR/unseen_student`` (only for the evaluation) and ``DIR/README.md``. What ships in ``ovd_lightning/assets`` is a copy
of all but the unseen student.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.assets.arithmetic.data import student_row, teacher_row
from benchmarks.assets.arithmetic.evaluation import evaluate
from benchmarks.assets.command import parse, write_readme
from benchmarks.assets.training import train_phases
from benchmarks.assets.vocabulary import ARITHMETIC, save_tokenizer

STAGES = ("tokenizer", "student", "second", "unseen", "teacher", "evaluate")
ROWS = (44, 96)
"""Rows and tokens of a packed batch."""
STUDENT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
}
TEACHER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
}
Phases = Sequence[tuple[int, float, float]]
"""(steps; how often a misconception wins, or the share of scoring prompts; when the learning rates start to fall)"""
STUDENTS: dict[str, tuple[str, int, Phases]] = {
    # The second phase makes the greedy mistakes firm.
    "student": ("student", 0, [(1300, 0.7, 0.6), (200, 0.9, 0.6)]),
    # Less sure of its mistakes: it samples the right way more often than its greedy answers suggest.
    "second": ("second_student", 1, [(1300, 0.5, 0.6), (200, 0.6, 0.6)]),
    # Stopped early: many of its mistakes are its own, not planted ones.
    "unseen": ("unseen_student", 50, [(250, 0.5, 0.6)]),
}
"""Stage -> (folder, seed, phases)"""
TEACHER_PHASES: Phases = [(1000, 0.5, 1.0), (1180, 0.6, 0.0)]


def main() -> None:
    options = parse(__doc__, STAGES)
    out: Path = options.out
    train = functools.partial(train_phases, vocabulary=ARITHMETIC, rows=ROWS, resume=options.resume)
    if "tokenizer" in options.stages:
        save_tokenizer(out / "tokenizer")
    for stage, (folder, seed, phases) in STUDENTS.items():
        if stage in options.stages:
            train(out / folder, STUDENT, student_row, phases, seed=seed)
    if "teacher" in options.stages:
        train(out / "teacher", TEACHER, teacher_row, TEACHER_PHASES, first_batch=100, compiled=options.compile)
    if "evaluate" in options.stages:
        write_readme(out, Path(__file__).with_name("README.head.md"), evaluate(out))


if __name__ == "__main__":
    main()
