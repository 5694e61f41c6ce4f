"""Reason-in-Documents of Search-o1 (arXiv 2501.05366): the student itself reads what a search has found, in a call of
its own, and only what it writes then is put into its chain of reasoning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.prompting import as_prompt
from ovd_lightning.engines.render import as_text, encode
from ovd_lightning.errors import RunError, located
from ovd_lightning.search.base import SETTINGS, Document, Query, SearchEngine, SearchResult
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import NonNegativeFloat, PositiveInt
from ovd_lightning.settings.texts import DocumentFormat, ReaderPrompt
from ovd_lightning.tokens import decode

MARKER = "**Final Information**"
"""In front of what the reader has to tell; Search-o1's."""

PROMPT = f"""\
Somebody is reasoning about a question, step by step, and has just searched for something. You are given the reasoning \
so far, the query, and the documents that the search has found.

Go through the documents and pick out the facts that answer the query and carry the reasoning on. Take over only what \
the documents say, and only what bears on the query. End with the line {MARKER} and below it with these facts, worded \
so that they continue the reasoning. If no document helps, write below that line: No helpful information found.

Reasoning so far:
{{reasoning}}

Query: {{query}}

Documents:
{{documents}}

Now read the documents with the query "{{query}}" and this reasoning in mind.
"""
"""Our words for what Search-o1's prompt asks for."""

NOTHING = re.compile(r"No helpful information found\.?", re.IGNORECASE)
_PLACE = re.compile(r"\{(?:question|reasoning|transcript|query|documents)\}")
_EXCHANGE = re.compile(r"<\|begin_search_(?:query|result)\|>|<search>|<information>", re.IGNORECASE)
"""In a line that holds a query, or what came back for one."""
LATEST = 4
"""Last lines of the reasoning that are shown whatever they hold."""


class ReasonInDocuments(SearchEngine):
    """Another engine searches; the student reads the documents, and its summary is the one document of the result.

    The student is the model that writes the trajectories, with its weights at that time; a teacher's turns cannot be
    replied to. A summary without ``marker`` behind which something stands, or one that says that nothing helps, is a
    search without documents.

    Args:
        search: finds the documents, as many as the environment's top_k.
        prompt: what the student is asked, with {documents} and any of {query}, {question}, {reasoning} (the lines so
            far, numbered; of more than five the first, the last four, and those with a query or its result) and
            {transcript} (the reasoning as it was written, with the query at its end).
        chat: Send the prompt as a user message through the student's chat template; null: if it has one.
        marker: text in front of the summary; what stands before is not used. Empty: all is summary.
        stop: the student stops reading after the first of these texts, which are no part of the summary.
        document_format: of a document with a title, as the reader sees it, see SearchEnvironment.
        untitled_format: of a document without one.
        temperature: sampling temperature of the reader (Search-o1's code: 0.7); 0 is greedy.
        max_tokens: limit of what it writes. Documents are cut from their end where prompt and summary would exceed the
            student's context.
    """

    asks_student = True

    def __init__(
        self,
        search: SearchEngine,
        prompt: ReaderPrompt = PROMPT,
        chat: bool | None = None,
        marker: str = MARKER,
        stop: list[str] | None = None,
        document_format: DocumentFormat = "Doc {rank}(Title: {title}) {text}",
        untitled_format: DocumentFormat = "Doc {rank}: {text}",
        temperature: NonNegativeFloat = 0.0,
        max_tokens: PositiveInt = 500,
    ) -> None:
        super().__init__()
        self.inner = search
        self.tells_answer, self.most = search.tells_answer, search.most
        self.prompt, self.chat, self.marker = prompt, chat, marker
        self.document_format, self.untitled_format = document_format, untitled_format
        self.sampling = Sampling(max_tokens=max_tokens, temperature=temperature, stop=tuple(stop or ()), logprobs=False)
        own = ("unmarked_summaries", "cut_readings", "reader_prompt_tokens", "reader_completion_tokens")
        self.counted = (*own, *search.counted)
        self._student: Engine | None = None

    @property
    def name(self) -> str:
        return f"read:{self.inner.name}"

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "of": self.inner.settings(),
            "prompt": self.prompt,
            "chat": self.chat,
            "marker": self.marker,
            "stop": list(self.sampling.stop),
            "formats": [self.document_format, self.untitled_format],
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
        }

    def check(self) -> None:
        with located(f"{SETTINGS}.search.init_args", own=SETTINGS):
            self.inner.check()

    def open_cache(self) -> None:
        super().open_cache()
        self.inner.open_cache()

    def start(self) -> None:
        super().start()
        self.inner.start()

    @contextmanager
    def awake(self) -> Iterator[None]:
        with self.inner.awake():
            yield

    @contextmanager
    def asking(self, student: Engine) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.inner.asking(student))
            stack.callback(setattr, self, "_student", self._student)
            self._student = student
            yield

    def close(self) -> None:
        super().close()
        self.inner.close()

    def take_counts(self) -> dict[str, float]:
        counts = super().take_counts()
        return counts | self.inner.take_counts()

    # ------------------------------------------------------------ searching

    def identity(self, query: Query) -> tuple[Any, ...]:
        s = self.sampling
        how = (self.prompt, self.chat, self.marker, s.stop, s.temperature, s.max_tokens)
        return query.text, query.problem.question, query.history, query.seed if s.temperature > 0 else None, *how

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        """Raises: RunError outside of :meth:`asking`."""
        if self._student is None:
            raise RunError(f"{SETTINGS}: nobody reads the documents, as it is no student's turn")
        results = self.inner.search(queries, top_k)
        requests: dict[int, Request] = {}
        for i, (query, result) in enumerate(zip(queries, results, strict=True)):
            if result.documents:
                prompt = self._fitting(self._student, query, result.documents)
                if prompt is None:
                    results[i] = SearchResult(error="the reasoning leaves no room for a document in the context")
                else:
                    requests[i] = Request(prompt=prompt, seed=seed_of(query.seed, "read"))
        if requests:
            summaries = self._student.generate(list(requests.values()), self.sampling)
            for i, summary in zip(requests, summaries, strict=True):
                results[i] = self._result(summary)
        return results

    def render(self, query: Query, documents: str) -> str:
        """The prompt as text; braces within its parts mean nothing."""
        values = {
            "question": query.problem.question,
            "reasoning": shortened(query.history),
            "transcript": query.history,
            "query": query.text,
            "documents": documents,
        }
        return _PLACE.sub(lambda place: values[place[0][1:-1]], self.prompt)

    def _fitting(self, student: Engine, query: Query, documents: Sequence[Document]) -> Prompt | None:
        """The prompt, with as much of the documents as the context holds; None where it holds none."""
        tokenizer = student.known_tokenizer()
        chat = bool(tokenizer.chat_template) if self.chat is None else self.chat
        lines = [d.line(rank, self.document_format, self.untitled_format) for rank, d in enumerate(documents, 1)]
        text = "\n".join(lines)
        prompt = as_prompt(self.render(query, text), chat)
        if student.max_context is None:
            return prompt
        room = student.max_context - self.sampling.max_tokens
        while (excess := len(encode(tokenizer, prompt)) - room) > 0:
            ids = as_text(tokenizer, text)
            if excess >= len(ids):
                return None
            text = decode(tokenizer, ids[: len(ids) - excess])
            prompt = as_prompt(self.render(query, text), chat)
        self._counts["cut_readings"] += text != "\n".join(lines)
        return prompt

    def _result(self, summary: Completion) -> SearchResult:
        self._counts["reader_prompt_tokens"] += summary.prompt_tokens
        self._counts["reader_completion_tokens"] += summary.completion_tokens
        if summary.error is not None:
            return SearchResult(error=summary.error)
        _, marked, text = summary.text.rpartition(self.marker) if self.marker else ("", "all", summary.text)
        for end in self.sampling.stop:
            text = text.partition(end)[0]
        text = " ".join(text.split()).strip("` ")
        self._counts["unmarked_summaries"] += not (marked and text)
        useful = marked and text and NOTHING.fullmatch(text) is None
        return SearchResult(documents=[Document(text=text)] if useful else [])


def shortened(history: str) -> str:
    """The reasoning as numbered steps, one a line. Of more than five, the first, the last four and those with a query
    or its result stay; an ellipsis stands for the others."""
    lines = [line for line in history.split("\n") if line.strip()]
    steps = [f"Step {i}: {line}" for i, line in enumerate(lines, 1)]
    if len(steps) <= LATEST + 1:
        return "\n\n".join(steps)
    shown: list[str] = []
    for i, step in enumerate(steps):
        if i == 0 or i >= len(steps) - LATEST or _EXCHANGE.search(step):
            shown.append(step)
        elif shown[-1] != "...":
            shown.append("...")
    return "\n\n".join(shown)
