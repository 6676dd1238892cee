"""Who is on a channel: for namespaces that want to know.

A *member* is a user, however many connections it has, or a connection without a user. It is present
while it is subscribed to the channel by name. Who is present is kept as documents of the channel
``$presence:<channel>``, and each change is an event there, written in one step with it. So a list
of members has a version, the changes behind it follow, and whoever missed some is told of the gap.

A member that comes is told of at once. One that goes is told of after a time of grace, so that a
reconnect is no news. Members that a store has from an earlier run of the process have some time to
come back, then they are gone.

What is wrong with one member or one channel is logged and costs only that one: a stored member that
cannot be read counts as gone, and a change that cannot be published is not told.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
import msgspec
import trio

from triocast.clock import timestamp
from triocast.documents import Document, Write
from triocast.engines import Engine
from triocast.errors import Disabled, InternalError, TriocastError
from triocast.events import Event, is_pattern, namespace_of, presence_channel, presence_target
from triocast.publisher import Publisher
from triocast.settings import Namespaces
from triocast.subscriptions import Subscriber
from triocast.wire import cursor

JOIN: Final = "presence_join"
LEAVE: Final = "presence_leave"

MOST_MEMBERS: Final = 100_000
"""Members of all channels together; of more nobody is told."""

RETURN_SECONDS: Final = 30.0
"""How long members of an earlier run have to come back, at the least."""

CHANGES_TOGETHER: Final = 256
"""How many changes are published together at the most."""

RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 60.0
PAGE_MEMBERS: Final = 1_000
PAGE_BYTES: Final = 1_048_576

log = logging.getLogger("triocast.presence")


class _Stored(msgspec.Struct):
    """What the document of a member says."""

    user: str | None
    since: str


@attrs.define(eq=False)
class _Member:
    """One member of one channel. ``told`` is what others know; ``goes_at`` when they are told."""

    channel: str
    key: str
    user: str | None
    since: str
    connections: set[str] = attrs.field(factory=set)
    told: bool = False
    goes_at: float = math.inf

    @property
    def changed(self) -> bool:
        """Whether others are to be told that it came."""
        return bool(self.connections) and not self.told

    def event(self, *, joined: bool) -> Event:
        data = msgspec.json.encode(_Stored(self.user, self.since))
        return Event(
            type=JOIN if joined else LEAVE,
            data=data,
            channel=presence_channel(self.channel),
            timestamp=timestamp(),
            key=self.key,
            write=Write(data if joined else None),
        )


class Presence:
    """The members of this process's channels. Hubs tell it who comes and goes."""

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        *,
        namespaces: Namespaces,
        grace_seconds: float,
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._wanted = frozenset(name for name, options in namespaces.items() if options.presence)
        self._grace_seconds = grace_seconds
        self._channels: dict[str, dict[str, _Member]] = {}
        self._count = 0
        self._full = False
        self._coming: dict[_Member, None] = {}
        # With entries that are not true any more, which are passed over.
        self._going: list[tuple[float, int, _Member]] = []
        self._ties = itertools.count()
        self._changed = trio.Event()
        self._paused = False
        self._must_wait = False
        """Whether something could not be told just now, so that more would not go either."""

    @property
    def is_on(self) -> bool:
        """Whether any namespace wants to know."""
        return bool(self._wanted)

    def check(self, channel: str) -> None:
        """Raise Disabled if nobody notes who is on this channel."""
        if namespace_of(channel) not in self._wanted:
            raise Disabled(f"presence is off for the namespace of {channel}")

    def check_names(self, names: Iterable[str]) -> None:
        """Raise Disabled if one of these tells of comings and goings that nobody notes."""
        for name in names:
            target = presence_target(name)
            if target is not None:
                self.check(target)

    async def members(
        self, channel: str, *, after: str = "", limit: int = PAGE_MEMBERS
    ) -> dict[str, object]:
        """Return who is on a channel, in the order of their keys, as it is answered.

        Changes of a higher ``version`` come behind the cursor ``id``. ``count`` is of all members
        that are listed, on this and other pages; ``connections`` is of theirs. Who has only just
        come, or is gone for less than the time of grace, is as the changes tell it.
        Raises Disabled, and Unavailable if the engine cannot be read.
        """
        self.check(channel)
        found = await self._engine.documents(
            presence_channel(channel),
            after=after,
            limit=limit,
            limit_bytes=PAGE_BYTES,
            counted=True,
        )
        is_all = found.complete and not after
        listed = {document.key for document in found.documents} if is_all else None
        return {
            "channel": channel,
            "members": [
                {
                    "key": document.key,
                    **msgspec.structs.asdict(_read(document)),
                    "version": document.version,
                }
                for document in found.documents
            ],
            "count": found.count,
            "connections": self._connections(channel, listed),
            "more": not found.complete,
            "version": found.version,
            "id": cursor.encode(found.head),
        }

    def _connections(self, channel: str, listed: set[str] | None) -> int:
        """Return how many connections members have: those listed, or else all that were told of."""
        members = self._channels.get(channel, {}).values()
        return sum(
            len(member.connections)
            for member in members
            if (member.told if listed is None else member.key in listed)
        )

    # The hub's side.

    def came(self, subscriber: Subscriber, channel: str) -> None:
        """Be told that a subscriber listens to a channel or pattern."""
        if namespace_of(channel) not in self._wanted or is_pattern(channel):
            return
        key, user = _identity(subscriber)
        member = self._channels.get(channel, {}).get(key)
        if member is None:
            if self._count >= MOST_MEMBERS:
                self._warn_once()
                return
            member = self._add(_Member(channel, key, user, timestamp()))
        member.connections.add(subscriber.id)
        member.goes_at = math.inf
        if not member.told:
            self._coming[member] = None
            self._changed.set()

    def went(self, subscriber: Subscriber, channel: str) -> None:
        """Be told that a subscriber does not listen to it any more."""
        key, _ = _identity(subscriber)
        member = self._channels.get(channel, {}).get(key)
        if member is None or subscriber.id not in member.connections:
            return
        member.connections.discard(subscriber.id)
        if not member.connections:
            self._let_go(member, trio.current_time() + self._grace_seconds)

    # Its work.

    def pause(self) -> None:
        """Tell of nobody any more: the server sends its clients away, and they will be back."""
        self._paused = True

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        async with trio.open_nursery() as nursery:
            unread = await self._take_over()
            nursery.start_soon(self._take_over_later, unread)
            while True:
                self._changed = trio.Event()
                if not self._coming:
                    with trio.move_on_at(self._going[0][0] if self._going else math.inf):
                        await self._changed.wait()
                if self._paused:
                    await trio.sleep_forever()
                await self._tell()

    async def _tell(self) -> None:
        """Publish some of what has changed."""
        await trio.lowlevel.checkpoint()
        # Those who left go first, and apart: what keeps others from coming must not keep them.
        # Where one of them has a fault, others are told of the rest all the same.
        left = self._take_going()
        if left and not await self._tell_of([], left):
            for member in left:
                await self._tell_of([], [member])
        joined = self._take_coming()
        if joined and not await self._tell_of(joined, []):
            for member in joined:
                await self._tell_of([member], [])
        if self._must_wait:
            self._must_wait = False
            await trio.sleep(RETRY_SECONDS)

    async def _tell_of(self, joined: Sequence[_Member], left: Sequence[_Member]) -> bool:
        """Publish changes in one step, now or, if that is not possible now, later.

        Returns False if that fails by an error of ours, and they are several. A single change that
        fails so is given up.
        """
        count = len(joined) + len(left)
        try:
            events = [member.event(joined=True) for member in joined]
            events += [member.event(joined=False) for member in left]
            await self._publisher.publish(events)
        except Exception as error:
            if isinstance(error, TriocastError) and not isinstance(error, InternalError):
                self._put_off(joined, left, error)
                return True
            if count > 1:
                return False
            log.error("a change of presence could not be told, by an error of ours", exc_info=error)
        for member in joined:
            member.told = True
        for member in left:
            member.told = False
            if member.connections:
                # Came back in this very moment: told of anew.
                member.since = timestamp()
                self._coming[member] = None
            else:
                self._forget(member)
        return True

    def _put_off(
        self, joined: Sequence[_Member], left: Sequence[_Member], error: TriocastError
    ) -> None:
        """Have changes told later, as they cannot be published now."""
        log.warning("%d changes of presence have to wait: %s", len(joined) + len(left), error)
        self._coming = dict.fromkeys(joined) | self._coming
        for member in left:
            if not member.connections:
                self._let_go(member, trio.current_time() + RETRY_SECONDS)
        self._must_wait = True

    def _take_coming(self) -> list[_Member]:
        taken: list[_Member] = []
        while self._coming and len(taken) < CHANGES_TOGETHER:
            member = next(iter(self._coming))
            del self._coming[member]
            if member.changed:
                taken.append(member)
        return taken

    def _take_going(self) -> list[_Member]:
        now = trio.current_time()
        taken: list[_Member] = []
        while self._going and self._going[0][0] <= now and len(taken) < CHANGES_TOGETHER:
            goes_at, _, member = heapq.heappop(self._going)
            if member.goes_at != goes_at:
                continue
            member.goes_at = math.inf
            if member.told:
                taken.append(member)
            else:  # Nobody has heard of it.
                self._forget(member)
        return taken

    async def _take_over(self) -> list[str]:
        """Have those who were present in an earlier run go, unless they come back.

        Returns the channels that cannot be read now.
        """
        while True:
            try:
                names = await self._engine.document_channels(presence_channel(""))
            except Exception as error:
                if _is_temporary(error):
                    log.warning("who was present before cannot be read: %s", error)
                    await trio.sleep(RETRY_SECONDS)
                    continue
                log.error("who was present before is given up, by an error of ours", exc_info=error)
                return []
            return [name for name in names if not await self._take_over_channel(name)]

    async def _take_over_later(self, names: list[str]) -> None:
        """Do the same for channels that could not be read at once."""
        pause = RETRY_SECONDS
        while names:
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)
            names = [name for name in names if not await self._take_over_channel(name)]

    async def _take_over_channel(self, name: str) -> bool:
        """Take the members of a channel over; False if it has to be tried again."""
        try:
            await self._read_members(name)
        except Exception as error:
            if _is_temporary(error):
                log.warning("who was on %s before cannot be read: %s", name, error)
                return False
            log.error("who was on %s before is given up, by an error of ours", name, exc_info=error)
        return True

    async def _read_members(self, name: str) -> None:
        channel = presence_target(name)
        assert channel is not None
        goes_at = trio.current_time() + max(self._grace_seconds, RETURN_SECONDS)
        after, complete = "", False
        while not complete:
            page = await self._engine.documents(
                name, after=after, limit=PAGE_MEMBERS, limit_bytes=PAGE_BYTES
            )
            complete = page.complete
            for document in page.documents:
                after = document.key
                stored = _read(document)
                member = self._channels.get(channel, {}).get(document.key)
                if member is None:
                    member = _Member(channel, document.key, stored.user, stored.since)
                    self._let_go(self._add(member), goes_at)
                member.told = True
                member.since = stored.since

    # Members.

    def _add(self, member: _Member) -> _Member:
        self._channels.setdefault(member.channel, {})[member.key] = member
        self._count += 1
        return member

    def _forget(self, member: _Member) -> None:
        member.goes_at = math.inf
        members = self._channels[member.channel]
        del members[member.key]
        if not members:
            del self._channels[member.channel]
        self._count -= 1

    def _let_go(self, member: _Member, when: float) -> None:
        member.goes_at = when
        heapq.heappush(self._going, (when, next(self._ties), member))
        if len(self._going) > 2 * self._count + CHANGES_TOGETHER:
            true = {entry[2]: entry for entry in self._going if entry[2].goes_at == entry[0]}
            self._going = list(true.values())
            heapq.heapify(self._going)
        self._changed.set()

    def _warn_once(self) -> None:
        if not self._full:
            self._full = True
            log.warning("there are %d members; nobody is told of more", MOST_MEMBERS)


def _is_temporary(error: Exception) -> bool:
    """Whether the store may be read again later, rather than there being an error of ours."""
    return isinstance(error, TriocastError) and error.temporary


def _read(document: Document) -> _Stored:
    """Return what a member's document says; of a damaged one, what its key tells."""
    try:
        return msgspec.json.decode(document.data, type=_Stored)
    except Exception as error:
        log.error("the stored member %s is damaged", document.key, exc_info=error)
    user = document.key.removeprefix("user:") if document.key.startswith("user:") else None
    return _Stored(user, timestamp())


def _identity(subscriber: Subscriber) -> tuple[str, str | None]:
    """Return a member's key, and its user if it has one."""
    user = subscriber.user
    if user is not None:
        return f"user:{user}", user
    # Not the connection's id itself: who knows that can write to it.
    return f"anonymous:{hashlib.sha256(subscriber.id.encode()).hexdigest()[:16]}", None
