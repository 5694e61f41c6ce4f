"""Train the tokenizer, student and teacher of ``configs/quickstart_tools.yaml`` from nothing, and measure them.

    python -m benchmarks.assets.tools --out DIR [--stages student teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher`` and ``DIR/README.md``; what ships in ``ovd_lightning/assets/tools`` is a copy.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from benchmarks.assets.command import parse, write_readme
from benchmarks.assets.tools.data import student_row, teacher_row
from benchmarks.assets.tools.evaluation import evaluate
from benchmarks.assets.tools.vocabulary import VOCABULARY
from benchmarks.assets.training import train_phases

STAGES = ("student", "teacher", "evaluate")
ROWS = (24, 192)
"""Rows and tokens of a packed batch."""
STUDENT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
}
TEACHER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}
STUDENT_PHASES = [(1800, 0.8, 0.4)]
"""(steps, how often a habit wins, when the learning rates start to fall)"""
TEACHER_PHASES = [(600, 0.4, 1.0), (600, 0.6, 1.0), (700, 0.65, 0.0), (600, 0.5, 0.0), (600, 0.4, 0.0)]
"""(steps, share of scoring prompts, when the learning rates start to fall)"""


def main() -> None:
    options = parse(__doc__, STAGES)
    out: Path = options.out
    train = functools.partial(
        train_phases, vocabulary=VOCABULARY, rows=ROWS, compiled=options.compile, resume=options.resume
    )
    if "student" in options.stages:
        train(out / "student", STUDENT, student_row, STUDENT_PHASES)
    if "teacher" in options.stages:
        train(out / "teacher", TEACHER, teacher_row, TEACHER_PHASES)
    if "evaluate" in options.stages:
        write_readme(out, Path(__file__).with_name("README.head.md"), evaluate(out))


if __name__ == "__main__":
    main()
