"""Who listens to what: channels, patterns, users and connections, and the filters on them.

Looking a channel up costs the same however many there are. A pattern is a prefix, so the patterns
of a channel are found by looking up its beginnings, and then remembered. Members of a channel that
get the same bytes are one `Group`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs

from triocast.events import (
    BROADCAST,
    Publication,
    is_connection_channel,
    is_pattern,
    user_channel,
)
from triocast.turns import Turns

MOST_REMEMBERED_MATCHES: Final = 10_000
"""Channels whose matching patterns are remembered; beyond it all are looked up anew."""


class Encoder(Protocol):
    """How publications become what one family of subscribers takes. Shared and stateless."""

    def encode(self, publication: Publication) -> Any:
        """Return one frame."""

    def encode_gap(self, publication: Publication) -> Any:
        """Return the frame that takes the place of one for which `encode` failed."""

    def join(self, frames: list[Any]) -> Any:
        """Return several frames as one."""


@attrs.frozen
class Filter:
    """Which events of a channel a subscription wants; empty means all.

    An event passes if its type is one of ``types`` and it has one of ``tags``.
    """

    types: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def passes(self, publication: Publication) -> bool:
        event = publication.event
        if self.types and event.type not in self.types:
            return False
        return not self.tags or not self.tags.isdisjoint(event.tags)


EVERYTHING: Final = Filter()


def make_filter(types: Iterable[str], tags: Iterable[str]) -> Filter:
    """Return the filter of these types and tags; `EVERYTHING` where there are none."""
    filter = Filter(frozenset(types), frozenset(tags))
    return EVERYTHING if filter == EVERYTHING else filter


WriteNow = Callable[[bytes], int]
"""Gives the kernel what it takes now and returns how many bytes that was. Raises OSError."""


class Subscriber(ABC):
    """One end of the fan-out, usually a connection.

    Frames come by `deliver`. Where nothing waits for a client, the fan-out writes to its socket
    itself: `claim` gives it the means, and `catch_up` is told if not everything went.
    """

    __slots__ = ()

    id: str
    user: str | None
    encoder: Encoder
    is_member: bool = True
    """Whether it counts as being on the channels that it listens to."""

    @abstractmethod
    def deliver(
        self, joined: Any, frames: Sequence[Any], publications: Sequence[Publication]
    ) -> None:
        """Take frames in order; ``joined`` is all of them in one, ``publications`` their events.

        Never blocks, never raises.
        """

    def claim(self, size: int, count: int, seq: int) -> WriteNow | None:
        """Count ``count`` frames of ``size`` bytes as given, and return what writes them.

        None, and nothing is counted, if they have to be delivered.
        """
        return None

    def catch_up(
        self,
        frames: Sequence[Any],
        publications: Sequence[Publication],
        size: int,
        sent: int,
        error: OSError | None = None,
    ) -> None:
        """Be told that of frames claimed for only ``sent`` bytes went, or that writing failed."""
        raise NotImplementedError  # of whom nothing can be claimed

    def fail(self) -> None:  # noqa: B027  # some have nobody to tell
        """End this subscriber by an error of ours: it may have missed something.

        Nothing more comes. It is told that the server failed, and how to go on.
        """


class Watcher(Protocol):
    """Who wants to know what subscribers listen to."""

    def came(self, subscriber: Subscriber, channel: str) -> None:
        """Be told of a channel or pattern that a subscriber has."""

    def went(self, subscriber: Subscriber, channel: str) -> None:
        """Be told of one that it has not any more."""


@attrs.frozen
class Group:
    """Subscribers of a channel that get the same bytes."""

    encoder: Encoder
    filter: Filter


class Members(dict[Subscriber, int]):
    """The members of a group: subscriber -> the ``seq`` from which its subscription is live."""

    __slots__ = ("group",)

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group


Audience = dict[Group, Members]


class PatternIndex:
    """Finds a channel's patterns, at a cost that grows with how many lengths they have."""

    def __init__(self) -> None:
        # Apart, as a pattern of one namespace matches nothing in another: those of `default`, whose
        # channels have no colon, and all others. Length of the prefix -> prefix -> patterns.
        self._of_default: dict[int, dict[str, list[str]]] = {}
        self._of_others: dict[int, dict[str, list[str]]] = {}
        self._remembered: dict[str, tuple[str, ...]] = {}

    def add(self, pattern: str) -> None:
        """Add a canonical pattern that is not there yet."""
        for table, prefix in self._places(pattern):
            table.setdefault(len(prefix), {}).setdefault(prefix, []).append(pattern)
        self._remembered.clear()

    def remove(self, pattern: str) -> None:
        """Remove a pattern that is there."""
        for table, prefix in self._places(pattern):
            prefixes = table[len(prefix)]
            prefixes[prefix].remove(pattern)
            if not prefixes[prefix]:
                del prefixes[prefix]
                if not prefixes:
                    del table[len(prefix)]
        self._remembered.clear()

    def matching(self, channel: str) -> tuple[str, ...]:
        """Return the patterns that match a canonical channel; see `events.pattern_matches`."""
        found = self._remembered.get(channel)
        if found is None:
            if len(self._remembered) >= MOST_REMEMBERED_MATCHES:
                self._remembered.clear()
            found = self._remembered[channel] = tuple(self._find(channel))
        return found

    def _find(self, channel: str) -> Iterable[str]:
        if channel.startswith("$"):
            return
        table = self._of_others if ":" in channel else self._of_default
        for length, prefixes in table.items():
            yield from prefixes.get(channel[:length], ())

    def _places(self, pattern: str) -> Iterable[tuple[dict[int, dict[str, list[str]]], str]]:
        prefix = pattern[:-1]
        own = prefix.removeprefix("default:")
        if not prefix or own != prefix or ":" not in prefix:
            yield self._of_default, own
        if not prefix or (own == prefix and ":" in prefix):
            yield self._of_others, prefix


def _given(subscriber: Subscriber) -> tuple[str, ...]:
    """Return the channels that a subscriber has without asking."""
    if subscriber.user is None:
        return (BROADCAST,)
    return (BROADCAST, user_channel(subscriber.user))


class Subscriptions:
    """The table of one hub. A subscription is live from the ``seq`` that it is made with."""

    def __init__(self) -> None:
        self._channels: dict[str, Audience] = {}
        self._patterns: dict[str, Audience] = {}
        self._index = PatternIndex()
        self._subscribers: dict[Subscriber, dict[str, Members]] = {}
        self._by_id: dict[str, Subscriber] = {}
        self.departures = 0
        """How many memberships have ended: while this stands still, nobody has left."""
        self.total = 0
        """How many channels and patterns all subscribers have, each counted for each of them."""

    def add(self, subscriber: Subscriber, filter: Filter, live: int) -> None:
        """Let a subscriber in, with what is for all and for its user."""
        self._subscribers[subscriber] = {}
        self._by_id[subscriber.id] = subscriber
        for name in _given(subscriber):
            self.join(subscriber, name, filter, live)

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber and all it listens to. Idempotent."""
        names = self._subscribers.pop(subscriber, None)
        if names is None:
            return
        del self._by_id[subscriber.id]
        self.departures += 1
        self.total -= len(names)
        for name, members in names.items():
            self._leave(subscriber, name, members)

    def join(self, subscriber: Subscriber, name: str, filter: Filter, live: int) -> None:
        """Subscribe to a canonical channel or pattern; see `Hub.subscribe` for repetition."""
        names = self._subscribers[subscriber]
        old = names.get(name)
        if old is not None:
            if old.group.filter == filter:
                return
            self._leave(subscriber, name, old)
            self.total -= 1
        self.total += 1
        table = self._table(name)
        audience = table.get(name)
        if audience is None:
            audience = table[name] = {}
            if table is self._patterns:
                self._index.add(name)
        group = Group(subscriber.encoder, filter)
        members = audience.get(group)
        if members is None:
            members = audience[group] = Members(group)
        members[subscriber] = live
        names[name] = members

    def leave(self, subscriber: Subscriber, name: str) -> None:
        """Unsubscribe from a name; one that is not subscribed is passed over."""
        members = self._subscribers.get(subscriber, {}).pop(name, None)
        if members is not None:
            self._leave(subscriber, name, members)
            self.total -= 1

    def names(self, subscriber: Subscriber) -> tuple[str, ...]:
        """Return the channels and patterns of a subscriber."""
        return tuple(self._subscribers.get(subscriber, ()))

    def has(self, subscriber: Subscriber, name: str) -> bool:
        """Say whether a subscriber has a channel or pattern."""
        return name in self._subscribers.get(subscriber, ())

    def asked(self, subscriber: Subscriber) -> int:
        """Return how many channels and patterns a subscriber has besides those of `add`."""
        names = self._subscribers.get(subscriber, {})
        return len(names) - sum(name in names for name in _given(subscriber))

    def everybody(self) -> tuple[Subscriber, ...]:
        """Return everybody who is in now."""
        return tuple(self._subscribers)

    def memberships(self, subscriber: Subscriber) -> Mapping[str, Members] | None:
        """Return the groups that a subscriber is in, by channel and pattern; None once it left."""
        return self._subscribers.get(subscriber)

    def of_connection(self, channel: str) -> Subscriber | None:
        """Return whom a channel ``$conn:<id>`` is for; None once that one left."""
        return self._by_id.get(channel.partition(":")[2])

    def covering(self, channel: str) -> list[str]:
        """Return what has subscribers: the channel itself, then each pattern that matches it."""
        found = [channel] if channel in self._channels else []
        if self._patterns:
            found += self._index.matching(channel)
        return found

    def groups(self, name: str) -> list[Members]:
        """Return the groups of a channel's or pattern's subscribers as they are now."""
        return list(self._table(name).get(name, {}).values())

    def all_names(self) -> list[str]:
        """Return the channels and patterns that have subscribers."""
        return [*self._channels, *self._patterns]

    async def count(self, channel: str) -> int:
        """Return how many subscribers an event of this channel is offered to."""
        if is_connection_channel(channel):
            return int(self.of_connection(channel) is not None)
        names = self.covering(channel)
        if len(names) < 2:
            return sum(map(self.size, names))
        turns = Turns()
        found: set[Subscriber] = set()
        for name in names:
            for members in self.groups(name):
                await turns.give_if_over()
                found.update(members)
        return len(found)

    def size(self, name: str) -> int:
        """Return how many subscribers a channel or pattern has."""
        return sum(map(len, self._table(name).get(name, {}).values()))

    def _table(self, name: str) -> dict[str, Audience]:
        return self._patterns if is_pattern(name) else self._channels

    def _leave(self, subscriber: Subscriber, name: str, members: Members) -> None:
        del members[subscriber]
        self.departures += 1
        if not members:
            table = self._table(name)
            audience = table[name]
            del audience[members.group]
            if not audience:
                del table[name]
                if table is self._patterns:
                    self._index.remove(name)
