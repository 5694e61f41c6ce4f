"""A retrieval server with Search-R1's ``/retrieve`` protocol: existing ones work unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import SETTINGS, Document, Query, SearchResult, read_document
from ovd_lightning.search.remote import Call, Failure, RemoteSearch
from ovd_lightning.settings.ranges import PositiveInt

if TYPE_CHECKING:
    import httpx

SPLIT_STATUS = (400, 413, 422, 500)
"""Status codes that one bad query of a request may cause (or too many queries): they are then sent one by one."""


class HTTPSearch(RemoteSearch):
    """Posts ``{"queries": [...], "topk": k, "return_scores": true}`` and reads ``{"result": [[...], ...]}``: one list
    a query, of ``{"document": {...}, "score": s}`` or, from servers that give no scores, of the documents themselves.

    Args:
        url: With its path, e.g. http://127.0.0.1:8000/retrieve.
        queries_per_request: Queries in one request. When it fails because of one of them, they are sent one by one.
        return_scores: Ask for scores.
        **remote: See `RemoteSearch`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000/retrieve",
        queries_per_request: PositiveInt = 64,
        return_scores: bool = True,
        **remote: Any,
    ) -> None:
        super().__init__(url, **remote)
        self.queries_per_request = queries_per_request
        self.return_scores = return_scores

    @property
    def name(self) -> str:
        return f"http:{self.url}"

    def check(self) -> None:
        """Sends one query, so that a wrong address fails before the run. Raises: ConfigError."""
        (answer,) = self.service.send([self._call(["capital of France"], 1)], max_retries=0)
        self.service.take_traffic()
        if isinstance(answer, Failure):
            raise ConfigError(
                f"{SETTINGS}.url",
                f"{self.url} does not answer as a retrieval server does ({answer.reason}).",
                "Correct it (most end in /retrieve), or start the server; docs/search.md shows how.",
            )

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        size = self.queries_per_request
        chunks = [list(range(at, min(at + size, len(queries)))) for at in range(0, len(queries), size)]
        results: dict[int, SearchResult] = {}
        while chunks:
            answers = self.service.send([self._call([queries[i].text for i in rows], top_k) for rows in chunks])
            single: list[list[int]] = []
            for rows, answer in zip(chunks, answers, strict=True):
                if not isinstance(answer, Failure):
                    results |= {i: SearchResult(documents=found) for i, found in zip(rows, answer, strict=True)}
                elif answer.status in SPLIT_STATUS and len(rows) > 1:
                    single += [[i] for i in rows]
                else:
                    results |= {i: SearchResult(error=answer.reason) for i in rows}
            chunks = single
        return [results[i] for i in range(len(queries))]

    def _call(self, texts: list[str], top_k: int) -> Call:
        body = {"queries": texts, "topk": top_k, "return_scores": self.return_scores}

        async def call(client: httpx.AsyncClient) -> list[list[Document]]:
            response = await client.post(self.url, json=body)
            response.raise_for_status()
            return read_results(response.json(), len(texts), top_k)

        return call


def read_results(answer: Any, queries: int, top_k: int) -> list[list[Document]]:
    """The documents for each query. Raises: ValueError when the answer does not follow the protocol."""
    rows = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError('the answer has no "result" with a list a query')
    if len(rows) != queries:
        raise ValueError(f"{len(rows)} results came back for {queries} queries")
    return [[_read_entry(entry) for entry in row[:top_k]] for row in rows]


def _read_entry(entry: Any) -> Document:
    """One document, with or without a score. Some servers write scores as strings."""
    score = None
    if isinstance(entry, dict) and "document" in entry:
        entry, score = entry["document"], entry.get("score")
    if not isinstance(entry, dict) or isinstance(score, bool) or not isinstance(score, int | float | str | None):
        raise ValueError("a result is neither a document nor one with its score")
    try:
        value = None if score is None else float(score)
    except ValueError:
        raise ValueError(f"a score is no number: {score!r:.40}") from None
    return read_document(entry, value if value is None or math.isfinite(value) else None)
