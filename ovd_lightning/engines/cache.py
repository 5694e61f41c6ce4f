"""A disk cache of answers: free replays, and nothing is asked twice after a crash."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.seeds import digest

log = logging.getLogger(__name__)

LOCKED_S = 30.0
"""Seconds to wait for another process's write."""
USE = "Free space, make it and its folder writable, or end the process that holds it."


class AnswerCache:
    """Key -> JSON value, in SQLite; without a ``path``, in memory for the life of the process.

    Every :meth:`put` is committed, so a killed run loses no answer. Ranks of one machine may share a file; it must
    not lie on a network file system. In memory, the oldest answers go when there are more than ``memory_limit``.

    Args:
        path: the file.
        setting: that names it.

    Raises: ConfigError for a file that is no cache, damaged, or not writable; RunError when that happens later.
    """

    memory_limit = 200_000

    def __init__(self, path: str | Path | None = None, setting: str = "cache") -> None:
        self.path = None if path is None else Path(path)
        self._memory: OrderedDict[str, str] = OrderedDict()
        """Where there is no file; the oldest first."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=LOCKED_S, check_same_thread=False)
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.commit()
            self._db.execute("PRAGMA journal_mode=WAL")
            with self._db:  # sees a folder or file that cannot be written to
                self._db.execute("INSERT OR REPLACE INTO answers VALUES ('', '0')")
                self._db.execute("DELETE FROM answers WHERE key = ''")
            if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(" ".join(found.split()))
        except (OSError, sqlite3.Error) as error:
            problem, hint = "is no cache, or damaged", "Delete it (answers are then asked for again), or name another."
            if isinstance(error, OSError | sqlite3.OperationalError):  # locked, read-only, a folder there, no space
                problem, hint = "cannot be used", f"{USE} Or name another file."
            raise ConfigError(setting, f"{self.path} {problem} ({error}).", hint) from error

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(f"the cache {self.path} cannot be used any more ({error}). {USE}") from error

    @staticmethod
    def key(*parts: Any) -> str:
        """A digest of anything JSON can hold."""
        return digest(*parts)

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The known ones of ``keys``."""
        found: dict[str, Any] = {}
        for key, value in self._texts(keys):
            try:
                found[key] = json.loads(value)
            except ValueError:
                log.warning("%s: the answer %s is damaged and asked for again", self.path, key)
        return found

    def _texts(self, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The known ones of ``keys``, each with its value in JSON."""
        if self.path is None:
            yield from ((key, value) for key in keys if (value := self._memory.get(key)) is not None)
            return
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            with self._in_use():
                rows = self._db.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part).fetchall()
            yield from rows

    def put(self, answers: dict[str, Any]) -> None:
        texts = {key: json.dumps(value) for key, value in answers.items()}
        if self.path is None:
            self._memory.update(texts)
            while len(self._memory) > self.memory_limit:
                self._memory.popitem(last=False)
            return
        with self._in_use(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", list(texts.items()))

    def add(self, key: str, value: Any) -> Any:
        """Keep an answer unless there is one already; the one that is kept."""
        if self.path is None:
            return json.loads(self._memory.setdefault(key, json.dumps(value)))
        with self._in_use(), self._db:
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(value)))
        return self.get([key]).get(key, value)

    def __len__(self) -> int:
        if self.path is None:
            return len(self._memory)
        return self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        if self.path is not None:
            self._db.close()
