"""Calls to a web service: concurrent, rate-limited, retried, and behind a circuit breaker."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential

from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import expect, finished

log = logging.getLogger(__name__)

LONGEST_RETRY_AFTER_S = 60.0
"""A service may ask for a longer wait; this is the longest that is granted."""
LONGEST_BACKOFF_S = 30.0
"""Also bounds how late the end of a restart is noticed."""
RETRIED_STATUS = (408, 409, 425, 429)
"""Besides every 5xx."""


@dataclass(slots=True, frozen=True)
class Failure:
    """Why a request or a call failed."""

    reason: str
    status: int | None = None
    """HTTP status; None where there was no answer, or none that could be read."""
    skipped: bool = False
    """Not sent, because the circuit was open."""
    kind: str = "other"
    """Key to count failures by."""
    retry_after_s: float = 0.0
    """The service's Retry-After, at most `LONGEST_RETRY_AFTER_S`."""

    @property
    def refused(self) -> bool:
        """The service rejects this request, so a retry is pointless; another request may still succeed."""
        return self.status is not None and self.status < 500 and self.status not in RETRIED_STATUS


@dataclass(slots=True)
class Traffic:
    """Counts of what was sent to a service."""

    requests: int = 0
    """HTTP requests, retries included."""
    retries: int = 0
    failures: int = 0
    """Calls that failed after their retries, or were refused."""
    skipped: int = 0
    """Calls that were not sent because the circuit was open."""
    latency_s: float = 0.0
    """Summed over requests, which overlap; without waits for a slot or a rate limit."""

    def counts(self) -> dict[str, float]:
        """By the names in ``COUNTED``."""
        return dict(zip(COUNTED, map(float, (self.requests, self.retries, self.skipped, self.latency_s)), strict=True))


COUNTED = ("requests", "retries", "skipped_requests", "request_seconds")
"""Names under which the owner of a service logs its traffic."""


Call = Callable[[Any], Awaitable[Any]]
"""Sends one request with the service's client and parses the answer; a ValueError means that it cannot be parsed."""


class Limits:
    """The limits of one service: calls in flight, requests and tokens per minute. Bound to the running event loop."""

    def __init__(self, max_concurrency: int, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.slots = asyncio.Semaphore(max_concurrency)
        self.probe = asyncio.Lock()
        """Held by the one call that tests whether an open circuit can be closed."""
        # evenly spaced requests; of tokens, a minute's worth at once and then at a steady rate
        self._requests = AsyncLimiter(1, 60 / requests_per_minute) if requests_per_minute else None
        self._tokens = AsyncLimiter(tokens_per_minute, 60) if tokens_per_minute else None

    async def acquire(self, tokens: float) -> None:
        """Wait until one more request, of so many tokens, is allowed."""
        if self._tokens is not None:
            while tokens > 0:  # a request may have more tokens than a minute allows
                await self._tokens.acquire(min(tokens, self._tokens.max_rate))
                tokens -= self._tokens.max_rate
        if self._requests is not None:
            await self._requests.acquire()


class Service:
    """Sends batches of calls over HTTP. Subclasses for other clients override `connect` and `classify`.

    Circuit breaker: after ``breaker_failures`` failed calls in a row the circuit is open for ``breaker_pause_s``, and
    calls fail at once; then one call is sent as a probe, without retries, and the others wait for its outcome.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
        max_concurrency: int,
        requests_per_minute: int | None,
        breaker_failures: int,
        breaker_pause_s: float,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.url = url
        self.traffic = Traffic()
        self.max_concurrency = max_concurrency
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._breaker_failures = breaker_failures
        self._breaker_pause_s = breaker_pause_s
        self._limits: Limits | None = None
        self._failures_in_a_row = 0
        self._open_until: float | None = None
        """Monotonic time at which an open circuit may be probed; None: the circuit is closed."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """A client for one batch of calls."""
        import httpx

        return httpx.AsyncClient(timeout=self._timeout_s)

    def classify(self, error: Exception) -> Failure | None:
        """Why a request failed; None: the error is a bug of ours and is raised."""
        import httpx

        if isinstance(error, httpx.HTTPStatusError):
            response = error.response
            text = " ".join(response.text.split()) or response.reason_phrase
            reason = f"status {response.status_code}: {text}"[:300]
            retry_after = retry_after_s(response.headers.get("retry-after"))
            return Failure(reason, response.status_code, kind="status", retry_after_s=retry_after)
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return Failure(f"no answer within {self._timeout_s:g} s", kind="timeout")
        if isinstance(error, httpx.HTTPError | OSError | ValueError | RecursionError):
            return Failure(f"{type(error).__name__}: {error}"[:500])
        return None

    def exhausted(self, attempts: int, retries: int, failing_since: float) -> bool:
        """Whether a call fails for good after so many failed attempts.

        Args:
            failing_since: monotonic time at which its first attempt failed.
        """
        return attempts > retries

    def on_success(self, answer: Any) -> None:
        """A call succeeded."""
        if self._open_until is not None:
            log.warning("%s answers again: the circuit is closed", self.url)
        self._failures_in_a_row, self._open_until = 0, None

    def on_retry(self, failure: Failure) -> None:
        """An attempt failed and will be repeated."""

    def on_failure(self, failure: Failure) -> None:
        """A call failed for good."""

    def on_open(self, failure: Failure) -> None:
        """Too many calls in a row have failed; ``failure`` was the last."""
        if self._open_until is None:
            log.warning(
                "%s failed %d times in a row (%s): the circuit is open for %g s at a time",
                self.url, self._failures_in_a_row, failure.reason, self._breaker_pause_s,
            )  # fmt: skip
        self._open_until = time.monotonic() + self._breaker_pause_s

    def take_traffic(self) -> Traffic:
        """What happened since the last call."""
        traffic, self.traffic = self.traffic, Traffic()
        return traffic

    def send(
        self,
        calls: Sequence[Call],
        max_retries: int | None = None,
        items: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        ready: Callable[[int, Any], None] = lambda index, answer: None,
    ) -> list[Any]:
        """The answer to each call, or its Failure. Works inside a running event loop too: it uses another thread's.

        Args:
            max_retries: overrides the service's.
            items: items of work in each call, for the progress display; None: one each.
            tokens: estimated tokens of each call, for ``tokens_per_minute``; None: not limited.
            ready: called with (index, answer or Failure) as soon as there is one; in the other thread, one at a time.
        """
        return send_together([self.batch(calls, max_retries, items, tokens, ready)])[0] if calls else []

    def batch(
        self,
        calls: Sequence[Call],
        max_retries: int | None = None,
        items: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        ready: Callable[[int, Any], None] = lambda index, answer: None,
    ) -> Coroutine[Any, Any, list[Any]]:
        """What :meth:`send` sends, for :func:`send_together`."""
        retries = self._max_retries if max_retries is None else max_retries
        items = [1] * len(calls) if items is None else items
        tokens = [0] * len(calls) if tokens is None else tokens
        expect(sum(items))
        return self._send(calls, retries, items, tokens, ready)

    async def _send(
        self,
        calls: Sequence[Call],
        retries: int,
        items: Sequence[int],
        tokens: Sequence[int],
        ready: Callable[[int, Any], None],
    ) -> list[Any]:
        if self._limits is None or self._limits.loop is not asyncio.get_running_loop():
            self._limits = Limits(self.max_concurrency, self.requests_per_minute, self.tokens_per_minute)
        limits = self._limits

        async def answer(index: int, call: Call) -> Any:
            found = await self._guarded(client, call, tokens[index], limits, retries)
            finished(items[index])
            ready(index, found)
            return found

        async with self.connect() as client:
            return await _all([answer(index, call) for index, call in enumerate(calls)])

    async def _guarded(self, client: Any, call: Call, tokens: int, limits: Limits, retries: int) -> Any:
        if self._open_until is not None:
            async with limits.probe:
                if self._open_until is not None:  # no probe has succeeded in the meantime
                    if time.monotonic() < self._open_until:
                        return self._skip()
                    return await self._call_with_retries(client, call, tokens, limits, 0, is_probe=True)
        return await self._call_with_retries(client, call, tokens, limits, retries)

    async def _call_with_retries(
        self, client: Any, call: Call, tokens: int, limits: Limits, retries: int, is_probe: bool = False
    ) -> Any:
        failure: Failure | None = None
        failing_since = 0.0
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda failure: not failure.refused and not is_probe),
            stop=lambda state: self.exhausted(state.attempt_number, retries, failing_since),
            wait=self._wait,
            sleep=asyncio.sleep,
            before_sleep=lambda state: self.on_retry(_failure(state)),
            retry_error_callback=_failure,
        )
        async with limits.slots:  # also during backoff: calls in the queue may find the circuit open by then
            async for attempt in retrying:
                if self._open_until is not None and not is_probe:
                    return failure or self._skip()
                await limits.acquire(tokens)
                self.traffic.retries += failure is not None
                found = await self._attempt(client, call)
                if not isinstance(found, Failure):
                    self.on_success(found)
                    return found
                if failure is None:
                    failing_since = time.monotonic()
                failure = found
                attempt.retry_state.set_result(failure)
        assert failure is not None
        self.traffic.failures += 1
        self.on_failure(failure)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._breaker_failures:
            self.on_open(failure)
        return failure

    async def _attempt(self, client: Any, call: Call) -> Any:
        """One HTTP request: its answer or its Failure."""
        self.traffic.requests += 1
        start = time.monotonic()
        try:
            # the client's own timeout is per chunk, which an answer that trickles in never exceeds
            return await asyncio.wait_for(call(client), self._timeout_s)
        except Exception as error:
            if (failure := self.classify(error)) is None:
                raise
            return failure
        finally:
            self.traffic.latency_s += time.monotonic() - start

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: exponential backoff, up to a quarter longer at random, or Retry-After.

        The jitter does not use Python's global random state, which belongs to the run (tenacity's own jitter does).
        """
        backoff = wait_exponential(self._backoff_s, max=LONGEST_BACKOFF_S)(state)
        jitter = random.SystemRandom().random() / 4
        return max(min(backoff * (1 + jitter), LONGEST_BACKOFF_S), _failure(state).retry_after_s)

    def _skip(self) -> Failure:
        self.traffic.skipped += 1
        reason = f"not sent to {self.url}: the circuit is open after {self._failures_in_a_row} failures in a row"
        return Failure(reason, skipped=True)


def _failure(state: RetryCallState) -> Failure:
    assert state.outcome is not None
    failure: Failure = state.outcome.result()
    return failure


def retry_after_s(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, at most `LONGEST_RETRY_AFTER_S`; 0 for a date, which is rare."""
    try:
        return min(max(float(header or 0), 0.0), LONGEST_RETRY_AFTER_S)
    except ValueError:
        return 0.0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all services, in a daemon thread: rate limits outlive a batch, and belong to one loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="calls", daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_loop.cache_clear)  # a fork inherits the loop without its thread


def send_together(batches: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[list[Any]]:
    """The answers to batches of several services, all in flight at once. An error in one cancels the others.

    They run in this thread's context (they report to this thread's progress display). When this thread is interrupted,
    the calls are cancelled and not waited for.
    """
    future = asyncio.run_coroutine_threadsafe(_all(batches), _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def _all(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:  # after an error no task may be left behind
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_url(setting: str, url: str) -> None:
    """Raises: ConfigError naming the setting."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(setting, f"{url!r} is no address.", "Give one that begins with http://.")
