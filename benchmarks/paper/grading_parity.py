"""Grading of mathematical answers: do the verdicts agree with those of other graders?

    python -m benchmarks.paper.grading_parity --gold FOLDER                    # gold answers, as perfect responses
    python -m benchmarks.paper.grading_parity --parity FOLDER --gold FOLDER    # agreement with stored verdicts

``--gold`` is a folder of benchmark files, one JSON object a line: ``{"id", "question", "answers": [...], "choices"?:
[...], "meta"?: {...}}``; a perfect response boxes the first answer. ``--parity`` is a folder with
``math_equivalence.jsonl`` (``{"id", "gold", "pred", "equal", "strength": "strong" | "weak", "graders":
{"qwen_math_equal"}}``), ``math_outputs.jsonl`` and ``tabmwp_outputs.jsonl`` (``{"id", "prediction_text", "prediction",
"gold", "verdict", "benchmark_id"?}``; the last joins ``tabmwp.jsonl`` of the gold folder for its options). Tables are
Markdown, as docs/grading.md has them. `benchmarks.speed.grading` measures throughput.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ovd_lightning.grading import Grader, Mode
from ovd_lightning.types import Grade, Problem

TEN_SETS = (
    "svamp asdiv mawps tabmwp minerva_math olympiadbench sat_math mmlu_stem gaokao2023en gaokao2024_I gaokao2024_II "
    "gaokao2024_mix aime24"
).split()
OTHERS = ("gsm8k", "math500", "train_dsr_sub")
SHIFTS = (1, 7, 10)
"""How far down the file the other problem stands whose gold answer must be wrong."""
Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problem(row: Row) -> Problem:
    meta = dict(row.get("meta") or {}) | ({"choices": row["choices"]} if row.get("choices") else {})
    return Problem(id=row["id"], question=row["question"], answers=tuple(row["answers"]), meta=meta)


def shorten(text: str, most: int = 60) -> str:
    """A cell of a Markdown table; the end of a long text, where its answer is."""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"`{text}`" if len(text) <= most else f"`…{text[-most:]}`"


def boxed(row: Row) -> str:
    return f"So we get $\\boxed{{{row['answers'][0]}}}$."


def option_text(row: Row) -> str | None:
    """The right option's text in the box instead of its letter, where no other option has the same text."""
    choices = row.get("choices")
    if not choices or len(row["answers"][0]) != 1 or not "A" <= row["answers"][0] <= "Z":
        return None
    text = str(choices[ord(row["answers"][0]) - ord("A")])
    return f"So we get \\boxed{{{text}}}." if [str(c).strip() for c in choices].count(text.strip()) == 1 else None


def letter_and_text(row: Row) -> str | None:
    choices, letter = row.get("choices"), row["answers"][0]
    if option_text(row) is None or not choices:
        return None
    return f"So we get \\boxed{{\\text{{({letter}) {choices[ord(letter) - ord('A')]}}}}}."


WRAPPINGS: tuple[tuple[str, Mode, Callable[[Row], str | None]], ...] = (
    ("strict, `\\boxed{gold}`", "strict", boxed),
    ("strict, option's text boxed", "strict", option_text),
    ("strict, letter and text boxed", "strict", letter_and_text),
    ("qwen, `\\boxed{gold}`", "qwen", boxed),
    ("qwen, \"The answer is gold.\"", "qwen", lambda row: f"We add. The answer is {row['answers'][0]}."),
)  # fmt: skip


def gold(folder: Path, graders: dict[Mode, Grader]) -> None:
    """Gold answers of every set under every wrapping, and the gold of another problem, which must be wrong."""
    exceptions: list[tuple[str, str, str, Grade]] = []
    chance: list[tuple[str, str, str]] = []
    print("| set | rows | " + " | ".join(name for name, _, _ in WRAPPINGS) + " | another problem's gold |")
    print("| --- | --- |" + " --- |" * (len(WRAPPINGS) + 1))
    for name in (*TEN_SETS, *OTHERS):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        data = rows(path)
        cells = []
        for wrapping, mode, wrap in WRAPPINGS:
            wrapped = [(row, text) for row in data if (text := wrap(row)) is not None]
            grades = graders[mode].grade_many([text for _, text in wrapped], [problem(row) for row, _ in wrapped])
            right = sum(grade.correct for grade in grades)
            cells.append(f"{right}/{len(grades)}" if grades else "–")
            exceptions += [
                (row["id"], wrapping, row["answers"][0], grade)
                for (row, _), grade in zip(wrapped, grades, strict=True)
                if not grade.correct
            ]
        pairs = [(a, data[(i + shift) % len(data)]) for shift in SHIFTS for i, a in enumerate(data)]
        pairs = [(a, b) for a, b in pairs if not set(a["answers"]) & set(b["answers"])]
        grades = graders["strict"].grade_many([boxed(b) for _, b in pairs], [problem(a) for a, _ in pairs])
        accepted = [pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct]
        chance += [(a["id"], a["answers"][0], b["answers"][0]) for a, b in accepted]
        print(f"| {name} | {len(data)} | {' | '.join(cells)} | {len(accepted)}/{len(pairs)} |", flush=True)
    table("Perfect responses that are not graded correct", "id | wrapping | gold | extracted | how | stopped", [
        (id_, wrapping, shorten(answer), shorten(grade.answer or ""), str(grade.how), str(grade.timed_out))
        for id_, wrapping, answer, grade in exceptions
    ])  # fmt: skip
    table("Gold answers of other problems that are graded correct", "id | gold | the other's gold", [
        (id_, shorten(answer), shorten(other)) for id_, answer, other in chance
    ])  # fmt: skip


def table(title: str, head: str, lines: list[tuple[str, ...]]) -> None:
    print(f"\n{title}: {len(lines) or 'none'}\n")
    if lines:
        print(f"| {head} |\n|{' --- |' * (head.count('|') + 1)}")
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))


def outputs(path: Path, options: dict[str, Row]) -> Iterator[tuple[Row, Problem]]:
    for row in rows(path):
        joined = options.get(row.get("benchmark_id", ""))
        yield row, problem(joined) if joined else Problem(id=row["id"], question="", answers=(row["gold"],))


def parity(folder: Path, gold_folder: Path | None, graders: dict[Mode, Grader]) -> None:
    print("| what | mode | agree | stopped |\n| --- | --- | --- | --- |")
    notes: list[tuple[str, ...]] = []
    pairs = rows(folder / "math_equivalence.jsonl")
    for mode, grader in graders.items():
        verdicts = [grader.is_equivalent(row["pred"], row["gold"]) for row in pairs]
        for strength in ("strong", "weak"):
            of = [(row, v) for row, v in zip(pairs, verdicts, strict=True) if row["strength"] == strength]
            agree = sum(v == row["equal"] for row, v in of)
            print(f"| pairs, {strength} | {mode} | {agree}/{len(of)} = {agree / len(of):.1%} | |", flush=True)
            notes += [
                (row["id"], mode, shorten(row["gold"]), shorten(row["pred"]), str(v), f"{row['equal']} ({strength})")
                for row, v in of
                if v != row["equal"] and mode == "strict"
            ]
        if mode == "qwen":
            harness = [(row, v, row["graders"]["qwen_math_equal"]) for row, v in zip(pairs, verdicts, strict=True)]
            given = [(row, v, stored) for row, v, stored in harness if stored is not None]
            agree = sum(v == stored for _, v, stored in given)
            print(f"| pairs, the harness's verdict | {mode} | {agree}/{len(given)} = {agree / len(given):.1%} | |")
            notes += [
                (row["id"], mode, shorten(row["gold"]), shorten(row["pred"]), str(v), f"{stored} (harness)")
                for row, v, stored in given
                if v != stored
            ]
    options = {row["id"]: row for row in rows(gold_folder / "tabmwp.jsonl")} if gold_folder else {}
    runs: tuple[tuple[str, Mode], ...] = (
        ("math_outputs", "qwen"),
        ("tabmwp_outputs", "qwen"),
        ("math_outputs", "strict"),
    )
    for name, mode in runs:
        data = list(outputs(folder / f"{name}.jsonl", options))
        grades = graders[mode].grade_many([row["prediction_text"] for row, _ in data], [p for _, p in data])
        wrong = [(row, g) for (row, _), g in zip(data, grades, strict=True) if g.correct != row["verdict"]]
        agree, stopped = len(data) - len(wrong), sum(g.timed_out for g in grades)
        print(f"| {name} | {mode} | {agree}/{len(data)} = {agree / len(data):.1%} | {stopped} |", flush=True)
        for row, g in wrong:
            said = f"{shorten(row['prediction_text'])} → {shorten(g.answer or '')} ({g.how})"
            notes.append((row["id"], mode, shorten(row["gold"]), said, str(g.correct), str(row["verdict"])))
    table("Disagreements", "id | mode | gold | prediction | ours | stored", notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", type=Path, help="folder of benchmark files")
    parser.add_argument("--parity", type=Path, help="folder of stored verdicts")
    args = parser.parse_args()
    graders: dict[Mode, Grader] = {"strict": Grader("strict"), "qwen": Grader("qwen")}
    if args.parity is not None:
        parity(args.parity, args.gold, graders)
    elif args.gold is not None:
        gold(args.gold, graders)
    else:
        parser.error("give --gold or --parity")


if __name__ == "__main__":
    main()
