"""What search engines that are services share: timeouts, retries, rate limits, a circuit breaker."""

from __future__ import annotations

from ovd_lightning.search.base import SETTINGS, SearchEngine
from ovd_lightning.service import COUNTED, Call, Failure, Service, check_url
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["Call", "Failure", "RemoteSearch"]


class RemoteSearch(SearchEngine):
    """A search engine that is an HTTP service.

    A search takes bounded time whatever the service does: n requests take at most ceil(n / ``max_concurrency``) times
    ``max_retries`` + 1 timeouts with the backoff between them, and after ``breaker_failures`` failed requests in a row
    the circuit is open.

    Args:
        url: of the service.
        timeout_s: for one HTTP request.
        max_retries: after too many requests (429), server errors (5xx), broken connections, answers that cannot be
            parsed, and timeouts.
        backoff_s: wait before the first retry; doubles with each, up to a quarter longer at random.
        max_concurrency: requests in flight.
        requests_per_minute: limit per rank, retries included; null: none.
        breaker_failures: failed calls in a row after which the circuit is open: searches then fail at once.
        breaker_pause_s: for how long; then one search is sent as a probe.
        cache: file with all results so far; null: no cache.
    """

    counted = COUNTED

    def __init__(
        self,
        url: str,
        timeout_s: PositiveFloat = 30.0,
        max_retries: NonNegativeInt = 3,
        backoff_s: NonNegativeFloat = 0.5,
        max_concurrency: PositiveInt = 8,
        requests_per_minute: PositiveInt | None = None,
        breaker_failures: PositiveInt = 8,
        breaker_pause_s: NonNegativeFloat = 30.0,
        cache: str | None = None,
    ) -> None:
        super().__init__(cache)
        check_url(f"{SETTINGS}.url", url)
        self.url = url
        self.service = Service(
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
