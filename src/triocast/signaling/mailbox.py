"""What one peer was sent and may not have, bounded in number, bytes and seconds.

While the peer is connected the oldest go first: it very likely has them. While it is suspended
those that it never had are kept, and new ones are refused at the bound. `after` gives exactly
what a returning peer missed, or says that it cannot.
"""

from __future__ import annotations

from collections import deque

import attrs


@attrs.frozen
class Sender:
    """Whose message it was, for the error if it is not delivered."""

    peer: str
    re: str | int | None
    session: int | None


@attrs.define
class Kept:
    """One encoded message; ``was_sent`` says whether a connection ever carried it."""

    seq: int
    data: bytes
    at: float
    was_sent: bool
    sender: Sender | None


class Mailbox:
    """The messages of one peer, in the order of their ``seq``."""

    __slots__ = ("_kept", "_most", "_most_bytes", "_seconds", "broken", "floor", "seq", "size")

    def __init__(self, *, most: int, most_bytes: int, seconds: float) -> None:
        self._kept: deque[Kept] = deque()
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

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, data: bytes, *, now: float, sender: Sender | None = None) -> None:
        """Take a message, numbered by the caller as ``seq + 1``, that a connection carries now."""
        self._forget_old(now)
        self._append(Kept(self.seq + 1, data, now, True, sender))
        while len(self._kept) > self._most or self.size > self._most_bytes:
            self._drop_first()

    def queue(self, data: bytes, *, now: float, sender: Sender | None = None) -> bool:
        """Take a message for a suspended peer; return whether there is room for it.

        What a connection has carried makes room, the oldest first.
        """
        if self.broken:
            return False
        self._forget_old(now)
        waiting = [kept for kept in self._kept if not kept.was_sent]
        size = sum(len(kept.data) for kept in waiting) + len(data)
        if len(waiting) >= self._most or size > self._most_bytes:
            return False
        # Those that were sent come before those that wait: a resume sends all there are.
        while len(self._kept) >= self._most or self.size + len(data) > self._most_bytes:
            self._drop_first()
        self._append(Kept(self.seq + 1, data, now, False, sender))
        return True

    def acknowledge(self, seq: int) -> None:
        """Forget what the peer says it has."""
        while self._kept and self._kept[0].seq <= seq:
            self._drop_first()

    def after(self, seq: int, *, now: float) -> list[bytes] | None:
        """Return what comes after ``seq``, or None if something of it is gone.

        Whatever is returned counts as sent.
        """
        self._forget_old(now)
        if self.broken or not self.floor <= seq <= self.seq:
            return None
        self.acknowledge(seq)
        for kept in self._kept:
            kept.was_sent = True
        return [kept.data for kept in self._kept]

    def expires_at(self) -> float | None:
        """Return when the first message that still waits will have waited too long."""
        for kept in self._kept:
            if not kept.was_sent:
                return kept.at + self._seconds
        return None

    def abandon(self) -> list[Sender]:
        """Drop everything, and take nothing more until `reset`; return whose messages waited."""
        senders = [kept.sender for kept in self._kept if kept.sender and not kept.was_sent]
        self.reset()
        self.broken = True
        return senders

    def reset(self) -> None:
        """Begin anew behind the last ``seq``."""
        self._kept.clear()
        self.size = 0
        self.floor = self.seq
        self.broken = False

    def _append(self, kept: Kept) -> None:
        self._kept.append(kept)
        self.seq = kept.seq
        self.size += len(kept.data)

    def _drop_first(self) -> None:
        first = self._kept.popleft()
        self.size -= len(first.data)
        self.floor = first.seq

    def _forget_old(self, now: float) -> None:
        while self._kept and self._kept[0].was_sent and self._kept[0].at + self._seconds <= now:
            self._drop_first()
