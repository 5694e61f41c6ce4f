"""Open-ended instructions: rows, rubrics of their own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.instructions import InstructionsTask


def save(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_are_problems_without_answers(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Greet.", "rubric": ["is polite"]},
        {"id": 7, "instruction": "Say no."},
        {"instruction": "x"},
    ]
    task = InstructionsTask(save(tmp_path / "a.jsonl", rows), prompt="Do: {instruction}\n", validation_size=1)
    first, second = task.problems("train")
    assert (first.id, first.question, first.answers, first.meta) == ("0", "Greet.", (), {"rubric": ["is polite"]})
    assert second.id == "7"
    assert [p.question for p in task.problems("validation")] == ["x"]
    assert task.prompt(first) == "Do: Greet.\n"
    assert task.grade("hello", first).reward == 0
    assert not task.graded


@pytest.mark.parametrize(
    ("rows", "settings", "says"),
    [
        ([{"question": "a"}], {}, "row 0 has no field 'instruction'; it has question"),
        ([{"instruction": " "}], {}, r"row 0 \(0\) has an empty question"),
        ([{"id": 1, "instruction": "a"}, {"id": 1, "instruction": "b"}], {}, "row 1 has the id of row 0, '1'"),
        ([{"instruction": "a"}], {"validation_size": 1}, "validation_size: is 1 of 1"),
    ],
)
def test_what_cannot_be_used_is_refused(rows: Any, settings: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        InstructionsTask(save(tmp_path / "a.jsonl", rows), **settings)
