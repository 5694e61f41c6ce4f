"""JSON and CSV as they are written: no digit, date or zero is lost, and what is no row is refused with its place."""

from __future__ import annotations

import codecs
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.math import MathTask
from ovd_lightning.tasks.sources import FieldError, Source, load_rows, meta_of, text
from ovd_lightning.tasks.web_qa import WebQATask
from tests.tasks.math_rows import write_parquet

BIG = "123456789012345678901234567890"


def load(path: Path, split: str = "train") -> list[dict[str, Any]]:
    return load_rows(Source(data=str(path), split=split), "some.setting")


def write(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (BIG, BIG),
        ("-" + BIG, "-" + BIG),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551616", "18446744073709551616"),
        ("9" * 5000, "9" * 5000),
        ("145.0", "145"),
        ("0.50", "0.5"),
        ("3.14159265358979323846", "3.14159265358979323846"),
        ("1e23", "100000000000000000000000"),
        ("1e400", "1e400"),
        ("-0.0", "0"),
        ("007", None),  # no JSON
        ('"007"', "007"),
        ('"2011-07-04"', "2011-07-04"),
        ('"2011-07-04T00:00:00Z"', "2011-07-04T00:00:00Z"),
        ('"12:30"', "12:30"),
        ('"1,000"', "1,000"),
        ('"1e5"', "1e5"),
        ('"true"', "true"),
        ("true", "True"),
        ('"nan"', "nan"),  # a place in Thailand
        ('"\\frac{1}{2}"', None),  # a form feed and "rac{1}{2}"
        ('"\\\\frac{1}{2}"', "\\frac{1}{2}"),
        ("NaN", None),
        ("Infinity", None),
        ("-Infinity", None),
        ("null", None),
        ('""', None),
        ("[]", None),
        ("{}", None),
        ('["2", NaN]', None),
        ('["2", null]', None),
    ],
)
@pytest.mark.parametrize("beside", ["1", "0.5", '"a text"', "null"])
def test_an_answer_is_what_is_written_whatever_stands_in_other_rows(
    tmp_path: Path, written: str, answer: str | None, beside: str
) -> None:
    first = f'{{"id": "a", "question": "q", "answers": {written}}}\n'
    second = f'{{"id": "b", "question": "r", "answers": {beside if beside != "null" else 1}, "more": {beside}}}\n'
    task = MathTask(str(write(tmp_path, first + second)))
    if answer is not None:
        assert task.problems("train")[0].answers == (answer,)
        return
    with pytest.raises(ConfigError, match=r"row 0 |line 1 "):
        task.problems("train")


def test_aliases_that_look_like_dates(tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": f"q{i}", "golden_answers": ["2011-07-04", "2012-01-01"]} for i in range(3)]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert {p.answers for p in WebQATask(str(path), template="direct").problems("train")} == {
        ("2011-07-04", "2012-01-01")
    }


ROWS: list[dict[str, Any]] = [
    {"id": 1, "question": "a\u2028b", "answers": ["x", 3.5], "meta": {"k": [1, {"l": None}]}},
    {"id": 2, "question": "é", "answers": ["-0.2253"]},
    {"id": 3, "question": "c", "answers": [7]},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\n".join(LINES), "a.jsonl"),
        ("\n".join(LINES) + "\n", "a.jsonl"),
        ("\r\n".join(LINES) + "\r\n", "a.jsonl"),
        ("\n\n  \n" + "\n\n".join(LINES) + "\n \n", "a.jsonl"),
        (codecs.BOM_UTF8 + "\n".join(LINES).encode(), "a.jsonl"),
        ("\n".join(LINES).encode("utf-16"), "a.jsonl"),
        (gzip.compress("\n".join(LINES).encode(), mtime=0), "a.jsonl.gz"),
        (json.dumps(ROWS), "a.json"),
        (json.dumps(ROWS, indent=2), "a.json"),
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "a.json"),
        (json.dumps({"version": "1.1", "data": ROWS}), "a.json"),
        (json.dumps({"rows": ROWS}), "a.json"),
        ("\n".join(LINES), "a.json"),
    ],
)
def test_forms_of_a_json_file(tmp_path: Path, content: str | bytes, name: str) -> None:
    assert load(write(tmp_path, content, name)) == ROWS


def test_a_single_object_is_a_row(tmp_path: Path) -> None:
    assert load(write(tmp_path, '{"question": "q", "answers": ["1"], "prompt": [{"role": "user"}]}')) == [
        {"question": "q", "answers": ["1"], "prompt": [{"role": "user"}]}
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": 1}\n\n{"a": \n', "line 4 is no JSON"),
        ('{"a": 1}\n{"b": 2]\n{"c": 3}', "line 2 is no JSON"),
        ('{"a": 1}\n[2]\n', r"line 2 is no JSON object but \[2\]"),
        ("[1, 2]", "item 0 is no JSON object but 1"),
        ("question,answers\nq,1\n", "line 1 is no JSON"),
        (b'{"a": 1}\n{"a": "\xe9"}', "line 2 is not UTF-8"),
        ("", "no data"),
        ("[]", "no data"),
        ("[" * 100_000, "line 1 is no JSON"),
    ],
)
def test_what_is_no_json_is_named_by_its_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        load(write(tmp_path, content))
    assert raised.value.setting == "some.setting"
    assert "rows.jsonl" in str(raised.value)


def test_what_is_no_gzip(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no gzip"):
        load(write(tmp_path, "{}", "a.jsonl.gz"))


# --------------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('id,question,answers\n1,"What, is it?","1,000"\n2,"a\nb ""c""",007\n', "a.csv"),
        ('id,question,answers\r\n1,"What, is it?","1,000"\r\n\r\n2,"a\nb ""c""",007', "a.csv"),
        ('\ufeffid;question;answers\n1;"What, is it?";1,000\n2;"a\nb ""c""";007\n', "a.csv"),
        ('id\tquestion\tanswers\n1\tWhat, is it?\t1,000\n2\t"a\nb ""c"""\t007\n', "a.tsv"),
        (gzip.compress(b'id,question,answers\n1,"What, is it?","1,000"\n2,"a\nb ""c""",007\n', mtime=0), "a.csv.gz"),
    ],
)
def test_values_of_csv_stay_texts(tmp_path: Path, content: str | bytes, name: str) -> None:
    rows = load(write(tmp_path, content, name))
    assert rows == [
        {"id": "1", "question": "What, is it?", "answers": "1,000"},
        {"id": "2", "question": 'a\nb "c"', "answers": "007"},
    ]
    problems = MathTask(str(tmp_path / name)).problems("train")
    assert [(p.id, p.answers) for p in problems] == [("1", ("1,000",)), ("2", ("007",))]


@pytest.mark.parametrize("value", ["2011-07-04", "1e5", "NA", "null", "True", "0.50", "١", "x\u2028y", "z" * 200_000])
def test_no_value_of_csv_means_another(tmp_path: Path, value: str) -> None:
    assert load(write(tmp_path, f"question,answers\nq,{value}\n", "a.csv"))[0]["answers"] == value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("question,answers\nq,1\nr,2,3\n", "line 3 has 3 values for 2 columns"),
        ("question,answers\nq\n", "line 2 has 1 values for 2 columns"),
        ("question,question\nq,1\n", "name each column once"),
        ("question,\nq,1\n", "name each column once"),
        ('question,answers\nq,"1\n', "is no CSV"),
        ('question,answers\n"q" r,1\n', "line 2 is no CSV"),
        ("question,answers\n", "no data"),
    ],
)
def test_what_is_no_csv_is_named_by_its_line(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(write(tmp_path, content, "a.csv"))


def test_an_empty_answer_in_csv_stops_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 1 \(math-1\) has an empty answer"):
        MathTask(str(write(tmp_path, "question,answers\nq,1\nr,\n", "a.csv"))).problems("train")
    with pytest.raises(ConfigError, match="row 0 holds a str in 'meta'"):
        MathTask(str(write(tmp_path, "question,answers,meta\nq,1,x\n", "b.csv"))).problems("train")


# --------------------------------------------------------------------- folders, slices, Parquet


def test_a_folder_of_json_or_csv_is_as_exact_as_a_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "json").mkdir(exist_ok=True)
        (tmp_path / "csv").mkdir(exist_ok=True)
        write(
            tmp_path / "json",
            f'{{"answers": {BIG}}}\n{{"answers": 0.5}}\n{{"answers": "2011-07-04"}}',
            f"{split}.jsonl",
        )
        write(tmp_path / "csv", "answers\n007\n1\n2", f"{split}.csv")
    assert [row["answers"] for row in load(tmp_path / "json", "test")] == [int(BIG), 0.5, "2011-07-04"]
    assert [row["answers"] for row in load(tmp_path / "csv", "train[:34%]+test[-1:]")] == ["007", "2"]
    with pytest.raises(ConfigError, match="validation"):
        load(tmp_path / "csv", "validation")


@pytest.mark.parametrize(
    ("split", "ids"),
    [("train", [1, 2, 3]), ("train[1:]", [2, 3]), ("train[:67%]", [1, 2]), ("train[-1:]", [3]), ("valid[0:1]", [1])],
)
def test_slices_of_a_file(tmp_path: Path, split: str, ids: list[int]) -> None:
    assert [row["id"] for row in load(write(tmp_path, "\n".join(LINES)), split)] == ids


@pytest.mark.parametrize("split", ["train[1:", "train[a:]", "train[5:]", "train+test", ""])
def test_what_is_no_slice(tmp_path: Path, split: str) -> None:
    with pytest.raises(ConfigError, match=r"some\.setting"):
        load(write(tmp_path, "\n".join(LINES)), split)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**53, 1.2345678901234568e29])
def test_a_float_that_is_no_answer_is_refused_from_parquet_too(tmp_path: Path, value: float) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", [{"question": "q", "answers": 1.5}, {"question": "r", "answers": value}]
    )
    with pytest.raises(ConfigError, match="row 1 holds"):
        MathTask(str(path)).problems("train")
    with pytest.raises(FieldError):
        text(value, "x")


def test_decimals_of_parquet(tmp_path: Path) -> None:
    from decimal import Decimal

    path = write_parquet(tmp_path / "a.parquet", [{"question": "q", "answers": Decimal("145.00")}])
    assert MathTask(str(path)).problems("train")[0].answers == ("145",)
    assert text(Decimal("0.50"), "x") == "0.5"


def test_duplicate_ids_and_nested_fields(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": [{"content": f"q{i}"}], "reward_model": {"ground_truth": i}} for i in range(2)]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)))
    nested = {"question_field": "prompt.0.content", "answers_field": "reward_model.ground_truth"}
    with pytest.raises(ConfigError, match="row 1 has the id of row 0, 'a'"):
        MathTask(str(path), **nested).problems("train")
    assert [p.answers for p in MathTask(str(path), **nested, split="train[1:]").problems("train")] == [("1",)]
    assert meta_of({"meta": {"a": 1, "b": None}}) == {"a": 1}
