"""The disk cache of teacher answers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.seeds import digest, digests


def test_what_was_put_is_found(tmp_path: Path) -> None:
    for cache in (AnswerCache(), AnswerCache(tmp_path / "new" / "folder" / "answers.sqlite")):
        cache.put({"a": [[0.5, 0.5], 0.9], "b": None})
        assert cache.get(["a", "b", "c"]) == {"a": [[0.5, 0.5], 0.9], "b": None}
        cache.put({"a": "again"})
        assert cache.get(["a"]) == {"a": "again"}
        assert len(cache) == 2
        assert cache.get([]) == {}


def test_more_keys_than_a_query_takes(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    answers = {str(i): i for i in range(2000)}
    cache.put(answers)
    assert cache.get([*answers, "unknown"]) == answers


def test_in_memory_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnswerCache, "memory_limit", 3)
    cache = AnswerCache()
    for i in range(5):
        cache.put({str(i): [i]})
    assert cache.get(["0", "1", "2", "3", "4"]) == {"2": [2], "3": [3], "4": [4]}
    assert cache.add("4", [9]) == [4]
    cache.get(["4"])["4"].append(5)  # nobody changes what is kept
    assert cache.get(["4"]) == {"4": [4]}


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
    assert digests({"b": 1, "a": ["é", None]}, "next")("x", 2) == digest({"a": ["é", None], "b": 1}, "next", "x", 2)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20000:30000] = os.urandom(10000)
    path.write_bytes(bytes(data))


def replace(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, overwrite, replace, lambda path: path.write_text("{}" * 999)])
def test_a_damaged_file_is_one_line_that_names_it(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    cache.put({str(i): "x" * 100 for i in range(1000)})
    cache.close()
    damage(path)
    with pytest.raises(ConfigError, match=r"^teacher\.cache: ") as caught:
        AnswerCache(path, "teacher.cache")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_answer_that_cannot_be_read_is_asked_for_again(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache.put({"a": [1, 2], "b": 3})
    cache._db.execute("UPDATE answers SET value = '[1, ' WHERE key = 'a'")
    assert cache.get(["a", "b"]) == {"b": 3}


def test_a_cache_that_breaks_in_use_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovd_lightning.engines.cache.LOCKED_S", 0.1)
    path = tmp_path / "answers.sqlite"
    cache, other = AnswerCache(path), sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match=r"answers\.sqlite cannot be used any more \(database is locked\)"):
        cache.put({"a": 1})
    with pytest.raises(ConfigError, match=r"answers\.sqlite cannot be used \(database is locked\)"):
        AnswerCache(path)
    other.rollback()
    cache.put({"a": 1})
