"""What runs in the training process: any text, for any kind of problem, in either mode."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ovd_lightning.grading import Grader, Mode
from ovd_lightning.types import Problem
from ovd_lightning.workers.pool import Pool

SILENT = "import sys; print('{\"ready\": 1}', flush=True); [print('{}', flush=True) for line in sys.stdin]"
PIECES = [
    *"0123456789abxABCπ²③①（），。：；元选 \n\t{}()[]<>=+-*/^_,.;:|!%$&~'\"\\",
    *(
        r"\frac \text{ \mathrm{ \boxed{ \left( \right) \{ \} \sqrt \infty \in \pm {,} \, \! 10^{ p.m. 12:30 1/2 \\"
    ).split(),
    *(" and ", " or ", "answer is", "答案是", "\x00", "\ud800", "x=", "C="),
]
REFERENCES = [
    "5", r"\frac{1}{2}", "A", "ACD", "(1)(3)", "3:30 p.m.", r"\{1,2\}", "(1,2]", "5 cm", r"20\%", "They are equal",
    "52_8", "x<1 or x>2", "1:2:3", "24;112", "f(x)=x$, $g(x)=1", "yes", "-",
]  # fmt: skip
METAS: list[dict[str, Any]] = [
    {},
    {"choices": ["yes", "no"]},
    {"choices": ["1", "\\frac12", "x", "A"]},
    {"unit": "km/h", "error": "bad"},
    {"unit": "$", "tolerance": 0.1},
]


@pytest.fixture(scope="module", params=["strict", "qwen"])
def parent(request: pytest.FixtureRequest) -> Iterator[Grader]:
    """A grader whose worker decides nothing."""
    mode: Mode = request.param
    with Grader(mode, workers=1) as grader:
        grader.pool = Pool([sys.executable, "-c", SILENT], size=1, timeout_s=10)
        yield grader
        grader.pool.close()


@pytest.mark.parametrize("seed", range(3))
def test_no_text_makes_the_parent_fail_or_linger(parent: Grader, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(700):
        text = "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 3, 8, 20, 60])))
        response = rng.choice(["\\boxed{%s}", "%s", "The answer is %s."]) % text
        problem = Problem(id="x", question="?", answers=(rng.choice(REFERENCES),), meta=rng.choice(METAS))
        start = time.process_time()
        grade = parent.grade(response, problem)
        parent.is_equivalent(response, problem.answers[0])
        assert time.process_time() - start < 0.5
        assert not grade.timed_out


@pytest.mark.parametrize(
    "unit", ["(", "{", "[", "\\{", "\\text{", "1,", "1 and ", "a ", "\\frac", "x=", "\\sqrt{", "(1)", "A, ", "12:"]
)
def test_long_boxes_are_decided_quickly(parent: Grader, unit: str) -> None:
    for length in (3_000, 100_000):
        response = f"\\boxed{{{unit * (length // len(unit))}}}"
        for reference in REFERENCES:
            start = time.process_time()
            grade = parent.grade(response, Problem(id="x", question="?", answers=(reference,)))
            assert time.process_time() - start < 1.0
            assert not grade.correct or reference == "A"
