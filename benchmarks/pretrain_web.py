"""Make the tokenizer, student and teacher of ``configs/quickstart_web.yaml`` from nothing, and measure them.

    python benchmarks/pretrain_web.py --out DIR [--stages corpus student teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher``, ``DIR/corpus.jsonl`` and ``DIR/README.md``; what ships in
``ovd_lightning/assets/web`` is a copy.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pretrain.training import train_phases
from benchmarks.pretrain_search.data import libraries, student_row, teacher_row
from benchmarks.pretrain_search.models import STUDENT, TEACHER
from benchmarks.pretrain_search.vocabulary import VOCABULARY
from ovd_lightning.tasks.small_world import World, write_corpus

STAGES = ("corpus", "student", "teacher", "evaluate")
WORLDS, FIRST_WORLD = 60, 1000
"""How many worlds are trained on, and the seed of the first; the task's own is 0."""
ROWS = (24, 192)
"""Rows and tokens of a packed batch."""
STUDENT_PHASES = [(900, 0.8)]
"""(steps, how often a habit wins)"""
TEACHER_PHASES = [(350, 0.4, 1.0), (850, 0.6, 0.2), (900, 0.7, 0.1)]
"""(steps, share of scoring prompts, when the rates start to fall)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--resume", action="store_true", help="go on with what DIR has, at the next phase")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    train = functools.partial(
        train_phases, vocabulary=VOCABULARY, rows=ROWS, compiled=options.compile, resume=options.resume
    )
    if "corpus" in options.stages:
        write_corpus(World(0), out / "corpus.jsonl")
    if "student" in options.stages:
        make_row = functools.partial(student_row, libraries(WORLDS, FIRST_WORLD))
        train(out / "student", STUDENT, make_row, [(steps, rate, 0.5) for steps, rate in STUDENT_PHASES])
    if "teacher" in options.stages:
        train(out / "teacher", TEACHER, functools.partial(teacher_row, libraries(WORLDS, FIRST_WORLD)), TEACHER_PHASES)
    if "evaluate" in options.stages:
        from benchmarks.pretrain_search.evaluation import evaluate

        report = evaluate(out)
        print(report)
        header = (Path(__file__).parent / "pretrain_search" / "README.head.md").read_text()
        (out / "README.md").write_text(f"{header}\n{report}")


if __name__ == "__main__":
    main()
