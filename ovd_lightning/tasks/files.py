"""Rows of a JSON or CSV file as they are written. ``datasets`` reads these formats by Arrow, which types columns: it
rounds large integers, makes dates of texts and numbers of "007"."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

JSON = (".jsonl", ".json")
CSV = (".csv", ".tsv")
EXACT = 2**53
"""Below this, a float represents every integer exactly."""
_DIGITS = 4000
"""Of an integer, from which on Python refuses to convert it."""
_CELL = 1 << 30


class FileError(ValueError):
    """A file is not of its format; the message has the place."""


def suffix_of(path: Path) -> str:
    """Of the format: ".jsonl" for ``a.jsonl.gz``."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def read_file(path: Path) -> list[dict[str, Any]]:
    """All rows, in order.

    JSON: one object a line, or an array of objects, or one object whose only list of objects is meant. Numbers keep
    every digit: those that Python's cannot hold exactly are texts. CSV and TSV: the first line names the columns, and
    every value is a text, possibly empty.

    Raises: FileError, OSError.
    """
    text = _text(path)
    return _csv(text, "\t" if suffix_of(path) == ".tsv" else None) if suffix_of(path) in CSV else _json(text)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise FileError(f"no gzip: {error}") from error
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileError(f"line {line} is not {encoding.removesuffix('-sig').upper()}: {error.reason}") from error


# --------------------------------------------------------------------- JSON


def _json(text: str) -> list[dict[str, Any]]:
    decoder = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, strict=False)
    values: list[Any] = []
    lines, at = [1], 0  # the line on which each value begins
    while (start := _skip(text, at)) < len(text):
        lines.append(lines[-1] + text.count("\n", at, start))
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            position = getattr(error, "pos", start)
            line = text.count("\n", 0, position) + 1
            raise FileError(f"line {line} is no JSON: {getattr(error, 'msg', error)}") from error
        values.append(value)
        lines.append(lines[-1] + text.count("\n", start, at))
    if len(values) == 1:
        values = _rows_of(values[0])
        where = [f"item {number}" for number in range(len(values))]
    else:
        where = [f"line {line}" for line in lines[1::2]]
    for value, place in zip(values, where, strict=True):
        if not isinstance(value, dict):
            raise FileError(f"{place} is no JSON object but {json.dumps(value)[:40]}")
    return values


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _rows_of(value: Any) -> list[Any]:
    """The rows in the only value of a file."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
        named = {"data", "rows", "examples", "problems", "questions", "train", "test", "validation"} & value.keys()
        if len(lists) == 1 and (len(value) == 1 or named):
            return lists[0]
    return [value]


def _integer(written: str) -> int | str:
    return int(written) if len(written) < _DIGITS else written


def _decimal(written: str) -> float | str:
    """A float where it is the number that is written, else the text."""
    value = float(written)
    exact = math.isfinite(value) and Decimal(repr(value)) == Decimal(written)
    if not exact:
        return written
    return value if abs(value) < EXACT else format(Decimal(written), "f")


# --------------------------------------------------------------------- CSV


def _csv(text: str, delimiter: str | None) -> list[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    if delimiter is None:  # where a comma is the decimal point, spreadsheets write semicolons
        delimiter = ";" if header.count(";") > header.count(",") else ","
    rows: list[dict[str, Any]] = []
    names: list[str] | None = None
    with _long_cells():
        reader = csv.reader(_lines(text), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if names is None:
                    names = [cell.strip() for cell in cells]
                    if "" in names or len(set(names)) < len(names):
                        raise FileError(f"its first line must name each column once, and is {names}")
                elif len(cells) != len(names):
                    raise FileError(f"line {reader.line_num} has {len(cells)} values for {len(names)} columns")
                else:
                    rows.append(dict(zip(names, cells, strict=True)))
        except csv.Error as error:
            raise FileError(f"line {reader.line_num} is no CSV: {error}") from error
    return rows


def _lines(text: str) -> Iterator[str]:
    """With their ends; other separators than line breaks may be part of a value."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    if start < len(text):
        yield text[start:]


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
