"""Every trajectory of every round, on disk before it trains: one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovd_lightning.files import replacing
from ovd_lightning.types import Group, Trajectory


def record(y: Trajectory, round: int, in_mixture: bool) -> dict[str, Any]:
    """A trajectory as a line of a transcript. ``in_mixture`` is false for one that was replaced."""
    assert y.grade is not None
    return {
        "round": round,
        "problem_id": y.problem.id,
        "question": y.problem.question,
        "answers": list(y.problem.answers),
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
        "steps": [
            {"text": s.text, "start": s.start, "end": s.end, "score": s.score, "distribution": _rounded(s.distribution)}
            for s in y.steps
        ],
    }


def _rounded(distribution: list[float] | None) -> list[float] | None:
    return None if distribution is None else [round(p, 5) for p in distribution]


class TranscriptWriter:
    """Writes ``round-000000.jsonl`` (``round-000000-rank1.jsonl`` on other ranks) under a folder.

    A file appears complete or not at all, so that a killed run leaves no partial line. A round that is repeated after a
    resume replaces its file.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.suffix = f"-rank{rank}" if rank else ""

    def write(self, round: int, groups: Sequence[Group]) -> Path:
        path = self.folder / f"round-{round:06d}{self.suffix}.jsonl"
        with replacing(path) as file:
            for group in groups:
                trains = {id(y) for y in group.mixture}
                rejected = [y for y in group.sampled if id(y) not in trains]
                for y in [*rejected, *group.mixture]:
                    file.write(json.dumps(record(y, round, id(y) in trains), ensure_ascii=False) + "\n")
        return path


def read_transcripts(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line of every round, in order."""
    for path in sorted(folder.glob("round-*.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
