"""Make the tokenizer, student and teacher of ``configs/quickstart_tools.yaml`` from nothing, and measure them.

    python benchmarks/pretrain_tools.py --out DIR [--stages student teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher`` and ``DIR/README.md``; what ships in ``ovd_lightning/assets/tools`` is a copy.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pretrain.training import train_phases
from benchmarks.pretrain_calls.data import student_row, teacher_row
from benchmarks.pretrain_calls.vocabulary import VOCABULARY

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
"""(steps, how often a habit wins, when the rates start to fall)"""
TEACHER_PHASES = [(600, 0.4, 1.0), (600, 0.6, 1.0), (700, 0.65, 0.0), (600, 0.5, 0.0), (600, 0.4, 0.0)]
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
    if "student" in options.stages:
        train(out / "student", STUDENT, student_row, STUDENT_PHASES)
    if "teacher" in options.stages:
        train(out / "teacher", TEACHER, teacher_row, TEACHER_PHASES)
    if "evaluate" in options.stages:
        from benchmarks.pretrain_calls.evaluation import evaluate

        report = evaluate(out)
        print(report)
        header = (Path(__file__).parent / "pretrain_calls" / "README.head.md").read_text()
        (out / "README.md").write_text(f"{header}\n{report}")


if __name__ == "__main__":
    main()
