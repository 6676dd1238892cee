"""The time of day as events and streams carry it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def timestamp(*, seconds_ago: float = 0) -> str:
    """Return now as RFC 3339 in UTC with milliseconds, e.g. ``2026-01-31T12:00:00.123Z``."""
    return _written(time.time_ns() // 1_000_000 - int(seconds_ago * 1_000))


@lru_cache(maxsize=1)  # A stream of events has many in the same millisecond.
def _written(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    whole = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return f"{whole[:-6]}.{rest:03}Z"
