"""Grading of mathematical answers: throughput, and the cost of the worker processes, on generated answers.

    python -m benchmarks.speed.grading

Printed as Markdown, as docs/grading.md has it. `benchmarks.paper.grading_parity` compares verdicts with other graders'.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from ovd_lightning.grading import Grader
from ovd_lightning.grading.grader import default_workers
from ovd_lightning.types import Problem


def generated(kind: str, count: int, seed: int = 0) -> tuple[list[str], list[Problem]]:
    """Responses and problems; ``numbers`` need no worker, ``expressions`` all do, half of each are wrong."""
    rng = random.Random(f"{kind}/{seed}")
    responses, problems = [], []
    for i in range(count):
        a, b, c = (rng.randint(2, 99) for _ in range(3))
        wrong = rng.random() < 0.5
        if kind == "numbers":
            answer, reference = str(a * b + wrong), str(a * b)
        else:
            answer, reference = rng.choice([
                (f"{a}\\sqrt{{{b}}}+{c + wrong}", f"{c}+{a}\\sqrt{{{b}}}"),
                (f"({a}x+{b})(x+{c + wrong})", f"{a}x^2+{a * c + b}x+{b * c}"),
                (f"\\left[{a},\\infty\\right)\\cup\\{{{wrong + 0}\\}}", f"\\{{0\\}}\\cup[{a},\\infty)"),
                (f"\\frac{{{a}\\pi}}{{{b + wrong}}}", f"\\frac{{{a}}}{{{b}}}\\pi"),
            ])  # fmt: skip
        responses.append(f"Step by step. The answer is $\\boxed{{{answer}}}$.")
        problems.append(Problem(id=str(i), question="?", answers=(reference,)))
    return responses, problems


def rate(grade_many: Callable[[list[str], list[Problem]], Any], kind: str, count: int, pids: Sequence[int] = ()) -> str:
    """Grades a second, the best of three times because other processes can only slow one down; and milliseconds of
    processor time a grade, of this process and the workers, which others hardly touch."""
    best, processor = 0.0, math.inf
    for seed in range(3):
        responses, problems = generated(kind, count, seed)
        used, start = processor_time(pids), time.perf_counter()
        grade_many(responses, problems)
        best = max(best, count / (time.perf_counter() - start))
        processor = min(processor, 1000 * (processor_time(pids) - used) / count)
    return f"{best:,.0f} | {processor:.2f}"


def processor_time(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *pids)]
    return sum(t.user + t.system for t in times)


def in_process(responses: list[str], problems: list[Problem]) -> list[bool]:
    """The same comparison without a process around it, for the cost of the pool alone. Not safe, so not offered."""
    from ovd_lightning.grading import extract, symbolic

    symbolic.disarm()
    pairs = ((extract.last_box(r) or "", p.answers[0]) for r, p in zip(responses, problems, strict=True))
    return [symbolic.equivalent(answer, reference) for answer, reference in pairs]


def throughput(count: int) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}; {default_workers()} workers by default\n")
    print("| answers | how | grades a second | ms of processor time a grade |\n| --- | --- | --- | --- |")
    with Grader(workers=1) as grader:
        print(f"| plain numbers | no worker needed | {rate(grader.grade_many, 'numbers', 10 * count)} |")
    for workers in (1, 2):
        with Grader(workers=workers) as grader:
            grader.grade_many(*generated("expressions", 8 * workers, seed=9))  # started and warm
            speed = rate(grader.grade_many, "expressions", count, grader.pool.pids)
            print(f"| expressions | {workers} worker(s) | {speed} |", flush=True)
    in_process(*generated("expressions", 8, seed=9))
    print(f"| expressions | in process, for comparison | {rate(in_process, 'expressions', count)} |")

    echo = [("1", Problem(id="x", question="?", answers=("2",)))]
    starts, kills, trips = [], [], []
    for _ in range(5):
        with Grader(workers=1) as grader:
            start = time.perf_counter()
            grader.is_equivalent("x+y", "y+x")
            starts.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(50):
                grader.is_equivalent("x+y", "y+x")
            trips.append((time.perf_counter() - start) / 50)
    hostile, limit = "\\boxed{9^{9^{9^{9}}}}", 0.5
    for _ in range(3):
        with Grader(workers=1, timeout_s=limit) as grader:
            grader.is_equivalent("x+y", "y+x")
            start = time.perf_counter()
            assert grader.grade(hostile, echo[0][1]).timed_out
            stopped = time.perf_counter() - start - limit
            grader.is_equivalent("x+y", "y+x")
            kills.append((stopped, time.perf_counter() - start - limit))
    print("\n| cost, least of several | milliseconds |\n| --- | --- |")
    print(f"| start of a worker and its first answer | {1000 * min(starts):.0f} |")
    print(f"| one small expression, there and back | {1000 * min(trips):.2f} |")
    print(f"| kill, beyond the time limit | {1000 * min(k[0] for k in kills):.1f} |")
    print(f"| kill and the next answer, with one worker only | {1000 * min(k[1] for k in kills):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="generated expressions (%(default)s)")
    throughput(parser.parse_args().count)


if __name__ == "__main__":
    main()
