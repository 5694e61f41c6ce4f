"""Train the tokenizer, student and teacher of ``configs/quickstart_web.yaml`` from nothing, and measure them.

    python -m benchmarks.assets.web --out DIR [--stages corpus student teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher``, ``DIR/corpus.jsonl`` and ``DIR/README.md``; what ships in
``ovd_lightning/assets/web`` is a copy.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from benchmarks.assets.command import parse, write_readme
from benchmarks.assets.training import train_phases
from benchmarks.assets.web.data import libraries, student_row, teacher_row
from benchmarks.assets.web.evaluation import evaluate
from benchmarks.assets.web.vocabulary import VOCABULARY
from ovd_lightning.tasks.small_world import World, write_corpus

STAGES = ("corpus", "student", "teacher", "evaluate")
WORLDS, FIRST_WORLD = 60, 1000
"""How many worlds are trained on, and the seed of the first; the task's own is 0."""
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
    "intermediate_size": 352,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}
STUDENT_PHASES = [(900, 0.8, 0.5)]
"""(steps, how often a habit wins, when the learning rates start to fall)"""
TEACHER_PHASES = [(350, 0.4, 1.0), (850, 0.6, 0.2), (900, 0.7, 0.1)]
"""(steps, share of scoring prompts, when the learning rates start to fall)"""


def main() -> None:
    options = parse(__doc__, STAGES)
    out: Path = options.out
    train = functools.partial(
        train_phases, vocabulary=VOCABULARY, rows=ROWS, compiled=options.compile, resume=options.resume
    )
    if "corpus" in options.stages:
        write_corpus(World(0), out / "corpus.jsonl")
    if "student" in options.stages:
        row = functools.partial(student_row, libraries(WORLDS, FIRST_WORLD))
        train(out / "student", STUDENT, row, STUDENT_PHASES)
    if "teacher" in options.stages:
        row = functools.partial(teacher_row, libraries(WORLDS, FIRST_WORLD))
        train(out / "teacher", TEACHER, row, TEACHER_PHASES)
    if "evaluate" in options.stages:
        write_readme(out, Path(__file__).with_name("README.head.md"), evaluate(out))


if __name__ == "__main__":
    main()
