"""The content of a row of each test set, in the fields of the reference evaluation's own files.

The rules are those of that evaluation (Qwen2.5-Math, ``evaluation/parser.py``): which fields make the question, and
which make the gold answer. Golds stay as they are written, but for thousands separators, a trailing ".0" and "$".
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ovd_lightning.grading import extract_answer
from ovd_lightning.tasks.math_demonstrations import LETTERS
from ovd_lightning.tasks.sources import FieldError, Row, field, first_field, text, texts


class Converted(NamedTuple):
    """The content of a row."""

    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] | None = None
    id: str | None = None
    """None: the set's name and the row's number."""


def common(row: Row) -> Converted:
    """The common shape: ``{"id", "question", "answers", "choices"?, "meta"?}``."""
    return Converted(
        question=text(field(row, "question"), "question"),
        answers=texts(field(row, "answers"), "answers"),
        choices=texts(row.get("choices") or (), "choices"),
        meta=dict(row.get("meta") or {}),
        id=text(field(row, "id"), "id"),
    )


def is_common(row: Row) -> bool:
    return "answers" in row


def svamp(row: Row, number: int) -> Converted:
    body = _text(row, "Body")
    body = body if body.endswith(".") else f"{body}."
    meta = {"source_id": row.get("ID"), "type": row.get("Type"), "equation": row.get("Equation")}
    return Converted(f"{body} {_text(row, 'Question')}", (_number(row, "Answer"),), meta=meta)


def asdiv(row: Row, number: int) -> Converted:
    raw = _text(row, "answer")  # "9 (apples)"
    meta = {"raw_answer": raw, "formula": row.get("formula"), "type": row.get("solution_type")}
    gold = re.sub(r"\(.*?\)", "", raw).strip()
    return Converted(f"{_text(row, 'body')} {_text(row, 'question')}", (gold,), meta=meta)


def mawps(row: Row, number: int) -> Converted:
    return Converted(_text(row, "input"), (_number(row, "target"),), meta={"subset": row.get("type")})


def tabmwp(row: Row, number: int) -> Converted:
    title, choices = row.get("table_title"), texts(row.get("choices") or (), "choices")
    regarding = f'regarding "{title}" ' if title else ""
    table, question = str(field(row, "table")), str(field(row, "question"))  # a table may begin with an empty cell
    shown = f"Read the following table {regarding}and answer a question:\n{table}\n{question}"
    if choices:
        shown += f" Please select from the following options: {list(row['choices'])}"
    raw = _text(row, "answer")
    answers: tuple[str, ...] = (raw,)
    if field(row, "ans_type") in ("integer_number", "decimal_number"):
        decimal = text(_decimal(raw), "answer")
        answers = (decimal, raw) if "/" in raw or "%" in raw else (decimal,)
    names = ("unit", "ques_type", "ans_type", "grade", "table_title", "table")
    meta = {"raw_answer": raw, "bare_question": question, **{name: row.get(name) for name in names}}
    return Converted(shown, answers, choices, meta)


def minerva_math(row: Row, number: int) -> Converted:
    gold = extract_answer(_text(row, "solution"))
    if gold is None:
        raise FieldError("has no boxed answer in its 'solution'")
    return Converted(_text(row, "problem"), (gold,), meta={"type": row.get("type")})


def olympiadbench(row: Row, number: int) -> Converted:
    golds = texts(field(row, "final_answer"), "final_answer")
    names = ("subfield", "answer_type", "unit", "is_multiple_answer", "error")
    meta = {"source_id": row.get("id"), "raw_final_answer": list(golds), **{name: row.get(name) for name in names}}
    return Converted(_text(row, "question"), tuple(gold.strip("$") for gold in golds[:1]), meta=meta)


_OPTIONS = (r"(?:^|\s)([A-D])\)\s", r"(?:^|\s)([A-D])\.\s")


def sat_math(row: Row, number: int) -> Converted:
    options = _text(row, "options")  # "A) one B) two C) three D) four"; one of them "A. one B. two ..."
    parts = next((p for p in (re.split(rule, options) for rule in _OPTIONS) if p[1::2] == list("ABCD")), None)
    if parts is None:
        raise FieldError(f"holds no options A) to D) in 'options': {options[:80]!r}")
    choices = tuple(part.strip() for part in parts[2::2])
    return Converted(_text(row, "question"), (_text(row, "Answer"),), choices, {"options_raw": options})


def mmlu_stem(row: Row, number: int) -> Converted:
    choices, gold = texts(field(row, "choices"), "choices"), field(row, "answer")
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise FieldError(f"holds {gold!r} in 'answer', where the index of one of {len(choices)} choices should be")
    subject = row.get("subject") or row.get("type")
    return Converted(_text(row, "question"), (LETTERS[gold],), choices, {"subject": subject})


def gaokao(row: Row, number: int) -> Converted:
    question = text(first_field(row, "question", "problem"), "question")
    return Converted(question, (_text(row, "answer"),), meta={"type": row.get("type"), "lang": "zh"})


def gaokao_mix(row: Row, number: int) -> Converted:
    question = text(first_field(row, "question", "problem"), "question")
    raw, letter = _text(row, "answer"), text(row.get("choice_answer"), "choice_answer")
    return Converted(question, (letter or raw,), meta={"raw_answer": raw, "choice_answer": letter, "lang": "zh"})


_GLUED = {167: ("this grid has at least one saddle point.", r"\frac{3}{10}"), 192: ("(D) $435(100b)$", "A")}
"""Rows of Gaokao 2023 En with the gold at the end of the question, not in its field: where the question ends, gold."""


def gaokao_en(row: Row, number: int) -> Converted:
    question, raw = _text(row, "question"), _text(row, "answer")
    meta: dict[str, Any] = {"raw_answer": raw, "source": row.get("source")}
    gold = raw.replace("$", "").strip()
    if not gold and number in _GLUED and _GLUED[number][0] in question:
        end, gold = _GLUED[number]
        question = question[: question.index(end) + len(end)]
        meta["repaired"] = True
    return Converted(question, (gold,), meta=meta)


def aime(row: Row, number: int) -> Converted:
    raw = _text(row, "answer")
    gold = str(int(raw)) if raw.isdigit() else raw  # "033" is 33
    id = f"aime24-{row['id']}" if row.get("id") is not None else None
    return Converted(_text(row, "problem"), (gold,), meta={"url": row.get("url"), "raw_answer": raw}, id=id)


def math500(row: Row, number: int) -> Converted:
    meta = {name: row.get(name) for name in ("subject", "level", "unique_id")}
    return Converted(_text(row, "problem"), (_text(row, "answer"),), meta=meta)


def gsm8k(row: Row, number: int) -> Converted:
    solution = _text(row, "answer")
    if "####" not in solution:
        raise FieldError("has no '####' before the gold in its 'answer'")
    return Converted(_text(row, "question"), (solution.split("####")[-1].strip().replace(",", ""),))


def _text(row: Row, name: str) -> str:
    return text(field(row, name), name)


def _number(row: Row, name: str) -> str:
    """A gold that is a number: "145.0" and 145.0 are "145"."""
    written = _text(row, name)
    return written.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", written) else written


def _decimal(raw: str) -> float:
    """A number as TabMWP writes it: 4,656 or 3/10 or 45%."""
    try:
        if "/" in raw:
            above, below = raw.split("/")
            return int(above) / int(below)
        if "%" in raw:
            return float(raw.split("%")[0]) / 100
        return float(raw.replace(",", ""))
    except (ValueError, ZeroDivisionError) as error:
        raise FieldError(f"holds {raw!r} in 'answer', where a number should be") from error
