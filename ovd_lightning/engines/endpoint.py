"""Requests to an OpenAI-compatible endpoint: limited, validated, retried, with patience while it restarts."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ovd_lightning.engines.base import Troubles
from ovd_lightning.engines.protocol import LARGEST_ANSWER, Answer, BadAnswer, Wanted, read_answer
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.service import Call, Failure, Service, Traffic, retry_after_s

__all__ = ["Call", "Endpoint", "EndpointDown", "Failure", "Usage"]

KINDS = ("status_4xx", "status_429", "status_5xx", "timeout", "connection", "bad_answer", "no_text")
"""Keys of the failure counts. ``no_text``: an answer that is a refusal, filtered, or only a thought."""


class EndpointDown(RunError):
    """An endpoint failed too often in a row."""


@dataclass(slots=True)
class Usage(Traffic):
    """Counts of what was sent to an endpoint since it was made, with the tokens that it bills."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint(Service):
    """Sends batches of calls and counts failures by kind. The key appears in no message and no setting.

    A failed call is retried ``max_retries`` times while others succeed: then the call is at fault. While no call
    succeeds, the endpoint is at fault and may be restarting: retries go on until ``patience_s`` have passed since the
    first failure. After ``max_failures`` failed calls in a row ``send`` raises EndpointDown.
    """

    def __init__(self, base_url: str, key: str, *, max_failures: int, patience_s: float, **service: Any) -> None:
        super().__init__(base_url.rstrip("/"), breaker_failures=max_failures, breaker_pause_s=0.0, **service)
        self.base_url = self.url
        self.usage = self.traffic = Usage()
        self._key = key
        self._patience_s = patience_s
        self._failing_since: float | None = None
        """Monotonic time of the first failed attempt since the last success; None: the last attempt succeeded."""
        self._last_success = -math.inf
        """Monotonic time."""
        self._given_up: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._calls = 0

    def models(self, model: str, timeout_s: float = 5.0) -> dict[str, dict[str, Any]]:
        """The served models by name.

        Args:
            model: the one that is wanted.
        Raises: ConfigError when there is no usable answer.
        """
        import httpx

        url, status = f"{self.base_url}/models", None
        try:
            response = httpx.get(url, timeout=timeout_s, headers={"Authorization": f"Bearer {self._key}"})
            status = response.status_code
            return {str(entry["id"]): dict(entry) for entry in response.raise_for_status().json()["data"]}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            port = [*re.findall(r":(\d+)/", url), "80"][0]
            server = f"python -m vllm.entrypoints.openai.api_server --model {model} --port {port}"
            setting, hint = "base_url", f"Correct it, or start a server: {server}"
            if status is None:
                problem = f"{self.base_url} does not answer ({self.hidden(str(error) or type(error).__name__)})."
            elif status in (401, 403):
                setting, hint = "api_key_env", "Export a valid key under that name."
                problem = f"{self.base_url} refuses the key (status {status})."
            else:
                problem = f"{url} answers with status {status} and no list of models; most end in /v1."
            raise ConfigError(setting, problem, hint) from error

    def call(self, wanted: Wanted, model: str, prompt: Any, fields: dict[str, Any]) -> Call:
        """One HTTP request. Its answer is validated inside the call, so that an invalid one is retried.

        Args:
            prompt: messages for chat, else a list of prompts.
            fields: the rest of the request's body.
        """

        async def send(client: Any) -> Answer:
            if wanted.api == "chat":
                create = client.chat.completions.with_streaming_response.create
                answering = create(model=model, messages=prompt, extra_body=fields)
            else:
                create = client.completions.with_streaming_response.create
                answering = create(model=model, prompt=prompt, extra_body=fields)
            async with answering as response:
                data = await _body(response)
            return read_answer(data, wanted)

        return send

    def on_success(self, answer: Any) -> None:
        super().on_success(answer)
        self._failing_since, self._last_success = None, time.monotonic()
        self._calls += 1
        if isinstance(answer, Answer):
            self.usage.prompt_tokens += answer.prompt_tokens
            self.usage.completion_tokens += answer.completion_tokens
            for choice in answer.choices:
                if choice.problem is not None:
                    self._count(self._given_up, Failure(choice.problem, kind="no_text"))

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """A single retry, and no waiting for a restart."""
        patience, retries = self._patience_s, self._max_retries
        self._patience_s, self._max_retries = 0.0, min(retries, 1)
        try:
            yield
        finally:
            self._patience_s, self._max_retries = patience, retries
            self._failures_in_a_row, self._failing_since = 0, None

    def exhausted(self, attempts: int, retries: int, failing_since: float) -> bool:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        if attempts <= retries:
            return False
        others_succeed = self._last_success > failing_since
        return others_succeed or time.monotonic() - self._failing_since >= self._patience_s

    def on_retry(self, failure: Failure) -> None:
        self._count(self._retried, failure)

    def on_failure(self, failure: Failure) -> None:
        self._calls += 1
        self._count(self._given_up, failure)

    def _count(self, counter: Counter[str], failure: Failure) -> None:
        counter[failure.kind] += 1
        self._reasons[failure.kind] = failure.reason

    def take_troubles(self) -> Troubles:
        """The failures since the last call."""
        troubles = Troubles(self._given_up, self._retried, self._reasons, self._calls)
        self._given_up, self._retried, self._reasons, self._calls = Counter(), Counter(), {}, 0
        return troubles

    def connect(self) -> AbstractAsyncContextManager[Any]:
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=self.base_url, api_key=self._key, timeout=self._timeout_s, max_retries=0)

    def classify(self, error: Exception) -> Failure | None:
        import openai

        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            kind = "status_429" if status == 429 else "status_5xx" if status >= 500 else "status_4xx"
            retry_after = retry_after_s(error.response.headers.get("retry-after"))
            return Failure(self._reason(error), status, kind=kind, retry_after_s=retry_after)
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return Failure(f"no answer within {self._timeout_s:g} s", kind="timeout")
        if isinstance(error, openai.OpenAIError):
            cause = error.__cause__ or error
            return Failure(self.hidden(f"{type(cause).__name__}: {cause}"), kind="connection")
        if isinstance(error, BadAnswer):
            return Failure(f"a bad answer: {self.hidden(str(error))}", kind="bad_answer")
        failure = super().classify(error)
        return failure and replace(failure, reason=self.hidden(failure.reason), kind="connection")

    def on_open(self, failure: Failure) -> None:
        """Raises: EndpointDown, since a run cannot go on without its teacher."""
        waited = 0.0 if self._failing_since is None else time.monotonic() - self._failing_since
        raise EndpointDown(
            f"the endpoint at {self.base_url} failed {self._failures_in_a_row} times in a row"
            f"{f' over {waited:.0f} s' if waited >= 1 else ''}: {failure.reason}"
        )

    def hidden(self, text: str) -> str:
        """The text without the key, which some endpoints repeat in their errors."""
        if self._key and self._key != "EMPTY":
            text = text.replace(self._key, "***")
        return re.sub(r"Bearer\s+\S+", "Bearer ***", text)

    def _reason(self, error: Any) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        message = body.get("message") or str(error)
        return " ".join(self.hidden(f"status {error.status_code}: {message}").split())[:500]


def key_errors(base_url: str, api_key_env: str, setting: str = "base_url") -> Iterator[ConfigError]:
    """Settings are logged and saved, so neither may contain a key; what is wrong, without repeating it."""
    try:
        parts = urlsplit(base_url)
        holds_key = bool(parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        holds_key = False
    if holds_key:
        yield ConfigError(
            setting,
            "holds a user name, password or query, which would be logged and saved with the settings.",
            "Export the key as an environment variable and name it in api_key_env; further fields go to extra_body.",
        )
    looks_random = len(api_key_env) >= 20 and re.search(r"\d", api_key_env) and re.search(r"[a-z]", api_key_env)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env) or (looks_random and api_key_env not in os.environ):
        yield ConfigError(
            "api_key_env",
            "is not the name of an environment variable, and looks like a key.",
            "Export the key, e.g. export OPENAI_API_KEY=..., and give the variable's name.",
        )


async def _body(response: Any) -> bytes:
    """The body of a response. The client translates no error of a body that is streamed, so this does.

    Raises: BadAnswer when it is too long; TimeoutError or OSError when it breaks off.
    """
    data = bytearray()
    chunks = response.iter_bytes()
    while True:
        try:
            chunk = await anext(chunks, None)
        except Exception as error:
            kind = type(error).__name__
            raise (TimeoutError if "Timeout" in kind else OSError)(f"{kind}: {error}") from error
        if chunk is None:
            return bytes(data)
        data += chunk
        if len(data) > LARGEST_ANSWER:
            raise BadAnswer(f"more than {LARGEST_ANSWER >> 20} MiB")
