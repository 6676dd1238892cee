"""What one client may get next, and what it must have got."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import attrs

from triocast.events import Position, Publication, namespace_of, pattern_matches
from triocast.settings import DROP, LATEST
from triocast.subscriptions import EVERYTHING, Filter
from triocast.wire import cursor

from . import reading
from .ledger import number_of
from .observing import Change
from .steps import NAMESPACES

OPENING_CHANGES = 2
"""A connection's own channels, and those that it comes with: they begin where it resumes."""


@attrs.define
class Interval:
    """Where a name with one filter was listened to: above ``live``, up to ``until``.

    What is above that and up to ``latest`` was on its way when that ended: the client may have
    been given it or not.
    """

    name: str
    filter: Filter
    live: int
    until: float = math.inf
    latest: float = math.inf

    def covers(self, publication: Publication) -> bool:
        return publication.seq <= self.until and self.may_cover(publication)

    def may_cover(self, publication: Publication) -> bool:
        return (
            self.live < publication.seq <= self.latest
            and pattern_matches(self.name, publication.event.channel)
            and self.filter.passes(publication)
        )


class Expectation:
    """What one client may get next, and what it must have got."""

    def __init__(
        self,
        id: str,
        epoch: str,
        accepted: Sequence[Publication],
        kept: set[Publication],
        *,
        start: Position | None,
        lossy: bool,
    ) -> None:
        self.changes = 0
        self.lacks_gap = start is not None and start.epoch != epoch
        """Whether it came from another epoch, and has still to be told so."""
        self._epoch = epoch
        self._came_from = start
        self._lossy = lossy
        self._losses: list[tuple[int, int, reading.Gap]] = []
        self._start = None if start is None or self.lacks_gap else start.seq
        self._kept = kept
        self.got: set[int] = set()
        self.last = 0
        self._id = id
        self._accepted_by_all = accepted
        self._accepted = [each for each in accepted if each.event.exclude != id]
        self._own = f"$conn:{id}"
        self._to_it_alone = {
            number_of(each.event): each for each in accepted if each.event.channel == self._own
        }
        self._now: dict[str, Interval] = {}
        self._past: list[Interval] = []

    def change(self, change: Change) -> None:
        if not self.changes:
            self._now[self._own] = Interval(self._own, EVERYTHING, change.live)
        self.changes += 1
        for name in change.names:
            old = self._now.get(name)
            if old is not None:
                if old.filter == change.filter:
                    continue
                old.until, old.latest = change.written, change.live
                self._past.append(self._now.pop(name))
            if change.filter is not None:
                live = change.live
                if self._start is not None and self.changes <= OPENING_CHANGES:
                    live = self._start
                self._now[name] = Interval(name, change.filter, live)

    def skip(self, gap: reading.Gap) -> None:
        """Take word that something is missing: which must be so."""
        if gap.reason == "overflow":
            self._lose(gap)
            return
        if gap.reason == "epoch":
            self._begin_anew(gap)
            return
        assert gap.reason == "expired"
        assert self._start is not None
        to = self._seq_of(gap.to)
        # Where it stands: earlier pages of its backlog may have been given.
        assert self._start <= self._seq_of(gap.id) < to
        for name in gap.channels:
            interval = self._now.pop(name)
            # All that is known is how far retention went: of a channel, or of the namespace if the
            # channel is forgotten. That may be further than the client's backlog goes.
            assert any(
                publication.seq > interval.live and publication not in self._kept
                for publication in self._accepted_by_all
                if pattern_matches(name, publication.event.channel)
                or namespace_of(name) == namespace_of(publication.event.channel)
            ), f"nothing of {name} is missing"
            self._past.append(attrs.evolve(interval, until=self.last, latest=self.last))
            self._now[name] = attrs.evolve(interval, live=to)
        self.come_back_with(gap.id)

    def _begin_anew(self, gap: reading.Gap) -> None:
        """Take word that all from before is missing: of what it listens to, before anything."""
        assert self.lacks_gap and not self.got
        self.lacks_gap = False
        assert _position(gap.start) == self._came_from
        assert gap.id == gap.to
        assert set(gap.channels) == self._now.keys() - {self._own}
        assert {interval.live for interval in self._now.values()} == {self._seq_of(gap.to)}
        self.come_back_with(gap.id)

    def _lose(self, gap: reading.Gap) -> None:
        """Take word of what was dropped: from the first of it to the last, before what is newer."""
        start, to = self._seq_of(gap.start), self._seq_of(gap.to)
        assert self._lossy
        # As long as a backlog is read, other channels' events may still come from behind it.
        assert gap.id == gap.to or (gap.id == gap.start and self._came_from is not None)
        lost = [
            publication
            for publication in self._due()
            if start < publication.seq <= to and publication.event.channel in gap.channels
        ]
        assert {publication.event.channel for publication in lost} == set(gap.channels)
        assert (lost[0].seq, lost[-1].seq) == (start + 1, to)
        assert {NAMESPACES.of_channel(channel).overflow for channel in gap.channels} == {DROP}
        assert start >= self.last, "told behind what is newer"
        self._losses.append((start, to, gap))
        self.come_back_with(gap.id)

    def _seq_of(self, id: str) -> int:
        position = _position(id)
        assert position.epoch == self._epoch
        return position.seq

    def reached(self, item: reading.Event | reading.Gap | reading.Heartbeat) -> int:
        """Return how far the client is told to be with this item; 0 if nothing says that."""
        if isinstance(item, reading.Event):
            return self._publication_of(item).seq
        position = None if item.id is None else _position(item.id)
        return 0 if position is None or position.epoch != self._epoch else position.seq

    def take(self, event: reading.Event) -> None:
        assert not self.lacks_gap
        publication = self._publication_of(event)
        self._check_content(event, publication)
        assert publication.seq > self.last, "twice, or out of order"
        assert any(interval.covers(publication) for interval in self._now.values()), "not for it"
        assert publication.event.exclude != self._id, "its own, and it wanted no echo"
        self.last = publication.seq
        self.got.add(publication.seq)

    def _publication_of(self, event: reading.Event) -> Publication:
        if event.content["channel"] == self._own:  # which has no cursor
            return self._to_it_alone[event.content["data"]["n"]]
        return self._accepted_by_all[self._seq_of(event.content["id"]) - 1]

    def _check_content(self, event: reading.Event, publication: Publication) -> None:
        published = publication.event
        content = event.content
        assert content["type"] == published.type
        assert content["channel"] == published.channel
        assert content["data"] == json.loads(published.data)
        assert tuple(content.get("tags", ())) == published.tags
        assert content.get("key") == published.key
        assert content.get("user") == published.user
        assert content.get("version") == published.version
        if published.channel != self._own:
            assert event.id == content["id"] == cursor.encode(publication.position)

    def come_back_with(self, id: str) -> None:
        """Take a cursor: what is not above it will never be asked for again."""
        if self.lacks_gap and _position(id) == self._came_from:
            return  # Nothing is asked for here that it could have missed.
        seq = self._seq_of(id)
        assert seq >= self.last
        self.end(seq)
        self.last = seq

    def has_all(self, channel: str, *, after: int) -> bool:
        """Say whether it has got everything that was told on a channel behind a ``seq``."""
        return self.got.issuperset(
            each.seq
            for each in self._accepted_by_all
            if each.event.channel == channel and each.seq > after
        )

    def end(self, seq: float) -> None:
        """Check that it has got all that it must have, up to this ``seq``."""
        due = self._due()
        missing = [p for p in due if p.seq <= seq and p.seq not in self.got]
        if missing and self._lossy:
            newest = {
                (p.event.channel, p.event.key): p.seq
                for p in self._accepted
                if p.seq in self.got or (p.seq > seq and self._may_come(p))
            }
            missing = [p for p in missing if not self._may_miss(p, newest)]
        assert not missing, f"missing: {[p.seq for p in missing]}"

    def _may_miss(
        self, publication: Publication, newest: Mapping[tuple[str, str | None], int]
    ) -> bool:
        """Say whether its namespace lets a slow client do without an event."""
        seq, event = publication.seq, publication.event
        policy = NAMESPACES.of_channel(event.channel).overflow
        if policy == DROP:
            return any(
                start < seq <= to and event.channel in gap.channels
                for start, to, gap in self._losses
            )
        superseded = event.key is not None and newest.get((event.channel, event.key), 0) > seq
        return policy == LATEST and superseded

    def _may_come(self, publication: Publication) -> bool:
        """Say whether it may be on its way to it, or to who comes back in its place."""
        return any(each.may_cover(publication) for each in self._intervals)

    def _due(self) -> list[Publication]:
        """Return all that was for it, in order."""
        intervals = self._intervals
        return [p for p in self._accepted if any(each.covers(p) for each in intervals)]

    @property
    def _intervals(self) -> list[Interval]:
        return [*self._past, *self._now.values()]


def _position(id: str) -> Position:
    (standing,) = cursor.decode(id)
    return standing.position
