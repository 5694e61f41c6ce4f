"""Rows out of files, folders and the hub, and problems out of rows."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.sources import FieldError, Source, field, load_rows, make_problems, text, texts
from ovd_lightning.types import Problem
from tests.tasks.math_rows import write_jsonl, write_parquet

ROWS: list[dict[str, Any]] = [
    {"id": str(i), "question": f"What is {i} + 1?", "answers": [str(i + 1)]} for i in range(9)
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one converted."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def load(data: str | Path, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    return load_rows(Source(data=str(data), split=split, **options), "some.setting")


# --------------------------------------------------------------------- files and folders


def test_a_file_of_every_kind_holds_the_same_rows(tmp_path: Path) -> None:
    array = tmp_path / "array.json"
    array.write_text(json.dumps(ROWS))
    files = [write_jsonl(tmp_path / "a.jsonl", ROWS), str(array), write_parquet(tmp_path / "a.parquet", ROWS)]
    assert [load(file) for file in files] == [ROWS] * 3


def test_a_folder_is_read_by_split_and_a_file_by_slice(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "train.jsonl", ROWS[:6])
    write_jsonl(tmp_path / "set" / "test.jsonl", ROWS[6:])
    assert load(tmp_path / "set") == ROWS[:6]
    assert load(tmp_path / "set", "test") == ROWS[6:]
    assert load(tmp_path / "set", "train+test") == ROWS
    assert load(tmp_path / "set" / "train.jsonl", "train[:2]") == ROWS[:2]
    assert load(write_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet", ROWS), "train[7:]") == ROWS[7:]
    assert load(tmp_path / "parquet") == ROWS


def test_values_survive_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question": "角 $\\alpha$\n\n“x”", "answers": ["\\frac{1}{2}", "0.50", "1e-3"], "meta": {"k": 1}},
        {"id": "2", "question": " ", "answers": ["true"], "meta": {"k": 2}},
    ]
    assert load(write_jsonl(tmp_path / "a.jsonl", rows)) == rows


def test_a_field_may_be_null_for_the_first_ten_megabytes(tmp_path: Path) -> None:
    """The reader of ``datasets`` types ten megabytes at a time by default and stops here."""
    rows: list[dict[str, Any]] = [{"question": "x" * 11_000, "choices": None} for _ in range(1000)]
    rows.append({"question": "y", "choices": ["a", "b"]})
    assert load(write_jsonl(tmp_path / "a.jsonl", rows))[-1]["choices"] == ["a", "b"]
    assert load(tmp_path)[-1]["choices"] == ["a", "b"], "nor does a folder of such files"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", '{"question": "a"}\n{"question": \n', "JSON"),
        ("rows.jsonl", "", "some.setting"),
        ("rows.parquet", "not parquet", "Parquet"),
        ("rows.txt", "a", "no known kind"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=says) as raised:
        load(tmp_path / name)
    assert raised.value.setting == "some.setting"
    assert name in str(raised.value)


@pytest.mark.parametrize("data", ["nowhere.jsonl", "./folder", "/a/b/c", "a/b/c/d", "~/x", "one word"])
def test_what_can_be_no_hub_id_is_a_missing_path(data: str) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        load(data)


def test_a_split_or_slice_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "train.jsonl", ROWS)
    with pytest.raises(ConfigError, match="valid"):
        load(tmp_path / "set", "valid")
    with pytest.raises(ConfigError, match="no data"):
        load(tmp_path / "set" / "train.jsonl", "train[20:]")
    with pytest.raises(ConfigError, match="single file"):
        load(tmp_path / "set" / "train.jsonl", "train+test")


# --------------------------------------------------------------------- the hub

README = """---
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: other
  data_files:
  - split: train
    path: other/*
---
"""

PROGRAM = """
import json, sys
from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.sources import Source, load_rows
for options in json.loads(sys.argv[1]):
    try:
        print(json.dumps([row["id"] for row in load_rows(Source(**options), "some.setting")]))
    except ConfigError as error:
        print(json.dumps(str(error)))
"""


def on_a_hub(folder: Path, home: Path, sources: list[dict[str, Any]], offline: bool = False) -> list[Any]:
    """What a process answers that loads ``sources`` from a hub on this machine."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(sources)]
    if not offline:
        command = [sys.executable, "-m", "tests.hub", str(folder), *command]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hub_sets_by_configuration_split_and_file(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "org" / "set"
    write_parquet(repository / "main" / "train-00000-of-00001.parquet", ROWS[:4])
    write_parquet(repository / "main" / "test-00000-of-00001.parquet", ROWS[4:6])
    write_parquet(repository / "other" / "rows.parquet", ROWS[6:])
    write_jsonl(repository / "loose.jsonl", ROWS[6:])
    (repository / "README.md").write_text(README)
    commit = "f" * 40
    wanted: list[tuple[dict[str, Any], Any]] = [
        ({"data": "org/set"}, ["0", "1", "2", "3"]),
        ({"data": "org/set", "config": "main", "split": "test"}, ["4", "5"]),
        ({"data": "org/set", "config": "main", "split": "train[1:3]"}, ["1", "2"]),
        ({"data": "org/set", "config": "other"}, ["6", "7", "8"]),
        ({"data": "org/set", "file": "loose.jsonl", "revision": commit}, ["6", "7", "8"]),
    ]
    broken = [
        {"data": "org/set", "split": "validation"},
        {"data": "org/set", "config": "third"},
        {"data": "org/set", "file": "missing.jsonl"},
        {"data": "org/nothing"},
    ]
    sources = [source for source, _ in wanted] + broken
    answers = on_a_hub(tmp_path / "hub", tmp_path / "home", sources)
    assert answers[: len(wanted)] == [ids for _, ids in wanted]
    for source, said, part in zip(
        broken, answers[len(wanted) :], ("validation", "third", "missing", "nothing"), strict=True
    ):
        assert isinstance(said, str), source
        assert said.startswith("some.setting: org/")
        assert part in said
        assert "give that folder" in said

    again = on_a_hub(tmp_path / "hub", tmp_path / "home", [sources[4], {"data": "org/unseen"}], offline=True)
    assert again[0] == ["6", "7", "8"], "a file at a commit needs no network once it was fetched"
    assert "taken for a hub id" in again[1]
    assert "--local-dir" in again[1]


# --------------------------------------------------------------------- rows to problems


def test_fields_lead_into_nested_rows() -> None:
    row = {"prompt": [{"content": "q"}], "reward_model": {"ground_truth": "1"}, "a.b": 3}
    assert field(row, "prompt.0.content") == "q"
    assert field(row, "reward_model.ground_truth") == "1"
    assert field(row, "a.b") == 3
    for name in ("problem", "prompt.1.content", "prompt.0.role", "reward_model.x"):
        with pytest.raises(FieldError, match=r"has no field .* it has prompt, reward_model, a\.b"):
            field(row, name)


def test_numbers_are_written_as_by_hand() -> None:
    assert [text(value, "x") for value in (5, 145.0, 0.5, -3.0, " a ", True, None)] == [
        "5",
        "145",
        "0.5",
        "-3",
        "a",
        "True",
        "",
    ]
    assert texts("a", "x") == ("a",)
    assert texts([1, "b"], "x") == ("1", "b")
    with pytest.raises(FieldError, match="datetime"):
        text(datetime.datetime(2024, 1, 1), "x")
    with pytest.raises(FieldError, match="dict"):
        texts([{"a": 1}], "x")


def make(rows: list[dict[str, Any]]) -> list[Problem]:
    def convert(row: Any, number: int) -> Problem:
        return Problem(id=str(field(row, "id")), question=row["question"], answers=texts(row["answers"], "answers"))

    return make_problems(enumerate(rows), convert, "some.setting", "Mend it.")


def test_every_row_becomes_a_problem_in_order() -> None:
    assert [p.id for p in make(ROWS)] == [row["id"] for row in ROWS]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "2"}, "row 5 has the id of row 2, '2'"),
        ({"question": "  "}, r"row 5 \(5\) has an empty question"),
        ({"answers": []}, r"row 5 \(5\) has an empty answer: 'What is 5"),
        ({"answers": ["6", " "]}, r"row 5 \(5\) has an empty answer"),
        ({"answers": None}, r"row 5 \(5\) has an empty answer"),
        ({"answers": [{}]}, "row 5 holds a dict in 'answers'"),
    ],
)
def test_a_row_that_is_no_problem_stops_with_its_number(change: dict[str, Any], says: str) -> None:
    rows = [*ROWS[:5], {**ROWS[5], **change}, *ROWS[6:]]
    with pytest.raises(ConfigError, match=says) as raised:
        make(rows)
    assert raised.value.setting == "some.setting"
