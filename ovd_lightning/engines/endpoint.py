"""Requests to an OpenAI-compatible endpoint: concurrent, rate-limited, retried a bounded number of times."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.service import Call, Failure, Service, Traffic

__all__ = ["Call", "Endpoint", "EndpointDown", "Failure", "Usage"]


class EndpointDown(RunError):
    """An endpoint failed too often in a row."""


@dataclass(slots=True)
class Usage(Traffic):
    """What an endpoint was asked for so far, and what it cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint(Service):
    """Sends batches of calls and counts. ``key`` is never shown. Not for use from several threads at once."""

    def __init__(self, base_url: str, key: str, *, max_failures: int, **service: Any) -> None:
        super().__init__(base_url.rstrip("/"), breaker_failures=max_failures, breaker_pause_s=0.0, **service)
        self.base_url = self.url
        self.usage = self.traffic = Usage()
        self._key = key

    def models(self, timeout_s: float = 5.0) -> dict[str, dict[str, Any]]:
        """What is served, by name.

        Raises: ConfigError when nothing usable answers.
        """
        import httpx

        url = f"{self.base_url}/models"
        mend = (
            "Correct base_url, or start a server: python -m vllm.entrypoints.openai.api_server --model ... --port ..."
        )
        try:
            response = httpx.get(url, timeout=timeout_s, headers={"Authorization": f"Bearer {self._key}"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ConfigError("base_url", f"{self.base_url} does not answer ({reason}).", mend) from error
        if response.status_code in (401, 403):
            raise ConfigError(
                "api_key_env",
                f"{self.base_url} refuses the key (status {response.status_code}).",
                "Export a valid key under that name.",
            )
        try:
            served = {entry["id"]: entry for entry in response.raise_for_status().json()["data"]}
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "base_url",
                f"{url} answers with status {response.status_code} and no list of models; most end in /v1.",
                mend,
            ) from error
        return served

    def send(
        self, calls: Sequence[Call], max_retries: int | None = None, items: Sequence[int] | None = None
    ) -> list[Any]:
        """As of any service. Raises: EndpointDown after ``max_failures`` failures without a success between them."""
        return super().send(calls, max_retries, items)

    def answered(self, answer: Any) -> None:
        super().answered(answer)
        usage = getattr(answer, "usage", None)
        if usage is not None:
            self.usage.prompt_tokens += usage.prompt_tokens or 0
            self.usage.completion_tokens += usage.completion_tokens or 0

    def connect(self) -> AbstractAsyncContextManager[Any]:
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=self.base_url, api_key=self._key, timeout=self._timeout_s, max_retries=0)

    def judge(self, error: Exception) -> tuple[Failure, str | None] | None:
        import openai

        if isinstance(error, openai.APIStatusError):
            asked = error.response.headers.get("retry-after")
            return Failure(self._reason(error), error.status_code), asked
        if isinstance(error, openai.APITimeoutError):
            return Failure(f"no answer within {self._timeout_s:g} s"), None
        if isinstance(error, openai.OpenAIError):
            cause = error.__cause__ or error
            return Failure(f"{type(cause).__name__}: {cause}"), None
        return super().judge(error)

    def open_breaker(self, failure: Failure) -> None:
        """A run cannot go on without its teacher."""
        raise EndpointDown(
            f"the endpoint at {self.base_url} failed {self._failed_in_a_row} times in a row: {failure.reason}"
        )

    @staticmethod
    def _reason(error: Any) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        message = body.get("message") or str(error)
        return f"status {error.status_code}: {message}"[:500]
