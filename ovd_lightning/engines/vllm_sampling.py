"""What vLLM is asked for, and how its answers are read: the same for an engine in process and for a server.

In the mode ``processed_logprobs`` a sampled token's log-probability is of softmax(logits / temperature); the score of
given tokens (``prompt_logprobs``) never passes the sampler, and a request at temperature 0 is processed at temperature
1, so both of these are of softmax(logits).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Completion, Poll, Prompt, Ready, Request, Sampling, ignore
from ovd_lightning.engines.local import LocalEngine
from ovd_lightning.engines.vllm_weights import checkpoint_layout

if TYPE_CHECKING:
    from torch import Tensor

ONE_TOKEN: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "detokenize": False}
"""Sampling parameters of a request that scores."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Sampled:
    """One completion as vLLM gives it."""

    token_ids: list[int]
    logprobs: list[dict[int, float]]
    """Per position, of the sampled token and of those that were asked for; empty where nobody asked."""
    prompt_logprobs: list[dict[int, float]]
    """Per position of the prompt, of its token; empty for the first one, and where nobody asked."""
    truncated: bool
    versions: frozenset[str] = frozenset()
    """Of the weights that sampled its tokens, where vLLM says so; empty for a request that it aborted."""


Arrived = Callable[[int, Sampled], None]


class VLLMSampling(LocalEngine):
    """Requests in vLLM's sampling parameters, and completions and scores from its answers."""

    most_candidates: int
    """Of one request: given tokens whose log-probabilities are asked for."""

    @cached_property
    def _layout(self) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        """Of the weights that it takes: see :func:`checkpoint_layout`."""
        return checkpoint_layout(self.model, self.trust_remote_code)

    @abstractmethod
    def _sample(
        self,
        prompts: list[list[int]],
        parameters: list[dict[str, Any]],
        arrived: Arrived = ignore,
        poll: Poll = ignore,
    ) -> list[Sampled]:
        """The answers, in order; ``arrived`` gets each as soon as it is there.

        Args:
            parameters: of ``vllm.SamplingParams``, one dictionary a prompt.
        """

    def _candidates(self, token_ids: list[int]) -> dict[str, Any]:
        """Parameters that ask for the log-probabilities of at most ``most_candidates`` given tokens."""
        return {"logprob_token_ids": token_ids}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Log-probabilities of a greedy completion are at temperature 1."""
        return self.generate_as_ready(requests, sampling, ignore)

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Ready, poll: Poll = ignore
    ) -> list[Completion]:
        prompts = self.encode_requests(request.prompt for request in requests)
        greedy = sampling.temperature == 0
        limits = self.limits(requests, prompts, sampling.max_tokens)
        parameters = [
            {
                "temperature": sampling.temperature,
                "top_p": 1.0 if greedy else sampling.top_p,
                "max_tokens": limit,
                "seed": None if greedy else seed,
                "stop": list(sampling.stop),
                "include_stop_str_in_output": True,
                "logprobs": 0 if sampling.logprobs else None,
                "detokenize": bool(sampling.stop),  # vLLM needs text to look for a stop text in; ours is decoded below
            }
            for limit, seed in zip(limits, self.seeds(requests), strict=True)
        ]
        completions: dict[int, Completion] = {}

        def arrived(index: int, sampled: Sampled) -> None:
            ids = sampled.token_ids
            completions[index] = Completion(
                text=self.decode(ids),
                token_ids=ids,
                logprobs=[row[t] for row, t in zip(sampled.logprobs, ids, strict=True)] if sampling.logprobs else None,
                truncated=sampled.truncated,
                prompt_tokens=len(prompts[index]),
                completion_tokens=len(ids),
            )
            ready(index, completions[index])

        self._sample(prompts, parameters, arrived, poll)
        self.count(sum(map(len, prompts)), sum(c.completion_tokens for c in completions.values()))
        return [completions[index] for index in range(len(requests))]

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        import torch

        encoded = self.encode_requests(prompts)
        self.count(sum(map(len, encoded)), len(encoded))
        most = self.most_candidates
        chunks = [list(token_ids[i : i + most]) for i in range(0, len(token_ids), most)]
        parameters = [{**ONE_TOKEN, **self._candidates(chunk)} for chunk in chunks] * len(encoded)
        answers = self._sample([ids for ids in encoded for _ in chunks], parameters)
        asked = zip(answers, chunks * len(encoded), strict=True)
        values = [answer.logprobs[0][token] for answer, chunk in asked for token in chunk]
        return torch.tensor(values, dtype=torch.float32).reshape(len(encoded), len(token_ids))

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        """The last token is scored as a candidate for the next one, so the pair may fill the whole context."""
        import torch

        self.check_pairs(prompts, completions)
        pairs = [(list(p), list(c)) for p, c in zip(prompts, completions, strict=True)]
        self.count(sum(len(p) + len(c) for p, c in pairs), 0)
        full = [(p, c) for p, c in pairs if c]
        parameters = [
            {**ONE_TOKEN, **self._candidates(c[-1:]), "prompt_logprobs": 0 if len(c) > 1 else None} for _, c in full
        ]
        answers = iter(self._sample([p + c[:-1] for p, c in full], parameters))
        scores = []
        for prompt, completion in pairs:
            values: list[float] = []
            if completion:
                answer = next(answers)
                values = [answer.prompt_logprobs[len(prompt) + i][t] for i, t in enumerate(completion[:-1])]
                values.append(answer.logprobs[0][completion[-1]])
            scores.append(torch.tensor(values, dtype=torch.float32))
        return scores
