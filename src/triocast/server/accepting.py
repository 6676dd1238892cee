"""The accept loop: what it does about errors, and where it gets a descriptor when there is none.

Most errors of `accept` pass, or belong to the one client. So the loop pauses after each, and goes
on. It ends where the socket does not listen any more, as nobody could come in again: that is a
failure of the server.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from triocast.clock import Seldom

log = logging.getLogger("triocast.server")

ACCEPTS_PER_PASS: Final = 16
"""New clients between two looks at the sockets of the others."""

MIN_PAUSE_SECONDS: Final = 0.001
MAX_PAUSE_SECONDS: Final = 0.1
"""The pause after an error doubles with each further one, up to this."""

CHECK_SECONDS: Final = 1.0
"""How often it is checked, while nobody comes, whether the socket still listens."""

LOG_SECONDS: Final = 10.0
"""How often errors of `accept` are logged."""

OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


class ListenerLost(Exception):
    """A listening socket was closed, or does not listen any more."""


class SpareDescriptors:
    """Descriptors that are kept for clients who come when there are no others left.

    The kernel does not let a client go that cannot be accepted: it would hang. With one of these
    it can be told that the server is full.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._held: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Take descriptors back, as far as there are any."""
        while len(self._held) < self._number:
            try:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def accept(self, listener: socket.socket) -> socket.socket | None:
        """Accept a client in the place of a spare one; None if there is none, or that fails."""
        if not self._held:
            return None
        os.close(self._held.pop())
        try:
            accepted, _ = listener.accept()
        except OSError:
            self.refill()
            return None
        return accepted

    def close(self) -> None:
        while self._held:
            os.close(self._held.pop())


class Acceptor:
    """Accepts the clients of a server.

    ``serve`` is called with each, and may wait until there is room for it. ``refuse`` is called
    with those for whom there was no descriptor: their sockets have to be closed soon. Both own the
    socket from then on, and ``refuse`` returns when it is closed.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], Awaitable[None]],
        refuse: Callable[[socket.socket], Awaitable[None]],
        spares: SpareDescriptors,
    ) -> None:
        self._serve = serve
        self._refuse = refuse
        self._spares = spares
        self._log = Seldom(LOG_SECONDS)

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled. Raises ListenerLost."""
        async with trio.open_nursery() as refusals:
            await self._accept(listener, refusals)

    async def _accept(self, listener: socket.socket, refusals: trio.Nursery) -> None:
        pause, in_a_row = MIN_PAUSE_SECONDS, 0
        while True:
            try:
                accepted = await self._next(listener)
            except OSError as error:
                check_listening(listener)
                self._note(error)
                spared = None
                if error.errno in OUT_OF_DESCRIPTORS:
                    spared = self._spares.accept(listener)
                if spared is not None:
                    spared.setblocking(False)
                    refusals.start_soon(self._refuse_spared, spared)
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.sleep(pause)
                    pause = min(2 * pause, MAX_PAUSE_SECONDS)
                continue
            if accepted is None:
                continue
            pause = MIN_PAUSE_SECONDS
            accepted.setblocking(False)
            await self._serve(accepted)
            in_a_row += 1
            if in_a_row % ACCEPTS_PER_PASS == 0:
                await trio.lowlevel.checkpoint()

    async def _next(self, listener: socket.socket) -> socket.socket | None:
        """Return the next client; None after some time without one. Raises OSError."""
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            check_listening(listener)
            with trio.move_on_after(CHECK_SECONDS):
                await trio.lowlevel.wait_readable(listener)
            return None
        return accepted

    async def _refuse_spared(self, accepted: socket.socket) -> None:
        try:
            await self._refuse(accepted)
        finally:
            accepted.close()
            self._spares.refill()

    def _note(self, error: OSError) -> None:
        if count := self._log.count(trio.current_time()):
            log.warning("clients cannot be accepted now (%d errors): %s", count, error)


def check_listening(listener: socket.socket) -> None:
    """Return if clients can come in through this socket. Raises ListenerLost."""
    try:
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenerLost(f"a listening socket was lost: {error}") from error
    if not listens:
        raise ListenerLost("a listening socket does not listen any more")
