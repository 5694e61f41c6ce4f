"""A model's answers to problems of training, one JSON object a line, so that every table is of the same answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ovd_lightning.tasks.math_sets import MathSets
from ovd_lightning.types import Problem

CONFIG = Path(__file__).parents[2] / "configs" / "real_small.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, with what its grade is."""

    problem: str
    """The problem's id."""
    sample: int
    question: str
    gold: list[str]
    model: str
    prompt: str
    """As the model read it, special tokens included."""
    token_ids: list[int]
    """[T] with the end of sequence, where it came."""
    text: str
    truncated: bool
    correct: bool
    found: str | None
    """The answer that the grader found, and how."""
    how: str | None

    @property
    def as_problem(self) -> Problem:
        return Problem(id=self.problem, question=self.question, answers=tuple(self.gold))


def read(file: Path, limit: int | None = None) -> list[Answer]:
    """The first ``limit`` answers of a file; none where there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [Answer(**json.loads(line)) for line in lines[:limit]]


def append(file: Path, answers: list[Answer]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)


def config() -> dict[str, Any]:
    """configs/real_small.yaml as it is written."""
    return dict(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))


def training_task(folder: str | None) -> MathSets:
    """The task of configs/real_small.yaml.

    Args:
        folder: with local copies of its sets; None: from the hub.
    """
    return MathSets(**{**config()["task"]["init_args"], "folder": folder})
