"""What was published under which idempotency key, so that a publish that is sent again is not done
again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from typing import Final

import attrs

from triocast.engines.usage import Bounds, Usage
from triocast.errors import IdempotencyConflict
from triocast.events import Accepted, Event, Once, Pending, Position, Publication

RECORD_OVERHEAD: Final = 200
"""Bytes that a record counts beyond its scope and key."""

REMOVED_TOGETHER: Final = 16
"""Records whose time is over that go with each new one: more than come, and no long step."""

Place = tuple[str, str, int]
"""A publisher's scope, its key, and which event under that key."""


@attrs.frozen
class Record:
    """What became of an event: its place, ``seq`` 0 if it was held back, its document's version,
    and how many ``subscribers`` the first answer told of. ``channel`` is set where the server had
    chosen it.
    """

    digest: bytes
    seq: int
    version: int | None = None
    epoch: str = ""
    subscribers: int = 0
    channel: str | None = None

    @classmethod
    def of(cls, event: Event, seq: int, epoch: str) -> Record:
        """Return the record of an event that has been accepted."""
        once = event.once
        assert once is not None
        channel = event.channel if once.chosen else None
        return cls(once.digest, seq, event.version, epoch, once.subscribers, channel)

    def answer(self, event: Event) -> Accepted:
        """Return what is answered to a publisher that publishes it again: what it was first."""
        assert event.once is not None
        once = attrs.evolve(event.once, subscribers=self.subscribers)
        channel = self.channel or event.channel
        event = attrs.evolve(event, write=None, version=self.version, once=once, channel=channel)
        position = Position(self.epoch, self.seq)
        return Publication(event, position, prev=0) if self.seq else Pending(event, self.epoch)


def place_of(once: Once) -> Place:
    """Return under what an event is recorded."""
    return (once.scope, once.key, once.index)


def size_of(place: Place) -> int:
    """Return how many bytes the record of an event counts."""
    scope, key, _ = place
    return len(scope) + len(key) + RECORD_OVERHEAD


def check_batch(events: Iterable[Event], known: Mapping[Place, bytes]) -> dict[Place, bytes]:
    """Return the digests of these events by their keys.

    ``known`` are those of what is recorded. Raises IdempotencyConflict if a key is used for
    different things.
    """
    found: dict[Place, bytes] = {}
    for event in events:
        if event.once is not None:
            place = place_of(event.once)
            digest = known.get(place) or found.setdefault(place, event.once.digest)
            if digest != event.once.digest:
                raise IdempotencyConflict(
                    f"the idempotency key {event.once.key!r} was used for something else before"
                )
    return found


def fresh(events: Iterable[Event], known: Container[Place]) -> list[Event]:
    """Return the events that are not published again."""
    found: list[Event] = []
    seen: set[Place] = set()
    for event in events:
        if event.once is not None:
            place = place_of(event.once)
            if place in known or place in seen:
                continue
            seen.add(place)
        found.append(event)
    return found


class Records:
    """What became of the events under each key, for a time. At the bounds, the oldest go."""

    def __init__(self, *, seconds: float, bounds: Bounds) -> None:
        self._seconds = seconds
        self._bounds = bounds
        self._bytes = 0
        # In the order in which they were made. A dict would look ever longer for its first entry.
        self._records: OrderedDict[Place, tuple[Record, float]] = OrderedDict()

    @property
    def usage(self) -> Usage:
        """What there is, with some whose time is over."""
        return Usage(records=len(self._records), record_bytes=self._bytes)

    def digests(self, events: Iterable[Event]) -> dict[Place, bytes]:
        """Return what is recorded of these events' keys."""
        self.forget_old(at_most=REMOVED_TOGETHER)
        found: dict[Place, bytes] = {}
        oldest = self._oldest()
        for event in events:
            if event.once is not None:
                place = place_of(event.once)
                known = self._records.get(place)
                if known is not None and known[1] >= oldest:
                    found[place] = known[0].digest
        return found

    def find(self, event: Event) -> Record | None:
        """Return what became of the event when it came before."""
        if event.once is None:
            return None
        known = self._records.get(place_of(event.once))
        return None if known is None or known[1] < self._oldest() else known[0]

    def add(self, event: Event, seq: int, epoch: str) -> None:
        """Note what has been accepted."""
        if event.once is None or not self._seconds:
            return
        place = place_of(event.once)
        if place in self._records:  # Its time is over.
            self._remove(place)
        self._records[place] = (Record.of(event, seq, epoch), time.monotonic())
        self._bytes += size_of(place)
        while len(self._records) > self._bounds.records or self._bytes > self._bounds.record_bytes:
            self._remove(next(iter(self._records)))
        self.forget_old(at_most=REMOVED_TOGETHER)

    def forget_old(self, *, at_most: int) -> bool:
        """Remove some of those whose time is over; say whether there may be more."""
        oldest = self._oldest()
        for _ in range(at_most):
            place = next(iter(self._records), None)
            if place is None or self._records[place][1] >= oldest:
                return False
            self._remove(place)
        return True

    def _oldest(self) -> float:
        return time.monotonic() - self._seconds

    def _remove(self, place: Place) -> None:
        del self._records[place]
        self._bytes -= size_of(place)
