"""Carries out what signaling decides: messages to connections, and their ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import trio

from triocast.errors import CloseCode, EndReason
from triocast.signaling.delivery import Close, Deliver, Effect

log = logging.getLogger("triocast.signaling")

BURST_SECONDS: Final = 2.0
"""For so long a client may send faster than its rate."""

BYTES_OF_A_MESSAGE: Final = 4_096
"""What is sent to others because of a message counts as one more message for each so many."""

_REASONS: Final = {
    CloseCode.NORMAL: EndReason.LEFT,
    CloseCode.REPLACED: EndReason.REPLACED,
    CloseCode.KICKED: EndReason.KICKED,
    CloseCode.ROOM_CLOSED: EndReason.ROOM_CLOSED,
    CloseCode.SERVICE_RESTART: EndReason.SHUTDOWN,
    CloseCode.UNAUTHORIZED: EndReason.GRANT_ENDED,
    CloseCode.PEER_LOST: EndReason.PEER_LOST,
}


class Recipient(Protocol):
    """A connection that effects are about."""

    id: str

    def tell(self, messages: list[bytes]) -> None:
        """Send messages, in order."""

    def end(self, reason: EndReason) -> None:
        """End the connection."""


class Recipients:
    """The connections of one kind, by their ids."""

    def __init__(self) -> None:
        self._connections: dict[str, Recipient] = {}
        self._effects: deque[Effect] = deque()
        self._is_busy = False

    def enter(self, connection: Recipient) -> None:
        self._connections[connection.id] = connection

    def leave(self, connection: Recipient) -> bool:
        """Forget a connection; false if that has happened before."""
        return self._connections.pop(connection.id, None) is not None

    def put_off(self, effects: Iterable[Effect]) -> None:
        """Leave what was decided to the next `carry_out`, which has to come before any await.

        What one client sends in one go mostly is for one other: it is written at once.
        """
        self._effects.extend(effects)

    def carry_out(self, effects: Iterable[Effect] = ()) -> None:
        """Do what was decided, in order for each connection.

        A connection that fails on the way has more decided, which comes after it.
        """
        self._effects.extend(effects)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._effects:
                self._deliver()
        finally:
            self._is_busy = False

    def _deliver(self) -> None:
        """Send what comes before the next end of a connection, and end that one."""
        messages: dict[str, list[bytes]] = {}
        close: Close | None = None
        while self._effects and close is None:
            effect = self._effects.popleft()
            if isinstance(effect, Close):
                close = effect
            else:
                messages.setdefault(effect.connection, []).append(effect.data)
        for id, its in messages.items():
            if (connection := self._connections.get(id)) is not None:
                self._contain(connection, connection.tell, its)
        if close is not None and (connection := self._connections.get(close.connection)):
            reason = _REASONS.get(close.code, EndReason.POLICY)
            self._contain(connection, connection.end, reason)

    def _contain(self, connection: Recipient, act: Callable[[Any], None], argument: Any) -> None:
        """Do something to a connection. If it fails by an error of ours, only this one ends."""
        try:
            act(argument)
        except Exception:
            log.exception("connection %s failed", connection.id)
            try:
                connection.end(EndReason.SERVER_ERROR)
            except Exception:
                log.exception("connection %s could not be ended", connection.id)


def size_of(effects: Iterable[Effect]) -> int:
    """Return how many bytes are to be sent."""
    return sum(len(effect.data) for effect in effects if isinstance(effect, Deliver))


class Pace:
    """Slows a client down to a rate, in messages per second; None is no bound."""

    __slots__ = ("_may_send_at", "_rate")

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._may_send_at = 0.0

    def charge(self, size: int) -> None:
        """Make the client wait for bytes as well, before its next message."""
        if self._rate is not None:
            self._may_send_at += size / (BYTES_OF_A_MESSAGE * self._rate)

    def delay(self) -> float:
        """Take one more message; return in how many seconds the rate allows it."""
        if self._rate is None:
            return 0.0
        now = trio.current_time()
        early = self._may_send_at - now - BURST_SECONDS
        self._may_send_at = max(self._may_send_at, now) + 1 / self._rate
        return max(0.0, early)
