"""Requests to an OpenAI-compatible endpoint: concurrent, rate-limited, retried a bounded number of times."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LONGEST_WAIT_S = 60.0
RETRIED_STATUS = (408, 409, 425, 429)
"""Besides every 5xx."""


@dataclass(slots=True)
class Usage:
    """What an endpoint was asked for so far."""

    requests: int = 0
    """HTTP requests, retries included."""
    retries: int = 0
    failures: int = 0
    """Calls given up after their retries, or refused at once."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    """Summed over HTTP requests, waiting for a slot excluded."""


@dataclass(slots=True, frozen=True)
class Failure:
    """Why a call was given up."""

    reason: str
    refused: bool
    """The endpoint rejected the request itself (4xx): another request may still succeed."""


Call = Callable[["AsyncOpenAI"], Awaitable[Any]]
"""Sends one request with the given client."""


class Endpoint:
    """Sends batches of calls and counts. ``key`` is never shown. Not for use from several threads at once."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
        max_concurrency: int,
        requests_per_minute: int | None,
        max_failures: int,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.usage = Usage()
        self._key = key
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._max_concurrency = max_concurrency
        self._interval_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._max_failures = max_failures
        self._next_slot = 0.0
        self._failed_in_a_row = 0

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

    def send(self, calls: Sequence[Call]) -> list[Any]:
        """The response of each call, or its Failure. Runs in a thread, so an event loop may be running here.

        Raises: RuntimeError after ``max_failures`` failures without a success between them.
        """
        if not calls:
            return []
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._send(calls)).result()

    async def _send(self, calls: Sequence[Call]) -> list[Any]:
        from openai import AsyncOpenAI

        slots = asyncio.Semaphore(self._max_concurrency)
        client = AsyncOpenAI(base_url=self.base_url, api_key=self._key, timeout=self._timeout_s, max_retries=0)
        async with client:
            tasks = [asyncio.ensure_future(self._attempt(client, call, slots)) for call in calls]
            try:
                return await asyncio.gather(*tasks)
            finally:  # the endpoint was given up: nothing may be left waiting
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(self, client: AsyncOpenAI, call: Call, slots: asyncio.Semaphore) -> Any:
        import httpx
        import openai

        for attempt in range(self._max_retries + 1):
            wait_s = min(self._backoff_s * 2**attempt * (1 + self._jitter()), LONGEST_WAIT_S)
            async with slots:
                await self._turn()
                self.usage.requests += 1
                self.usage.retries += attempt > 0
                begun = time.monotonic()
                try:
                    # the client's own limit is between two chunks: a response that trickles in would escape it
                    response = await asyncio.wait_for(call(client), self._timeout_s)
                except openai.APIStatusError as error:
                    reason, status = self._reason(error), error.status_code
                    refused = status < 500 and status not in RETRIED_STATUS
                    wait_s = max(wait_s, self._asked_wait(error.response.headers.get("retry-after")))
                except (TimeoutError, openai.APITimeoutError):
                    reason, refused = f"no answer within {self._timeout_s:g} s", False
                except (openai.OpenAIError, httpx.HTTPError, OSError, ValueError) as error:
                    cause = error.__cause__ or error
                    reason, refused = f"{type(cause).__name__}: {cause}", False
                else:
                    self._failed_in_a_row = 0
                    self._count(response)
                    return response
                finally:
                    self.usage.latency_s += time.monotonic() - begun
            if refused or attempt == self._max_retries:
                break
            await asyncio.sleep(wait_s)
        self.usage.failures += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._max_failures:
            raise RuntimeError(
                f"the endpoint at {self.base_url} failed {self._failed_in_a_row} times in a row: {reason}"
            )
        return Failure(reason, refused)

    async def _turn(self) -> None:
        """Waits until the limit of requests per minute allows one more."""
        now = time.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._interval_s
        await asyncio.sleep(slot - now)

    def _count(self, response: Any) -> None:
        usage = getattr(response, "usage", None)
        if usage is not None:
            self.usage.prompt_tokens += usage.prompt_tokens or 0
            self.usage.completion_tokens += usage.completion_tokens or 0

    @staticmethod
    def _jitter() -> float:
        """In [0, 0.25), away from the process's global random state."""
        return random.SystemRandom().random() / 4

    @staticmethod
    def _asked_wait(header: str | None) -> float:
        try:
            return min(float(header or 0), LONGEST_WAIT_S)
        except ValueError:
            return 0.0

    @staticmethod
    def _reason(error: Any) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        message = body.get("message") or str(error)
        return f"status {error.status_code}: {message}"[:500]
