"""PeerJS over WebSocket: carries out what `signaling.peerjs` decides."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from triocast.auth import Grant
from triocast.errors import BadRequest, EndReason
from triocast.link import Link
from triocast.signaling.peerjs import Owner, PeerLimits, Peers
from triocast.signaling.peerjs_messages import Refused, error, parse, read_refused
from triocast.transports.effects import Pace, Recipients
from triocast.transports.websocket import WebSocketConnection
from triocast.wire import websocket as frames

if TYPE_CHECKING:
    from triocast.connections import Connections

log = logging.getLogger("triocast.signaling")

DUE_SECONDS: Final = 0.5
"""How often it is looked for what has waited too long, and who gives no sign."""

RATE: Final = 200.0
"""Messages per second that a client may send; it is read no faster than that."""

REFUSED_BYTES: Final = 32_768
"""What a refused message counts for in a client's rate: each is a line in the log."""

PARTING_SECONDS: Final = 1.0
"""How long a client that is sent away at its arrival may take to read why."""


class PeerJS:
    """The peers of a process and their connections."""

    def __init__(self, limits: PeerLimits) -> None:
        self.peers = Peers(limits)
        self.recipients = Recipients()

    async def run(self) -> None:
        """Do what time brings, until cancelled."""
        while True:
            await trio.sleep(DUE_SECONDS)
            for effects in self.peers.due_in_turns(trio.current_time()):
                self.recipients.carry_out(effects)
                await trio.lowlevel.checkpoint()

    def counts(self) -> dict[str, int]:
        """Return the numbers for the stats."""
        peers = self.peers
        return {
            "peers": peers.peer_count,
            "waiting": peers.waiting_messages,
            "waiting_bytes": peers.waiting_bytes,
            "relayed": peers.stats.relayed,
            "expired": peers.stats.expired,
            "refused": peers.stats.refused,
        }


class PeerJSConnection(WebSocketConnection):
    """A client of PeerJS, under one id."""

    __slots__ = ("_is_arriving", "_owner", "_pace", "_peerjs", "_refusal", "_speaks", "_verdict")

    transport = "peerjs"

    def __init__(
        self,
        connections: Connections,
        peerjs: PeerJS,
        *,
        id: str,
        grant: Grant,
        address: str | None,
        owner: Owner | None,
        refusal: str = "",
    ) -> None:
        """Make the connection of a client, who gets the id of ``owner``.

        Browsers do not see why a handshake is refused: so one that is to be told, by ``refusal``,
        is let in without an ``owner``, told, and sent away.
        """
        super().__init__(
            connections,
            id=id,
            grant=grant,
            address=address,
            max_message_bytes=peerjs.peers.limits.message_bytes,
        )
        self._peerjs = peerjs
        self._owner = owner
        self._refusal = refusal
        self._pace = Pace(RATE)
        self._is_arriving = True
        self._speaks = False  # PeerJS, as one message at least has shown
        self._verdict: EndReason | None = None

    def _listen(self) -> None:
        """Events are not for peers."""

    def _outbox_bytes(self) -> int:
        # The setting is about events; what has waited for a client comes in one go.
        return max(super()._outbox_bytes(), self._peerjs.peers.limits.receiver_bytes)

    def _opened(self) -> None:
        if self._owner is None:
            self._refuse(self._refusal)
        else:
            self._peerjs.recipients.enter(self)
            claimed = self._peerjs.peers.claim(self.id, self._owner, trio.current_time())
            self._peerjs.recipients.carry_out(claimed)
        self._is_arriving = False

    async def _receive(self) -> None:
        if self._verdict is None:
            await super()._receive()
            return
        # Firefox passes over the opening and what it is told if the end of the stream comes right
        # behind. Clients close the line themselves when they have read that they are sent away.
        with trio.move_on_after(PARTING_SECONDS):
            await self._link.receive()
        self.end(self._verdict)

    async def run(self, link: Link) -> EndReason:
        try:
            return await super().run(link)
        finally:
            self._leave()

    def end(self, reason: EndReason) -> None:
        if self._is_arriving and reason is EndReason.POLICY:
            self._verdict = reason  # for `_receive`, which comes next
            return
        super().end(reason)
        self._leave()

    def _leave(self) -> None:
        if self._peerjs.recipients.leave(self):
            self._peerjs.peers.lost(self.id)

    def tell(self, messages: list[bytes]) -> None:
        """Send messages."""
        self._push_texts(messages)

    def _beat(self) -> None:
        # Pongs are signs too: those of hidden pages come in time, unlike their scripts' messages.
        if self._heard:
            self._peerjs.peers.heard(self.id, trio.current_time())
        self._heard = False
        if self._reader is not None:
            self.push(frames.frame(frames.PING, b""))

    async def _handle(self, message: str | bytes) -> None:
        if delay := self._pace.delay():
            self._peerjs.recipients.carry_out()
            await trio.sleep(delay)
            if self.reason is not None:
                return
        if isinstance(message, bytes):
            self._fail("messages are text", None)
            return
        try:
            said = parse(message)
        except BadRequest as wrong:
            self._fail(wrong.message, read_refused(message))
            return
        self._speaks = True
        now = trio.current_time()
        if said is None:
            self._peerjs.peers.heard(self.id, now)
            return
        self._pace.charge(len(message))
        self._peerjs.recipients.put_off(self._peerjs.peers.handle(self.id, said, now))

    def _fail(self, why: str, refused: Refused | None) -> None:
        """Refuse one message; the line stays if the client has shown that it speaks PeerJS.

        ``refused`` is None for what is no message of PeerJS at all.
        """
        if refused is None and not self._speaks:
            self._refuse(why)
            return
        self._speaks = True
        log.info("connection %s: a message is refused: %s", self.id, why)
        self._pace.charge(REFUSED_BYTES)
        effects = self._peerjs.peers.refuse(self.id, refused or Refused(), trio.current_time())
        self._peerjs.recipients.put_off(effects)

    async def _answer(self) -> None:
        self._peerjs.recipients.carry_out()

    def _refuse(self, why: str) -> None:
        """Send the client away, and say why."""
        log.info("connection %s: the client is sent away: %s", self.id, why)
        self._peerjs.recipients.carry_out()
        self.tell([error(why)])
        self.end(EndReason.POLICY)
