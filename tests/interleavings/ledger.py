"""What publishers and readers did, and whether they can have been answered as they were.

What they do overlaps. Each takes effect at one moment between its beginning and its end, and the
versions of documents tell in which order those did that wrote. So whoever was refused must have
been wrong at a moment between its beginning and its end, and whoever read something must have read
what was there at such a moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import attrs

from triocast.errors import TriocastError, VersionConflict
from triocast.events import Accepted, Event, Publication

from . import observing
from .steps import NAMESPACES
from .stores import Disk
from .table import Listing, Place, Table, Written, is_written_by_presence


@attrs.define(eq=False)
class Span:
    """When something was done: its beginning and end in the order of all of them."""

    began: int
    version: int
    """The newest version that anybody was told of by its beginning."""
    failures: int
    """How often the store had failed by its beginning, and then how often meanwhile."""
    ended: int = 0


@attrs.define(eq=False)
class Attempt:
    """A publish of some events, and what became of them."""

    events: Sequence[Event]
    span: Span
    accepted: Sequence[Accepted] = ()
    refusal: TriocastError | None = None

    @property
    def versions(self) -> list[int]:
        return [each.event.version for each in self.accepted if each.event.version is not None]


class Ledger:
    """What publishers and readers did, and what they were answered."""

    def __init__(self, accepted: observing.Accepted, disk: Disk) -> None:
        self.attempts: list[Attempt] = []
        self.said: set[int] = set()
        """The numbers of events that clients published."""
        self._accepted = accepted
        self._disk = disk
        self._clock = 0
        self._version = 0
        self._read: list[tuple[Place, int, Span]] = []
        self._listed: list[tuple[Listing, Span]] = []

    # Noting.

    def begin(self) -> Span:
        version = max(self._version, self._accepted.version)
        self._clock += 1
        return Span(self._clock, version, self._disk.failures)

    def _end(self, span: Span) -> None:
        self._clock += 1
        span.ended = self._clock
        span.failures = self._disk.failures - span.failures

    def attempted(
        self,
        events: Sequence[Event],
        span: Span,
        accepted: Sequence[Accepted] = (),
        refusal: TriocastError | None = None,
    ) -> None:
        self._end(span)
        attempt = Attempt(events, span, accepted, refusal)
        self._version = max([self._version, *attempt.versions])
        self.attempts.append(attempt)

    def read(self, place: Place, version: int, span: Span) -> None:
        self._end(span)
        self._read.append((place, version, span))

    def listed(self, listing: Listing, span: Span) -> None:
        self._end(span)
        self._listed.append((listing, span))

    # Checking.

    def check(self) -> Table:
        """Check it all; return the documents."""
        accepted = self._accepted.list
        own = [p for p in accepted if not is_written_by_presence(p.event)]
        by_number = {number_of(p.event): p for p in own}
        assert len(by_number) == len(own), "one event was accepted twice"
        assert by_number.keys() <= self.said | {
            number_of(event)
            for attempt in self.attempts
            if attempt.refusal is None
            for event in attempt.events
        }, "something was accepted that nobody published, or that was refused"
        table = Table([*self._written(), *self._comings_and_goings()])
        table.check()
        for attempt in self.attempts:
            if attempt.refusal is None:
                _check_accepted(attempt, by_number)
            else:
                self._check_refused(attempt, table)
        for place, version, span in self._read:
            moments = self._moments(span, table)
            assert version in {table.version(place, at) for at in moments}, (
                f"{place} was not at version {version}"
            )
        for listing, span in self._listed:
            self._check_listing(listing, self._moments(span, table), table)
        return table

    def _written(self) -> Iterator[Written]:
        for attempt in self.attempts:
            # Nothing was accepted of what was refused.
            for event, accepted in zip(attempt.events, attempt.accepted, strict=False):
                if event.write is not None:
                    assert accepted.event.version is not None and event.key is not None
                    data = event.write.data
                    content = None if data is None else json.loads(data)
                    place = event.channel, event.key
                    expected = event.write.precondition
                    yield Written(place, accepted.event.version, content, expected)

    def _comings_and_goings(self) -> Iterator[Written]:
        for event in (publication.event for publication in self._accepted.list):
            if is_written_by_presence(event):
                yield Written.by_presence(event)

    def _check_refused(self, attempt: Attempt, table: Table) -> None:
        if isinstance(attempt.refusal, VersionConflict):
            assert any(
                table.would_conflict(attempt.events, at)
                for at in self._moments(attempt.span, table)
            ), f"refused for nothing: {attempt}"
        else:
            assert attempt.span.failures, f"refused for nothing: {attempt}"

    def _check_listing(self, listing: Listing, moments: Iterable[int], table: Table) -> None:
        assert any(
            table.channel(listing.channel, at) == listing.entries
            for at in moments
            if at >= listing.version
        ), f"this list is of no moment: {listing}"
        for publication in self._accepted.list:
            event = publication.event
            if event.channel == listing.channel and (event.version or 0) > listing.version:
                assert publication.seq > listing.position.seq, f"it is not behind {listing}"

    def _moments(self, span: Span, table: Table) -> Iterable[int]:
        """Return the versions that may have been the newest when something was looked at."""
        later = [
            min(attempt.versions)
            for attempt in self.attempts
            if attempt.span.began > span.ended and attempt.versions
        ]
        return range(span.version, min(later, default=table.last + 1))


def _check_accepted(attempt: Attempt, by_number: dict[int, Publication]) -> None:
    """Check that it was answered what became of all events, and that they stand together."""
    versions = attempt.versions
    assert versions == [*range(versions[0], versions[-1] + 1)] if versions else True
    for event, accepted in zip(attempt.events, attempt.accepted, strict=True):
        version = accepted.event.version
        assert (version is not None) == (event.write is not None)
        assert accepted.event == attrs.evolve(event, version=version)
        if isinstance(accepted, Publication):
            assert by_number[number_of(event)] == accepted
        else:
            assert NAMESPACES.of_channel(event.channel).debounce_ms
            published = by_number.get(number_of(event))
            assert published is None or published.event == accepted.event
    if not any(NAMESPACES.of_channel(event.channel).debounce_ms for event in attempt.events):
        seqs = [by_number[number_of(event)].seq for event in attempt.events]
        assert seqs == [*range(seqs[0], seqs[-1] + 1)]


def number_of(event: Event) -> int:
    number = json.loads(event.data)["n"]
    assert isinstance(number, int)
    return number
