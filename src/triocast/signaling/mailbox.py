"""What one peer was sent and may not have, bounded in number, bytes and seconds.

While the peer is connected the oldest go first: it very likely has them. While it is suspended
those that it never had are kept, and new ones are refused at the bound. `after` gives exactly
what a returning peer missed, or says that it cannot. What all mailboxes keep has a bound as well
(see `budget`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from triocast.signaling.budget import ENTRY_BYTES, Budget

if TYPE_CHECKING:
    from triocast.signaling.peers import Peer


@attrs.frozen
class Sender:
    """Whose message it was, for the error if it is not delivered."""

    peer: str
    re: str | int | None
    session: int | None


@attrs.frozen
class Kept:
    """One encoded message."""

    seq: int
    data: bytes
    at: float
    sender: Sender | None


class Mailbox:
    """The messages of one peer, in the order of their ``seq``."""

    __slots__ = (
        "_budget",
        "_most",
        "_most_bytes",
        "_seconds",
        "_sent",
        "_waiting",
        "_waiting_size",
        "broken",
        "floor",
        "owner",
        "seq",
        "size",
    )

    def __init__(
        self, budget: Budget[Mailbox], *, most: int, most_bytes: int, seconds: float
    ) -> None:
        # A connection has carried those that were sent. They are older than those that wait: the
        # first of these comes when there is no connection, and a return sends all there are.
        # Lists: both are empty for most of the time, and an empty deque has more than 700 bytes.
        self._sent: list[Kept] = []
        self._waiting: list[Kept] = []
        self._waiting_size = 0
        self._budget = budget
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self.seq = 0
        """Of the last message."""
        self.floor = 0
        """The highest ``seq`` that is not kept any more; who has less than this has a gap."""
        self.broken = False
        """Whether something was passed over since the peer was suspended."""
        self.size = 0
        """Bytes."""
        self.owner: Peer | None = None
        """Whose it is, from `Registry.add` until `close`."""

    def __len__(self) -> int:
        return len(self._sent) + len(self._waiting)

    @property
    def weight(self) -> int:
        """What it costs, as the budget counts."""
        return self.size + ENTRY_BYTES * len(self)

    def keep(self, data: bytes, *, now: float, sender: Sender | None = None) -> None:
        """Take a message, numbered by the caller as ``seq + 1``, that a connection carries now."""
        assert not self._waiting
        self._forget_old(now)
        self._append(self._sent, Kept(self.seq + 1, data, now, sender))
        while len(self._sent) > self._most or self.size > self._most_bytes:
            self.drop_sent()

    def queue(self, data: bytes, *, now: float, sender: Sender | None = None) -> bool:
        """Take a message for a suspended peer; return whether there is room for it.

        What a connection has carried makes room, the oldest first.
        """
        if self.broken:
            return False
        self._forget_old(now)
        size = len(data)
        if len(self._waiting) >= self._most or self._waiting_size + size > self._most_bytes:
            return False
        while len(self) >= self._most or self.size + size > self._most_bytes:
            self.drop_sent()
        if not self._budget.takes(self, size + ENTRY_BYTES):
            return False
        self._append(self._waiting, Kept(self.seq + 1, data, now, sender))
        self._waiting_size += size
        return True

    def acknowledge(self, seq: int) -> None:
        """Forget what the peer says it has; it cannot have what waits."""
        while self._sent and self._sent[0].seq <= seq:
            self.drop_sent()

    def after(self, seq: int, *, now: float) -> list[bytes] | None:
        """Return what comes after ``seq``, or None if something of it is gone.

        Whatever is returned counts as sent.
        """
        self._forget_old(now)
        if self.broken or not self.floor <= seq <= self.seq:
            return None
        self._sent.extend(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self.acknowledge(seq)
        return [kept.data for kept in self._sent]

    def expires_at(self) -> float | None:
        """Return when the first message that still waits will have waited too long."""
        return self._waiting[0].at + self._seconds if self._waiting else None

    def abandon(self) -> list[Sender]:
        """Drop everything, and take nothing more until `reset`; return whose messages waited."""
        senders = [kept.sender for kept in self._waiting if kept.sender]
        self.reset()
        self.broken = True
        return senders

    def reset(self) -> None:
        """Begin anew behind the last ``seq``."""
        before = self.weight
        self._sent.clear()
        self._waiting.clear()
        self.size = self._waiting_size = 0
        self._budget.moved(self, before, 0)
        self.floor = self.seq
        self.broken = False

    def close(self) -> None:
        """Drop everything, and take nothing more ever."""
        self.abandon()
        self.owner = None

    def drop_sent(self) -> bool:
        """Forget the oldest that a connection has carried; false if there is none."""
        if not self._sent:
            return False
        before = self.weight
        first = self._sent.pop(0)
        self.size -= len(first.data)
        self.floor = first.seq
        self._budget.moved(self, before, self.weight)
        return True

    def _append(self, end: list[Kept], kept: Kept) -> None:
        before = self.weight
        end.append(kept)
        self.seq = kept.seq
        self.size += len(kept.data)
        self._budget.moved(self, before, self.weight)

    def _forget_old(self, now: float) -> None:
        while self._sent and self._sent[0].at + self._seconds <= now:
            self.drop_sent()
