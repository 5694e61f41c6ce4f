"""Answers on disk: one JSON line a problem and sample, appended while an evaluation runs, read when it is repeated."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovd_lightning.files import unwritable
from ovd_lightning.stop import shielded

Row = dict[str, Any]
"""One answer: what was asked and how, the response, its verdict, and under which weights."""


def key_of(*parts: Any) -> str:
    """32 hexadecimal digits of everything that an answer depends on."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def files_of(folder: Path, stem: str) -> dict[int, Path]:
    """Rank -> its file, of those that are there."""
    found = {}
    for path in folder.glob(f"{stem}*.jsonl"):
        if match := re.fullmatch(rf"{re.escape(stem)}(?:-rank(\d+))?", path.stem):
            found[int(match[1] or 0)] = path
    return dict(sorted(found.items()))


class AnswerFiles:
    """The answers of one evaluation: ``<stem>.jsonl``, and ``<stem>-rank1.jsonl`` and so on for further ranks.

    Lines are only ever added; those of other weights stay and never count. All ranks' files are read, so that a
    repeated evaluation may run on another number of ranks; every rank adds to its own. Answers stay on the disk and
    are read again when they are asked for.

    Args:
        folder: of evaluations, made with the first answer.
        stem: e.g. test-000800.
        weights: fingerprint of the student's; only answers under these are found.
        rank, world_size: of this process.
    """

    def __init__(self, folder: Path, stem: str, weights: str, rank: int = 0, world_size: int = 1) -> None:
        self.folder = folder
        self.path = folder / f"{stem}{f'-rank{rank}' if rank else ''}.jsonl"
        self.unreadable = 0
        """Incomplete lines: another rank's last one, if that rank was killed."""
        self._answers: dict[str, tuple[Path, int]] = {}
        self._verdicts: dict[tuple[str, str], tuple[Path, int]] = {}
        for other, path in files_of(folder, stem).items():
            if other == rank or (rank == 0 and other >= world_size):  # rank 0 takes the file of a rank that is gone
                cut_partial_line(path)
            with path.open("rb") as file:
                start = 0
                for line in file:
                    row = _parsed(line)
                    if row is None:
                        self.unreadable += 1
                    elif row.get("weights") == weights and isinstance(row.get("key"), str):
                        self._index(row, path, start)
                    start += len(line)

    def _index(self, row: Row, path: Path, start: int) -> None:
        self._answers[row["key"]] = self._verdicts[row["key"], verdict_key(row)] = (path, start)

    def __len__(self) -> int:
        """Different answers under these weights."""
        return len(self._answers)

    def find(self, key: str, verdict: str | None = None) -> Row | None:
        """The answer with this key, None if there is none; with ``verdict``, only if it was graded that way."""
        found = self._answers.get(key) if verdict is None else self._verdicts.get((key, verdict))
        if found is None:
            return None
        path, start = found
        with path.open("rb") as file:
            file.seek(start)
            return _parsed(file.readline())

    def append(self, rows: Sequence[Row]) -> None:
        """Add lines; they are on the disk when this returns. Raises: RunError."""
        if not rows:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with shielded(), self.path.open("ab") as file:
                places = []
                for row in rows:
                    places.append(file.tell())
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                for row, start in zip(rows, places, strict=True):  # shielded too: what is written is known to be
                    self._index(row, self.path, start)
        except OSError as error:
            raise unwritable(self.path, error) from error


def verdict_key(row: Row) -> str:
    """What a verdict depends on beside the response: the grading mode and the reference."""
    return key_of(row["grading"], row["reference"])


def cut_partial_line(path: Path) -> None:
    """Cut off a last line that has no end: what a killed process was writing."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                end = start + cut + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _parsed(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
