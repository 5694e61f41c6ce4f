"""Searches within the reasoning, as Search-o1 (arXiv 2501.05366) and the retrieval agent of its code write them.

The model reasons, and a query between <|begin_search_query|> and <|end_search_query|> interrupts it; what comes back
stands between <|begin_search_result|> and <|end_search_result|>. The first turn without a query is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovd_lightning.search.base import SearchEngine
from ovd_lightning.settings.ranges import NonNegativeInt, PositiveInt
from ovd_lightning.tasks.environment import Reply, Turn
from ovd_lightning.tasks.search import SearchEnvironment
from ovd_lightning.tasks.web_protocol import MARKS


class AgenticSearchEnvironment(SearchEnvironment):
    """Replies to searches within the reasoning. With a search engine that gives the documents themselves it is
    RA-Agent's, with `ReasonInDocuments` around one Search-o1's.

    A query beyond ``max_searches``, or one that the trajectory has searched for before, is replied to with a message
    instead of documents.

    Args:
        search: the search engine.
        max_searches: searches a trajectory, which the prompt states.
        max_turns: replies a trajectory, messages included, after which one final generation follows.
        observation_prefix: text before the documents.
        observation_suffix: text after them.
        empty_message: in place of the documents, when the search found none, or the reader nothing that helps.
        limit_message: in place of the documents, when max_searches are used up.
        repeated_message: in place of the documents of a query that was searched for before.
        **shared: top_k, document_format, untitled_format, max_turn_tokens, max_observation_tokens, failed_message and
            max_failed_share: see `SearchEnvironment`.
    """

    protocol = MARKS
    stop = ("<|end_search_query|>",)

    def __init__(
        self,
        search: SearchEngine,
        max_searches: PositiveInt = 5,
        max_turns: NonNegativeInt = 9,
        observation_prefix: str = "\n\n<|begin_search_result|>",
        observation_suffix: str = "<|end_search_result|>\n\n",
        empty_message: str = "No helpful information found.",
        limit_message: str = "The searches are used up. Answer with what you know.",
        repeated_message: str = "You have searched for this before: see the result above.",
        **shared: Any,
    ) -> None:
        super().__init__(
            search,
            max_turns=max_turns,
            observation_prefix=observation_prefix,
            observation_suffix=observation_suffix,
            empty_message=empty_message,
            **shared,
        )
        self.max_searches = max_searches
        self.limit_message, self.repeated_message = limit_message, repeated_message
        self.counted = (*self.counted, "refused_searches", "repeated_searches")

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        replies: list[Reply | None] = []
        asking = []
        for turn in turns:
            query = next(reversed(self._queries(turn.text)), "")
            before = list(dict.fromkeys(self._queries(turn.history)))[: self.max_searches]
            if not query:
                replies.append(Reply(done=True))
            elif len(before) >= self.max_searches:
                replies.append(self._refusal(self.limit_message, "refused_searches"))
            elif query in before:
                replies.append(self._refusal(self.repeated_message, "repeated_searches"))
            else:
                replies.append(None)
                asking.append(self._query(turn, query, progress))
        found = iter(self._search(asking))
        return [self._observation(next(found)) if reply is None else reply for reply in replies]

    def _queries(self, text: str) -> list[str]:
        """Those that are not empty. Observations have none: marks in them are defused."""
        queries = (" ".join(found[1].split()) for found in self.protocol.query.finditer(text))
        return [query for query in queries if query]

    def _refusal(self, message: str, counted: str) -> Reply:
        self._counts[counted] += 1
        return Reply(prefix=self.observation_prefix, body=message, suffix=self.observation_suffix)
