"""Any endpoint with OpenAI's protocol: a vLLM server or a hosted model, for teachers and judges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ovd_lightning.engines.base import Completion, Engine, Poll, Prompt, Ready, Request, Sampling, TokensUsed, Troubles
from ovd_lightning.engines.endpoint import Call, Endpoint, Failure, Usage, key_errors
from ovd_lightning.engines.prompts import Result, api_of, ask, estimate_tokens, prepare, share_requests, to_completion
from ovd_lightning.engines.protocol import (
    Api,
    BadAnswer,
    Row,
    Wanted,
    completion_logprobs,
    text_logprobs,
    token_logprobs,
)
from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.pretrained import load_tokenizer
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

LONGEST_TOKEN = 256
"""Characters. No vocabulary has a longer token, so a longer answer ignored the limit of tokens."""
PLAIN = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
PLAIN_VLLM = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent with every request, since a server's defaults come from the model's generation_config."""


class OpenAIEngine(Engine):
    """Samples and scores through an endpoint.

    The key is read from the environment and never stored. ``usage`` counts requests, retries, failures, tokens.
    Without ``vllm_extensions`` completions are text only, without token ids and log-probabilities, and without the
    stop text, as in OpenAI's protocol.

    Args:
        base_url: With its ``/v1``, e.g. ``http://localhost:8000/v1``. Without a key: see ``api_key_env``.
        model: The endpoint's name for it.
        api: ``completions`` takes token ids and many prompts per request; ``chat``, which is all that most hosted
            models have, takes messages, or a text that becomes the user's message. Where vLLM's server and the
            tokenizer are known, an answer that has begun is continued through ``completions`` in either case.
        api_key_env: Environment variable with the key; local servers need none.
        tokenizer: Directory or hub id, if the model's vocabulary is known: renders chat prompts for
            ``completions`` and turns candidates into token ids.
        vllm_extensions: The endpoint is vLLM's, with token ids and exact log-probabilities of given tokens.
        processed_logprobs: The server was started with ``--logprobs-mode processed_logprobs``. Otherwise its
            log-probabilities are at temperature 1, and completions sampled at another temperature have none.
        max_context: Prompt plus completion, in tokens; None: what the endpoint reports, if it does.
        max_tokens_field: The endpoint's name for the limit of a completion; OpenAI's reasoning models take
            ``max_completion_tokens``.
        omit: Fields of the request that are never sent, for models that refuse them, e.g. ``["temperature"]``. All
            other sampling settings are sent, so that no default of the server applies.
        top_logprobs: Most tokens per position that the endpoint reports, for candidates given as text.
        timeout_s: For one HTTP request, which may have ``prompts_per_request`` prompts.
        max_retries: Of one call, while others succeed, after too many requests (429), server errors (5xx), broken
            connections, timeouts and invalid answers.
        patience_s: While no call succeeds, all calls are retried for this long: a server's restart takes minutes.
        backoff_s: Wait before the first retry; doubles with each, up to 30 s.
        max_concurrency: Requests in flight.
        prompts_per_request: Prompts in one request of ``completions``.
        requests_per_minute: Limit, retries included; None: none.
        tokens_per_minute: Limit, retries included; None: none. A request counts as its prompts (four characters a token
            where no tokenizer is known) and all the tokens that it may generate. Each engine has its own limits.
        max_failures: Calls in a row that failed for good or were refused, after which the run stops.
        extra_body: Further fields of every request, e.g. ``{"provider": {...}}``.
    """

    trainable: ClassVar[bool] = False
    concurrent: ClassVar[bool] = True

    def __init__(
        self,
        base_url: str,
        model: str,
        api: Api = "completions",
        api_key_env: str = "OPENAI_API_KEY",
        tokenizer: str | None = None,
        vllm_extensions: bool = True,
        processed_logprobs: bool = False,
        max_context: PositiveInt | None = None,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        omit: list[str] | None = None,
        top_logprobs: PositiveInt = 20,
        timeout_s: PositiveFloat = 300.0,
        max_retries: NonNegativeInt = 4,
        patience_s: NonNegativeFloat = 600.0,
        backoff_s: NonNegativeFloat = 1.0,
        max_concurrency: PositiveInt = 16,
        prompts_per_request: PositiveInt = 64,
        requests_per_minute: PositiveInt | None = None,
        tokens_per_minute: PositiveInt | None = None,
        max_failures: PositiveInt = 8,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        raise_errors(key_errors(base_url, api_key_env))
        self.model = model
        self.api = api
        self.vllm_extensions = self.keeps_stop = vllm_extensions
        self.processed_logprobs = processed_logprobs
        self.max_tokens_field = max_tokens_field
        self.omit = tuple(omit or ())
        self.top_logprobs = top_logprobs
        self.prompts_per_request = prompts_per_request
        self.extra_body = dict(extra_body or {})
        self.api_key_env = api_key_env
        self._max_context = max_context
        self._tokenizer_path = tokenizer
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._endpoint = Endpoint(
            base_url,
            (os.environ.get(api_key_env) or "EMPTY").strip(),
            timeout_s=timeout_s,
            max_retries=max_retries,
            patience_s=patience_s,
            backoff_s=backoff_s,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_failures=max_failures,
        )

    @property
    def name(self) -> str:
        return f"openai:{self.model}@{self._endpoint.base_url}"

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "api": self.api,
            "tokenizer": self._tokenizer_path,
            "vllm_extensions": self.vllm_extensions,
            "processed_logprobs": self.processed_logprobs,
            "top_logprobs": self.top_logprobs,
            "max_tokens_field": self.max_tokens_field,
            "omit": self.omit,
            "extra_body": self.extra_body,
        }

    @property
    def usage(self) -> Usage:
        return self._endpoint.usage

    @property
    def used(self) -> TokensUsed:
        """As reported by the endpoint."""
        return TokensUsed(self.usage.prompt_tokens, self.usage.completion_tokens)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        with self._endpoint.impatient():
            yield

    def take_troubles(self) -> Troubles:
        return self._endpoint.take_troubles()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        if self._tokenizer is None and self._tokenizer_path is not None:
            self._tokenizer = load_tokenizer("tokenizer", self._tokenizer_path)
        return self._tokenizer

    @property
    def max_context(self) -> int | None:
        """As set, else known after :meth:`check` if the endpoint reports it."""
        return self._max_context

    def check(self) -> None:
        _ = self.tokenizer
        served = self._endpoint.models(self.model)
        if self.model not in served:
            raise ConfigError(
                "model",
                f"{self._endpoint.base_url} does not serve {self.model!r}.",
                f"It serves {', '.join(sorted(served)) or 'nothing'}.",
            )
        if self._max_context is None:
            self._max_context = served[self.model].get("max_model_len")

    def start(self) -> None:
        """Nothing to load."""

    # -- requests

    @property
    def _renders(self) -> bool:
        """Whether prompts can be rendered and encoded here, which vLLM's ``completions`` takes as ids."""
        return self.vllm_extensions and self.tokenizer is not None

    def _prepare(self, prompts: Sequence[Prompt], render: bool = False) -> list[Prompt]:
        """What is sent for each prompt; see `prompts.prepare`.

        Args:
            render: encode here what would be sent as messages, where that is possible.
        Raises: ConfigError when the chosen ``api`` cannot take a prompt; ValueError when it exceeds the context.
        """
        if not all(prompts):
            raise ValueError(f"{self.name}: request {[*map(bool, prompts)].index(False)} has an empty prompt")
        encode_messages = False if not self._renders else True if render else None
        prepared = prepare(prompts, self.api, self.tokenizer, encode_messages)
        for index, sent in enumerate(prepared):
            is_ids = isinstance(sent, list) and api_of(sent) == "completions"
            if is_ids and self._max_context is not None and len(sent) >= self._max_context:
                raise ValueError(
                    f"{self.name}: request {index} has a prompt of {len(sent)} tokens, "
                    f"which leaves no room in the context of {self._max_context}"
                )
        return prepared

    def _call(self, prompts: Sequence[Prompt], fields: dict[str, Any], extensions: dict[str, Any], first: bool) -> Call:
        """One HTTP request for ``prompts`` (a single one for chat)."""
        body = {**PLAIN, **fields, **({**PLAIN_VLLM, **extensions} if self.vllm_extensions else {}), **self.extra_body}
        body[self.max_tokens_field] = body.pop("max_tokens")
        body = {name: value for name, value in body.items() if name not in self.omit}
        wanted = Wanted(
            api=api_of(prompts[0]),
            choices=len(prompts),
            logprobs="logprobs" in fields,
            first=first,
            most_characters=LONGEST_TOKEN * fields["max_tokens"],
        )
        prompt: Any = list(prompts)
        if wanted.api == "chat":
            prompt = prompts[0]
            if self.vllm_extensions and prompt[-1]["role"] == "assistant":
                body = {"continue_final_message": True, "add_generation_prompt": False, **body}
        return self._endpoint.call(wanted, self.model, prompt, body)

    def _ask(
        self,
        prompts: Sequence[Prompt],
        each: Sequence[tuple[dict[str, Any], dict[str, Any]]],
        ready: Callable[[int, Result], None] = lambda index, result: None,
        first: bool = False,
    ) -> list[Result]:
        """The result of each prompt.

        Args:
            each: fields of each request and vLLM's further ones; prompts with equal ones share requests.
            first: the log-probabilities at the first position are needed.
        """

        def tokens(rows: list[int]) -> int:
            most = each[rows[0]][0]["max_tokens"]
            return sum(estimate_tokens(prompts[i], self.tokenizer) + most for i in rows)

        def send(chunks: list[list[int]], arrived: Callable[[int, Any], None]) -> None:
            calls = [self._call([prompts[i] for i in rows], *each[rows[0]], first) for rows in chunks]
            estimates = None if self._endpoint.tokens_per_minute is None else [tokens(rows) for rows in chunks]
            self._endpoint.send(calls, items=[len(rows) for rows in chunks], tokens=estimates, ready=arrived)

        results = ask(share_requests(prompts, each, self.prompts_per_request), send, ready)
        return [results[i] for i in range(len(prompts))]

    # -- work

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """``error`` is set for a request that failed after its retries, was refused or filtered, or was answered with
        a thought alone. Only vLLM's server guarantees the effect of seeds."""
        return self.generate_as_ready(requests, sampling, lambda index, completion: None)

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Ready, poll: Poll = lambda: None
    ) -> list[Completion]:
        prompts = self._prepare([request.prompt for request in requests])
        greedy = sampling.temperature == 0
        comparable = greedy or sampling.temperature == 1 or self.processed_logprobs
        each = []
        for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            limit = sampling.max_tokens if request.max_tokens is None else request.max_tokens
            if limit < 1:
                raise ValueError(f"{self.name}: request {index} asks for {limit} tokens")
            if self._max_context is not None and prompt and isinstance(prompt, list) and isinstance(prompt[0], int):
                limit = min(limit, self._max_context - len(prompt))
            fields: dict[str, Any] = {
                "max_tokens": limit,
                "temperature": sampling.temperature,
                "top_p": 1.0 if greedy else sampling.top_p,
            }
            if sampling.stop:
                fields["stop"] = list(sampling.stop)
            if request.seed is not None and not greedy:
                fields["seed"] = request.seed
            if sampling.logprobs and comparable and self.vllm_extensions:  # some hosted models refuse requests for them
                fields["logprobs"] = True if api_of(prompt) == "chat" else 0
            each.append((fields, {"include_stop_str_in_output": True, "return_token_ids": True}))
        completions: dict[int, Completion] = {}

        def arrived(index: int, result: Result) -> None:
            poll()
            completions[index] = to_completion(result, prompts[index], self.tokenizer)
            ready(index, completions[index])

        self._ask(prompts, each, arrived)
        return [completions[index] for index in range(len(requests))]

    def _first_position(
        self, prompts: Sequence[Prompt], extensions: dict[str, Any], ready: Callable[[int, Row | None], None]
    ) -> list[Row | None]:
        """Log-probabilities of the first token after each prompt; None for a failure.

        One token is sampled at temperature 1, where raw and processed log-probabilities agree.
        """
        prepared = self._prepare(prompts, render=True)
        each = []
        for prompt in prepared:
            fields: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
            if api_of(prompt) == "chat":
                fields |= {"logprobs": True} | ({} if extensions else {"top_logprobs": self.top_logprobs})
            else:
                fields["logprobs"] = len(extensions["logprob_token_ids"]) if extensions else self.top_logprobs
            each.append((fields, extensions))
        rows: dict[int, Row | None] = {}

        def arrived(index: int, result: Result) -> None:
            rows[index] = None if isinstance(result, Failure) else result[0].first
            ready(index, rows[index])

        self._ask(prepared, each, arrived, first=True)
        return [rows[index] for index in range(len(prompts))]

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        if not self.vllm_extensions:
            tokenizer = self.known_tokenizer()
            return self.next_text_logprobs(prompts, [str(tokenizer.decode([token])) for token in token_ids])
        return self._tokens_as_ready(prompts, token_ids, lambda index, row: None)

    def _tokens_as_ready(
        self, prompts: Sequence[Prompt], token_ids: Sequence[int], ready: Callable[[int, list[float]], None]
    ) -> Tensor:
        import torch

        extensions = {"logprob_token_ids": list(token_ids), "return_tokens_as_token_ids": True}
        rows = self._first_position(prompts, extensions, lambda i, row: ready(i, token_logprobs(row, token_ids)))
        values = [token_logprobs(row, token_ids) for row in rows]
        return torch.tensor(values, dtype=torch.float32).reshape(len(prompts), len(token_ids))

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Exact where vLLM and the tokenizer are known; else the sum over the reported tokens that equal a candidate
        up to white space around it."""
        return self.next_text_logprobs_as_ready(prompts, texts, lambda index, row: None)

    def next_text_logprobs_as_ready(
        self, prompts: Sequence[Prompt], texts: Sequence[str], ready: Callable[[int, list[float]], None]
    ) -> Tensor:
        import torch

        if self._renders:
            return self._tokens_as_ready(prompts, self.single_tokens(texts), ready)

        rows = self._first_position(prompts, {}, lambda index, row: ready(index, text_logprobs(row, texts)))
        values = [text_logprobs(row, texts) for row in rows]
        return torch.tensor(values, dtype=torch.float32).reshape(len(prompts), len(texts))

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        """Raises: RuntimeError without ``vllm_extensions``, and when a pair failed after its retries."""
        import torch

        if not self.vllm_extensions:
            raise RuntimeError(f"{self.name}: OpenAI's protocol cannot score given tokens; only vLLM's server does")
        pairs = [(list(p), list(c)) for p, c in zip(prompts, completions, strict=True)]
        full = [(p, c) for p, c in pairs if c]
        each = []
        for _, completion in full:
            # the last token is scored as a candidate for the next one, so the pair may fill the whole context
            extensions = {"logprob_token_ids": completion[-1:], "return_tokens_as_token_ids": True}
            extensions |= {"prompt_logprobs": 0} if len(completion) > 1 else {}
            each.append(({"max_tokens": 1, "temperature": 0.0, "top_p": 1.0, "logprobs": 1}, extensions))
        answers = iter(self._ask([p + c[:-1] for p, c in full], each, first=True))
        scores = []
        for index, (prompt, completion) in enumerate(pairs):
            values: list[float] = []
            if completion:
                found = next(answers)
                if isinstance(found, Failure):
                    raise RunError(f"{self.name} could not score pair {index}: {found.reason}")
                try:
                    values = completion_logprobs(found[0], len(prompt), completion)
                except BadAnswer as error:
                    raise RunError(f"{self.name} could not score pair {index}: {error}") from error
            scores.append(torch.tensor(values, dtype=torch.float32))
        return scores
