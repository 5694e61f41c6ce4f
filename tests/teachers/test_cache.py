"""The disk cache of teacher answers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ovd_lightning.teachers.cache import AnswerCache


def test_what_was_put_is_found(tmp_path: Path) -> None:
    for cache in (AnswerCache(), AnswerCache(tmp_path / "new" / "folder" / "answers.sqlite")):
        cache.put({"a": [[0.5, 0.5], 0.9], "b": None})
        assert cache.get(["a", "b", "c"]) == {"a": [[0.5, 0.5], 0.9], "b": None}
        cache.put({"a": "again"})
        assert cache.get(["a"]) == {"a": "again"}
        assert len(cache) == 2
        assert cache.get([]) == {}


def test_more_keys_than_a_query_takes() -> None:
    cache = AnswerCache()
    answers = {str(i): i for i in range(2000)}
    cache.put(answers)
    assert cache.get([*answers, "unknown"]) == answers


def test_answers_survive_a_process_that_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    first = AnswerCache(path)
    first.put({"a": 1})
    # another connection reads what is committed, and nothing else: what a process killed here would leave
    assert AnswerCache(path).get(["a"]) == {"a": 1}
    second = AnswerCache(path)
    second.put({"b": 2})
    assert first.get(["a", "b"]) == {"a": 1, "b": 2}


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    caches = [AnswerCache(path) for _ in range(3)]
    for round in range(10):
        for i, cache in enumerate(caches):
            cache.put({f"{i}/{round}": i})
    assert len(caches[0]) == 30
    caches[0].close()
    assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM answers").fetchone() == (30,)


def test_keys_tell_apart() -> None:
    keys = {AnswerCache.key(*parts) for parts in [("a", "b"), ("ab",), ("a", "b", 0), ("b", "a"), ("é",), (0.7,), (1,)]}
    assert len(keys) == 7
    assert AnswerCache.key("a", 1) == AnswerCache.key("a", 1)
