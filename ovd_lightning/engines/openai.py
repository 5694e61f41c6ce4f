"""Any endpoint that speaks OpenAI's protocol: a vLLM server, a hosted model. Frozen, for teachers and judges."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling, TokensUsed, Troubles
from ovd_lightning.engines.endpoint import Call, Endpoint, Failure, Usage, check_no_key
from ovd_lightning.engines.protocol import Answer, Api, BadAnswer, Choice, Wanted, prompt_logprob
from ovd_lightning.engines.render import defused, encode
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.pretrained import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

UNIT = "token_id:"
"""How vLLM names a token in a response under ``return_tokens_as_token_ids``."""
CHARACTERS_PER_TOKEN = 256
"""No vocabulary has a longer token: an answer with more characters than tokens x this was not limited by them."""
PLAIN = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
PLAIN_VLLM = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent with every request: a server otherwise applies what the model's generation_config says."""
Row = dict[str, float]
"""Log-probability by token, at one position."""


class OpenAIEngine(Engine):
    """Samples and scores through an endpoint.

    The key is read from the environment and never stored. ``usage`` counts requests, retries, failures, tokens.
    Without ``vllm_extensions`` completions come as text only, without token ids and log-probabilities, and a stop
    text is cut from them, as OpenAI's protocol has it.

    Args:
        base_url: With its ``/v1``, e.g. ``http://localhost:8000/v1``. Without a key: see ``api_key_env``.
        model: As the endpoint names it.
        api: ``completions`` takes token ids and sends many prompts in one request; ``chat`` is all that most
            hosted models have: messages, or a text that becomes the user's message. Where vLLM's server and the
            tokenizer are known, an answer that has begun is continued through ``completions`` in either case.
        api_key_env: Environment variable that holds the key; local servers need none.
        tokenizer: Directory or hub id, if the model's vocabulary is known: renders chat prompts for
            ``completions`` and turns candidates into token ids.
        vllm_extensions: The endpoint is vLLM's, with token ids and exact log-probabilities of given tokens.
        processed_logprobs: The server was started with ``--logprobs-mode processed_logprobs``. Otherwise its
            log-probabilities are at temperature 1, and completions sampled at another one come without.
        max_context: Prompt plus completion, in tokens; None: what the endpoint says, if it does.
        max_tokens_field: What the endpoint calls the limit of a completion; OpenAI's reasoning models want
            ``max_completion_tokens``.
        omit: Fields of the request that are never sent, for models that refuse them, e.g. ``["temperature"]``. All
            sampling settings are sent otherwise, so that no default of the server's rules an answer.
        top_logprobs: Most tokens per position that the endpoint reports, for candidates given as text.
        timeout_s: For one HTTP request, which may hold ``prompts_per_request`` prompts.
        max_retries: Of one call, while others succeed, after too many requests (429), server errors (5xx), broken
            connections, time-outs and answers that cannot be read.
        patience_s: An endpoint that answers nothing at all is waited for this long, and every call is tried again
            meanwhile: a server's restart takes minutes.
        backoff_s: Wait before the first retry; doubles with each, up to 30 s.
        max_concurrency: Requests in flight.
        prompts_per_request: Prompts in one request of ``completions``.
        requests_per_minute: Limit, retries included; None: none.
        max_failures: Calls given up or refused in a row, after which the run stops.
        extra_body: Further fields of every request, e.g. ``{"provider": {...}}``.
    """

    trainable: ClassVar[bool] = False

    def __init__(
        self,
        base_url: str,
        model: str,
        api: Api = "completions",
        api_key_env: str = "OPENAI_API_KEY",
        tokenizer: str | None = None,
        vllm_extensions: bool = True,
        processed_logprobs: bool = False,
        max_context: int | None = None,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        omit: list[str] | None = None,
        top_logprobs: int = 20,
        timeout_s: float = 300.0,
        max_retries: int = 4,
        patience_s: float = 600.0,
        backoff_s: float = 1.0,
        max_concurrency: int = 16,
        prompts_per_request: int = 64,
        requests_per_minute: int | None = None,
        max_failures: int = 8,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_no_key(base_url, api_key_env)
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
        """As the endpoint says."""
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
        """As set, else known after :meth:`check` if the endpoint says."""
        return self._max_context

    def check(self) -> None:
        _ = self.tokenizer
        try:
            served = self._endpoint.models()
        except ConfigError as error:
            if error.setting != "base_url":
                raise
            port = urlsplit(self._endpoint.base_url).port or 80
            command = f"python -m vllm.entrypoints.openai.api_server --model {self.model} --port {port}"
            raise ConfigError("base_url", error.problem, f"Correct it, or start a server: {command}") from error
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
        """What is sent for each: for chat, messages; for completions, ids where the tokenizer is known, else text.

        Args:
            render: encode here what would be sent as messages, where that is possible.
        Raises: ConfigError when the chosen ``api`` cannot take a prompt; ValueError when it exceeds the context.
        """
        prepared: list[Prompt] = []
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"{self.name}: request {index} has an empty prompt")
            kind = str if isinstance(prompt, str) else type(prompt[0])
            if self.api == "chat":
                if kind is int:
                    raise ConfigError("api", "the chat interface takes no token ids.", "Set api to completions.")
                messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
                if not (self._renders and (render or messages[-1]["role"] == "assistant")):
                    texts = [{**m, "content": defused(m["content"], self.tokenizer)} for m in messages]
                    prepared.append(texts)
                    continue
                prompt = messages
            if self.tokenizer is not None:
                prompt = encode(self.tokenizer, prompt)
            elif kind is dict:
                raise ConfigError(
                    "tokenizer", "chat prompts need one to be rendered for completions.", "Set it, or api to chat."
                )
            elif isinstance(prompt, str):
                prompt = defused(prompt, None)
            if isinstance(prompt, list) and self._max_context is not None and len(prompt) >= self._max_context:
                raise ValueError(
                    f"{self.name}: request {index} has a prompt of {len(prompt)} tokens, "
                    f"which leaves no room in the context of {self._max_context}"
                )
            prepared.append(prompt)
        return prepared

    @staticmethod
    def _api_of(prompt: Prompt) -> Api:
        """Messages go to ``chat``; text and token ids to ``completions``."""
        return "chat" if isinstance(prompt, list) and isinstance(prompt[0], dict) else "completions"

    def _call(self, prompts: Sequence[Prompt], fields: dict[str, Any], extensions: dict[str, Any], wanted: Any) -> Call:
        """One HTTP request for ``prompts`` (a single one for chat)."""
        api = self._api_of(prompts[0])
        body = {**PLAIN, **fields, **({**PLAIN_VLLM, **extensions} if self.vllm_extensions else {}), **self.extra_body}
        body[self.max_tokens_field] = body.pop("max_tokens")
        body = {name: value for name, value in body.items() if name not in self.omit}
        prompt: Any = list(prompts)
        if api == "chat":
            prompt = prompts[0]
            if self.vllm_extensions and prompt[-1]["role"] == "assistant":
                body = {"continue_final_message": True, "add_generation_prompt": False, **body}
        return self._endpoint.call(Wanted(api=api, choices=len(prompts), **wanted), self.model, prompt, body)

    def _ask(
        self,
        prompts: Sequence[Prompt],
        each: Sequence[tuple[dict[str, Any], dict[str, Any]]],
        ready: Callable[[int, Choice | Failure, Answer | None], None] = lambda index, choice, answer: None,
        **wanted: bool,
    ) -> list[tuple[Choice, Answer] | Failure]:
        """(choice, answer) or Failure of each prompt; ``each`` holds its fields and vLLM's further ones.

        Prompts that agree in them share requests. One that the endpoint refuses does not spoil the others.
        """
        together: dict[str, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            together[f"{self._api_of(prompt)} {type(prompt).__name__} {each[i]!r}"].append(i)
        chunks: list[list[int]] = []
        for rows in together.values():
            size = self.prompts_per_request if self._api_of(prompts[rows[0]]) == "completions" else 1
            chunks += [rows[at : at + size] for at in range(0, len(rows), size)]
        results: dict[int, tuple[Choice, Answer] | Failure] = {}

        def take(rows: Sequence[int], found: Answer | Failure) -> None:
            for k, i in enumerate(rows):
                if isinstance(found, Failure):
                    results[i] = found
                    ready(i, found, None)
                else:
                    results[i] = (found.choices[k], found)
                    ready(i, found.choices[k], found)

        while chunks:
            calls, split = [], list[list[int]]()
            for rows in chunks:
                fields = each[rows[0]][0]
                most = CHARACTERS_PER_TOKEN * fields["max_tokens"]
                bounds = {"most_characters": most, "logprobs": "logprobs" in fields, **wanted}
                calls.append(self._call([prompts[i] for i in rows], *each[rows[0]], bounds))

            def arrived(
                index: int, found: Answer | Failure, chunks: list[list[int]] = chunks, split: list[list[int]] = split
            ) -> None:
                rows = chunks[index]
                if isinstance(found, Failure) and found.refused and len(rows) > 1:
                    split += [[i] for i in rows]
                else:
                    take(rows, found)

            self._endpoint.send(calls, items=[len(rows) for rows in chunks], ready=arrived)
            chunks = split
        return [results[i] for i in range(len(prompts))]

    # -- work

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """A request that failed after its retries has its ``error`` set, and so has one that was refused, filtered or
        answered with a thought alone. Seeds are promised by vLLM's server only."""
        return self.generate_as_ready(requests, sampling, lambda index, completion: None)

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Callable[[int, Completion], None]
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
            if comparable and self.vllm_extensions:  # some hosted models refuse requests for them
                fields["logprobs"] = True if self._api_of(prompt) == "chat" else 0
            each.append((fields, {"include_stop_str_in_output": True, "return_token_ids": True}))
        completions: dict[int, Completion] = {}

        def arrived(index: int, choice: Choice | Failure, answer: Answer | None) -> None:
            completions[index] = self._completion(choice, answer, prompts[index])
            ready(index, completions[index])

        self._ask(prompts, each, arrived)
        return [completions[index] for index in range(len(requests))]

    def _completion(self, choice: Choice | Failure, answer: Answer | None, prompt: Prompt) -> Completion:
        if isinstance(choice, Failure):
            return Completion(text="", token_ids=None, logprobs=None, truncated=False, error=choice.reason)
        ids, text = choice.token_ids, choice.text
        if ids is not None and self.tokenizer is not None:
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        known = choice.prompt_token_ids or (prompt if isinstance(prompt, list) and isinstance(prompt[0], int) else [])
        alone = answer if answer is not None and len(answer.choices) == 1 else None
        return Completion(
            text="" if choice.problem else text,
            token_ids=None if choice.problem else ids,
            logprobs=choice.logprobs,
            truncated=choice.finish_reason == "length",
            prompt_tokens=len(known) or (alone.prompt_tokens if alone else 0),
            completion_tokens=len(ids) if ids is not None else alone.completion_tokens if alone else 0,
            error=choice.problem,
        )

    def _first_position(
        self, prompts: Sequence[Prompt], extensions: dict[str, Any], ready: Callable[[int, Row | None], None]
    ) -> list[Row | None]:
        """None for a failure. One token at temperature 1, whose log-probabilities no server alters."""
        prepared = self._prepare(prompts, render=True)
        each = []
        for prompt in prepared:
            fields: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
            if self._api_of(prompt) == "chat":
                fields |= {"logprobs": True} | ({} if extensions else {"top_logprobs": self.top_logprobs})
            else:
                fields["logprobs"] = len(extensions["logprob_token_ids"]) if extensions else self.top_logprobs
            each.append((fields, extensions))
        rows: dict[int, Row | None] = {}

        def arrived(index: int, choice: Choice | Failure, answer: Answer | None) -> None:
            rows[index] = None if isinstance(choice, Failure) else choice.first
            ready(index, rows[index])

        self._ask(prepared, each, arrived, first=True)
        return [rows[index] for index in range(len(prompts))]

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        if not self.vllm_extensions:
            if self.tokenizer is None:
                raise ConfigError("tokenizer", "candidates are token ids.", "Set it, or give candidates as text.")
            return self.next_text_logprobs(prompts, [str(self.tokenizer.decode([token])) for token in token_ids])
        return self._tokens_as_ready(prompts, token_ids, lambda index, row: None)

    def _tokens_as_ready(
        self, prompts: Sequence[Prompt], token_ids: Sequence[int], ready: Callable[[int, list[float]], None]
    ) -> Tensor:
        import torch

        def row(found: Row | None) -> list[float]:
            return [math.nan if found is None else found.get(f"{UNIT}{token}", -math.inf) for token in token_ids]

        extensions = {"logprob_token_ids": list(token_ids), "return_tokens_as_token_ids": True}
        found = self._first_position(prompts, extensions, lambda index, found: ready(index, row(found)))
        return torch.tensor([row(f) for f in found], dtype=torch.float32).reshape(len(prompts), len(token_ids))

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Exact where vLLM and the tokenizer are known; else by the tokens that the endpoint reports: those that
        are a candidate's text but for white space around it are added up."""
        return self.next_text_logprobs_as_ready(prompts, texts, lambda index, row: None)

    def next_text_logprobs_as_ready(
        self, prompts: Sequence[Prompt], texts: Sequence[str], ready: Callable[[int, list[float]], None]
    ) -> Tensor:
        import torch

        if self._renders:
            return self._tokens_as_ready(prompts, self.single_tokens(texts), ready)

        def row(found: Row | None) -> list[float]:
            totals = []
            for text in texts:
                values = [value for token, value in (found or {}).items() if token.strip() == text.strip()]
                total = math.fsum(math.exp(value) for value in values)
                totals.append(math.nan if found is None else math.log(total) if total > 0 else -math.inf)
            return totals

        rows = self._first_position(prompts, {}, lambda index, found: ready(index, row(found)))
        return torch.tensor([row(f) for f in rows], dtype=torch.float32).reshape(len(prompts), len(texts))

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        """Raises: RuntimeError without ``vllm_extensions``, and when a pair failed after its retries."""
        import torch

        if not self.vllm_extensions:
            raise RuntimeError(f"{self.name}: OpenAI's protocol cannot score given tokens; only vLLM's server does")
        pairs = [(list(p), list(c)) for p, c in zip(prompts, completions, strict=True)]
        full = [(p, c) for p, c in pairs if c]
        each = []
        for _, completion in full:
            # The last token is a candidate for the next one: the pair may fill the whole context.
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
                choice, _ = found
                try:
                    for position, token in enumerate(completion[:-1], start=len(prompt)):
                        values.append(prompt_logprob(choice.prompt_logprobs or [], position, token))
                    values.append((choice.first or {})[f"{UNIT}{completion[-1]}"])
                except (BadAnswer, KeyError) as error:
                    raise RunError(f"{self.name} could not score pair {index}: {error}") from error
            scores.append(torch.tensor(values, dtype=torch.float32))
        return scores
