"""The time of day as events and streams carry it."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp() -> str:
    """Return now as RFC 3339 in UTC with milliseconds, e.g. ``2026-01-31T12:00:00.123Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
