"""Any endpoint that speaks OpenAI's protocol: a vLLM server, a hosted model. Frozen, for teachers and judges."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling, TokensUsed
from ovd_lightning.engines.endpoint import Call, Endpoint, Failure, Usage
from ovd_lightning.engines.local import encode
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.pretrained import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

FLOOR = -9000.0
"""Servers write -9999 for minus infinity, which JSON cannot hold."""
UNIT = "token_id:"
"""How vLLM names a token in a response under ``return_tokens_as_token_ids``."""


class OpenAIEngine(Engine):
    """Samples and scores through an endpoint.

    The key is read from the environment and never stored. ``usage`` counts requests, retries, failures, tokens.
    Without ``vllm_extensions`` completions come as text only, without token ids and log-probabilities, and a stop
    text is cut from them, as OpenAI's protocol has it.

    Args:
        base_url: With its ``/v1``, e.g. ``http://localhost:8000/v1``.
        model: As the endpoint names it.
        api: ``completions`` takes token ids and sends many prompts in one request; ``chat`` is all that most
            hosted models have: messages, or a text that becomes the user's message.
        api_key_env: Environment variable that holds the key; local servers need none.
        tokenizer: Directory or hub id, if the model's vocabulary is known: renders chat prompts for
            ``completions`` and turns candidates into token ids.
        vllm_extensions: The endpoint is vLLM's, with token ids and exact log-probabilities of given tokens.
        processed_logprobs: The server was started with ``--logprobs-mode processed_logprobs``. Otherwise its
            log-probabilities are at temperature 1, and completions sampled at another one come without.
        max_context: Prompt plus completion, in tokens; None: what the endpoint says, if it does.
        top_logprobs: Most tokens per position that the endpoint reports, for candidates given as text.
        timeout_s: For one HTTP request, which may hold ``prompts_per_request`` prompts.
        max_retries: After too many requests (429), server errors (5xx), broken connections and timeouts.
        backoff_s: Wait before the first retry; doubles with each.
        max_concurrency: Requests in flight.
        prompts_per_request: Prompts in one request of ``completions``.
        requests_per_minute: Limit, retries included; None: none.
        max_failures: Calls given up in a row, after which the run stops.
        extra_body: Further fields of every request, e.g. ``{"provider": {...}}``.
    """

    trainable: ClassVar[bool] = False

    def __init__(
        self,
        base_url: str,
        model: str,
        api: Literal["completions", "chat"] = "completions",
        api_key_env: str = "OPENAI_API_KEY",
        tokenizer: str | None = None,
        vllm_extensions: bool = True,
        processed_logprobs: bool = False,
        max_context: int | None = None,
        top_logprobs: int = 20,
        timeout_s: float = 300.0,
        max_retries: int = 4,
        backoff_s: float = 1.0,
        max_concurrency: int = 16,
        prompts_per_request: int = 64,
        requests_per_minute: int | None = None,
        max_failures: int = 8,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.api = api
        self.vllm_extensions = self.keeps_stop = vllm_extensions
        self.processed_logprobs = processed_logprobs
        self.top_logprobs = top_logprobs
        self.prompts_per_request = prompts_per_request
        self.extra_body = dict(extra_body or {})
        self._max_context = max_context
        self._tokenizer_path = tokenizer
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._endpoint = Endpoint(
            base_url,
            os.environ.get(api_key_env) or "EMPTY",
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            max_failures=max_failures,
        )

    @property
    def name(self) -> str:
        return f"openai:{self.model}@{self._endpoint.base_url}"

    @property
    def usage(self) -> Usage:
        return self._endpoint.usage

    @property
    def used(self) -> TokensUsed:
        """As the endpoint says."""
        return TokensUsed(self.usage.prompt_tokens, self.usage.completion_tokens)

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

    def _prepare(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """What is sent for each: for chat, messages; for completions, ids where the tokenizer is known, else text.

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
                prepared.append([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
                continue
            if self.tokenizer is not None:
                prompt = encode(self.tokenizer, prompt)
            elif kind is dict:
                raise ConfigError(
                    "tokenizer", "chat prompts need one to be rendered for completions.", "Set it, or api to chat."
                )
            if isinstance(prompt, list) and self._max_context is not None and len(prompt) >= self._max_context:
                raise ValueError(
                    f"{self.name}: request {index} has a prompt of {len(prompt)} tokens, "
                    f"which leaves no room in the context of {self._max_context}"
                )
            prepared.append(prompt)
        return prepared

    def _call(self, api: str, prompts: Sequence[Prompt], fields: dict[str, Any], extensions: dict[str, Any]) -> Call:
        """One HTTP request for ``prompts`` (a single one for chat)."""
        body = {**(extensions if self.vllm_extensions else {}), **self.extra_body}
        if api == "completions":
            batch: Any = list(prompts)
            return lambda client: client.completions.create(model=self.model, prompt=batch, extra_body=body, **fields)
        messages: Any = prompts[0]
        if self.vllm_extensions and messages[-1]["role"] == "assistant":
            body = {"continue_final_message": True, "add_generation_prompt": False, **body}
        return lambda client: client.chat.completions.create(
            model=self.model, messages=messages, extra_body=body, **fields
        )

    def _ask(
        self, prompts: Sequence[Prompt], each: Sequence[tuple[dict[str, Any], dict[str, Any]]], api: str | None = None
    ) -> list[tuple[Any, Any] | Failure]:
        """(choice, response) or Failure of each prompt; ``each`` holds its fields and vLLM's further ones.

        Prompts that agree in them share requests. One that the endpoint refuses does not spoil the others.
        """
        api = api or self.api
        together: dict[str, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            together[f"{type(prompt).__name__} {each[i]!r}"].append(i)
        size = self.prompts_per_request if api == "completions" else 1
        chunks = [rows[at : at + size] for rows in together.values() for at in range(0, len(rows), size)]
        results: dict[int, tuple[Any, Any] | Failure] = {}
        while chunks:
            calls = [self._call(api, [prompts[i] for i in rows], *each[rows[0]]) for rows in chunks]
            split: list[list[int]] = []
            responses = self._endpoint.send(calls, items=[len(rows) for rows in chunks])
            for rows, response in zip(chunks, responses, strict=True):
                if isinstance(response, Failure) and response.refused and len(rows) > 1:
                    split += [[i] for i in rows]
                elif isinstance(response, Failure):
                    results |= dict.fromkeys(rows, response)
                elif len(choices := sorted(response.choices or [], key=lambda c: c.index)) != len(rows):
                    lost = Failure(f"{len(choices)} choices came back for {len(rows)} prompts")
                    results |= dict.fromkeys(rows, lost)
                else:
                    results |= {i: (choice, response) for i, choice in zip(rows, choices, strict=True)}
            chunks = split
        return [results[i] for i in range(len(prompts))]

    # -- work

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """A request that failed after its retries has its ``error`` set. Seeds are promised by vLLM's server only."""
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
            fields: dict[str, Any] = {"max_tokens": limit, "temperature": sampling.temperature}
            if sampling.top_p < 1 and not greedy:
                fields["top_p"] = sampling.top_p
            if sampling.stop:
                fields["stop"] = list(sampling.stop)
            if request.seed is not None and not greedy:
                fields["seed"] = request.seed
            if comparable and self.vllm_extensions:  # some hosted models refuse requests for them
                fields["logprobs"] = True if self.api == "chat" else 0
            # A server applies the top_k and penalties of the model's generation_config unless told otherwise.
            plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
            each.append((fields, {"include_stop_str_in_output": True, "return_token_ids": True, **plain}))
        return [
            self._completion(answer, prompt) for answer, prompt in zip(self._ask(prompts, each), prompts, strict=True)
        ]

    def _completion(self, answer: tuple[Any, Any] | Failure, prompt: Prompt) -> Completion:
        if isinstance(answer, Failure):
            return Completion(text="", token_ids=None, logprobs=None, truncated=False, error=answer.reason)
        choice, response = answer
        ids = getattr(choice, "token_ids", None)
        text, logprobs = choice.text if self.api == "completions" else choice.message.content or "", None
        if choice.logprobs is not None:
            if self.api == "completions":
                logprobs = choice.logprobs.token_logprobs
            else:
                logprobs = [entry.logprob for entry in choice.logprobs.content or []]
        if ids is not None and self.tokenizer is not None:
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        prompt_ids = getattr(choice, "prompt_token_ids", None) or getattr(response, "prompt_token_ids", None)
        known = prompt_ids or (prompt if isinstance(prompt, list) and isinstance(prompt[0], int) else [])
        alone = response.usage if response.usage is not None and len(response.choices) == 1 else None
        return Completion(
            text=text,
            token_ids=None if ids is None else list(ids),
            logprobs=logprobs,
            truncated=choice.finish_reason == "length",
            prompt_tokens=len(known) or (alone.prompt_tokens if alone else 0),
            completion_tokens=len(ids) if ids is not None else alone.completion_tokens if alone else 0,
        )

    def _reported(self, answer: tuple[Any, Any]) -> dict[str, float]:
        """Log-probability by token of the first position."""
        choice, _ = answer
        if choice.logprobs is None:
            raise RuntimeError(f"{self.name} reports no log-probabilities")
        if self.api == "completions":
            found = dict((choice.logprobs.top_logprobs or [None])[0] or {})
        else:
            content = choice.logprobs.content or []
            found = {top.token: top.logprob for top in content[0].top_logprobs} if content else {}
        return {token: value if value > FLOOR else -math.inf for token, value in found.items()}

    def _first_position(self, prompts: Sequence[Prompt], extensions: dict[str, Any]) -> list[dict[str, float] | None]:
        """None for a failure. One token at temperature 1, whose log-probabilities no server alters."""
        fields: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0}
        if self.api == "chat":
            fields |= {"logprobs": True} | ({} if extensions else {"top_logprobs": self.top_logprobs})
        else:
            fields["logprobs"] = len(extensions["logprob_token_ids"]) if extensions else self.top_logprobs
        plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        answers = self._ask(self._prepare(prompts), [(fields, {**plain, **extensions})] * len(prompts))
        return [None if isinstance(answer, Failure) else self._reported(answer) for answer in answers]

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        if not self.vllm_extensions:
            if self.tokenizer is None:
                raise ConfigError("tokenizer", "candidates are token ids.", "Set it, or give candidates as text.")
            return self.next_text_logprobs(prompts, [str(self.tokenizer.decode([token])) for token in token_ids])
        import torch

        extensions = {"logprob_token_ids": list(token_ids), "return_tokens_as_token_ids": True}
        rows = [
            [math.nan if found is None else found.get(f"{UNIT}{token}", -math.inf) for token in token_ids]
            for found in self._first_position(prompts, extensions)
        ]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(prompts), len(token_ids))

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Exact where vLLM and the tokenizer are known; else by the tokens that the endpoint reports: those that
        are a candidate's text but for white space around it are added up."""
        import torch

        if self.vllm_extensions and self.tokenizer is not None:
            return super().next_text_logprobs(prompts, texts)
        rows = []
        for found in self._first_position(prompts, {}):
            row = []
            for text in texts:
                values = [value for token, value in (found or {}).items() if token.strip() == text.strip()]
                total = math.fsum(math.exp(value) for value in values)
                row.append(math.nan if found is None else math.log(total) if total > 0 else -math.inf)
            rows.append(row)
        return torch.tensor(rows, dtype=torch.float32).reshape(len(prompts), len(texts))

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
            each.append(({"max_tokens": 1, "temperature": 0.0, "logprobs": 1}, extensions))
        answers = iter(self._ask([p + c[:-1] for p, c in full], each, api="completions"))
        scores = []
        for index, (prompt, completion) in enumerate(pairs):
            values: list[float] = []
            if completion:
                answer = next(answers)
                if isinstance(answer, Failure):
                    raise RunError(f"{self.name} could not score pair {index}: {answer.reason}")
                choice, _ = answer
                for position, token in enumerate(completion[:-1], start=len(prompt)):
                    values.append(choice.prompt_logprobs[position][str(token)]["logprob"])
                values.append(choice.logprobs.top_logprobs[0][f"{UNIT}{completion[-1]}"])
            scores.append(torch.tensor([v if v > FLOOR else -math.inf for v in values], dtype=torch.float32))
        return scores
