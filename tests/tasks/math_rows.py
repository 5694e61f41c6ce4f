"""Rows of every test set, written by hand: in the fields of the reference evaluation, and in the common shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ovd_lightning.tasks.math_benchmarks import ENTRIES, Entry


class Example(NamedTuple):
    """A row as the reference evaluation stores it, and what it means."""

    row: dict[str, Any]
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


GAOKAO_QUESTION = "下列各数中最大的是 ( )\nA. $2$\nB. $3$\nC. $5$\nD. $7$"

EXAMPLES: dict[str, Example] = {
    "svamp": Example(
        {
            "ID": "chal-0",
            "Body": "Ada has 12 pens and gives 5 away",
            "Question": "How many pens are left? ",
            "Equation": "( 12.0 - 5.0 )",
            "Answer": "7.0",
            "Type": "Subtraction",
        },
        "Ada has 12 pens and gives 5 away. How many pens are left?",
        ("7",),
    ),
    "asdiv": Example(
        {
            "body": "Ada has 3 bags of 4 figs.",
            "question": "Does she have more than ten figs?",
            "solution_type": "Comparison",
            "answer": "Yes (really)",
            "formula": "3*4=12",
        },
        "Ada has 3 bags of 4 figs. Does she have more than ten figs? (Yes or No)",
        ("Yes",),
    ),
    "mawps": Example({"input": "Two and 3.5 make ?", "target": 5.5, "type": "addsub"}, "Two and 3.5 make ?", ("5.5",)),
    "tabmwp": Example(
        {
            "question": "What is the probability that a marble is red?",
            "choices": None,
            "answer": "3/12",
            "unit": None,
            "table_title": "Marbles",
            "table": "Colour | Number\nRed | 3\nBlue | 9",
            "table_for_pd": {"Colour": ["Red", "Blue"], "Number": ["3", "9"]},
            "ques_type": "free_text",
            "ans_type": "decimal_number",
            "grade": 7,
        },
        'Read the following table regarding "Marbles" and answer a question:\nColour | Number\nRed | 3\nBlue | 9\n'
        "What is the probability that a marble is red?",
        ("0.25", "3/12"),
    ),
    "minerva_math": Example(
        {
            "problem": "A star is $10$ pc away. What is its parallax?",
            "type": "Astronomy",
            "solution": "First \\boxed{d = 10}. Then $p = 1/d$, so $p = \\boxed{\\frac{1}{10}}$ arcseconds.",
            "idx": 0,
        },
        "A star is $10$ pc away. What is its parallax?",
        ("\\frac{1}{10}",),
    ),
    "olympiadbench": Example(
        {
            "id": 17,
            "question": "Find all pairs.",
            "solution": ["..."],
            "final_answer": ["$(1, 2)$"],
            "is_multiple_answer": False,
            "unit": None,
            "answer_type": "Tuple",
            "error": None,
            "subfield": "Algebra",
        },
        "Find all pairs.",
        ("(1, 2)",),
    ),
    "sat_math": Example(
        {"question": "What is $f(3)$ for $f(x) = 2x$? ", "options": "A) $5$ B) $6$ C) f (A) D) 9", "Answer": "B"},
        "What is $f(3)$ for $f(x) = 2x$?\nAnswer Choices: (A) $5$ (B) $6$ (C) f (A) (D) 9",
        ("B",),
        ("$5$", "$6$", "f (A)", "9"),
    ),
    "mmlu_stem": Example(
        {"question": "What is two squared?", "choices": ["2", " 3", "4 ", "5"], "answer": 2, "type": "mathematics"},
        "What is two squared?\nAnswer Choices: (A) 2 (B) 3 (C) 4 (D) 5",
        ("C",),
        ("2", "3", "4", "5"),
    ),
    "gaokao": Example({"question": GAOKAO_QUESTION, "answer": "D", "type": "single"}, GAOKAO_QUESTION, ("D",)),
    "gaokao2024_mix": Example({"question": "求值", "answer": "D. $7$", "choice_answer": "D"}, "求值", ("D",)),
    "gaokao2023en": Example({"question": "Find $x$.", "answer": "$x < 3$", "source": "a"}, "Find $x$.", ("x < 3",)),
    "aime24": Example(
        {"id": 60, "problem": "Find $m + n$.", "solution": "...", "answer": "033", "url": "u", "year": "2024"},
        "Find $m + n$.",
        ("33",),
    ),
    "math500": Example(
        {
            "problem": "Is $7$ prime?",
            "solution": "...",
            "answer": "\\text{yes}",
            "subject": "Number Theory",
            "level": 1,
            "unique_id": "test/0.json",
        },
        "Is $7$ prime?",
        ("\\text{yes}",),
    ),
    "gsm8k": Example({"question": "How far?", "answer": "First 3, then #4.\n#### 1,250"}, "How far?", ("1250",)),
}
EXAMPLES["gaokao2024_I"] = EXAMPLES["gaokao2024_II"] = EXAMPLES["gaokao"]


def reference_rows(name: str) -> list[dict[str, Any]]:
    """As many as there must be: the example, then others like it."""
    example = EXAMPLES[name].row
    rows = [dict(example) for _ in range(ENTRIES[name].size)]
    for i, row in enumerate(rows):
        if "id" in row:
            row["id"] += i
    return rows


def common_rows(entry: Entry, size: int | None = None) -> list[dict[str, Any]]:
    """Of the common shape."""
    rows = []
    for i in range(entry.size if size is None else size):
        row: dict[str, Any] = {"id": f"{entry.file}-{i}", "question": f"What is {i} + 1?", "answers": [str(i + 1)]}
        if entry.show_choices:
            row |= {"answers": ["B"], "choices": [str(i), str(i + 1), str(i + 2), "none"]}
        rows.append(row | {"meta": {"index": i, "unit": None}})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)
