"""BM25 over a local corpus, by bm25s. The index is built once, kept on disk, and read from there by every rank."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import mmap
import shutil
import unicodedata
import uuid
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import SETTINGS, Document, Query, SearchEngine, SearchResult, read_document
from ovd_lightning.search.words import VERSION, folded, words
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeFloat

if TYPE_CHECKING:
    import bm25s

log = logging.getLogger(__name__)

LAYOUT = 1
"""Of an index's folder; one of another version is rebuilt."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class BM25Search(SearchEngine):
    """Lexical search, deterministic: documents of equal score come in the order of the corpus, and one that shares no
    word with the query is not found. Words are compared without case, accents, width and ways to compose characters;
    scripts without spaces are searched by pairs of characters.

    The index lies under ``index`` in a folder named by a digest of the corpus and these settings. It is mapped into
    memory, not read, so that the ranks of a machine share it.

    Args:
        corpus: File of documents, .jsonl, .jsonl.gz or .parquet, or a folder of such files: records with id, title and
            text, or with id and contents as in Search-R1's wiki-18, the title in the first line.
        index: Folder of the indexes.
        k1: Saturation of a word's count (Lucene's BM25 with the defaults of Pyserini, which Search-R1's server uses).
        b: How much long documents are held back, in [0, 1].
        stemmer: Snowball algorithm that cuts words to their stems, e.g. english, porter; null: words as they are.
        stopwords: "english", a list of words, or null: words that are not searched for.
    """

    def __init__(
        self,
        corpus: str,
        index: str = ".cache/bm25",
        k1: NonNegativeFloat = 0.9,
        b: ClosedUnitInterval = 0.4,
        stemmer: str | None = "english",
        stopwords: Literal["english"] | list[str] | None = "english",
    ) -> None:
        super().__init__()
        self.corpus = Path(corpus)
        self.index = Path(index)
        self.k1, self.b, self.stemmer, self.stopwords = k1, b, stemmer, stopwords
        self._bm25: bm25s.BM25 | None = None
        self._documents: DocumentFile | None = None

    @property
    def name(self) -> str:
        return f"bm25:{self.corpus}"

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"index": self.digest}

    # ---------------------------------------------------------------- loading

    def check(self) -> None:
        """Check that the corpus, its first document and the stemmer are available."""
        self.words("")
        files = self.files
        try:
            problem = None if next(read_corpus(files), None) is not None else "has no documents"
        except (ValueError, OSError) as error:
            problem = f"cannot be read: {error}"
        if problem is not None:
            raise ConfigError(f"{SETTINGS}.corpus", f"{self.corpus} {problem}.", "docs/search.md has the format.")

    @property
    def files(self) -> list[Path]:
        """The corpus, in the order in which it is read. Raises: ConfigError when there is nothing."""
        if self.corpus.is_dir():
            found = sorted(path for path in self.corpus.iterdir() if path.name.endswith(SUFFIXES))
        else:
            found = [self.corpus] if self.corpus.is_file() and self.corpus.name.endswith(SUFFIXES) else []
        if not found:
            raise ConfigError(
                f"{SETTINGS}.corpus", f"{self.corpus} is no {', '.join(SUFFIXES)} and no folder of such.", "Give one."
            )
        return found

    @cached_property
    def digest(self) -> str:
        """Of all that an index depends on; reads the corpus."""
        import bm25s

        stemming = None if self.stemmer is None else (self.stemmer, _stemmers().version())
        settings = [
            LAYOUT,
            bm25s.__version__,
            VERSION,
            unicodedata.unidata_version,
            self.k1,
            self.b,
            stemming,
            self.stopwords,
        ]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]

    def start(self) -> None:
        if self._bm25 is not None:
            return
        super().start()
        import bm25s
        from filelock import FileLock

        folder = self.index / self.digest
        if not folder.is_dir():
            self.index.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):  # of several ranks one builds, the others wait for it
                if not folder.is_dir():
                    self._build(folder)
        self._documents = DocumentFile(folder)
        self._bm25 = bm25s.BM25.load(folder, mmap=True, show_progress=False)

    def close(self) -> None:
        super().close()
        if self._documents is not None:
            self._documents.close()
        self._bm25 = self._documents = None

    def _build(self, folder: Path) -> None:
        """Index the corpus beside ``folder`` and move it there: readers never see a partial index."""
        import bm25s

        log.warning("indexing %s, once; the index is kept in %s", self.corpus, folder)
        vocabulary: dict[str, int] = {}
        rows: list[array[int]] = []
        building = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
        building.mkdir()
        try:
            with DocumentFile.writing(building) as write:
                for document in read_corpus(self.files):
                    write(document)
                    found = self.words(f"{document.title}\n{document.text}")
                    rows.append(array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in found]))
            if not vocabulary:
                raise ConfigError(f"{SETTINGS}.corpus", f"{self.corpus} has no document with a word.", "Give it some.")
            index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
            index.index((rows, vocabulary), show_progress=False)
            index.save(building, show_progress=False)
            try:
                building.rename(folder)
            except OSError:  # another process, on a file system without locks, was faster
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)

    # -------------------------------------------------------------- searching

    def words(self, text: str, query: bool = False) -> list[str]:
        """What a document is found by, or what a ``query`` asks for."""
        return self._stem([word for word in words(text, query) if word not in self._stopwords])

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        assert self._bm25 is not None
        assert self._documents is not None
        results = []
        for query in queries:
            scores = self._bm25.get_scores_from_ids(
                self._bm25.get_tokens_ids(self.words(query.text, query=True))
            )  # [documents]
            found = [self._documents.read(i, float(scores[i])) for i in best(scores, top_k)]
            results.append(SearchResult(documents=found))
        return results

    @cached_property
    def _stopwords(self) -> frozenset[str]:
        if self.stopwords == "english":
            from bm25s.stopwords import STOPWORDS_EN

            return frozenset(STOPWORDS_EN)
        return frozenset(folded(word) for word in self.stopwords or ())

    @cached_property
    def _stem(self) -> Any:
        """words -> stems. Raises: ConfigError for an unknown stemmer."""
        if self.stemmer is None:
            return list
        known = _stemmers().algorithms()
        if self.stemmer not in known:
            raise ConfigError(
                f"{SETTINGS}.stemmer", f"{self.stemmer!r} is unknown.", f"Use {', '.join(known)} or null."
            )
        return _stemmers().Stemmer(self.stemmer).stemWords


def _stemmers() -> Any:
    import Stemmer

    return Stemmer


def best(scores: np.ndarray, top_k: int) -> list[int]:
    """The rows with the highest positive scores, the best first, equal ones in their order."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > top_k:
        values = scores[rows]
        rows = rows[values >= np.partition(values, -top_k)[-top_k]]
    return [int(row) for row in rows[np.argsort(-scores[rows], kind="stable")][:top_k]]


def read_corpus(files: Sequence[Path]) -> Iterator[Document]:
    """The documents of some files, in order. Raises: ValueError naming the record that is none."""
    for path in files:
        for number, record in enumerate(_records(path), 1):
            try:
                if isinstance(record, ValueError) or not isinstance(record, dict):
                    raise ValueError(str(record) if isinstance(record, ValueError) else "it is no object")
                yield read_document(record)
            except ValueError as error:
                raise ValueError(f"record {number} of {path}: {error}") from error


def _records(path: Path) -> Iterator[Any]:
    """One a document; a ValueError in the place of a line that is no JSON."""
    if path.name.endswith(".parquet"):
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    yield error


class DocumentFile:
    """Documents by their row, from files that are mapped into memory: one JSON object a line, and where each begins."""

    TEXTS, STARTS = "documents.jsonl", "documents.npy"

    def __init__(self, folder: Path) -> None:
        with (folder / self.TEXTS).open("rb") as file:
            self._texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = np.load(folder / self.STARTS, mmap_mode="r")  # [documents + 1]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, row: int, score: float) -> Document:
        fields = json.loads(self._texts[int(self._starts[row]) : int(self._starts[row + 1])])
        return Document(**fields, score=score)

    def close(self) -> None:
        self._texts.close()

    @classmethod
    @contextmanager
    def writing(cls, folder: Path) -> Iterator[Callable[[Document], None]]:
        """Appends one document after the other; the files are there when the block is left."""
        starts = array("q", [0])
        with (folder / cls.TEXTS).open("wb") as file:

            def write(document: Document) -> None:
                fields = {name: value for name, value in asdict(document).items() if name != "score"}
                starts.append(starts[-1] + file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n"))

            yield write
        np.save(folder / cls.STARTS, np.array(starts, dtype=np.int64))
