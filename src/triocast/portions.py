"""What of a batch of events is for whom.

A `Batch` has one bit for each of its events, the lowest for the first. Which events somebody gets
is a mask of such bits: those of the channels and patterns that it has, without those that its
filters stop, that came before its subscription is live, or that are not for it. So a subscriber's
share is worked out in a few steps right before it is given, however many events, channels and
filters there are; an event comes once, whatever number of names cover it; and all who have the same
mask get the same `Portion`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from triocast.events import Publication, is_connection_channel
from triocast.subscriptions import EVERYTHING, Encoder, Filter, Members, Subscriber, Subscriptions

MOST_KEPT: Final = 32
"""Portions of a batch that are kept for others who get the same; each may hold the whole batch."""

Encode = Callable[[Encoder, Publication], Any]
"""Returns a publication's frame. Raises where there is none, not even of a gap."""


class Portion:
    """The frames of some events of a batch for one encoder, and all of them in one."""

    __slots__ = ("count", "encoder", "first", "frames", "joined", "last", "mask", "publications",
                 "size")  # fmt: skip

    def __init__(
        self, encoder: Encoder, mask: int, frames: list[Any], publications: Sequence[Publication]
    ) -> None:
        self.encoder = encoder
        self.mask = mask
        self.frames = frames
        self.publications = publications
        self.joined = frames[0] if len(frames) == 1 else encoder.join(frames)
        self.size = len(self.joined) if isinstance(self.joined, bytes) else 0
        self.count = len(frames)
        self.first = publications[0].seq
        self.last = publications[-1].seq


class Batch:
    """Events in the order of ``seq``, and who gets which of them.

    Nothing is known of who listens until `look_up` has been gone through. What is worked out for
    a subscriber is true in that moment.
    """

    def __init__(
        self, publications: Sequence[Publication], subscriptions: Subscriptions, encode: Encode
    ) -> None:
        self.publications = publications
        self.names: dict[str, int] = {}
        """The channels and patterns with subscribers, and which events they cover."""
        self.own: dict[Subscriber, int] = {}
        """Subscribers with events for their own connection."""
        self.excluded: dict[str, int] = {}
        """Subscribers, by id, that do not get all that they listen to."""
        self._subscriptions = subscriptions
        self._encode = encode
        self._first = publications[0].seq
        self._seqs: list[int] = []
        self._types: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        self._frames: dict[Encoder, dict[int, Any]] = {}
        self._kept: dict[tuple[Encoder, int], Portion] = {}
        self._newest: Portion | None = None

    def look_up(self) -> Iterator[None]:
        """Find out what covers the events, one channel in each step."""
        channels: dict[str, int] = {}
        for index, publication in enumerate(self.publications):
            event, bit = publication.event, 1 << index
            channels[event.channel] = channels.get(event.channel, 0) | bit
            if event.exclude is not None:
                self.excluded[event.exclude] = self.excluded.get(event.exclude, 0) | bit
        for channel, mask in channels.items():
            if is_connection_channel(channel):
                subscriber = self._subscriptions.of_connection(channel)
                if subscriber is not None:
                    self.own[subscriber] = mask
            else:
                for name in self._subscriptions.covering(channel):
                    self.names[name] = self.names.get(name, 0) | mask
            yield

    def passing(self, name: str, members: Members) -> int:
        """Return which events that a channel or pattern covers pass its members' filter."""
        filter = members.group.filter
        events = self.names[name]
        return events if filter is EVERYTHING else events & self._passing(filter)

    def mask(self, subscriber: Subscriber) -> int:
        """Return which events a subscriber gets."""
        its = self._subscriptions.memberships(subscriber)
        if its is None:
            return 0
        names = self.names
        found = self.own.get(subscriber, 0) if self.own else 0
        for name in names if len(names) < len(its) else its:
            if name in names and (members := its.get(name)) is not None:
                events = self.passing(name, members)
                live = members[subscriber]
                found |= events if live < self._first else events & self._after(live)
        if self.excluded:
            found &= ~self.excluded.get(subscriber.id, 0)
        return found

    def portion(self, encoder: Encoder, mask: int) -> Portion:
        """Return the events of a mask that is not 0. Raises what the encoder raises."""
        newest = self._newest
        if newest is not None and newest.mask == mask and newest.encoder is encoder:
            return newest
        portion = self._kept.get((encoder, mask))
        if portion is None:
            portion = self._make(encoder, mask)
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[encoder, mask] = portion
        self._newest = portion
        return portion

    def _make(self, encoder: Encoder, mask: int) -> Portion:
        frames = self._frames.setdefault(encoder, {})
        indices = [index for index in range(len(self.publications)) if mask >> index & 1]
        for index in indices:
            if index not in frames:
                try:
                    frames[index] = self._encode(encoder, self.publications[index])
                except Exception as error:  # noqa: BLE001  # it is raised for all whom it concerns
                    frames[index] = _Failed(error)
            if isinstance(frames[index], _Failed):
                raise frames[index].error
        return Portion(
            encoder,
            mask,
            [frames[index] for index in indices],
            [self.publications[index] for index in indices],
        )

    def _after(self, live: int) -> int:
        """Return the events above a ``seq``."""
        if not self._seqs:
            self._seqs = [publication.seq for publication in self.publications]
        return -1 << bisect_right(self._seqs, live)

    def _passing(self, filter: Filter) -> int:
        if not self._types:
            self._index()
        passing = -1
        if filter.types:
            passing = _any(filter.types, self._types)
        if filter.tags:
            passing &= _any(filter.tags, self._tags)
        return passing

    def _index(self) -> None:
        for index, publication in enumerate(self.publications):
            event, bit = publication.event, 1 << index
            self._types[event.type] = self._types.get(event.type, 0) | bit
            for tag in event.tags:
                self._tags[tag] = self._tags.get(tag, 0) | bit


class _Failed:
    """Stands for a frame that could not be made."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _any(wanted: frozenset[str], there: dict[str, int]) -> int:
    """Return the events that have one of the wanted words."""
    found = 0
    for word in wanted if len(wanted) < len(there) else there:
        if word in wanted:
            found |= there.get(word, 0)
    return found
