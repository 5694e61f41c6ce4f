"""Calls to a web service: concurrent, rate-limited, retried a bounded number of times, left alone while it is down."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import expect, finished

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
"""That a service may ask for."""
LONGEST_BACKOFF_S = 30.0
"""Of ours: whoever waits for a restart notices its end within this."""
RETRIED_STATUS = (408, 409, 425, 429)
"""Besides every 5xx."""


@dataclass(slots=True, frozen=True)
class Failure:
    """Why a call was given up."""

    reason: str
    status: int | None = None
    """Of the last answer; None where none came, or none that could be read."""
    skipped: bool = False
    """It was not sent: the service is being left alone."""
    kind: str = "other"
    """What sort of failure, in a word or two, to count by."""

    @property
    def refused(self) -> bool:
        """The service does not want this request; another one may still succeed."""
        return self.status is not None and self.status < 500 and self.status not in RETRIED_STATUS


@dataclass(slots=True)
class Traffic:
    """What a service was asked for."""

    requests: int = 0
    """HTTP requests, retries included."""
    retries: int = 0
    failures: int = 0
    """Calls given up after their retries, or refused at once."""
    skipped: int = 0
    """Calls that were not sent because the service was being left alone."""
    latency_s: float = 0.0
    """Summed over requests, which run beside one another; waiting for a slot excluded."""

    def counts(self) -> dict[str, float]:
        """By the names in ``COUNTED``."""
        return dict(zip(COUNTED, map(float, (self.requests, self.retries, self.skipped, self.latency_s)), strict=True))


COUNTED = ("requests", "retries", "skipped_requests", "request_seconds")
"""What whoever has a service counts of its traffic."""


Call = Callable[[Any], Awaitable[Any]]
"""Sends one request with the service's client and reads the answer; a ValueError says that it cannot be read."""


class Service:
    """Sends batches of calls. What the HTTP library is, subclasses say: `connect` and `judge`.

    After ``breaker_failures`` calls were given up in a row, calls fail at once for ``breaker_pause_s``; then one call
    tries, without retries, and the others wait for what it finds. Not for use from several threads at once.
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
    ) -> None:
        self.url = url
        self.traffic = Traffic()
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._max_concurrency = max_concurrency
        self._interval_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._breaker_failures = breaker_failures
        self._breaker_pause_s = breaker_pause_s
        self._next_slot = 0.0
        self._failed_in_a_row = 0
        self._alone_until: float | None = None
        """Monotonic time before which nothing is sent; None: the service is in use."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """A client for one batch of calls."""
        import httpx

        return httpx.AsyncClient(timeout=self._timeout_s)

    def judge(self, error: Exception) -> tuple[Failure, str | None] | None:
        """(why a request failed, its Retry-After); None: the error is ours, not the service's."""
        import httpx

        if isinstance(error, httpx.HTTPStatusError):
            response = error.response
            said = " ".join(response.text.split()) or response.reason_phrase
            failure = Failure(f"status {response.status_code}: {said}"[:300], response.status_code, kind="status")
            return failure, response.headers.get("retry-after")
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return Failure(f"no answer within {self._timeout_s:g} s", kind="timeout"), None
        if isinstance(error, httpx.HTTPError | OSError | ValueError | RecursionError):
            return Failure(f"{type(error).__name__}: {error}"[:500]), None
        return None

    def exhausted(self, attempt: int, retries: int, since: float) -> bool:
        """Whether a call is given up after its attempt number ``attempt`` (0: the first), when all have failed.

        Args:
            since: monotonic time of the call's first attempt.
        """
        return attempt >= retries

    def retrying(self, failure: Failure) -> None:
        """An attempt failed, and there will be another."""

    def gave_up(self, failure: Failure) -> None:
        """A call is over without an answer."""

    def take_traffic(self) -> Traffic:
        """What happened since the last call."""
        traffic, self.traffic = self.traffic, Traffic()
        return traffic

    def send(
        self,
        calls: Sequence[Call],
        max_retries: int | None = None,
        items: Sequence[int] | None = None,
        ready: Callable[[int, Any], None] = lambda index, answer: None,
    ) -> list[Any]:
        """What each call read, or its Failure. Runs in a thread, so an event loop may be running here.

        Args:
            max_retries: overrides the service's.
            items: how many items of work each call is, for whoever watches; None: one.
            ready: told (index, answer or Failure) as soon as there is one, in that thread, one at a time.
        """
        if not calls:
            return []
        retries = self._max_retries if max_retries is None else max_retries
        items = [1] * len(calls) if items is None else items
        expect(sum(items))
        return _in_a_thread(lambda: self._send(calls, retries, items, ready))

    async def _send(
        self, calls: Sequence[Call], retries: int, items: Sequence[int], ready: Callable[[int, Any], None]
    ) -> list[Any]:
        slots, trial = asyncio.Semaphore(self._max_concurrency), asyncio.Lock()

        async def told(index: int, call: Call) -> Any:
            answer = await self._guarded(client, call, slots, trial, retries)
            finished(items[index])
            ready(index, answer)
            return answer

        async with self.connect() as client:
            tasks = [asyncio.ensure_future(told(index, call)) for index, call in enumerate(calls)]
            try:
                return await asyncio.gather(*tasks)
            finally:  # where a failure is raised, nothing may be left waiting
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(
        self, client: Any, call: Call, slots: asyncio.Semaphore, trial: asyncio.Lock, retries: int
    ) -> Any:
        if self._alone_until is not None:
            async with trial:
                if self._alone_until is not None:  # still: no trial has succeeded meanwhile
                    if time.monotonic() < self._alone_until:
                        return self._skip()
                    return await self._attempt(client, call, slots, 0, is_trial=True)
        return await self._attempt(client, call, slots, retries)

    async def _attempt(
        self, client: Any, call: Call, slots: asyncio.Semaphore, retries: int, is_trial: bool = False
    ) -> Any:
        failure, since = Failure(""), time.monotonic()
        async with slots:  # kept while waiting for a retry: calls that come behind it may find the service left alone
            for attempt in itertools.count():
                if self._alone_until is not None and not is_trial:
                    return failure if attempt else self._skip()
                await self._turn()
                self.traffic.requests += 1
                self.traffic.retries += attempt > 0
                begun = time.monotonic()
                try:
                    # the client's own limit is between two chunks: an answer that trickles in would escape it
                    answer = await asyncio.wait_for(call(client), self._timeout_s)
                except Exception as error:
                    if (judged := self.judge(error)) is None:
                        raise
                    failure, asked = judged
                else:
                    self.answered(answer)
                    return answer
                finally:
                    self.traffic.latency_s += time.monotonic() - begun
                if failure.refused or is_trial or self.exhausted(attempt, retries, since):
                    break
                self.retrying(failure)
                wait_s = min(self._backoff_s * 2 ** min(attempt, 16) * (1 + self._jitter()), LONGEST_BACKOFF_S)
                await asyncio.sleep(max(wait_s, self._asked_wait(asked)))
        self.traffic.failures += 1
        self.gave_up(failure)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._breaker_failures:
            self.open_breaker(failure)
        return failure

    def answered(self, answer: Any) -> None:
        """A call succeeded."""
        if self._alone_until is not None:
            log.warning("%s answers again", self.url)
        self._failed_in_a_row, self._alone_until = 0, None

    def open_breaker(self, failure: Failure) -> None:
        """Too many calls were given up in a row; ``failure`` was the last."""
        if self._alone_until is None:
            log.warning(
                "%s failed %d times in a row (%s) and is left alone for %g s at a time",
                self.url, self._failed_in_a_row, failure.reason, self._breaker_pause_s,
            )  # fmt: skip
        self._alone_until = time.monotonic() + self._breaker_pause_s

    def _skip(self) -> Failure:
        self.traffic.skipped += 1
        return Failure(f"{self.url} is being left alone after {self._failed_in_a_row} failures in a row", skipped=True)

    async def _turn(self) -> None:
        """Waits until the limit of requests per minute allows one more."""
        now = time.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._interval_s
        await asyncio.sleep(slot - now)

    @staticmethod
    def _jitter() -> float:
        """In [0, 0.25), away from the process's global random state."""
        return random.SystemRandom().random() / 4

    @staticmethod
    def _asked_wait(header: str | None) -> float:
        try:
            return min(max(float(header or 0), 0.0), LONGEST_WAIT_S)
        except ValueError:  # a date: rare, and the back-off is waited for anyway
            return 0.0


def _in_a_thread(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine comes to, in an event loop of its own.

    Whoever is interrupted while waiting here does not wait for the answers: the calls are cancelled, and the thread
    does not keep the process alive.
    """
    result: Future[Any] = Future()
    loop = asyncio.new_event_loop()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                value = runner.run(work())
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    # in this thread's context, where the run is that hears of the progress
    threading.Thread(target=copy_context().run, args=(run,), name="calls", daemon=True).start()
    try:
        return result.result()
    except BaseException:
        if not result.done():
            loop.call_soon_threadsafe(cancel)
        raise


def checked_service(
    settings: str,
    url: str,
    *,
    timeout_s: float,
    max_retries: int,
    backoff_s: float,
    max_concurrency: int,
    requests_per_minute: int | None,
    breaker_failures: int,
    breaker_pause_s: float,
) -> Service:
    """A service whose limits are settings of a config, which ``settings`` names. Raises: ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{settings}.url", f"{url!r} is no address.", "Give one that begins with http://.")
    check_limits(
        settings,
        positive={
            "timeout_s": timeout_s,
            "max_concurrency": max_concurrency,
            "requests_per_minute": 1 if requests_per_minute is None else requests_per_minute,
            "breaker_failures": breaker_failures,
        },
        not_negative={"max_retries": max_retries, "backoff_s": backoff_s, "breaker_pause_s": breaker_pause_s},
    )
    return Service(
        url,
        timeout_s=timeout_s,
        max_retries=max_retries,
        backoff_s=backoff_s,
        max_concurrency=max_concurrency,
        requests_per_minute=requests_per_minute,
        breaker_failures=breaker_failures,
        breaker_pause_s=breaker_pause_s,
    )


def check_limits(settings: str, positive: dict[str, float], not_negative: dict[str, float]) -> None:
    """Raises: ConfigError naming the setting."""
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{settings}.{name}", f"is {value}.", "Use a positive value.")
    for name, value in not_negative.items():
        if value < 0:
            raise ConfigError(f"{settings}.{name}", f"is {value}.", "Use 0 or more.")
