"""What publishers and readers did, and whether they can have been answered as they were.

What they do overlaps. Each takes effect at one moment between its beginning and its end, and the
versions of documents tell in which order those did that wrote. So whoever was refused must have
been wrong at a moment between its beginning and its end, and whoever read something must have read
what was there at such a moment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from triocast.errors import OutcomeUnknown, TriocastError, VersionConflict
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
    process: int
    ended: int = 0
    """0 until then, and for ever if its process was killed before."""


@attrs.define(eq=False)
class Attempt:
    """A publish of some events, and what became of it.

    Without an answer it is not known whether they were accepted. Where it was cancelled, they were
    not.
    """

    events: Sequence[Event]
    span: Span
    accepted: Sequence[Accepted] = ()
    refusal: TriocastError | None = None
    was_cancelled: bool = False

    @property
    def versions(self) -> list[int]:
        return [each.event.version for each in self.accepted if each.event.version is not None]

    @property
    def numbers(self) -> list[int]:
        return [number_of(event) for event in self.events]

    @property
    def once(self) -> tuple[str, str] | None:
        """Whose key it has, and which, if it has one."""
        once = self.events[0].once if self.events else None
        return None if once is None else (once.scope, once.key)

    @property
    def was_refused(self) -> bool:
        """Whether nothing was accepted, by what its caller was told."""
        is_unknown = isinstance(self.refusal, OutcomeUnknown)
        return self.was_cancelled or (self.refusal is not None and not is_unknown)


@attrs.frozen
class Taken:
    """An event as an engine took it: with its version, and in which process."""

    event: Event
    process: int


class Ledger:
    """What publishers and readers did, and what they were answered."""

    def __init__(self, accepted: observing.Accepted, disk: Disk) -> None:
        self.attempts: list[Attempt] = []
        self.said: set[int] = set()
        """The numbers of events that clients published."""
        self.process = 0
        """Which of the processes on the store runs now."""
        self.failed: set[int] = set()
        """Those whose node failed."""
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
        return Span(self._clock, version, self._disk.failures, self.process)

    def _end(self, span: Span) -> None:
        self._clock += 1
        span.ended = self._clock
        span.failures = self._disk.failures - span.failures

    def attempt(self, events: Sequence[Event]) -> Attempt:
        """Begin to publish."""
        attempt = Attempt(events, self.begin())
        self.attempts.append(attempt)
        return attempt

    def answered(
        self,
        attempt: Attempt,
        accepted: Sequence[Accepted] = (),
        refusal: TriocastError | None = None,
    ) -> None:
        self._end(attempt.span)
        attempt.accepted, attempt.refusal = accepted, refusal
        self._version = max([self._version, *attempt.versions])

    def cancelled(self, attempt: Attempt) -> None:
        self._end(attempt.span)
        attempt.was_cancelled = True

    def read(self, place: Place, version: int, span: Span) -> None:
        self._end(span)
        self._read.append((place, version, span))

    def listed(self, listing: Listing, span: Span) -> None:
        self._end(span)
        self._listed.append((listing, span))

    def to_send_again(self) -> list[Sequence[Event]]:
        """Return what was published under keys in this process without a last word on it."""
        return [
            attempt.events
            for attempt in self.attempts
            if attempt.once is not None
            and attempt.span.process == self.process
            and not attempt.was_cancelled
            and not attempt.accepted
            and not isinstance(attempt.refusal, VersionConflict)
        ]

    # Checking.

    def check(self, events: Iterable[Taken]) -> Table:
        """Check it all against what engines took; return the documents."""
        accepted = self._accepted.list
        own = [
            p for p in accepted if not is_written_by_presence(p.event) and not observing.is_lost(p)
        ]
        by_number = {number_of(p.event): p for p in own}
        assert len(by_number) == len(own), "one event was accepted twice"
        taken = self._by_number(events)
        assert by_number.keys() <= taken.keys()
        assert taken.keys() <= self.said | {
            number
            for attempt in self.attempts
            if not attempt.was_refused
            for number in attempt.numbers
        }, "something was accepted that nobody published, or that was refused"
        table = Table([*self._written(taken), *self._comings_and_goings()])
        table.check()
        for attempt in self.attempts:
            if attempt.accepted:
                self._check_accepted(attempt, by_number, taken)
            elif attempt.refusal is not None:
                self._check_refused(attempt, table)
            elif not attempt.was_cancelled:
                found = sum(number in taken for number in attempt.numbers)
                assert found in (0, len(attempt.events)), f"only a part was accepted: {attempt}"
        self._check_repeated(taken)
        for place, version, span in self._read:
            moments = self._moments(span, table)
            assert version in {table.version(place, at) for at in moments}, (
                f"{place} was not at version {version}"
            )
        for listing, span in self._listed:
            self._check_listing(listing, self._moments(span, table), table)
        return table

    def _by_number(self, events: Iterable[Taken]) -> dict[int, Taken]:
        taken: dict[int, Taken] = {}
        for each in events:
            if not is_written_by_presence(each.event):
                number = number_of(each.event)
                assert number not in taken, f"one event was taken twice: {each}"
                taken[number] = each
        return taken

    def _written(self, taken: Mapping[int, Taken]) -> Iterator[Written]:
        answered: dict[int, int | None] = {}
        written: dict[int, Event] = {}
        for attempt in self.attempts:
            for event in attempt.events:
                if event.write is not None:
                    written[number_of(event)] = event
            # Nothing was accepted of what was refused.
            for event, accepted in zip(attempt.events, attempt.accepted, strict=False):
                answered[number_of(event)] = accepted.event.version
        for number, event in written.items():
            if number in answered or number in taken:
                version = answered.get(number) or taken[number].event.version
                assert version is not None and event.write is not None and event.key is not None
                data = event.write.data
                content = None if data is None else json.loads(data)
                yield Written(
                    (event.channel, event.key), version, content, event.write.precondition
                )

    def _comings_and_goings(self) -> Iterator[Written]:
        for event in (publication.event for publication in self._accepted.list):
            if is_written_by_presence(event):
                yield Written.by_presence(event)

    def _check_accepted(
        self,
        attempt: Attempt,
        by_number: Mapping[int, Publication],
        taken: Mapping[int, Taken],
    ) -> None:
        """Check that it was answered what became of all events, and that they stand together."""
        versions = attempt.versions
        assert versions == [*range(versions[0], versions[-1] + 1)] if versions else True
        for event, accepted in zip(attempt.events, attempt.accepted, strict=True):
            number, version = number_of(event), accepted.event.version
            assert (version is not None) == (event.write is not None)
            assert accepted.event == attrs.evolve(event, version=version)
            assert number in taken, f"it was acknowledged, but is not kept: {event}"
            assert taken[number].event.version == version
            published = by_number.get(number)
            if isinstance(accepted, Publication):
                if published is None:
                    assert observing.is_lost(self._accepted.list[accepted.seq - 1]), accepted
                else:
                    assert published.position == accepted.position
                    assert published.event == accepted.event
                    assert accepted.prev in (0, published.prev)
            else:
                assert NAMESPACES.of_channel(event.channel).debounce_ms
                assert published is None or published.event == accepted.event
        if not any(NAMESPACES.of_channel(event.channel).debounce_ms for event in attempt.events):
            seqs = [each.seq for each in attempt.accepted if isinstance(each, Publication)]
            assert seqs == [*range(seqs[0], seqs[0] + len(attempt.events))]

    def _check_refused(self, attempt: Attempt, table: Table) -> None:
        if isinstance(attempt.refusal, VersionConflict):
            assert any(
                table.would_conflict(attempt.events, at)
                for at in self._moments(attempt.span, table)
            ), f"refused for nothing: {attempt}"
        else:
            has_failed = attempt.span.process in self.failed
            assert attempt.span.failures or has_failed, f"refused for nothing: {attempt}"

    def _check_repeated(self, taken: Mapping[int, Taken]) -> None:
        """Check that whoever sent something again was answered as it was the first time."""
        groups: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self.attempts:
            if attempt.once is not None:
                groups.setdefault(attempt.once, []).append(attempt)
        for attempts in groups.values():
            answered = [attempt for attempt in attempts if attempt.accepted]
            for attempt in answered[1:]:
                assert list(map(_position, attempt.accepted)) == list(
                    map(_position, answered[0].accepted)
                ), f"answered otherwise than {answered[0]}: {attempt}"
            found = taken.get(attempts[0].numbers[0])
            answered_at = min((attempt.span.ended for attempt in answered), default=math.inf)
            for attempt in attempts:
                if isinstance(attempt.refusal, VersionConflict):
                    was_known = answered_at < attempt.span.began or (
                        found is not None and found.process < attempt.span.process
                    )
                    assert not was_known, f"it was accepted already: {attempt}"

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
        # What is sent again is answered with the versions of before.
        later = [
            min(attempt.versions)
            for attempt in self.attempts
            if attempt.span.began > span.ended and attempt.versions and attempt.once is None
        ]
        return range(span.version, min(later, default=table.last + 1))


def _position(accepted: Accepted) -> object:
    position = accepted.position if isinstance(accepted, Publication) else None
    return position, accepted.event.version


def number_of(event: Event) -> int:
    number = json.loads(event.data)["n"]
    assert isinstance(number, int)
    return number
