"""The search protocol: <search> a query </search> is replied to with <information> documents </information>, and
<answer> ends the trajectory (section 3.2; the protocol of Search-R1 and ZeroSearch)."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.search.base import Document, Query, SearchEngine, SearchResult
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeInt, PositiveInt
from ovd_lightning.settings.texts import DocumentFormat
from ovd_lightning.tasks.environment import Environment, Reply, Turn, defuse, tags

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine

log = logging.getLogger(__name__)

SETTINGS = "task.init_args.environment.init_args"
ACTION = re.compile(r"<(search|answer)>((?:(?!<\1>).)*?)</\1>", re.DOTALL | re.IGNORECASE)
"""A complete action; of an opening tag that is written twice, the second counts."""
TAG = tags("think", "search", "information", "answer")
FEWEST = 8
"""Fewest searches of a rollout from which on the share of failed ones is checked."""


class SearchEnvironment(Environment):
    """A turn's action is its first complete <search> or <answer>; the reply to a turn without one explains what is.

    A search that fails gets a reply that reports it, and is counted. Documents are other people's text: tags of the
    protocol in them are defused, so that none can end the information block or seem to answer.

    Args:
        search: the search engine.
        top_k: documents a search (Search-R1: 3, ZeroSearch: 5).
        document_format: of a document with a title, from {rank} (1 is the best), {title}, {text}, {id}, {score}.
        untitled_format: of a document without one.
        max_turns: replies a trajectory, after which one final generation follows (ZeroSearch: 5).
        max_turn_tokens: limit of one generation.
        max_observation_tokens: limit of the documents of one search together, in the student's tokens.
        observation_prefix: text before the documents.
        observation_suffix: text after them.
        invalid_message: the reply to a turn without an action.
        failed_message: in place of the documents, when the search failed.
        empty_message: in place of the documents, when the search found none.
        max_failed_share: share of failed searches of a rollout above which the run stops, in [0, 1]; 1: never. Looked
            at from 8 searches on.
    """

    stop: tuple[str, ...] = ("</search>", "</answer>", "</Search>", "</Answer>")

    def __init__(
        self,
        search: SearchEngine,
        top_k: PositiveInt = 3,
        document_format: DocumentFormat = "Doc {rank}(Title: {title}) {text}",
        untitled_format: DocumentFormat = "Doc {rank}: {text}",
        max_turns: NonNegativeInt = 5,
        max_turn_tokens: PositiveInt = 500,
        max_observation_tokens: PositiveInt = 500,
        observation_prefix: str = "\n\n<information>",
        observation_suffix: str = "</information>\n\n",
        invalid_message: str = (
            "\nThat was not an action. To search, write a query between <search> and </search>. "
            "To finish, write the answer between <answer> and </answer>.\n"
        ),
        failed_message: str = "The search failed: the search engine did not answer.",
        empty_message: str = "The search found nothing.",
        max_failed_share: ClosedUnitInterval = 0.5,
    ) -> None:
        super().__init__(max_turns, max_turn_tokens, max_observation_tokens)
        if search.most is not None and top_k > search.most:
            raise ConfigError(f"{SETTINGS}.top_k", f"is {top_k}.", f"Use 1 to {search.most}.")
        self.search = search
        self.top_k = top_k
        self.document_format, self.untitled_format = document_format, untitled_format
        self.observation_prefix, self.observation_suffix = observation_prefix, observation_suffix
        self.invalid_message, self.failed_message, self.empty_message = invalid_message, failed_message, empty_message
        self.max_failed_share = max_failed_share
        own = ("searches", "failed_searches", "empty_searches", "defused_documents", "search_seconds")
        self.counted = (*own, *search.counted)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._rollout: Counter[str] = Counter()
        """Searches and failures since the rollout began."""
        self._last_error = ""

    @property
    def tells_answer(self) -> bool:
        """The search engine sees the true answers: results measured with it are not the student's alone."""
        return self.search.tells_answer

    def settings(self) -> dict[str, Any]:
        """What an answer depends on, for the record of an evaluation."""
        plain = (str, int, float, bool)
        own = {name: value for name, value in vars(self).items() if name[0] != "_" and isinstance(value, plain)}
        return {**own, "tells_answer": self.tells_answer, "engine": self.search.settings()}

    def check(self) -> None:
        self.search.check()
        self.search.open_cache()

    def start(self) -> None:
        self.search.start()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Raises: RuntimeError at its end, when too many searches failed in it."""
        self._rollout = Counter()
        with self.search.awake():
            yield
        searches, failed = self._rollout["searches"], self._rollout["failed"]
        if searches >= FEWEST and failed / searches > self.max_failed_share:
            raise RunError(
                f"{failed} of {searches} searches by {self.search.name} failed, a larger share than "
                f"{SETTINGS}.max_failed_share = {self.max_failed_share:g}. The last one: {self._last_error}"
            )

    @property
    def asks_student(self) -> bool:
        return self.search.asks_student

    @contextmanager
    def asking(self, student: Engine) -> Iterator[None]:
        with self.search.asking(student):
            yield

    def close(self) -> None:
        self.search.close()

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, defaultdict(float)
        return {**{name: counts[name] for name in self.counted}, **self.search.take_counts()}

    # -------------------------------------------------------------- replying

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        actions = [action_of(turn.text) for turn in turns]
        asking = [i for i, (kind, text) in enumerate(actions) if kind == "search" and text]
        queries = [self._query(turns[i], actions[i][1], progress) for i in asking]
        found = dict(zip(asking, self._search(queries), strict=True))
        return [
            self._observation(found[i]) if i in found
            else Reply(done=True) if kind == "answer"
            else Reply(body=self.invalid_message, valid=False)
            for i, (kind, _) in enumerate(actions)
        ]  # fmt: skip

    @staticmethod
    def _query(turn: Turn, text: str, progress: float | None) -> Query:
        return Query(
            text=text, problem=turn.problem, seed=turn.seed, progress=progress, history=turn.history + turn.text
        )

    def _search(self, queries: Sequence[Query]) -> list[SearchResult]:
        if not queries:
            return []
        begun = time.perf_counter()
        results = self.search.search(queries, self.top_k)
        errors = [result.error for result in results if result.error is not None]
        self._counts["search_seconds"] += time.perf_counter() - begun
        self._counts["searches"] += len(queries)
        self._counts["failed_searches"] += len(errors)
        self._rollout["searches"] += len(queries)
        self._rollout["failed"] += len(errors)
        if errors:
            self._last_error = errors[-1]
            log.warning("%d of %d searches by %s failed: %s", len(errors), len(queries), self.search.name, errors[0])
        return results

    def _observation(self, result: SearchResult) -> Reply:
        if result.error is not None:
            body = self.failed_message
        elif not result.documents:
            self._counts["empty_searches"] += 1
            body = self.empty_message
        else:
            body = "\n".join(self._line(rank, document) for rank, document in enumerate(result.documents, 1))
        return Reply(
            prefix=self.observation_prefix,
            body=body,
            suffix=self.observation_suffix,
            failed=result.error is not None,
        )

    def _line(self, rank: int, document: Document) -> str:
        line = document.line(rank, self.document_format, self.untitled_format)
        defused = defuse(line, TAG)
        self._counts["defused_documents"] += defused != line
        return defused


def action_of(turn: str) -> tuple[str | None, str]:
    """("search", query) or ("answer", answer): the first complete action of a turn; (None, "") when there is none.
    Space is not part of it; it may be empty."""
    found = ACTION.search(turn)
    return (found[1].lower(), " ".join(found[2].split())) if found else (None, "")
