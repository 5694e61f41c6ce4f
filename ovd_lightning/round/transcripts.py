"""Every trajectory of every round, on disk before it trains: one JSON line each, compressed, every text once.

A step's text is a part of its trajectory's, and the question and the answers of a group stand in its first line:
:func:`read_transcripts` puts both back. ``zcat``, ``pandas.read_json(path, lines=True)`` and
``datasets.load_dataset("json")`` show the lines as they are.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd_lightning.files import replacing

if TYPE_CHECKING:
    from ovd_lightning.types import Group, Step, Trajectory

SUFFIX = ".jsonl.gz"
LEVEL = 6
"""Of compression: level 9 takes three times as long for 1 % less."""
_JSON = json.JSONEncoder(ensure_ascii=False)


def record(y: Trajectory, round: int, in_mixture: bool, first: bool = True) -> dict[str, Any]:
    """A trajectory as a line of a transcript.

    Args:
        in_mixture: false for one that was replaced.
        first: of its group: with the question and the answers.
    """
    assert y.grade is not None
    return {
        "round": round,
        "problem_id": y.problem.id,
        "question": y.problem.question if first else None,
        "answers": list(y.problem.answers) if first else None,
        "group": y.group,
        "sample": y.sample,
        "source": y.source,
        "in_mixture": in_mixture,
        "text": y.text,
        "reward": y.grade.reward,
        "correct": y.grade.correct,
        "answer": y.grade.answer,
        "score": y.score,
        "distribution": _rounded(y.distribution),
        "accepted": y.accepted,
        "advantage": sum(y.advantages) / len(y.advantages) if y.advantages else None,
        "truncated": y.truncated,
        "stop_reason": y.stop_reason,
        "tokens": y.trainable_tokens,
        "observation_tokens": y.observation_tokens,
        "turns": y.turns,
        "student_tokens": y.student_tokens,
        "policy_version": y.policy_version,
        "steps": list(_steps(y.text, y.steps)),
    }


def _steps(text: str, steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """Steps with the span of their text in the trajectory's. One that is no part of it (a character that is cut by
    the end of a step decodes to something else) has its own ``text``."""
    end = 0
    for step in steps:
        start = text.find(step.text, end)
        if start >= 0:
            end = start + len(step.text)
        found = {"text": step.text} if start < 0 else {}
        yield {
            "characters": [start, end] if start >= 0 else None,
            **found,
            "start": step.start,
            "end": step.end,
            "score": step.score,
            "distribution": _rounded(step.distribution),
        }


def _rounded(distribution: list[float] | None) -> list[float] | None:
    return None if distribution is None else [round(p, 5) for p in distribution]


class TranscriptWriter:
    """Writes ``round-000000.jsonl.gz`` (``round-000000-rank1.jsonl.gz`` on other ranks) under a folder.

    A file appears complete or not at all, so that a killed run leaves no partial line. A round that is repeated after a
    resume replaces its file; the same round has the same bytes.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.suffix = f"-rank{rank}" if rank else ""

    def write(self, round: int, groups: Sequence[Group]) -> Path:
        path = self.folder / f"round-{round:06d}{self.suffix}{SUFFIX}"
        lines = []
        for group in groups:
            trains = {id(y) for y in group.mixture}
            rejected = [y for y in group.sampled if id(y) not in trains]
            for i, y in enumerate([*rejected, *group.mixture]):
                lines.append(_JSON.encode(record(y, round, id(y) in trains, first=i == 0)) + "\n")
        with replacing(path, "wb") as file:
            file.write(gzip.compress("".join(lines).encode(), LEVEL, mtime=0))
        return path


def files(folder: Path) -> list[Path]:
    """Those of every round and rank, in order."""
    return sorted(folder.glob(f"round-*{SUFFIX}"))


def read_file(path: Path) -> Iterator[dict[str, Any]]:
    """The trajectories of a file, each with its question, its answers and the texts of its steps.

    Of a copy that was made while the file was written, what is complete.
    """
    problem: dict[str, Any] = {}
    for line in _lines(path):
        try:
            y = json.loads(line)
        except ValueError:
            continue
        if y.get("question") is not None:
            problem = {name: y[name] for name in ("question", "answers")}
        yield {**y, **problem, "steps": [_with_text(step, y["text"]) for step in y["steps"]]}


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path) as stream:
        try:
            yield from io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return


def _with_text(step: dict[str, Any], text: str) -> dict[str, Any]:
    span = step.pop("characters")
    return step if span is None else {"text": text[slice(*span)], **step}


def read_transcripts(folder: Path) -> Iterator[dict[str, Any]]:
    """Every trajectory of every round, in order; see :func:`read_file`."""
    for path in files(folder):
        yield from read_file(path)
