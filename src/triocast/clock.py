"""The time of day as events and streams carry it, and how often a thing is logged."""

from __future__ import annotations

import math
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


class Seldom:
    """Decides when to log something that can happen very often: once in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = -math.inf
        self._count = 0

    def count(self, now: float) -> int:
        """Count one occurrence; return how many there were since the last that was to be logged.

        0 means that it is too early to log another one.
        """
        self._count += 1
        if now < self._next:
            return 0
        self._next = now + self._seconds
        count, self._count = self._count, 0
        return count
