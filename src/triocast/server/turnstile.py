"""How many handshakes get a turn between two looks at the sockets.

A handshake is a third of a millisecond of work and more. When thousands of clients return at once,
all of them ready in the same pass of the run loop, those who are connected already would wait for
the whole crowd. The turnstile lets a few through per pass; the others keep their order.
"""

from __future__ import annotations

from typing import Final

import trio

PER_PASS: Final = 16


class Turnstile:
    """Lets tasks through, `PER_PASS` at most between two passes of the run loop."""

    def __init__(self, per_pass: int = PER_PASS) -> None:
        self._per_pass = per_pass
        self._left = per_pass
        self._waiting = trio.lowlevel.ParkingLot()
        self._used = trio.Event()

    async def wait_for_turn(self) -> None:
        """Return when it is this task's turn: at once, unless many came in this pass."""
        self._used.set()
        if self._left:
            self._left -= 1
        else:
            await self._waiting.park()

    async def run(self) -> None:
        """Grant turns until cancelled."""
        while True:
            await self._used.wait()
            await trio.lowlevel.checkpoint()
            woken = len(self._waiting.unpark(count=self._per_pass))
            self._left = self._per_pass - woken
            if not woken:
                self._used = trio.Event()
