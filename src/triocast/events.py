"""What is published: events, the channels they go to, and where they stand.

Plain nouns. Nothing here does I/O, reads a clock or knows how an event is written for a client.

Channel grammar
    A channel is ``namespace:name``; without a colon it is ``name`` in the namespace ``default``
    (``default:news`` and ``news`` are one channel, written ``news``). A namespace is 1 to 64 of
    ``A-Z a-z 0-9 _ -``; a name is any of these and ``. / @ # = + ~ %``, and further colons outside
    of ``default``; 255 characters for the whole. Names beginning with ``$`` are the server's own:
    ``$all``, ``$user:<sub>``, ``$conn:<id>`` and ``$presence:<channel>``, where the comings and
    goings on a channel are told.

Pattern grammar
    A channel, or a channel prefix followed by one ``*`` at the end. ``*`` alone is every channel
    that is not the server's own; ``news:*`` is every channel of a namespace; a pattern without a
    colon stays in the namespace ``default``.

    A pattern is told from a channel by `is_pattern` and nothing else. That is exact: of canonical
    names only the server's own can have a ``*`` and be no pattern (users may be called ``bob*``),
    and those are always literal.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

import attrs

from triocast.documents import Write
from triocast.errors import InvalidChannel, InvalidEvent

BROADCAST: Final = "$all"
"""The channel every connection is subscribed to."""

LONGEST_CHANNEL: Final = 255
LONGEST_TYPE: Final = 128
LONGEST_TAG: Final = 64
MOST_TAGS: Final = 16
LONGEST_USER: Final = 200

_USER_PREFIX: Final = "$user:"
_CONNECTION_PREFIX: Final = "$conn:"
_PRESENCE_PREFIX: Final = "$presence:"
_REMEMBERED: Final = 1_024
"""Names of channels and types that need not be checked again: the same ones come all the time."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_./@#=+~%-]+")
_NAME_IN_NAMESPACE = re.compile(r"[A-Za-z0-9_.:/@#=+~%-]+")
_LABEL = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


RESERVED_TYPES: Final = frozenset({"connected", "gap", "HEARTBEAT", "ERROR"})
"""Types of the server's own messages that nobody may publish under: clients act on them."""


class EventType(StrEnum):
    """The event types that the served systems name; others may be published, too.

    `HEARTBEAT` and `ERROR` are the server's own; see `RESERVED_TYPES`.
    """

    # feature flags
    FLAG_CREATED = "FLAG_CREATED"
    FLAG_UPDATED = "FLAG_UPDATED"
    FLAG_DELETED = "FLAG_DELETED"
    FLAG_ENABLED = "FLAG_ENABLED"
    FLAG_DISABLED = "FLAG_DISABLED"
    SEGMENT_UPDATED = "SEGMENT_UPDATED"
    DISTRIBUTION_UPDATED = "DISTRIBUTION_UPDATED"
    # start page
    APPLICATION_ADDED = "APPLICATION_ADDED"
    APPLICATION_REMOVED = "APPLICATION_REMOVED"
    APPLICATION_UPDATED = "APPLICATION_UPDATED"
    BOOKMARK_ADDED = "BOOKMARK_ADDED"
    BOOKMARK_REMOVED = "BOOKMARK_REMOVED"
    BOOKMARK_UPDATED = "BOOKMARK_UPDATED"
    CONFIG_CHANGED = "CONFIG_CHANGED"
    STATUS_CHANGED = "STATUS_CHANGED"
    # every stream
    HEARTBEAT = "HEARTBEAT"
    ERROR = "ERROR"


@attrs.frozen
class Once:
    """Makes publishing an event again do nothing: see the header ``Idempotency-Key``.

    ``scope`` is the publisher, whose keys are its own; ``index`` counts the events under one key,
    and ``digest`` tells whether it is the same request that comes again. ``subscribers`` is what
    the first answer says of them: it is kept, so that every later answer says the same. So is the
    channel, where the server has ``chosen`` it.
    """

    scope: str
    key: str
    index: int
    digest: bytes
    subscribers: int = 0
    chosen: bool = False


@attrs.frozen
class Event:
    """One thing that happened.

    ``data`` is compact JSON text in UTF-8, passed through as the publisher wrote it.
    ``timestamp`` is RFC 3339 in UTC with milliseconds. ``user`` is who published, if known.
    ``exclude`` is the id of the one connection that does not want it: a publisher without echo.
    ``version`` is that of its document, once the event is accepted, if it writes one.
    ``once``, ``write`` and ``urgent`` (not to be held back) are for the engine alone, and not kept
    with the event.
    """

    type: str
    data: bytes
    channel: str
    timestamp: str
    key: str | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    exclude: str | None = None
    version: int | None = None
    once: Once | None = attrs.field(default=None, eq=False)
    write: Write | None = attrs.field(default=None, eq=False)
    urgent: bool = attrs.field(default=False, eq=False)


@attrs.frozen
class Position:
    """Where an event stands: ``seq`` is one growing order within the store named by ``epoch``."""

    epoch: str
    seq: int


@attrs.frozen
class Publication:
    """An event that an engine has accepted.

    ``prev`` is the ``seq`` of the event before it in the same channel, 0 for the first.
    """

    event: Event
    position: Position
    prev: int

    @property
    def epoch(self) -> str:
        return self.position.epoch

    @property
    def seq(self) -> int:
        return self.position.seq


@attrs.frozen
class Pending:
    """An event that an engine keeps back for a while; a later one may take its place till then.

    ``epoch`` is that of the store.
    """

    event: Event
    epoch: str = attrs.field(default="", eq=False)


Accepted = Publication | Pending
"""What becomes of an event that is published."""


@lru_cache(maxsize=_REMEMBERED)
def parse_channel(name: str) -> str:
    """Return the canonical form of a client's channel name.

    Raises InvalidChannel for names outside the grammar and for the server's own.
    """
    if not 0 < len(name) <= LONGEST_CHANNEL:
        raise InvalidChannel(f"a channel name has 1 to {LONGEST_CHANNEL} characters")
    if name[0] == "$":
        raise InvalidChannel("channel names beginning with $ are the server's own")
    return _canonical(name)


def _canonical(name: str) -> str:
    namespace, colon, rest = name.partition(":")
    if not colon:
        namespace, rest = "default", name
    grammar = _NAME if namespace == "default" else _NAME_IN_NAMESPACE
    if _NAMESPACE.fullmatch(namespace) is None or grammar.fullmatch(rest) is None:
        raise InvalidChannel(
            "a channel is 'name' or 'namespace:name' of letters, digits and _ - . / @ # = + ~ %"
        )
    return rest if namespace == "default" else name


def parse_pattern(pattern: str) -> str:
    """Return the canonical form of a channel or pattern that a client subscribes to.

    Of the server's own that is ``$presence:<channel>`` alone. Raises InvalidChannel.
    """
    target = presence_target(pattern)
    if target is not None:
        return presence_channel(parse_channel(target))
    if not pattern.endswith("*"):
        return parse_channel(pattern)
    prefix = pattern[:-1]
    if "*" in prefix:
        raise InvalidChannel("a pattern has one '*', at its end")
    if not prefix:
        return pattern
    if prefix.endswith(":") and prefix.count(":") == 1:
        parse_channel(prefix + "x")
        return pattern
    return parse_channel(prefix) + "*"


def is_pattern(name: str) -> bool:
    """Say whether a canonical name is a pattern. ``$user:bob*`` is the channel of one user."""
    return name.endswith("*") and not name.startswith("$")


def pattern_matches(pattern: str, channel: str) -> bool:
    """Say whether a canonical channel is covered by a pattern (or is the channel it names)."""
    if pattern == channel:
        return True
    if channel.startswith("$") or not is_pattern(pattern):
        return False
    prefix = pattern[:-1]
    if not prefix:
        return True
    if ":" in channel:
        return ":" in prefix and channel.startswith(prefix)
    return channel.startswith(prefix.removeprefix("default:")) and (
        ":" not in prefix or prefix.startswith("default:")
    )


def pattern_scope(pattern: str) -> tuple[str | None, str]:
    """Return the namespace of a pattern's channels, None for all, and what their names begin with.

    The name of a channel has its namespace in it, but for ``default``.
    """
    prefix = pattern[:-1].removeprefix("default:")
    if pattern == "*":
        return None, ""
    return (prefix.partition(":")[0] if ":" in prefix else "default"), prefix


def is_whole(namespace: str, prefix: str) -> bool:
    """Say whether all channels of a namespace have names that begin with this."""
    return not prefix or prefix == f"{namespace}:"


def pattern_covers(pattern: str, name: str) -> bool:
    """Say whether every channel of ``name``, itself a channel or a pattern, is in ``pattern``."""
    if pattern == name or not is_pattern(name):
        return pattern_matches(pattern, name)
    if pattern == "*":
        return True
    if not is_pattern(pattern) or name == "*":
        return False
    outer, inner = (p[:-1].removeprefix("default:") for p in (pattern, name))
    return (":" in outer) == (":" in inner) and inner.startswith(outer)


def user_channel(user: str) -> str:
    """Return the channel of one user's connections.

    Raises InvalidChannel if the user's name is empty, too long or has control characters.
    """
    if not 0 < len(user) <= LONGEST_USER or _LABEL.fullmatch(user) is None:
        raise InvalidChannel(
            f"a user id has 1 to {LONGEST_USER} characters and no control characters"
        )
    return _USER_PREFIX + user


def connection_channel(connection_id: str) -> str:
    """Return the channel of one connection.

    Raises InvalidChannel if this cannot be a connection's id.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", connection_id) is None:
        raise InvalidChannel("a connection id has 1 to 64 letters, digits, _ or -")
    return _CONNECTION_PREFIX + connection_id


def presence_channel(channel: str) -> str:
    """Return where the comings and goings on a channel are told."""
    return _PRESENCE_PREFIX + channel


def presence_target(name: str) -> str | None:
    """Return the channel whose comings and goings are told here; None if this is no such place."""
    return name.removeprefix(_PRESENCE_PREFIX) if name.startswith(_PRESENCE_PREFIX) else None


def namespace_of(channel: str) -> str:
    """Return the namespace of a canonical channel.

    Each kind of the server's own channels is a namespace: ``$all``, ``$user``, ``$conn`` and
    ``$presence``.
    """
    if ":" in channel or channel.startswith("$"):
        return channel.partition(":")[0]
    return "default"


def is_connection_channel(channel: str) -> bool:
    """Events to one connection keep no history and carry no cursor."""
    return channel.startswith(_CONNECTION_PREFIX)


@lru_cache(maxsize=_REMEMBERED)
def parse_type(value: str) -> str:
    """Return an event type that can stand in an SSE ``event:`` line.

    Raises InvalidEvent.
    """
    if not 0 < len(value) <= LONGEST_TYPE or _LABEL.fullmatch(value) is None:
        raise InvalidEvent(
            f"an event type has 1 to {LONGEST_TYPE} characters and no control characters"
        )
    return value


def parse_key(value: str) -> str:
    """Return an event's key. Raises InvalidEvent."""
    if not 0 < len(value) <= LONGEST_CHANNEL or _LABEL.fullmatch(value) is None:
        raise InvalidEvent(f"a key has 1 to {LONGEST_CHANNEL} characters and no control characters")
    return value


def parse_idempotency_key(value: str) -> str:
    """Return a publisher's idempotency key. Raises InvalidEvent."""
    if not 0 < len(value) <= LONGEST_CHANNEL or _LABEL.fullmatch(value) is None:
        raise InvalidEvent(
            f"an idempotency key has 1 to {LONGEST_CHANNEL} characters and no control characters"
        )
    return value


def parse_tags(values: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return an event's or a filter's tags. Raises InvalidEvent."""
    if len(values) > MOST_TAGS:
        raise InvalidEvent(f"an event has {MOST_TAGS} tags at the most")
    for value in values:
        if not 0 < len(value) <= LONGEST_TAG or _LABEL.fullmatch(value) is None:
            raise InvalidEvent(f"a tag has 1 to {LONGEST_TAG} characters and no control characters")
    return tuple(values)
