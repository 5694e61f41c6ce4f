"""Seeds are functions of what is drawn, never of when: a resumed run, or another order of work, draws the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def digest(*parts: Any) -> str:
    """SHA-256 of anything that JSON can hold, as 64 hexadecimal digits."""
    return hashlib.sha256(_encoded(*parts)).hexdigest()


def digests(*begin: Any) -> Callable[..., str]:
    """``digests(a, b)(c)`` is ``digest(a, b, c)``: what many digests begin with is encoded once."""
    begun = hashlib.sha256(_encoded(*begin)[:-1])

    def of(*parts: Any) -> str:
        whole = begun.copy()
        whole.update(b", " + _encoded(*parts)[1:])
        return whole.hexdigest()

    return of


def _encoded(*parts: Any) -> bytes:
    """A list in JSON."""
    return _CANONICAL.encode(parts).encode(errors="surrogatepass")


def seed_of(*parts: Any) -> int:
    """A seed in [0, 2^31) that is a function of ``parts`` alone."""
    return int(digest(*parts)[:8], 16) & 0x7FFFFFFF
