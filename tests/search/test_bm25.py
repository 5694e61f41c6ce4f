"""BM25: what is found and in which order, what a corpus may look like, and an index that is built once."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import Document, read_document
from ovd_lightning.search.bm25 import BM25Search, best
from tests.search.parts import RIVERS, query, write_corpus


def engine(corpus: Path, **settings: Any) -> BM25Search:
    return BM25Search(str(corpus), index=str(corpus.parent / "index"), **settings)


def search(engine: BM25Search, *texts: str, top_k: int = 3) -> list[list[Document]]:
    results = engine.search([query(text) for text in texts], top_k)
    assert all(result.error is None for result in results)
    return [result.documents for result in results]


def titles(engine: BM25Search, text: str, top_k: int = 3) -> list[str]:
    return [document.title for document in search(engine, text, top_k=top_k)[0]]


def test_finds_what_shares_words_the_best_first(corpus: Path) -> None:
    found = search(engine(corpus), "Who built the old bridge of Ostrava?", "the Moine river", "xylophone")
    assert found[0][0] == Document(id="0", title=RIVERS[0][0], text=RIVERS[0][1], score=found[0][0].score)
    assert [document.title for document in found[1]] == ["Moine", "Telsa"]
    assert found[2] == []
    assert titles(engine(corpus), "the of and") == []  # only words that are not searched for
    scores = [document.score or 0.0 for document in found[0]]
    assert scores == sorted(scores, reverse=True)
    assert titles(engine(corpus), "bridge Ostrava Karel", top_k=1) == ["Ostrava bridge"]


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    """Lucene's BM25: idf = ln(1 + (N - n + 1/2) / (n + 1/2)), tf / (tf + k1 (1 - b + b length / mean length))."""
    corpus = write_corpus(tmp_path / "c.jsonl", [("", "red red blue"), ("", "blue green")])
    red, blue = search(engine(corpus, k1=1.2, b=0.75, stemmer=None, stopwords=None), "red", "blue")
    idf_red, idf_blue = math.log(1 + 1.5 / 1.5), math.log(1 + 0.5 / 2.5)
    assert red[0].score == pytest.approx(idf_red * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2.5)))
    assert [d.text for d in blue] == ["blue green", "red red blue"]
    assert blue[1].score == pytest.approx(idf_blue * 1 / (1 + 1.2 * (0.25 + 0.75 * 3 / 2.5)))


def test_equal_scores_come_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", [(f"t{i}", "same words here") for i in range(200)])
    assert titles(engine(corpus), "words", top_k=150) == [f"t{i}" for i in range(150)]


@pytest.mark.parametrize(
    ("scores", "rows"),
    [([1, 3, 3, 2], [1, 2, 3]), ([0, 0, 0, 0], []), ([2, 2, 2, 2], [0, 1, 2]), ([0, 1, 0, 5], [3, 1])],
)
def test_best_rows(scores: list[float], rows: list[int]) -> None:
    assert best(np.array(scores, dtype=np.float32), 3) == rows


def test_best_of_many_rows_with_ties() -> None:
    scores = np.random.default_rng(0).integers(0, 4, size=3000).astype(np.float32)
    expected = sorted(np.flatnonzero(scores), key=lambda row: (-scores[row], row))
    for top_k in (1, 900, 2900):
        assert best(scores, top_k) == expected[:top_k]


def test_stems_and_stopwords_are_settings(corpus: Path) -> None:
    assert titles(engine(corpus), "building engineers")[0] == "Karel Brunn"
    assert titles(engine(corpus, stemmer=None), "engineers") == []
    assert titles(engine(corpus, stopwords=None), "the")
    assert titles(engine(corpus, stopwords=["bridge", "bridges"], stemmer=None), "bridge") == []


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "contents", "folder"])
def test_forms_of_a_corpus(tmp_path: Path, form: str) -> None:
    rows = [{"id": str(i), "title": title, "text": text} for i, (title, text) in enumerate(RIVERS)]
    if form == "contents":
        rows = [{"id": row["id"], "contents": f'"{row["title"]}"\n{row["text"]}'} for row in rows]
    path = tmp_path / f"c.{form if form in ('jsonl.gz', 'parquet') else 'jsonl'}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if form == "jsonl.gz":
        with gzip.open(path, "wt") as file:
            file.write(lines)
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "folder":
        path = tmp_path / "parts"
        path.mkdir()
        (path / "b.jsonl").write_text("".join(lines.splitlines(keepends=True)[2:]))
        (path / "a.jsonl").write_text("".join(lines.splitlines(keepends=True)[:2]))
        (path / "readme.txt").write_text("no corpus")
    else:
        path.write_text(lines)
    found = search(engine(path), "Telsa mills")[0]
    assert (found[0].id, found[0].title, found[0].text) == ("2", *RIVERS[2])


@pytest.mark.parametrize(
    ("record", "document"),
    [
        ({"id": 7, "contents": '"A title"\nText\nmore'}, Document(id="7", title="A title", text="Text\nmore")),
        ({"contents": "One line of text"}, Document(text="One line of text")),
        ({"contents": "Plain title\nText"}, Document(title="Plain title", text="Text")),
        ({"title": '"T"', "text": " x ", "contents": '"T"\nx'}, Document(title="T", text="x")),
        ({"title": None, "text": "x"}, Document(text="x")),
    ],
)
def test_records(record: dict[str, Any], document: Document) -> None:
    assert read_document(record) == document


def test_a_title_is_searched_too(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", [("Lysander", "A ship."), ("Hermia", "A ship.")])
    assert titles(engine(corpus), "hermia") == ["Hermia"]


def test_any_script_and_single_characters_are_words(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", [("one", "vitamin C"), ("two", "vitamin D"), ("three", "Прага")])
    assert titles(engine(corpus), "C") == ["one"]
    assert titles(engine(corpus), "ПРАГА") == ["three"]


# ------------------------------------------------------------------- the index


def test_an_index_is_built_once_and_read_from_then_on(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = engine(corpus)
    before = search(first, "bridge")
    assert len([r for r in caplog.records if "indexing" in r.message]) == 1
    first.close()
    second = engine(corpus)
    assert search(second, "bridge") == before
    assert len([r for r in caplog.records if "indexing" in r.message]) == 1
    assert isinstance(second._bm25.scores["data"], np.memmap)  # type: ignore[union-attr]
    assert [path.name for path in (corpus.parent / "index").iterdir() if path.is_dir()] == [second.digest]


def test_another_corpus_or_setting_is_another_index(corpus: Path) -> None:
    digests = {engine(corpus, **settings).digest for settings in ({}, {"k1": 1.5}, {"b": 0.1}, {"stemmer": None})}
    digests.add(engine(corpus, stopwords=["x"]).digest)
    assert len(digests) == 5
    assert titles(engine(corpus), "bridge")
    write_corpus(corpus, [("new", "Only a tunnel.")])
    assert engine(corpus).digest not in digests
    assert titles(engine(corpus), "bridge") == []
    assert titles(engine(corpus), "tunnel") == ["new"]


PROGRAM = """
import sys
from pathlib import Path
from tests.search.test_bm25 import engine, titles
print(titles(engine(Path(sys.argv[1])), sys.argv[2]))
"""


def started(corpus: Path, text: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(corpus), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def many(n: int) -> Sequence[tuple[str, str]]:
    return [(f"title {i}", f"word{i} word{i % 97} word{i % 31} and more of it") for i in range(n)]


def test_two_processes_at_once_build_one_index(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", many(4000))
    both = [started(corpus, "word3999") for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [out for out, _ in outputs] == ["['title 3999']\n"] * 2, outputs
    assert sum("indexing" in err for _, err in outputs) == 1
    assert len([path for path in (tmp_path / "index").iterdir() if path.is_dir()]) == 1


def test_a_build_that_was_killed_is_not_mistaken_for_an_index(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", many(20000))
    process = started(corpus, "word1")
    while not list((tmp_path / "index").glob("*/documents.jsonl")):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "index" / engine(corpus).digest).exists()
    assert titles(engine(corpus), "word19999") == ["title 19999"]


# ------------------------------------------------------------------- bad input


def test_what_is_wrong_with_a_corpus_is_said_before_anything_is_built(tmp_path: Path) -> None:
    cases = {
        "missing": None,
        "empty.jsonl": "",
        "text.jsonl": '{"id": "1", "body": "x"}\n',
        "json.jsonl": "{\n",
        "list.jsonl": "[1]\n",
        "other.csv": "a,b\n",
        "packed.jsonl.gz": "no gzip",
        "columns.parquet": "no parquet",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=r"init_args.corpus"):
            engine(tmp_path / name).check()
    assert not (tmp_path / "index").exists()
    engine(write_corpus(tmp_path / "good.jsonl")).check()


def test_a_bad_record_later_on_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl")
    corpus.write_text(corpus.read_text() + '{"id": "x"}\n')
    with pytest.raises(ValueError, match=r"record 5 of .*c.jsonl: a document has neither text nor contents, only id"):
        engine(corpus).start()
    assert [path for path in (tmp_path / "index").iterdir() if path.is_dir()] == []


def test_a_corpus_without_words(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", [("", "..."), ("", "the and of")])
    with pytest.raises(ConfigError, match="no document with a word"):
        engine(corpus).start()
    corpus = write_corpus(tmp_path / "d.jsonl", [("", "..."), ("", "a word")])
    assert len(search(engine(corpus), "word")[0]) == 1


def test_an_unknown_stemmer(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"search.init_args.stemmer\b"):
        engine(corpus, stemmer="klingon").check()
