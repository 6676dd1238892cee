"""The engine ``memory://``: rings in this process, gone with it.

Bounds: each channel keeps its last ``history_events``; all channels together keep at most
``history_bytes``, and the oldest event of all goes first. A channel whose last kept event went is
forgotten; what is still known of it is its namespace's floor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from triocast.engines.base import Engine, History, Outlet
from triocast.events import Event, Position, Publication, is_connection_channel, namespace_of

EVENT_OVERHEAD: Final = 600
"""Bytes that a kept event costs beyond its data (measured: objects, ring, strings)."""

SHORT_NAMES: Final = 48
"""Characters of channel, type, key, user and tags that the overhead includes."""

MOST_NAMESPACES: Final = 1_000
"""Namespaces whose floors are kept apart; those of more become one."""

_SLACK: Final = 1024


@attrs.define(eq=False)
class _Ring:
    """One channel's kept publications, oldest first."""

    floor: int
    last: int
    kept: deque[Publication] = attrs.field(factory=deque)


def _size(publication: Publication) -> int:
    event = publication.event
    size = len(event.data) + EVENT_OVERHEAD
    names = len(event.channel) + len(event.type)
    if event.key or event.user or event.tags:
        names += len(event.key or "") + len(event.user or "") + sum(map(len, event.tags))
    return size if names <= SHORT_NAMES else size + names - SHORT_NAMES


class MemoryEngine(Engine):
    """Order and history in memory; see the module's docstring for the bounds."""

    def __init__(self, *, epoch: str, history_events: int, history_bytes: int) -> None:
        self._head = Position(epoch, 0)
        self._history_events = history_events
        self._history_bytes = history_bytes
        self._outlets: list[Outlet] = []
        self._rings: dict[str, _Ring] = {}
        self._namespace_floors: dict[str, int] = {}
        self._other_floor = 0
        # (seq, channel) in the order they will be forgotten; those that their ring has dropped
        # already stay in it until they come up or are swept.
        self._order: deque[tuple[int, str]] = deque()
        self._kept = 0
        self._bytes = 0

    @property
    def head(self) -> Position:
        return self._head

    @property
    def kept_bytes(self) -> int:
        """What history costs now, by `EVENT_OVERHEAD` and the events' data."""
        return self._bytes

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    async def publish(self, events: Sequence[Event]) -> tuple[Publication, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not events:
            return ()
        # Again after each wait: meanwhile another outlet may have been filled.
        while (full := next((o for o in self._outlets if not o.has_room), None)) is not None:
            await full.wait_for_room()
        # From here on nothing blocks, so that no other publisher comes between.
        publications = tuple(self._accept(event) for event in events)
        for outlet in self._outlets:
            outlet.put(publications)
        return publications

    async def history(self, channels: Sequence[str], *, after: int, limit: int) -> History:
        await trio.lowlevel.checkpoint()
        found: list[Publication] = []
        floors: dict[str, int] = {}
        for channel in dict.fromkeys(channels):
            ring = self._rings.get(channel)
            if ring is None:
                floors[channel] = self._floor_of(namespace_of(channel))
                continue
            floors[channel] = ring.floor
            for publication in reversed(ring.kept):
                if publication.seq <= after:
                    break
                found.append(publication)
        found.sort(key=lambda publication: publication.seq)
        return History(tuple(found[:limit]), floors, self._head, complete=len(found) <= limit)

    async def check_health(self) -> None:
        await trio.lowlevel.checkpoint()

    def _accept(self, event: Event) -> Publication:
        position = self._head = Position(self._head.epoch, self._head.seq + 1)
        if is_connection_channel(event.channel):
            return Publication(event, position, prev=0)
        ring = self._rings.get(event.channel)
        if ring is None:
            floor = self._floor_of(namespace_of(event.channel))
            ring = self._rings[event.channel] = _Ring(floor=floor, last=floor)
        publication = Publication(event, position, prev=ring.last)
        ring.last = position.seq
        self._keep(ring, publication)
        return publication

    def _keep(self, ring: _Ring, publication: Publication) -> None:
        ring.kept.append(publication)
        self._order.append((publication.seq, publication.event.channel))
        self._kept += 1
        self._bytes += _size(publication)
        if len(ring.kept) > self._history_events:
            self._drop_oldest(ring)
            if not ring.kept:
                self._forget(publication.event.channel, ring)
        while self._bytes > self._history_bytes:
            oldest, channel = self._order.popleft()
            owner = self._rings.get(channel)
            if owner is not None and owner.kept and owner.kept[0].seq == oldest:
                self._drop_oldest(owner)
                if not owner.kept:
                    self._forget(channel, owner)
        if len(self._order) > 2 * self._kept + _SLACK:
            self._order = deque(
                sorted(
                    (publication.seq, channel)
                    for channel, ring in self._rings.items()
                    for publication in ring.kept
                )
            )

    def _drop_oldest(self, ring: _Ring) -> None:
        gone = ring.kept.popleft()
        ring.floor = gone.seq
        self._kept -= 1
        self._bytes -= _size(gone)

    def _forget(self, channel: str, ring: _Ring) -> None:
        namespace = namespace_of(channel)
        self._namespace_floors[namespace] = max(self._floor_of(namespace), ring.last)
        del self._rings[channel]
        if len(self._namespace_floors) > MOST_NAMESPACES:
            own = {n: floor for n, floor in self._namespace_floors.items() if n.startswith("$")}
            self._other_floor = max(self._namespace_floors.values())
            self._namespace_floors = own

    def _floor_of(self, namespace: str) -> int:
        unheard = 0 if namespace.startswith("$") else self._other_floor
        return self._namespace_floors.get(namespace, unheard)
