"""Seeds are functions of what is drawn, never of when: a resumed run, or another order of work, draws the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def digest(*parts: Any) -> str:
    """SHA-256 of anything that JSON can hold, as 64 hexadecimal digits."""
    text = _CANONICAL.encode(parts)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def seed_of(*parts: Any) -> int:
    """A seed in [0, 2^31) that is a function of ``parts`` alone."""
    return int(digest(*parts)[:8], 16) & 0x7FFFFFFF
