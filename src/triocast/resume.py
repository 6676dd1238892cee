"""What a subscriber missed, and whether all of it can still be given.

A client comes back with a cursor, or comes anew and wants the state. Either way it is subscribed
first and holds what is live; then a `Backlog` reads, page by page, what the engine kept up to
where the subscription is live, and only then the live events follow.

A channel's backlog is complete if and only if the cursor is of the engine's epoch and not beyond
its head, nothing above the cursor was removed, and each event names the one before it in its
channel as ``prev``. A channel of which something is missing is not replayed at all: a `Gap` says
so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import attrs

from triocast.engines import Engine
from triocast.engines.order import SEQ
from triocast.events import Position, Publication, pattern_matches
from triocast.subscriptions import EVERYTHING, Filter
from triocast.wire.start import After, Last, Latest, Start

PAGE_EVENTS: Final = 128
"""How many events are read at a time: what waits for a client that reads slowly is bounded."""

MOST_STATE: Final = 10_000
"""Events a newcomer gets at the most, over all channels; a larger state is a gap."""

MOST_STATE_BYTES: Final = 16_777_216
"""The same for their data."""


class GapReason(StrEnum):
    """Why a client does not get what it missed."""

    EXPIRED = "expired"
    """Retention has removed some of it."""

    EPOCH = "epoch"
    """The cursor is of another store, or of a past that this one has lost."""

    OVERFLOW = "overflow"
    """It is more than is given to one client."""

    FORBIDDEN = "forbidden"
    """The client may not listen to this any more."""

    INTERNAL = "internal"
    """An error of ours: the event could not be put into the form that the client takes."""


@attrs.frozen
class Gap:
    """Something between ``start`` and ``end`` is not given for these channels and patterns.

    ``start`` is where the client stood, None if that is of another server. ``resume_at`` is what
    it comes back with: where it stood as long as other channels are still replayed from there.
    """

    reason: GapReason
    channels: tuple[str, ...]
    start: Position | None
    end: Position
    resume_at: Position


def gap_of(publication: Publication) -> Gap:
    """Return the gap that stands for a publication which is lost by an error of ours.

    It takes the publication's place, so a client that has it stands behind the publication.
    """
    at = publication.position
    before = Position(at.epoch, at.seq - 1)
    return Gap(GapReason.INTERNAL, (publication.event.channel,), before, at, resume_at=at)


@attrs.frozen
class Page:
    """A part of a backlog: gaps first, then events in the order of ``seq``.

    ``seq`` is how far the backlog is given with this page.
    """

    gaps: tuple[Gap, ...]
    publications: tuple[Publication, ...]
    seq: int


class Backlog(ABC):
    """What one subscription gets before what is live, which begins behind ``live``."""

    def __init__(
        self, engine: Engine, names: Sequence[str], filter: Filter, *, live: Position
    ) -> None:
        self.live = live
        self._engine = engine
        self._names = tuple(names)
        self._filter = filter
        self._at: int | None = None

    @abstractmethod
    async def read(self) -> Page | None:
        """Return the next page; None when all has been read."""

    def _chosen(self, publications: Iterable[Publication]) -> tuple[Publication, ...]:
        return tuple(p for p in publications if self._filter.passes(p))


class MissedBacklog(Backlog):
    """All that came after a cursor."""

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        filter: Filter,
        *,
        after: Position | None,
        live: Position,
    ) -> None:
        super().__init__(engine, names, filter, live=live)
        self._after = after
        self._before: dict[str, int] = {}
        self._broken: set[str] = set()

    async def read(self) -> Page | None:
        after, live = self._after, self.live
        if after is None or after.epoch != live.epoch:
            return self._refuse_all(after)
        at = after.seq if self._at is None else self._at
        if self._at is not None and (at >= live.seq or not self._names):
            return None
        history = await self._engine.history(
            self._names, after=at, limit=PAGE_EVENTS, before=live.seq + 1
        )
        if after.seq > history.head.seq or history.head.epoch != live.epoch:
            return self._refuse_all(after)
        self._at = live.seq if history.complete else history.publications[-1].seq
        # Where nothing lies between, what retention removed is among the live events.
        lost = tuple(n for n in self._names if history.floors[n] > at) if at < live.seq else ()
        publications = history.publications
        if lost:
            self._names = tuple(name for name in self._names if name not in lost)
            publications = tuple(
                p
                for p in publications
                if any(pattern_matches(name, p.event.channel) for name in self._names)
            )
            if not self._names:
                self._at = live.seq
        publications, broken = self._follow(publications, after.seq)
        lost += broken
        stands = Position(after.epoch, at)  # what earlier pages gave is not given again
        gaps = (Gap(GapReason.EXPIRED, lost, stands, live, resume_at=stands),) if lost else ()
        return Page(gaps, self._chosen(publications), self._at)

    def _refuse_all(self, after: Position | None) -> Page | None:
        if self._at is not None:
            return None
        self._at = self.live.seq
        gap = Gap(GapReason.EPOCH, self._names, after, self.live, resume_at=self.live)
        return Page((gap,), (), self._at)

    def _follow(
        self, publications: tuple[Publication, ...], after: int
    ) -> tuple[tuple[Publication, ...], tuple[str, ...]]:
        """Leave out channels with a hole in the chain of ``prev``; return them, too."""
        found: dict[str, None] = {}
        for publication in publications:
            channel = publication.event.channel
            before = self._before.get(channel)
            whole = publication.prev <= after if before is None else publication.prev == before
            if not whole and channel not in self._broken:
                self._broken.add(channel)
                found[channel] = None
            self._before[channel] = publication.seq
        if self._broken:
            publications = tuple(p for p in publications if p.event.channel not in self._broken)
        return publications, tuple(found)


class StateBacklog(Backlog):
    """The state for a newcomer."""

    _rest: list[Publication]

    async def read(self) -> Page | None:
        if self._at is None:
            found = await self._read()
            if found is None:
                self._at = self.live.seq
                gap = Gap(GapReason.OVERFLOW, self._names, None, self.live, resume_at=self.live)
                return Page((gap,), (), self._at)
            self._rest = sorted(found, key=SEQ)
        elif self._at == self.live.seq:
            return None
        page, self._rest = self._rest[:PAGE_EVENTS], self._rest[PAGE_EVENTS:]
        self._at = page[-1].seq if self._rest else self.live.seq
        return Page((), tuple(page), self._at)

    @abstractmethod
    async def _read(self) -> Iterable[Publication] | None:
        """Return the events, each once, up to where the subscription is live.

        None if they are more than is given to one client.
        """


class LatestBacklog(StateBacklog):
    """The newest event of each key; one that the filter stops hides the older ones of its key."""

    async def _read(self) -> Iterable[Publication] | None:
        found = await self._engine.latest(
            self._names, limit=MOST_STATE, limit_bytes=MOST_STATE_BYTES
        )
        if found is None:
            return None
        # What is newer than `live` comes live, and replaces what is missing here.
        return self._chosen(p for p in found if p.seq <= self.live.seq)


class LastBacklog(StateBacklog):
    """The last events of each name that pass the filter."""

    def __init__(
        self, engine: Engine, names: Sequence[str], filter: Filter, *, count: int, live: Position
    ) -> None:
        super().__init__(engine, names, filter, live=live)
        self._count = count

    async def _read(self) -> Iterable[Publication] | None:
        found: dict[int, Publication] = {}
        size = 0
        for name in self._names:
            for publication in await self._last_of(name):
                found[publication.seq] = publication
                size += len(publication.event.data)
            if len(found) > MOST_STATE or size > MOST_STATE_BYTES:
                return None
        return found.values()

    async def _last_of(self, name: str) -> list[Publication]:
        newest_first: list[Publication] = []
        before = self.live.seq + 1
        while len(newest_first) < self._count:
            limit = self._count if self._filter == EVERYTHING else PAGE_EVENTS
            history = await self._engine.history(
                [name], after=0, limit=limit, before=before, newest=True
            )
            newest_first += reversed(self._chosen(history.publications))
            if history.complete:
                break
            before = history.publications[0].seq
        return newest_first[: self._count]


def open_backlog(
    engine: Engine, names: Sequence[str], filter: Filter, start: Start, *, live: Position
) -> Backlog:
    """Return what a subscription to these names that is live from ``live`` gets before that."""
    match start:
        case After(position):
            return MissedBacklog(engine, names, filter, after=position, live=live)
        case Latest():
            return LatestBacklog(engine, names, filter, live=live)
        case Last(count):
            return LastBacklog(engine, names, filter, count=count, live=live)
