"""Clients that have not shown a token yet: how many there may be, and who gives way to the next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from operator import itemgetter
from typing import Final, Protocol

import trio

from triocast.errors import EndReason, TooManyConnections
from triocast.signaling.subjects import subject_at

STRANGER_SECONDS: Final = 1.0
"""For so long nobody has to give way to the next one. A client has its token before it connects, so
that it shows it within a round trip; who holds places for long has none."""


class Stranger(Hashable, Protocol):
    """A connection, equal only to itself."""

    address: str | None

    def end(self, reason: EndReason) -> None:
        """End the connection."""


class Strangers:
    """Those who are connected and have shown no token. They must not take others' places."""

    def __init__(self, most: int) -> None:
        self.most = most
        # Since when they are here, in this order.
        self._since: OrderedDict[Stranger, float] = OrderedDict()
        self._crowds: Counter[str] = Counter()
        """How many there are from each address or network."""

    def __len__(self) -> int:
        return len(self._since)

    def make_room(self, address: str | None) -> None:
        """Have room for one more, from this address.

        It takes the place of one from where more of them come than from its own address, or of the
        first to have come. Raises TooManyConnections if that one has only just come, too.
        """
        if len(self._since) < self.most:
            return
        crowd, size = max(self._crowds.items(), key=itemgetter(1))
        if size > self._crowds[subject_at(address)] + 1:
            of_crowd = (each for each in self._since if subject_at(each.address) == crowd)
            next(of_crowd).end(EndReason.PEER_LOST)
            return
        first, since = next(iter(self._since.items()))
        if trio.current_time() < since + STRANGER_SECONDS:
            raise TooManyConnections("too many clients have yet to show their token; come back")
        first.end(EndReason.PEER_LOST)

    def add(self, stranger: Stranger) -> None:
        """Take one in; `discard` is to be called at its end."""
        self._since[stranger] = trio.current_time()
        self._crowds[subject_at(stranger.address)] += 1

    def discard(self, stranger: Stranger) -> None:
        """Forget one, who is known now or has gone, if it was there."""
        if self._since.pop(stranger, None) is None:
            return
        crowd = subject_at(stranger.address)
        self._crowds[crowd] -= 1
        if not self._crowds[crowd]:
            del self._crowds[crowd]
