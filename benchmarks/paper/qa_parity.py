"""Do EM, sub-EM, F1 and the extraction of answers agree with the official functions' stored values?

    python -m benchmarks.paper.qa_parity --parity FOLDER

FOLDER holds two JSON-lines files. ``qa_em_f1.jsonl``: {"id", "prediction", "gold", "expected"}, where ``expected`` has
what the functions of SQuAD, Search-R1 and others give for the pair. ``qa_outputs.jsonl``: {"id", "prediction_text",
"prediction", "gold", "em", "cover_em", "f1"}, trajectories of Search-R1 with their verdicts. Every row that disagrees
is printed, and makes the exit status 1. Other references define other things; their differences are only counted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from ovd_lightning.metrics import exact_match, f1_score, sub_exact_match
from ovd_lightning.tasks.web_protocol import extract_answer

SCORES = {"em": exact_match, "sub_em": sub_exact_match, "f1": f1_score}
DEFINED = {"em": "squad_em", "f1": "squad_f1", "sub_em": "searchr1_subem"}
"""Ours -> whose definition it has."""
OTHERS = {
    "em": ("searchr1_em", "hotpot_em", "triviaqa_em", "musique_em", "zerosearch_em"),
    "f1": ("hotpot_f1", "triviaqa_f1", "musique_f1", "zerosearch_f1"),
    "sub_em": ("zerosearch_em",),
}
STORED = {"em": "em", "sub_em": "cover_em", "f1": "f1"}
DIGITS = 6
"""Decimals of the stored values."""


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def same(a: float, b: float) -> bool:
    return round(a, DIGITS) == round(b, DIGITS)


def report(what: str, rows: list[dict[str, Any]], wrong: list[str]) -> None:
    print(f"  {what:<34} {len(rows) - len(wrong)} of {len(rows)}")
    for line in wrong:
        print(f"    {line}")


def pairs(rows: list[dict[str, Any]]) -> int:
    """Scores of pairs of prediction and gold. Returns the number of disagreements."""
    disagreements = 0
    for name, official in DEFINED.items():
        wrong = [
            f"{row['id']}: {score} instead of {row['expected'][official]}"
            for row in rows
            if not same(score := SCORES[name](row["prediction"], row["gold"]), row["expected"][official])
        ]
        report(f"{name} = {official}", rows, wrong)
        disagreements += len(wrong)
    for name, references in OTHERS.items():
        for other in references:
            agreeing = sum(same(SCORES[name](r["prediction"], r["gold"]), r["expected"][other]) for r in rows)
            print(f"  {name} beside {other:<{26 - len(name)}} {agreeing} of {len(rows)}")
    return disagreements


def trajectories(rows: list[dict[str, Any]]) -> int:
    """Extraction from whole trajectories, and the scores of what was extracted. Returns the disagreements."""
    disagreements = 0
    for what, hidden in (("answer, whole text", ""), ("answer, documents left out", r"<information>.*?</information>")):
        wrong = []
        for row in rows:
            text = re.sub(hidden, "", row["prediction_text"], flags=re.DOTALL) if hidden else row["prediction_text"]
            answer = extract_answer(text) or ""
            if answer != row["prediction"]:
                wrong.append(f"{row['id']}: {answer!r} instead of {row['prediction']!r}")
        report(what, rows, wrong)
        disagreements += len(wrong)
    for name, stored in STORED.items():
        wrong = [
            f"{row['id']}: {score} instead of {row[stored]}"
            for row in rows
            if not same(score := SCORES[name](extract_answer(row["prediction_text"]), row["gold"]), row[stored])
        ]
        report(f"{name} = stored {stored}", rows, wrong)
        disagreements += len(wrong)
    return disagreements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, required=True, help="the folder with both files")
    folder = parser.parse_args().parity
    print("qa_em_f1.jsonl")
    disagreements = pairs(read(folder / "qa_em_f1.jsonl"))
    print("qa_outputs.jsonl")
    disagreements += trajectories(read(folder / "qa_outputs.jsonl"))
    sys.exit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
