"""Events that come too fast: the first of a window goes, of the others only the last.

A window belongs to a *slot*: events of one channel, type and key. Those without a key are each
about something of its own, and never held back. A window's first event is accepted at once. Those
that follow are held back, each in place of the one before. At the window's end the one
that is left is accepted, and the next window begins.

What keeps the last state right:

- A held event is never overtaken by a later one of the same channel and key, whatever their types:
  before that is accepted, it is.
- An urgent event is accepted at once, and what is held of its channel and key is dropped: it must
  not come after it and undo it.
- What tells of a document's newest version is dropped only for what tells of a newer one. Where
  another event would take its place, it is accepted before that.

Pure: the caller has the clock, and keeps what `changes` tells, so that held events outlive it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from triocast.events import BROADCAST, Event, namespace_of

MOST_WINDOWS: Final = 100_000
"""Windows at one time; beyond it events are accepted at once."""

MOST_HELD_BYTES: Final = 16_777_216
"""How much is held back; beyond it events are accepted at once."""

MAX_RELEASED: Final = 256
"""Held events that are released together: windows of any number may end at one time."""

EVENT_OVERHEAD: Final = 600
_SLACK: Final = 1024

Slot = tuple[str, str, str | None]
Group = tuple[str, str | None]


@attrs.frozen
class _Window:
    """``held`` waits for its end; ``number`` is its place in the order of publishing."""

    ends: float
    held: Event | None = None
    number: int = 0


@attrs.frozen
class Change:
    """What became of a slot since it was last kept: numbers of held events."""

    removed: int | None
    added: int | None
    event: Event | None


class Debounce:
    """The windows of one engine. ``usual`` and ``namespaces`` are their lengths in seconds; 0 is
    none.
    """

    def __init__(self, usual: float = 0, namespaces: Mapping[str, float] | None = None) -> None:
        self._usual = usual
        self._namespaces = dict(namespaces or {})
        self.active = bool(usual or any(self._namespaces.values()))
        """Whether anything is ever held back."""
        self.merged = 0
        """How many events were dropped for a later one."""
        self._windows: dict[Slot, _Window] = {}
        self._groups: dict[Group, set[Slot]] = {}
        self._bytes = 0
        self._numbers = itertools.count(1)
        # Both with entries that are not true any more, which are passed over.
        self._ends: list[tuple[float, int, Slot]] = []
        self._due: list[tuple[float, int, Slot]] = []
        self._ties = itertools.count()
        self._before: dict[Slot, _Window | None] = {}
        self._merged_before = 0

    # Publishing.

    def add(self, event: Event, now: float) -> tuple[Event, ...]:
        """Return what is to be accepted now, in this order: the event last, or nothing if held."""
        seconds = 0.0 if event.key is None else self._seconds(event.channel)
        if not seconds:
            return (event,)
        self._sweep(now)
        slot = (event.channel, event.type, event.key)
        group = (event.channel, event.key)
        if event.urgent:
            overtaken: list[Event] = []
            if not _is_of_document(event):
                overtaken = self._release(group, math.inf, now, documents_only=True)
            for other in list(self._groups.get(group, ())):
                self._drop(other)
            self._open(slot, now + seconds)
            return (*overtaken, event)
        window = self._windows.get(slot)
        if window is not None and _may_replace(window.held, event):
            if self._bytes < MOST_HELD_BYTES:
                self.merged += window.held is not None
                self._set(slot, _Window(window.ends, event, next(self._numbers)))
                return ()
            if window.held is not None:
                self._drop(slot)
        overtaken = self._release(group, math.inf, now)
        self._open(slot, now + seconds)
        return (*overtaken, event)

    def due(self, now: float) -> tuple[Event, ...]:
        """Return held events whose windows have ended, to be accepted in this order.

        Of many, some: then `next_due` is over. What was held when the engine ended is never cut.
        """
        released: list[Event] = []
        while self._due and self._due[0][0] <= now:
            if len(released) >= MAX_RELEASED and self._due[0][0] != -math.inf:
                break
            ends, _, slot = heapq.heappop(self._due)
            window = self._windows.get(slot)
            if window is not None and window.held is not None and window.ends == ends:
                channel, _, key = slot
                released += self._release((channel, key), window.number, now)
        self._sweep(now)
        return tuple(released)

    @property
    def next_due(self) -> float:
        """When a window ends that has something held; infinite if there is none."""
        return self._due[0][0] if self._due else math.inf

    def forget(self, channels: Iterable[str]) -> int:
        """Drop what is held of channels; return how many events that was."""
        gone = set(channels)
        slots = [slot for slots in self._groups.values() for slot in slots if slot[0] in gone]
        for slot in slots:
            self._drop(slot, merged=0)
        return len(slots)

    # Keeping.

    def restore(self, held: Iterable[tuple[int, Event]]) -> None:
        """Take back what was held when the engine ended, in its order. All of it is due."""
        last = 0
        for last, event in held:
            slot = (event.channel, event.type, event.key)
            self._set(slot, _Window(-math.inf, event, last))
        self._numbers = itertools.count(last + 1)
        self.settle()

    def changes(self) -> Iterator[Change]:
        """Yield what is held otherwise than at the last `settle`."""
        for slot, before in self._before.items():
            now = self._windows.get(slot)
            removed = None if before is None or before.held is None else before.number
            added = None if now is None or now.held is None else now.number
            if removed != added:
                event = None if now is None else now.held
                yield Change(removed, added, event)

    def settle(self) -> None:
        """Be told that what was changed is kept."""
        self._before = {}
        self._merged_before = self.merged

    def undo(self) -> None:
        """Go back to the last `settle`: what was changed cannot be kept."""
        for slot, window in list(self._before.items()):
            self._set(slot, window)
        self.merged = self._merged_before
        self.settle()

    # Windows.

    def _seconds(self, channel: str) -> float:
        if not self.active or (channel.startswith("$") and channel != BROADCAST):
            return 0.0
        return self._namespaces.get(namespace_of(channel), self._usual)

    def _open(self, slot: Slot, ends: float) -> None:
        if slot in self._windows or len(self._windows) < MOST_WINDOWS:
            self._set(slot, _Window(ends))

    def _release(
        self, group: Group, number: float, now: float, *, documents_only: bool = False
    ) -> list[Event]:
        """Take what is held of a channel and key up to a number, in the order of publishing."""
        found: list[tuple[int, Event]] = []
        for slot in list(self._groups.get(group, ())):
            window = self._windows[slot]
            assert window.held is not None
            if window.number <= number and (not documents_only or _is_of_document(window.held)):
                found.append((window.number, window.held))
                seconds = self._seconds(slot[0])
                self._set(slot, _Window(now + seconds) if seconds else None)
        return [event for _, event in sorted(found, key=lambda each: each[0])]

    def _drop(self, slot: Slot, *, merged: int = 1) -> None:
        self._set(slot, _Window(self._windows[slot].ends))
        self.merged += merged

    def _sweep(self, now: float) -> None:
        """Forget windows that ended with nothing held."""
        while self._ends and self._ends[0][0] <= now:
            ends, _, slot = heapq.heappop(self._ends)
            window = self._windows.get(slot)
            if window is not None and window.held is None and window.ends == ends:
                self._set(slot, None)

    def _set(self, slot: Slot, window: _Window | None) -> None:
        old = self._windows.get(slot)
        self._before.setdefault(slot, old)
        channel, _, key = slot
        group = (channel, key)
        if old is not None and old.held is not None:
            self._bytes -= len(old.held.data) + EVENT_OVERHEAD
            self._groups[group].discard(slot)
            if not self._groups[group]:
                del self._groups[group]
        if window is None:
            self._windows.pop(slot, None)
            return
        self._windows[slot] = window
        if window.held is not None:
            self._bytes += len(window.held.data) + EVENT_OVERHEAD
            self._groups.setdefault(group, set()).add(slot)
        if old is None or old.ends != window.ends or (old.held is None) != (window.held is None):
            self._note_end(slot, window)

    def _note_end(self, slot: Slot, window: _Window) -> None:
        ends = self._ends if window.held is None else self._due
        heapq.heappush(ends, (window.ends, next(self._ties), slot))
        if len(ends) > 2 * len(self._windows) + _SLACK:
            held = window.held is not None
            ends[:] = [
                (each.ends, next(self._ties), slot)
                for slot, each in self._windows.items()
                if (each.held is not None) == held
            ]
            heapq.heapify(ends)


def _is_of_document(event: Event) -> bool:
    """Say whether an event tells of a version of its document."""
    return event.version is not None


def _may_replace(held: Event | None, event: Event) -> bool:
    """Say whether a later event of its slot may take the place of a held one."""
    return held is None or _is_of_document(event) or not _is_of_document(held)
