"""What a teacher was asked already is not asked again: its engines behind a cache that keeps answers as they arrive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.seeds import digests

KEPT = ("text", "token_ids", "truncated")
"""Fields of a completion that are kept; what it cost was paid once."""


class Asked:
    """An engine's answers, each kept as soon as it is there. Failures and answers of no use are never kept.

    The key of an answer holds everything that changes it: the engine's identity, the prompt, how it is drawn.
    """

    def __init__(self, engine: Engine, cache: AnswerCache) -> None:
        self.engine = engine
        self.cache = cache

    def rows(
        self, prompts: Sequence[Prompt], texts: Sequence[str], useful: Callable[[list[float]], bool]
    ) -> tuple[list[list[float] | None], int]:
        """([C] log-probability of each of ``texts`` as next token, None for a failure; a prompt each), how many were
        really asked. Equal prompts are asked once."""
        if not prompts:
            return [], 0
        key = digests(self.engine.identity(), "next", list(texts))
        keys = [key(prompt) for prompt in prompts]
        known: dict[str, list[float] | None] = {
            key: [-math.inf if v is None else v for v in row] for key, row in self.cache.get(keys).items()
        }
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        order = list(missing)

        def ready(index: int, row: list[float]) -> None:
            failed = any(math.isnan(v) for v in row)
            known[order[index]] = None if failed else row
            if not failed and useful(row):
                self.cache.put({order[index]: [None if math.isinf(v) else v for v in row]})

        if missing:
            self.engine.next_text_logprobs_as_ready(list(missing.values()), texts, ready)
        return [known[key] for key in keys], len(missing)

    def completions(
        self, requests: Sequence[Request], sampling: Sampling, useful: Callable[[Completion], bool], once: bool = False
    ) -> tuple[list[Completion], int]:
        """(a completion of each request, how many were really asked).

        Args:
            once: equal requests share an answer. Otherwise each has its own, as an endpoint that ignores seeds gives.
        """
        if self.cache.path is None and not once:  # a round's own seeds: in memory, nothing would be asked for again
            return self.engine.generate(requests, sampling), len(requests)
        key, drawn = digests(self.engine.identity(), "write"), asdict(sampling)
        keys = [key(asdict(request), drawn) for request in requests]
        if not once:
            keys = _numbered(keys)
        known = {
            key: Completion(logprobs=None, **dict(zip(KEPT, kept, strict=True)))
            for key, kept in self.cache.get(keys).items()
        }
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        order = list(missing)

        def ready(index: int, completion: Completion) -> None:
            known[order[index]] = completion
            if completion.error is None and useful(completion):
                self.cache.put({order[index]: [getattr(completion, name) for name in KEPT]})

        if missing:
            self.engine.generate_as_ready(list(missing.values()), sampling, ready)
        return [known[key] for key in keys], len(missing)


def _numbered(keys: Sequence[str]) -> list[str]:
    """The second and every further of equal keys get a number."""
    seen: dict[str, int] = {}
    numbered = []
    for key in keys:
        seen[key] = seen.get(key, -1) + 1
        numbered.append(f"{key}/{seen[key]}" if seen[key] else key)
    return numbered
