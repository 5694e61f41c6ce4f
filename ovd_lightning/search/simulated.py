"""A language model as search engine, after ZeroSearch (arXiv 2505.04588; appendix A.6.1 of the paper uses its models).

It writes the documents that a search might have found, useful or noisy. The share of noisy ones is a curriculum: the
search gets worse while the student gets better.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.endpoint import EndpointDown
from ovd_lightning.engines.render import encode
from ovd_lightning.errors import ConfigError, located, raise_errors
from ovd_lightning.search.base import SETTINGS, Query, SearchEngine, SearchResult
from ovd_lightning.search.written import read_documents
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from ovd_lightning.settings.texts import SimulatorPrompt, places

WITH_ANSWER = """\
You play a web search engine. Someone who wants to answer a question has sent you a query. Write the {count} documents \
that your results would show, each in one paragraph of about 30 words.

The question behind the query is: {question}
Its true answer is: {answer}

The documents have to be {kind}. Useful documents hold facts that help to answer the question. Noisy documents are \
about similar things and sound alike, but do not help. Never speak of the question or of these instructions. Begin \
each document with its number, as in "Doc 1: ...".

Query: {query}
{Kind} documents:
"""
"""Our prompt, similar to ZeroSearch's. Its own, on which its published models were tuned, is in configs/search."""

WITHOUT_ANSWER = """\
You play a web search engine. Someone has sent you a query. Write the {count} documents that your results would show, \
each in one paragraph of about 30 words.

The documents have to be {kind}. Useful documents hold facts that answer the query. Noisy documents are about similar \
things and sound alike, but do not answer it. Never speak of these instructions. Begin each document with its number, \
as in "Doc 1: ...".

Query: {query}
{Kind} documents:
"""

FIELDS = {"query", "question", "answer", "count", "kind", "Kind"}


class SimulatedSearch(SearchEngine):
    """Documents written by a language model. Its prompt contains the problem's true answer, so that documents are
    useful beyond what the model knows: **an evaluation with it measures a student that may see the answers**
    (``tells_answer``).

    Args:
        engine: Writes the documents: any engine, an OpenAI-compatible server of a published simulation model included.
        chat: Send the prompt as a user message through the engine's chat template.
        system: System message before it; null: the template's own, if it has one.
        prompt: A custom prompt with {query} and any of {question}, {answer} (the first alternative), {count}, {kind}
            ("useful" or "noisy") and {Kind}; null: the default.
        tell_answer: Whether the default prompt contains question and true answer. A custom one does if it has {answer}.
        noise_start: Probability of noisy documents at the start of training.
        noise_end: Probability at its end; in between, start + (4^progress - 1) / 3 * (end - start).
        evaluation_noise: Probability in evaluations.
        temperature: Sampling temperature (ZeroSearch: 0.8).
        max_tokens: Limit for all documents of a query together (ZeroSearch: 600).
        cache: File with all documents so far, so that a repeated run gets the same ones; null: no cache.
    """

    counted = ("noisy_documents", "unreadable", "simulator_prompt_tokens", "simulator_completion_tokens")

    def __init__(
        self,
        engine: Engine,
        chat: bool = True,
        system: str | None = None,
        prompt: SimulatorPrompt | None = None,
        tell_answer: bool = True,
        noise_start: ClosedUnitInterval = 0.0,
        noise_end: ClosedUnitInterval = 0.5,
        evaluation_noise: ClosedUnitInterval = 0.0,
        temperature: NonNegativeFloat = 0.8,
        max_tokens: PositiveInt = 600,
        cache: str | None = None,
    ) -> None:
        super().__init__(cache)
        self.engine = engine
        self.chat = chat
        self.system = system
        self.prompt = prompt if prompt is not None else WITH_ANSWER if tell_answer else WITHOUT_ANSWER
        self.noise_start, self.noise_end, self.evaluation_noise = noise_start, noise_end, evaluation_noise
        self.sampling = Sampling(max_tokens=max_tokens, temperature=temperature, logprobs=False)
        self.tells_answer = any(name.startswith("answer") for name in places(self.prompt))  # {answer[0]}, too
        raise_errors(self._errors(tell_answer))

    def _errors(self, tell_answer: bool) -> Iterator[ConfigError]:
        if self.system is not None and not self.chat:
            yield ConfigError(f"{SETTINGS}.system", "is a message, but chat is false.", "Put it into prompt.")
        if self.tells_answer and not tell_answer:
            problem = "is false, but prompt has {answer}."
            yield ConfigError(f"{SETTINGS}.tell_answer", problem, "Take {answer} out of the prompt.")

    @property
    def name(self) -> str:
        return f"simulated:{self.engine.name}"

    def settings(self) -> dict[str, Any]:
        return super().settings() | {
            "prompt": self.prompt,
            "system": self.system,
            "chat": self.chat,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "noise": self.evaluation_noise,
        }

    def check(self) -> None:
        with located(f"{SETTINGS}.engine"):
            self.engine.check()
        takes_messages = getattr(self.engine, "api", None) == "chat"  # the endpoint has the template
        if self.chat and not takes_messages and not getattr(self.engine.tokenizer, "chat_template", None):
            raise ConfigError(
                f"{SETTINGS}.chat",
                f"is true, but there is no chat template of {self.engine.name}.",
                "Set it to false, or api of an endpoint to chat.",
            )

    def start(self) -> None:
        super().start()
        self.engine.start()

    @contextmanager
    def awake(self) -> Iterator[None]:
        with self.engine.awake():
            yield

    def close(self) -> None:
        super().close()
        self.engine.close()

    # ---------------------------------------------------------------- noise

    def noise(self, progress: float | None) -> float:
        """Probability of noisy documents after a share ``progress`` of the training; None: in an evaluation."""
        if progress is None:
            return self.evaluation_noise
        return self.noise_start + (4**progress - 1) / 3 * (self.noise_end - self.noise_start)

    def is_noisy(self, query: Query) -> bool:
        """Drawn from the query's seed: the same in a repeated run."""
        return random.Random(seed_of(query.seed, "noise")).random() < self.noise(query.progress)

    # ------------------------------------------------------------ searching

    def identity(self, query: Query) -> tuple[Any, ...]:
        text = self.render(query, count=0)  # the cache key contains the number of documents anyway
        return text, query.seed, self.system, self.chat, self.sampling.temperature, self.sampling.max_tokens

    def search(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        results = super().search(queries, top_k)
        noisy = [len(r.documents) for q, r in zip(queries, results, strict=True) if self.is_noisy(q)]
        self._counts["noisy_documents"] += sum(noisy)
        return results

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        prompts = [self._prompt(query, top_k) for query in queries]
        results: dict[int, SearchResult] = {}
        for i, prompt in enumerate(prompts):
            if (problem := self._too_long(prompt)) is not None:
                results[i] = SearchResult(error=problem)
        rows = [i for i in range(len(queries)) if i not in results]
        requests = [Request(prompt=prompts[i], seed=seed_of(queries[i].seed, "documents")) for i in rows]
        for i, completion in zip(rows, self._generate(requests, top_k), strict=True):
            results[i] = self._read(completion, top_k)
        return [results[i] for i in range(len(queries))]

    def render(self, query: Query, count: int) -> str:
        """The prompt as text."""
        kind = "noisy" if self.is_noisy(query) else "useful"
        answer = query.problem.answers[0] if query.problem.answers else ""
        return self.prompt.format(
            query=query.text,
            question=query.problem.question,
            answer=answer,
            count=count,
            kind=kind,
            Kind=kind.capitalize(),
        )

    def _prompt(self, query: Query, top_k: int) -> Prompt:
        text = self.render(query, top_k)
        if not self.chat:
            return text
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": text}]

    def _too_long(self, prompt: Prompt) -> str | None:
        """The error for a prompt that exceeds the context: checked here, so that the other queries still run."""
        tokenizer, context = self.engine.tokenizer, self.engine.max_context
        if tokenizer is None or context is None or (self.chat and not getattr(tokenizer, "chat_template", None)):
            return None
        tokens = len(encode(tokenizer, prompt))
        if tokens < context:
            return None
        return f"its prompt has {tokens} tokens, which leaves no room in the simulator's context of {context}"

    def _generate(self, requests: Sequence[Request], top_k: int) -> list[Completion]:
        if not requests:
            return []
        try:
            return self.engine.generate(requests, replace(self.sampling, stop=(f"\nDoc {top_k + 1}",)))
        except EndpointDown as error:
            # a failed search does not stop the run, unlike a failed teacher
            failed = Completion(text="", token_ids=None, logprobs=None, truncated=False, error=str(error))
            return [failed] * len(requests)

    def _read(self, completion: Completion, top_k: int) -> SearchResult:
        self._counts["simulator_prompt_tokens"] += completion.prompt_tokens
        self._counts["simulator_completion_tokens"] += completion.completion_tokens
        if completion.error is not None:
            return SearchResult(error=completion.error)
        documents = read_documents(completion.text)[:top_k]
        if documents:
            return SearchResult(documents=documents)
        self._counts["unreadable"] += 1
        return SearchResult(error=f"the simulator wrote no document: {completion.text[:80]!r}")
