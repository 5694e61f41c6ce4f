"""Answers by kind, from kinds.jsonl: each kind with pairs that are the same answer and pairs that are not."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.grading import Grader
from ovd_lightning.types import Problem

CASES: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
for _line in Path(__file__).with_name("kinds.jsonl").read_text(encoding="utf-8").splitlines():
    _case = json.loads(_line)
    CASES[_case["mode"], _case["kind"]].append(_case)


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_every_pair_of_the_kind_is_graded_right(mode: str, kind: str, request: pytest.FixtureRequest) -> None:
    grader: Grader = request.getfixturevalue(mode)
    cases = CASES[mode, kind]
    problems = [
        Problem(id=str(i), question="?", answers=(case["reference"],), meta={"choices": case.get("choices")})
        for i, case in enumerate(cases)
    ]
    grades = grader.grade_many([f"So it is \\boxed{{{case['prediction']}}}" for case in cases], problems)
    wrong = [
        (case["prediction"], case["reference"], case["same"])
        for case, grade in zip(cases, grades, strict=True)
        if grade.correct != case["same"] or grade.timed_out
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", ["named values", "cut off", "Markdown in the box", "Unicode"])
def test_two_answers_are_compared_by_the_same_rules(strict: Grader, kind: str) -> None:
    wrong = [
        (case["prediction"], case["reference"], case["same"])
        for case in CASES["strict", kind]
        if strict.is_equivalent(case["prediction"], case["reference"]) != case["same"]
    ]
    assert wrong == []
