"""The web itself, through the Brave Search API (https://api-dashboard.search.brave.com/api-reference/web/search/get)."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import SETTINGS, Document, Query, SearchResult
from ovd_lightning.search.remote import Call, Failure, RemoteSearch
from ovd_lightning.settings.ranges import PositiveInt

if TYPE_CHECKING:
    import httpx

MAX_CHARACTERS, MAX_WORDS = 400, 50
"""The API's limits for a query; longer ones are truncated."""
MARKUP = re.compile(r"<!--.*?-->|</?[A-Za-z][\w-]*(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>")
"""A tag with its attributes; there is none in "a < b and c > d"."""


class BraveSearch(RemoteSearch):
    """One request per query; a document is a page's title with the API's snippet of it.

    The key is read from the environment for every batch of requests and never stored.

    Args:
        url: Of the API's web search.
        api_key_env: Environment variable with the key.
        country: Two-letter code of the country that results come from; null: the API's default.
        search_lang: Language code of the results; null: the API's default.
        extra_snippets: Request more excerpts of each page, which some plans include.
        requests_per_minute: Limit per rank, retries included (the free plan: one per second); null: none.
        **remote: See `RemoteSearch`.
    """

    most = 20

    def __init__(
        self,
        url: str = "https://api.search.brave.com/res/v1/web/search",
        api_key_env: str = "BRAVE_API_KEY",
        country: str | None = None,
        search_lang: str | None = None,
        extra_snippets: bool = False,
        requests_per_minute: PositiveInt | None = 60,
        **remote: Any,
    ) -> None:
        super().__init__(url, requests_per_minute=requests_per_minute, **remote)
        self.api_key_env = api_key_env
        fields = {"country": country, "search_lang": search_lang, "extra_snippets": extra_snippets or None}
        self.fields: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}

    @property
    def name(self) -> str:
        return f"brave:{self.url}"

    def settings(self) -> dict[str, Any]:
        return super().settings() | self.fields

    def identity(self, query: Query) -> tuple[Any, ...]:
        return cut(query.text), self.fields

    def check(self) -> None:
        """Only that there is a key, not that it is valid: every request is billed. Raises: ConfigError."""
        if not os.environ.get(self.api_key_env):
            raise ConfigError(
                f"{SETTINGS}.api_key_env",
                f"the environment variable {self.api_key_env} is not set.",
                "Export the key of a Brave Search API subscription under that name.",
            )

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        key = os.environ.get(self.api_key_env)
        if not key:
            return [SearchResult(error=f"the environment variable {self.api_key_env} is not set")] * len(queries)
        answers = self.service.send([self._call(query.text, top_k, key) for query in queries])
        return [
            SearchResult(error=answer.reason) if isinstance(answer, Failure) else SearchResult(documents=answer)
            for answer in answers
        ]

    def _call(self, text: str, top_k: int, key: str) -> Call:
        fields = {"q": cut(text), "count": top_k, "text_decorations": False, **self.fields}

        async def call(client: httpx.AsyncClient) -> list[Document]:
            headers = {"X-Subscription-Token": key, "Accept": "application/json"}
            response = await client.get(self.url, params=fields, headers=headers)
            response.raise_for_status()
            return read_results(response.json(), top_k)

        return call


def cut(text: str) -> str:
    """The query within the API's limits."""
    return " ".join(text.split()[:MAX_WORDS])[:MAX_CHARACTERS]


def plain(text: Any) -> str:
    """The text without markup and entities."""
    return " ".join(html.unescape(MARKUP.sub("", str(text or ""))).split())


def read_results(answer: Any, top_k: int) -> list[Document]:
    """The documents of an answer, possibly none. Raises: ValueError when the answer is not in the API's format."""
    web = (answer.get("web") or {"results": []}) if isinstance(answer, dict) else None
    pages = web.get("results") if isinstance(web, dict) else None
    if not isinstance(pages, list) or not all(isinstance(page, dict) for page in pages):
        raise ValueError("the answer has no list of web results")
    documents = []
    for page in pages[:top_k]:
        snippets = [page.get("description"), *(page.get("extra_snippets") or [])]
        text = " ".join(plain(snippet) for snippet in snippets if snippet)
        documents.append(Document(text=text, title=plain(page.get("title")), id=str(page.get("url") or "")))
    return documents
