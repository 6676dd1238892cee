"""What clients may send that only makes work: frames that say nothing, or next to nothing.

A frame costs the same whether it carries an event or not: tens of thousands of pings, empty
fragments or window updates fit into what one client can send in a second. Each counts for one unit
or more, and a client that has used up `MAX_UNITS` is ended. What carries data is not counted, so a
busy client can send as much as the server takes.
"""

from __future__ import annotations

from typing import Final

MAX_UNITS: Final = 1_000
"""Units that a client may use at once."""

UNITS_PER_SECOND: Final = 100
"""How many it gets back in a second, up to `MAX_UNITS`."""

MIN_DATA_BYTES: Final = 8
"""Pieces of data below this count as if they were empty. The shortest event is longer."""


FREE_FRAGMENTS: Final = 2
"""Fragments of a WebSocket message that may be as small as they like."""


class FloodLimiter:
    """Counts what one client uses. ``now`` is in seconds, of any clock that does not go back."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left: float = MAX_UNITS
        self._at = now

    def spend(self, units: int, now: float) -> bool:
        """Use units; return whether the client had as many left."""
        self._left = min(MAX_UNITS, self._left + (now - self._at) * UNITS_PER_SECOND) - units
        self._at = now
        return self._left >= 0

    def give_back(self, units: int) -> None:
        """Return units to a client that did something useful, up to `MAX_UNITS`."""
        self._left = min(MAX_UNITS, self._left + units)


def fragment_units(number: int, size: int) -> int:
    """Return the units for a frame that does not end its WebSocket message.

    ``number`` is its place in the message, from 1; ``size`` is its payload in bytes.
    """
    return int(number > FREE_FRAGMENTS and size < MIN_DATA_BYTES)
