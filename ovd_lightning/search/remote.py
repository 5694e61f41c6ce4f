"""What every search engine behind a URL shares: time-outs, retries, limits, and rest for a service that is down."""

from __future__ import annotations

from ovd_lightning.search.base import SETTINGS, SearchEngine
from ovd_lightning.service import COUNTED, Call, Failure, checked_service

__all__ = ["Call", "Failure", "RemoteSearch"]


class RemoteSearch(SearchEngine):
    """A search engine behind a URL.

    A search takes bounded time whatever the service does: n requests at most ceil(n / ``max_concurrency``) times
    ``max_retries`` + 1 time-outs with the waits between, and after ``breaker_failures`` requests that were given up in
    a row no more are sent.

    Args:
        url: of the service.
        timeout_s: for one HTTP request.
        max_retries: after too many requests (429), server errors (5xx), broken connections, answers that cannot be
            read, and timeouts.
        backoff_s: wait before the first retry; doubles with each, up to a quarter longer at random.
        max_concurrency: requests in flight.
        requests_per_minute: limit of this process, retries included; null: none. Every rank has its own.
        breaker_failures: calls given up in a row after which the service is left alone: searches then fail at once.
        breaker_pause_s: for how long; then one search tries again.
        cache: file that keeps what was found; null: nothing is kept.
    """

    counted = COUNTED

    def __init__(
        self,
        url: str,
        timeout_s: float = 30.0,
        max_retries: int = 3,
        backoff_s: float = 0.5,
        max_concurrency: int = 8,
        requests_per_minute: int | None = None,
        breaker_failures: int = 8,
        breaker_pause_s: float = 30.0,
        cache: str | None = None,
    ) -> None:
        super().__init__(cache)
        self.url = url
        self.service = checked_service(
            SETTINGS,
            url,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            breaker_failures=breaker_failures,
            breaker_pause_s=breaker_pause_s,
        )

    def take_counts(self) -> dict[str, float]:
        return super().take_counts() | self.service.take_traffic().counts()
