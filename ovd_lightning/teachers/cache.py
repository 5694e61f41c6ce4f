"""A disk cache of teacher answers: free replays, and nothing asked twice after a crash."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class AnswerCache:
    """Key -> JSON value, in SQLite; ``path=None`` keeps it in memory for the life of the process.

    Every :meth:`put` is committed, so a killed run loses no answer. Ranks of one machine may share a file; it must
    not lie on a network file system. In memory, the oldest answers go when there are more than ``memory_limit``.
    """

    memory_limit = 200_000

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=60, check_same_thread=False)
        if self.path is not None:
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.commit()

    @staticmethod
    def key(*parts: Any) -> str:
        """A digest of anything JSON can hold."""
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The known ones of ``keys``."""
        found: dict[str, Any] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)
            found.update((key, json.loads(value)) for key, value in rows)
        return found

    def put(self, answers: dict[str, Any]) -> None:
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", [(k, json.dumps(v)) for k, v in answers.items()]
            )
            if self.path is None and (excess := len(self) - self.memory_limit) > 0:
                self._db.execute(
                    "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY rowid LIMIT ?)", [excess]
                )

    def __len__(self) -> int:
        return self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._db.close()
