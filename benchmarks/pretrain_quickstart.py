"""Make the quickstart's tokenizer, student and teacher from nothing, and measure them.

    python benchmarks/pretrain_quickstart.py --out DIR [--stages tokenizer student second unseen teacher evaluate]

Writes ``DIR/student``, ``DIR/teacher``, ``DIR/second_student`` (for comparisons over initial students),
``DIR/unseen_student`` (only for the evaluation) and ``DIR/README.md``. What ships in ``ovd_lightning/assets`` is a copy
of all but the unseen student.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import torch
from transformers import Qwen2ForCausalLM

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pretrain.data import student_row, teacher_row
from benchmarks.pretrain.evaluation import accuracy, sample_chains, score_report
from benchmarks.pretrain.training import STUDENT, TEACHER, load, new_model, save_checkpoint, train
from benchmarks.pretrain.vocabulary import save_tokenizer
from ovd_lightning.tasks.arithmetic import ArithmeticTask

STAGES = ("tokenizer", "student", "second", "unseen", "teacher", "evaluate")
STUDENT_PHASES = [(1300, 0.7), (200, 0.9)]
"""(steps, how often a misconception wins); the second phase makes the greedy mistakes firm."""
SECOND_PHASES = [(1300, 0.5), (200, 0.6)]
"""Another seed, and less sure of its mistakes: it samples the right way more often than its greedy answers tell."""
UNSEEN_PHASES = [(250, 0.5)]
"""Another seed, stopped early: many of its mistakes are its own and not planted ones."""
TEACHER_PHASES = [(1000, 0.5, 1.0), (1180, 0.6, 0.0)]
"""(steps, share of scoring prompts, when the rates start to fall): steady at first, then falling to zero."""


def train_student(out: Path, seed: int, phases: list[tuple[int, float]], compiled: bool) -> None:
    started = time.monotonic()
    model = new_model(STUDENT, seed)
    for phase, (steps, rate) in enumerate(phases):
        make_row = functools.partial(student_row, rate=rate)
        train(model, make_row, steps=steps, seed=seed + phase, compiled=compiled)
    save_checkpoint(model, out, facts(model, sum(steps for steps, _ in phases), started, seed))


def train_teacher(out: Path, seed: int, compiled: bool) -> None:
    started = time.monotonic()
    model = new_model(TEACHER, seed)
    task = ArithmeticTask()
    problems = list(task.problems("validation"))[:128]
    before = 0

    def report(step: int) -> None:
        print(f"step {before + step} greedy {accuracy(model, task, problems, 0.0):.3f}", flush=True)
        save_checkpoint(model, out, facts(model, before + step, started, seed))

    for phase, (steps, scoring, decay_from) in enumerate(TEACHER_PHASES):
        make_row = functools.partial(teacher_row, scoring=scoring)
        train(
            model,
            make_row,
            steps=steps,
            seed=seed + 100 + phase,
            decay_from=decay_from,
            report=report,
            compiled=compiled,
        )
        before += steps
    save_checkpoint(model, out, facts(model, before, started, seed))


def facts(model: Qwen2ForCausalLM, steps: int, started: float, seed: int) -> dict[str, object]:
    minutes = round((time.monotonic() - started) / 60, 1)
    return {"seed": seed, "steps": steps, "minutes": minutes, "parameters": model.num_parameters()}


def evaluate(out: Path) -> str:
    """The README: sizes, accuracies on held-out problems, and the teacher as a scorer."""
    task = ArithmeticTask()
    validation, test = task.problems("validation"), task.problems("test")
    lines = [
        "| | parameters | MB (float16) | steps | minutes | validation: greedy | T = 1 | test: greedy | T = 1 |",
        "| --- " * 9 + "|",
    ]
    for name in ("student", "second_student", "teacher", "unseen_student"):
        if not (out / name).exists():
            continue
        model = load(out / name)
        made = json.loads((out / name / "pretraining.json").read_text())
        size = (out / name / "model.safetensors").stat().st_size / 1e6
        numbers = [f"{accuracy(model, task, p, t):.1%}" for p in (validation, test) for t in (0.0, 1.0)]
        lines.append(
            f"| {name.replace('_', ' ')} | {model.num_parameters():,} | {size:.2f} | {made['steps']} | "
            f"{made['minutes']} | {' | '.join(numbers)} |"
        )
    lines += ["", "The unseen student only serves the evaluation of the scorer and does not ship.", ""]
    lines += ["## The teacher as a scorer", ""]
    teacher = load(out / "teacher")
    for name, title in (
        ("student", "Chains of the shipped student, test problems, T = 1"),
        ("unseen_student", "Chains of another student, differently seeded and stopped early, test problems, T = 1"),
    ):
        if (out / name).exists():
            lines += score_report(teacher, sample_chains(load(out / name), task, test, seed=0), title)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile for the teacher; needs a C++ compiler")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if "tokenizer" in options.stages:
        save_tokenizer(out / "tokenizer")
    if "student" in options.stages:
        train_student(out / "student", 0, STUDENT_PHASES, compiled=False)
    if "second" in options.stages:
        train_student(out / "second_student", 1, SECOND_PHASES, compiled=False)
    if "unseen" in options.stages:
        train_student(out / "unseen_student", 50, UNSEEN_PHASES, compiled=False)
    if "teacher" in options.stages:
        train_teacher(out / "teacher", 0, compiled=options.compile)
    if "evaluate" in options.stages:
        report = evaluate(out)
        print(report)
        header = (Path(__file__).parent / "pretrain" / "README.head.md").read_text()
        (out / "README.md").write_text(f"{header}\n{report}")


if __name__ == "__main__":
    main()
