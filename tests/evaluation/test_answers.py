"""Answers on disk survive kills, other weights and another number of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.evaluation.answers import AnswerFiles, cut_partial_line, key_of, verdict_key
from tests.helpers import read_answers


def row(key: str, weights: str = "w", grading: str | None = "strict", **fields: Any) -> dict[str, Any]:
    return {"key": key, "weights": weights, "grading": grading, "reference": ["2"], "response": "x", **fields}


def test_what_was_appended_is_found_by_the_next_process(tmp_path: Path) -> None:
    files = AnswerFiles(tmp_path / "new", "test-000000", "w")
    files.append([row("a", response="ä\n∫"), row("b")])
    files.append([row("c")])
    for again in (files, AnswerFiles(tmp_path / "new", "test-000000", "w")):
        assert len(again) == 3
        found = again.find("a")
        assert found is not None
        assert found["response"] == "ä\n∫"
        assert again.find("d") is None
    assert [json.loads(line)["key"] for line in files.path.read_text().splitlines()] == ["a", "b", "c"]


def test_other_weights_never_count_and_stay(tmp_path: Path) -> None:
    AnswerFiles(tmp_path, "test-000000", "old").append([row("a", weights="old")])
    files = AnswerFiles(tmp_path, "test-000000", "w")
    assert files.find("a") is None
    files.append([row("a")])
    assert [r["weights"] for r in read_answers(tmp_path, "test-000000")] == ["old", "w"]


@pytest.mark.parametrize("torn", [b'{"key": "b", "weig', b"{", '{"key": "ä'.encode()[:-1]])
def test_a_killed_process_leaves_a_torn_line_that_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    AnswerFiles(tmp_path, "test-000000", "w").append([row("a")])
    path = tmp_path / "test-000000.jsonl"
    with path.open("ab") as file:
        file.write(torn)
    files = AnswerFiles(tmp_path, "test-000000", "w")
    assert len(files) == 1
    files.append([row("b")])
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_file_without_any_whole_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"x" * 200_000)
    cut_partial_line(path)
    assert path.read_bytes() == b""
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    cut_partial_line(path)
    assert path.read_bytes() == b"{}\n"


def test_the_files_of_all_ranks_are_read_and_each_rank_writes_its_own(tmp_path: Path) -> None:
    for rank in range(3):
        AnswerFiles(tmp_path, "test-000000", "w", rank, 3).append([row(str(rank))])
    with (tmp_path / "test-000000-rank1.jsonl").open("a") as file:
        file.write('{"torn')
    with (tmp_path / "test-000000-rank2.jsonl").open("a") as file:
        file.write('{"torn')
    second = AnswerFiles(tmp_path, "test-000000", "w", rank=1, world_size=2)
    first = AnswerFiles(tmp_path, "test-000000", "w", rank=0, world_size=2)
    assert len(first) == len(second) == 3
    assert second.unreadable == 1  # of the rank that is gone, which rank 0 mends
    assert first.unreadable == 0
    assert {r["key"] for r in read_answers(tmp_path, "test-000000")} == {"0", "1", "2"}
    assert all(p.read_bytes().endswith(b"}\n") for p in tmp_path.glob("*.jsonl"))


def test_other_evaluations_are_other_files(tmp_path: Path) -> None:
    for stem in ("test-000010", "test-000010-1", "validation-000010"):
        AnswerFiles(tmp_path, stem, "w").append([row(stem)])
    assert len(AnswerFiles(tmp_path, "test-000010", "w")) == 1


def test_a_verdict_of_another_grading_is_another_verdict(tmp_path: Path) -> None:
    files = AnswerFiles(tmp_path, "test-000000", "w")
    files.append([row("a", grading="strict", correct=False)])
    qwen = row("a", grading="qwen", correct=True)
    assert files.find("a", verdict_key(qwen)) is None
    files.append([qwen])
    for again in (files, AnswerFiles(tmp_path, "test-000000", "w")):
        for grading, correct in (("strict", False), ("qwen", True)):
            found = again.find("a", verdict_key(row("a", grading=grading)))
            assert found is not None
            assert found["correct"] is correct


def test_a_key_is_a_function_of_all_its_parts() -> None:
    assert key_of("a", [1, 2], {"x": 1, "y": None}) == key_of("a", [1, 2], {"y": None, "x": 1})
    assert len({key_of("a", 1), key_of("a", "1"), key_of("a1"), key_of("a", 1, None)}) == 4


def test_what_was_on_the_disk_when_a_signal_came_is_counted(tmp_path: Path) -> None:
    """The signal arrives while the lines are written, and is raised after that."""
    code = """
import json, os, signal, sys
from pathlib import Path
from ovd_lightning import stop
from ovd_lightning.evaluation import answers
files = answers.AnswerFiles(Path(sys.argv[1]), "test-000000", "w")
fsync = os.fsync
def interrupted(number):
    fsync(number)
    os.kill(os.getpid(), signal.SIGINT)
os.fsync = interrupted
with stop.ending_on_signals():
    try:
        files.append([json.loads(line) for line in sys.argv[2:]])
    except BaseException:
        print(len(files), flush=True)
        raise
"""
    rows = [json.dumps(row("a")), json.dumps(row("b"))]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *rows], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "2\n"), done.stderr
    assert len(AnswerFiles(tmp_path, "test-000000", "w")) == 2
