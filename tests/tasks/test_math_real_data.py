"""The real sets, where there is a copy of them: a folder in the common shape, named by OVD_BENCHMARK_DATA."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.tasks.math import MathBenchmark, MathTask
from ovd_lightning.tasks.math_benchmarks import ENTRIES, to_problem
from tests.tasks.test_math import ELLIPSE, LOCK

FOLDER = os.environ.get("OVD_BENCHMARK_DATA", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="name a folder with the sets (docs/benchmarks.md) in OVD_BENCHMARK_DATA"
)


def rows(name: str) -> list[dict[str, Any]]:
    path = Path(FOLDER) / f"{ENTRIES[name].file}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_row_of_the_file_is_a_problem(name: str) -> None:
    problems = MathBenchmark(name, folder=FOLDER).problems("test")
    assert len(problems) == ENTRIES[name].size
    for row, problem in zip(rows(name), problems, strict=True):
        assert problem.id == row["id"]
        assert list(problem.answers) == [answer.strip() for answer in row["answers"]]
        assert problem.question.startswith(row["question"].strip())


@pytest.mark.parametrize("name", ENTRIES)
def test_a_boxed_gold_is_correct(name: str) -> None:
    for grading, least in (("strict", 1.0), ("qwen", 0.95)):
        task = MathBenchmark(name, folder=FOLDER, grading=grading)  # type: ignore[arg-type]
        problems = task.problems("test")
        responses = [f"First this, then that.\n\nThe answer is \\boxed{{{p.answers[0]}}}." for p in problems]
        grades = task.grade_many(responses, problems)
        wrong = [(p.id, p.answers, g) for p, g in zip(problems, grades, strict=True) if not g.correct]
        assert len(wrong) <= (1 - least) * len(problems), (grading, wrong)


def as_the_reference_stores_it(name: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """The row's own fields, where the copy keeps enough to put them together again."""
    meta = row["meta"]
    if name == "tabmwp":
        return {**meta, "question": meta["bare_question"], "answer": meta["raw_answer"], "choices": row.get("choices")}
    if name == "asdiv":
        body, question = row["question"].split(" ", 1)
        return {"body": body, "question": question, "answer": meta["raw_answer"]}
    if name == "sat_math":
        return {"question": row["question"], "options": meta["options_raw"], "Answer": row["answers"][0]}
    if name == "mmlu_stem":
        return {"question": row["question"], "choices": row["choices"], "answer": "ABCD".index(row["answers"][0])}
    if name == "olympiadbench":
        return {"question": row["question"], "final_answer": meta["raw_final_answer"]}
    if name == "gaokao2024_mix":
        return {"question": row["question"], "answer": meta["raw_answer"], "choice_answer": meta["choice_answer"]}
    if name == "gaokao2023en" and not meta.get("repaired"):
        return {"question": row["question"], "answer": meta["raw_answer"]}
    return {"problem": row["question"], "answer": meta["raw_answer"]} if name == "aime24" else None


@pytest.mark.parametrize(
    "name", ["asdiv", "tabmwp", "sat_math", "mmlu_stem", "olympiadbench", "gaokao2024_mix", "gaokao2023en", "aime24"]
)
def test_rows_in_the_references_fields_mean_the_same(name: str) -> None:
    entry, same = ENTRIES[name], 0
    for number, row in enumerate(rows(name)):
        stored = as_the_reference_stores_it(name, row)
        if stored is not None:
            ours, theirs = to_problem(entry, stored, number), to_problem(entry, row, number)
            assert (ours.question, ours.answers) == (theirs.question, theirs.answers)
            assert ours.meta.get("choices") == theirs.meta.get("choices")
            same += 1
    assert same >= entry.size - 2


def grams(text: str, n: int) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_no_worked_example_is_out_of_a_test_set() -> None:
    """No eight words in a row are shared with any question."""
    shown = [d for entry in ENTRIES.values() for d in entry.demonstrations]
    questions = [row["question"] for name in ENTRIES for row in rows(name)]
    seen = {gram for question in questions for gram in grams(question, 8)}
    shared = {gram for d in shown for gram in grams(d.question, 8) & seen}
    assert not {gram for gram in shared if sum(len(word) > 1 for word in gram.split()) > 2}, "more than A 1 B 2 C 3"
    assert not {d.question for d in shown} & set(questions)


def test_the_two_examples_of_the_paper_are_in_the_training_pool() -> None:
    pool = f"{FOLDER}/train_dsr_sub.jsonl"
    problems = MathTask(pool, ids=["dsr_sub-1", "dsr_sub-289"]).problems("train")
    assert [p.meta["ovd_paper_example"] for p in problems] == [1, 2]
    assert [p.question for p in problems] == [LOCK, ELLIPSE]
    assert [p.answers[0] for p in problems] == ["124", "\\frac{2\\sqrt{462}}{5}"]
    assert len(MathTask(pool).problems("train")) == 1208


@pytest.mark.parametrize("tested", ["svamp", "gsm8k"])
def test_what_real_small_trains_on_is_not_tested_on(tested: str) -> None:
    def words(name: str) -> set[str]:
        return {re.sub(r"\W+", " ", p.question.lower()).strip() for p in MathBenchmark(name, FOLDER).problems("test")}

    assert not words(tested) & (words("asdiv") | words("mawps"))
