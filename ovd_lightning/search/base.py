"""The contract of a search engine: queries of all live trajectories in, documents or the reason of a failure out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.types import Problem

SETTINGS = "task.init_args.environment.init_args.search.init_args"
"""Path of a search engine's settings in a run's config."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Document:
    """One result of a search."""

    text: str
    title: str = ""
    id: str = ""
    score: float | None = None
    """The engine's own; comparable within one search only. None where it has none."""

    def line(self, rank: int, titled: str, untitled: str) -> str:
        """The document on one line, by the first format if it has a title, else by the second."""
        fields = {name: " ".join(str(getattr(self, name)).split()) for name in ("title", "text", "id")}
        return (titled if self.title else untitled).format(rank=rank, score=self.score, **fields)


@dataclass(slots=True, kw_only=True, frozen=True)
class Query:
    """What one trajectory searches for, and all that an engine may look at besides."""

    text: str
    problem: Problem
    seed: int
    """For what is random in the answer: the same turn of the same trajectory gets the same documents again."""
    progress: float | None
    """Share of the training that is over, in [0, 1), for a curriculum; None: evaluation."""
    history: str = ""
    """The completion up to this query and with it, for an engine that reads what it finds."""


@dataclass(slots=True, kw_only=True)
class SearchResult:
    """What came back for a query. No documents and no error: the search worked and found nothing."""

    documents: list[Document] = field(default_factory=list)
    error: str | None = None
    """Why the search failed after its retries; there are no documents then."""


def read_document(fields: Mapping[str, Any], score: float | None = None) -> Document:
    """A document from a record with ``text`` (and ``title``), or with ``contents`` as Search-R1's corpora have it: the
    title in the first line, often in quotes, and the text in the others; a single line is all text.

    Raises: ValueError when there is neither.
    """
    title, text = str(fields.get("title") or ""), fields.get("text")
    if text is None:
        if not isinstance(contents := fields.get("contents"), str):
            raise ValueError(f"a document has neither text nor contents, only {', '.join(sorted(fields)) or 'nothing'}")
        first, more, rest = contents.partition("\n")
        title, text = (title or first, rest) if more else (title, contents)
    identity = fields.get("id")
    return Document(
        text=str(text).strip(),
        title=title.strip().strip('"').strip(),
        id="" if identity is None else str(identity),
        score=score,
    )


class SearchEngine(ABC):
    """Answers queries. Construction checks settings and is cheap; :meth:`start` loads.

    Args:
        cache: file that keeps results, so that no query is sent twice; null: no cache. Entries do not expire:
            delete it to search again.
    """

    tells_answer: bool = False
    """The engine sees the problem's answer, which its documents may therefore repeat: results measured with it are
    not the student's alone."""
    counted: tuple[str, ...] = ()
    """Names of what :meth:`take_counts` may count."""
    most: int | None = None
    """Documents a query that the engine can give at most; None: any number."""
    asks_student: bool = False
    """It asks the student about what it finds: see :meth:`asking`."""

    def __init__(self, cache: str | None = None) -> None:
        self._cache_path = cache
        self._cache: AnswerCache | None = None
        self._counts: Counter[str] = Counter()
        if cache is not None:
            self.counted = (*self.counted, "cache_hits")

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the engine and what it searches, e.g. for cache keys and the run's record; holds no key."""

    def settings(self) -> dict[str, Any]:
        """What its answers depend on, for the record of an evaluation."""
        return {"search": self.name}

    def check(self) -> None:  # noqa: B027 -- an engine may have nothing to check
        """Everything that can be checked without loading. Raises: ConfigError."""

    def open_cache(self) -> None:
        """Raises: ConfigError for one that is damaged or cannot be written to."""
        if self._cache is None and self._cache_path is not None:
            self._cache = AnswerCache(self._cache_path, f"{SETTINGS}.cache")

    def start(self) -> None:
        """Load. A second call does nothing."""
        self.open_cache()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Memory of an engine's own model is held inside this block only."""
        yield

    @contextmanager
    def asking(self, student: Engine) -> Iterator[None]:
        """Inside this block ``student`` writes the trajectories that search, and may be asked."""
        yield

    def close(self) -> None:
        """Give everything back."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def take_counts(self) -> dict[str, float]:
        """What happened since the last call, by the names in ``counted``; sums, added up over ranks."""
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in self.counted}

    def search(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        """At most ``top_k`` documents a query, the best first, in the order of the queries.

        One call for all live trajectories; equal queries are sent once, cached ones not at all. Never raises for a
        failed search.
        """
        self.start()
        keys = [AnswerCache.key(self.name, top_k, *self.identity(query)) for query in queries]
        results = self._known(keys)
        missing: dict[str, Query] = {}
        for key, query in zip(keys, queries, strict=True):
            if key not in results:
                missing.setdefault(key, query)
        if missing:
            found = dict(zip(missing, self.find(list(missing.values()), top_k), strict=True))
            self._keep(found)
            results |= found
        return [results[key] for key in keys]

    def identity(self, query: Query) -> tuple[Any, ...]:
        """What the answer to a query depends on, besides ``name`` and ``top_k``; JSON can hold it."""
        return (query.text,)

    @abstractmethod
    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        """The result of each of some different queries, in order. Never raises for a failed search."""

    def _known(self, keys: Sequence[str]) -> dict[str, SearchResult]:
        if self._cache is None:
            return {}
        known = self._cache.get(list(dict.fromkeys(keys)))
        self._counts["cache_hits"] += sum(key in known for key in keys)
        return {key: SearchResult(documents=[Document(**document) for document in known[key]]) for key in known}

    def _keep(self, found: Mapping[str, SearchResult]) -> None:
        """Failures are not kept: the next one asks again."""
        if self._cache is not None:
            self._cache.put({
                key: [asdict(document) for document in result.documents]
                for key, result in found.items() if result.error is None
            })  # fmt: skip
