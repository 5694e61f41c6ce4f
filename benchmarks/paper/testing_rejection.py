"""Testing rejection on the embedded models (section 4.3, Table 3): accuracy and the teacher's share by theta_test.

    python -m benchmarks.paper.testing_rejection
    python -m benchmarks.paper.testing_rejection --student runs/quickstart/<time>/student --split test --problems 512

A row is one setting, averaged over seeds of the teacher's sampling; the student is greedy. Seconds are for the engines
only, without loading. Responses of the teacher are not cached between rows, but the engines' prefix caches stay warm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from benchmarks import ROOT
from ovd_lightning.engines.base import Engine, Sampling
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.evaluation.rejection import TestingRejection
from ovd_lightning.judges.scale import ScoreReading
from ovd_lightning.seeds import seed_of
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tokens import encode_prompt

ASSETS = ROOT / "ovd_lightning" / "assets"
SETTINGS: list[tuple[float, ScoreReading]] = [
    (0, "argmax"), (5, "argmax"), (7, "argmax"), (10, "argmax"), (5, "sample"), (7, "sample"), (5, "mean"), (7, "mean"),
]  # fmt: skip
NAMES = {"argmax": "", "sample": " †", "mean": ", mean score"}


def load(kind: str, model: str) -> Engine:
    engine: Engine
    if kind == "hf":
        from ovd_lightning.engines.hf import HFEngine

        engine = HFEngine(model)
    else:
        from ovd_lightning.engines.vllm import VLLMEngine

        engine = VLLMEngine(model, kv_cache_memory_bytes=64 << 20)
    engine.start()
    return engine


def measure(
    rejection: TestingRejection, engine: Engine, teacher: VerbalTeacher, task: ArithmeticTask, args: Any, seed: int
) -> dict[str, float]:
    problems = list(task.problems(args.split))[: args.problems]
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    prompts = [encode_prompt(task.prompt(p), tokenizer, chat=False) for p in problems]
    teacher.cache = AnswerCache()
    start = time.perf_counter()
    answers = rejection.generate(
        engine, teacher, task, problems, prompts, Sampling(max_tokens=args.max_tokens, temperature=0.0),
        [seed_of(seed, p.id) for p in problems],
    )  # fmt: skip
    seconds = time.perf_counter() - start
    grades = task.grade_many([a.written for a in answers], problems)
    steps = [step for a in answers for step in a.steps]
    tokens = sum(a.completion_tokens for a in answers)
    return {
        "accuracy": statistics.mean(g.correct for g in grades),
        "teacher_steps": sum(s.source == "teacher" for s in steps) / len(steps),
        "teacher_tokens": sum(s.tokens for s in steps if s.source == "teacher") / tokens,
        "wasted": sum(a.wasted_tokens for a in answers) / tokens,
        "truncated": statistics.mean(a.truncated for a in answers),
        "troubles": sum(a.unscored_steps + a.failed_rewrites + a.unchecked_steps for a in answers),
        "seconds": seconds,
    }


def row(name: str, runs: list[dict[str, float]]) -> str:
    mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
    accuracies = [100 * run["accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(runs) > 1 else ""
    cells = [
        name,
        f"{statistics.mean(accuracies):.1f}{spread}",
        f"{mean['teacher_steps']:.1%}",
        f"{mean['teacher_tokens']:.1%}",
        f"{mean['wasted']:.2f}",
        f"{mean['truncated']:.1%}",
        f"{mean['troubles']:.0f}",
        f"{mean['seconds']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = """
| θ_test | accuracy % | teacher's steps | teacher's tokens | tokens drafted in vain for one kept | truncated | \
steps unscored, unchecked or not rewritten | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default=str(ASSETS / "student"))
    parser.add_argument("--teacher", default=str(ASSETS / "teacher"))
    parser.add_argument("--engine", choices=["vllm", "hf"], default="vllm")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    task = ArithmeticTask(validation_size=args.problems, test_size=args.problems)
    engine = load(args.engine, args.student)
    teacher = VerbalTeacher(load(args.engine, args.teacher))
    measure(TestingRejection(7), engine, teacher, task, args, seed=-1)  # warm up
    print(f"{args.problems} {args.split} problems, {len(args.seeds)} seeds, {args.engine}, student {args.student}")
    print(HEAD)
    for threshold, reading in SETTINGS:
        rejection = TestingRejection(threshold, reading)
        rejection.check(teacher)
        runs = [measure(rejection, engine, teacher, task, args, seed) for seed in args.seeds]
        print(row(f"{threshold:g}{NAMES[reading]}", runs), flush=True)


if __name__ == "__main__":
    main()
