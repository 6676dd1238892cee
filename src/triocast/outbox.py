"""What waits for one slow client, and what is done when that is too much.

An `Outbox` is bounded in bytes. At the bound the policy of each event's namespace acts:

- ``disconnect``: the client is let go, and comes back with its cursor.
- ``latest``: events that a newer one of the same channel and key supersedes are taken out; if
  that is not enough, the client is let go.
- ``drop``: new events are not taken. A `Loss` stands in their place, of which the client is told
  by a ``gap``.

The order is that of what was put in, and a loss grows only as long as it is the last: so the
client is told before anything newer, and each position that it is given is true.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from triocast.events import Position, Publication, namespace_of
from triocast.resume import Gap, GapReason
from triocast.settings import DISCONNECT, DROP, LATEST, Namespaces

Frame = bytes | memoryview
"""Finished bytes; a memoryview is the rest of a frame that is written in part."""

LOSS_BYTES: Final = 200
"""What a loss counts for besides its channels' names."""

NAME_BYTES: Final = 60
"""What a channel's name counts for besides its characters."""

LEAST_FOR_LOSSES: Final = 4_096


class Overflow:
    """The policies of all namespaces, and how often they acted. Outboxes of a process share it."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.acts: Counter[str] = Counter(disconnected=0, merged=0, dropped=0)
        """Clients let go at the bound, events taken out for newer ones, events not taken."""
        self._policies: Mapping[str, str] = {
            name: options.overflow
            for name, options in namespaces.items()
            if options.overflow != DISCONNECT
        }

    def policy(self, publication: Publication) -> str:
        """Return the policy of an event's namespace."""
        if not self._policies:
            return DISCONNECT
        return self._policies.get(namespace_of(publication.event.channel), DISCONNECT)


@attrs.frozen(eq=False)
class Entry:
    """A frame that waits. ``publication`` is None for what has no policy: it is kept."""

    frame: Frame
    publication: Publication | None

    @property
    def seq(self) -> int:
        return 0 if self.publication is None else self.publication.seq

    @property
    def size(self) -> int:
        return len(self.frame)


@attrs.define(eq=False)
class Loss:
    """Events that were not taken, one after the other; ``channels`` is a set in order."""

    first: Position
    last: Position
    channels: dict[str, None]
    size: int = LOSS_BYTES

    @property
    def seq(self) -> int:
        return self.first.seq

    def name(self, channel: str) -> int:
        """Have this channel among those that lost something; return the bytes that costs."""
        if channel in self.channels:
            return 0
        self.channels[channel] = None
        size = len(channel) + NAME_BYTES
        self.size += size
        return size

    @property
    def start(self) -> Position:
        """Where the client stands before it."""
        return Position(self.first.epoch, self.first.seq - 1)

    def gap(self, resume_at: Position) -> Gap:
        """Return what the client is told."""
        return Gap(GapReason.OVERFLOW, tuple(self.channels), self.start, self.last, resume_at)


class Outbox:
    """Frames and losses in order, bounded in bytes. Knows no task and no socket."""

    __slots__ = (
        "_bound",
        "_entries",
        "_frame_bytes",
        "_growing",
        "_in_flight",
        "_loss_bytes",
        "_newest",
        "_next",
        "_overflow",
        "_superseded",
        "removed",
    )

    def __init__(self, overflow: Overflow, bound: int) -> None:
        self.removed = 0
        """How many events were taken out or not taken."""
        self._overflow = overflow
        self._bound = bound
        # Ordered, because entries are taken out of its middle, and a plain dict forgets slowly.
        self._entries: OrderedDict[int, Entry | Loss] = OrderedDict()
        self._next = 0
        self._newest: dict[tuple[str, str], int] = {}
        self._superseded: dict[int, None] = {}
        self._growing: Loss | None = None
        # Losses have a bound of their own: they come when there is no room any more.
        self._frame_bytes = 0
        self._loss_bytes = 0
        self._in_flight: list[Entry | Loss] = []

    @property
    def bytes(self) -> int:
        """What waits and what is being written."""
        return self._frame_bytes + self._loss_bytes

    def __bool__(self) -> bool:
        """Say whether anything waits to be taken."""
        return bool(self._entries)

    def put(self, frame: Frame, publication: Publication | None = None) -> bool:
        """Take a frame as its namespace's policy has it; false if the client must be let go."""
        policy = DISCONNECT if publication is None else self._overflow.policy(publication)
        size = len(frame)
        if policy == DROP and not self._has_room(size):
            self._merge()
            if not self._has_room(size):
                assert publication is not None
                return self._lose(publication)
        number = self._append(Entry(frame, publication))
        self._frame_bytes += size
        if policy == LATEST and publication is not None and publication.event.key is not None:
            key = publication.event.channel, publication.event.key
            older = self._newest.get(key)
            if older is not None:
                self._superseded[older] = None
            self._newest[key] = number
        if self._frame_bytes > self._bound:
            self._merge()
        return self._frame_bytes <= self._bound

    def take(self, most: int) -> list[Entry | Loss]:
        """Take what goes into a write of ``most`` bytes, at least one; `written` ends it."""
        taken: list[Entry | Loss] = []
        size = 0
        while self._entries and size < most:
            entry = self._pop()
            size += entry.size
            taken.append(entry)
        self._in_flight += taken
        return taken

    def written(self) -> None:
        """Be told that all that was taken is with the client's link."""
        self._forget(self._in_flight)
        self._in_flight = []

    def take_until(self, seq: float, most: int) -> list[Entry | Loss]:
        """Take what begins with events that are not above ``seq``, ``most`` of it."""
        taken: list[Entry | Loss] = []
        while self._entries and len(taken) < most and next(iter(self._entries.values())).seq <= seq:
            taken.append(self._pop())
        self._forget(taken)
        return taken

    def _has_room(self, size: int) -> bool:
        """Say whether there is room for an event that may be dropped.

        An eighth is left to what may not. Once something is lost there is none until half of the
        outbox is free: one gap is better than many.
        """
        if not self._frame_bytes:
            return size <= self._bound
        most = self._bound // 2 if self._growing else self._bound - self._bound // 8
        return self._frame_bytes + size <= most

    def _append(self, entry: Entry | Loss) -> int:
        number = self._next
        self._next += 1
        self._entries[number] = entry
        self._growing = entry if isinstance(entry, Loss) else None
        return number

    def _pop(self) -> Entry | Loss:
        number, entry = self._entries.popitem(last=False)
        if isinstance(entry, Loss):
            if entry is self._growing:
                self._growing = None
        elif self._newest and entry.publication is not None:
            self._superseded.pop(number, None)
            event = entry.publication.event
            if event.key is not None and self._newest.get((event.channel, event.key)) == number:
                del self._newest[event.channel, event.key]
        return entry

    def _forget(self, entries: Iterable[Entry | Loss]) -> None:
        for entry in entries:
            if isinstance(entry, Loss):
                self._loss_bytes -= entry.size
            else:
                self._frame_bytes -= entry.size

    def _merge(self) -> None:
        self._forget([self._entries.pop(number) for number in self._superseded])
        self.removed += len(self._superseded)
        self._overflow.acts["merged"] += len(self._superseded)
        self._superseded.clear()

    def _lose(self, publication: Publication) -> bool:
        position, channel = publication.position, publication.event.channel
        loss = self._growing
        if loss is None:
            loss = Loss(position, position, {})
            self._append(loss)
            self._loss_bytes += loss.size
        loss.last = position
        self._loss_bytes += loss.name(channel)
        self.removed += 1
        self._overflow.acts["dropped"] += 1
        most = max(self._bound // 16, LEAST_FOR_LOSSES)
        if self._loss_bytes <= most:
            return True
        self._merge()
        self._join_losses()
        # To half of it, or this would be done again for each event.
        return self._loss_bytes <= most // 2

    def _join_losses(self) -> None:
        """Make one of losses that nothing stands between any more."""
        before: Entry | Loss | None = None
        for number, entry in list(self._entries.items()):
            if isinstance(entry, Loss) and isinstance(before, Loss):
                self._forget([entry])
                del self._entries[number]
                before.last = entry.last
                self._loss_bytes += sum(before.name(channel) for channel in entry.channels)
                if entry is self._growing:
                    self._growing = before
            else:
                before = entry


def rest_of(
    frames: Sequence[Frame], publications: Sequence[Publication | None], sent: int
) -> tuple[Sequence[Frame], Sequence[Publication | None]]:
    """Return what is left of frames of which the first ``sent`` bytes are gone.

    A frame that is begun must be finished: it has no publication, for no policy to act on.
    """
    for index, frame in enumerate(frames):
        if not sent:
            return frames[index:], publications[index:]
        if sent < len(frame):
            rest = memoryview(frame)[sent:]
            return [rest, *frames[index + 1 :]], [None, *publications[index + 1 :]]
        sent -= len(frame)
    return [], []
