"""WebRTC signaling over WebSocket: carries out what the rooms decide (see `signaling.rooms`)."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import trio

from triocast.auth import Grant
from triocast.errors import CloseCode, EndReason, TriocastError
from triocast.link import Link
from triocast.signaling.delivery import Effect
from triocast.signaling.errors import (
    BadMessage,
    JoinForbidden,
    JoinUnauthorized,
    SignalingError,
)
from triocast.signaling.limits import Admission, Fresh
from triocast.signaling.messages import (
    SUBPROTOCOL,
    Join,
    MessageError,
    RequestId,
    Signal,
    parse,
)
from triocast.signaling.notices import Ping, Told, encode, error_message, refusal
from triocast.signaling.rooms import Rooms
from triocast.signaling.subjects import subject_at, user_subject
from triocast.transports.effects import Pace, Recipients, size_of
from triocast.transports.strangers import Strangers
from triocast.transports.websocket import WebSocketConnection

if TYPE_CHECKING:
    from triocast.connections import Connections

__all__ = ["SUBPROTOCOL", "Signaling", "SignalingConnection"]

log = logging.getLogger("triocast.signaling")

DUE_SECONDS: Final = 1.0
"""How often ends of grace periods and the like are looked for."""

REFUSED_BYTES: Final = 65_536
"""What a join with a wrong token counts for: it costs us a signature, and others guess."""

GOING_AWAY: Final = 1001
"""The close code of browsers whose page is reloaded or left (RFC 6455, 7.4.1)."""

GrantOf = Callable[[str], Grant]


class Signaling:
    """The rooms of a process and the connections of their peers."""

    def __init__(self, rooms: Rooms, *, most_strangers: int = 1_000) -> None:
        """Make the shell of these rooms.

        ``most_strangers`` may be connected at one time without having shown a token: they must not
        take the places of those who have one.
        """
        self.rooms = rooms
        self.strangers = Strangers(most_strangers)
        self._recipients = Recipients()

    async def run(self) -> None:
        """Do what time brings, until cancelled."""
        while True:
            await trio.sleep(DUE_SECONDS)
            for effects in self.rooms.due_in_turns(trio.current_time()):
                self.carry_out(effects)
                await trio.lowlevel.checkpoint()

    def carry_out(self, effects: Iterable[Effect] = ()) -> None:
        """Do what the rooms decided, in order, after what was put off."""
        self._recipients.carry_out(effects)

    def put_off(self, effects: Iterable[Effect]) -> None:
        """Leave it to the next `carry_out`, which has to come before any await."""
        self._recipients.put_off(effects)

    def enter(self, connection: SignalingConnection, *, is_stranger: bool) -> None:
        """Be told of a connection, which may join a room."""
        self._recipients.enter(connection)
        if is_stranger:
            self.strangers.add(connection)

    def recognize(self, connection: SignalingConnection) -> None:
        """Be told that a connection has shown a token that is good."""
        self.strangers.discard(connection)

    def leave(self, connection: SignalingConnection, reason: EndReason) -> None:
        """Be told that it has ended.

        Its peer may come back, unless its grant has ended or the client said that its page is left.
        """
        if not self._recipients.leave(connection):
            return
        self.strangers.discard(connection)
        now = trio.current_time()
        if reason is EndReason.GRANT_ENDED:
            self.carry_out(self.rooms.end(connection.id, CloseCode.UNAUTHORIZED, "", now))
        elif reason is EndReason.CLIENT_CLOSED and connection.client_close_code == GOING_AWAY:
            self.carry_out(self.rooms.end(connection.id, CloseCode.NORMAL, "", now))
        else:
            self.carry_out(self.rooms.lost(connection.id, now))


class SignalingConnection(WebSocketConnection):
    """A client that joins one room, as one peer."""

    __slots__ = ("_first_grant", "_grant_of", "_is_peer", "_pace", "_shares_address", "_signaling")

    transport = "signaling"

    def __init__(
        self,
        connections: Connections,
        signaling: Signaling,
        *,
        id: str,
        grant: Grant | None,
        grant_of: GrantOf | None,
        address: str | None,
        shares_address: bool = False,
    ) -> None:
        """Make the connection of a client.

        ``shares_address`` says that others come from its address, who have nothing to do with it:
        so a ban of this client must not be one of the address. ``grant`` is what it brought with
        its handshake; without one, the token in its ``join`` is made into one by ``grant_of``,
        which raises Unauthorized.
        """
        super().__init__(
            connections,
            id=id,
            grant=Grant() if grant is None else grant,
            address=address,
            max_message_bytes=signaling.rooms.limits.sizes.message_bytes,
        )
        self._signaling = signaling
        self._first_grant = grant
        self._grant_of = grant_of
        self._shares_address = shares_address
        self._is_peer = False
        self._pace = Pace(signaling.rooms.limits.rate)
        self._heartbeat_seconds = signaling.rooms.limits.heartbeat_seconds

    # The life of the connection.

    def _listen(self) -> None:
        """Events are not for peers."""

    def _outbox_bytes(self) -> int:
        # The setting is about events: a bound that a large room's list exceeds lets nobody in.
        return max(super()._outbox_bytes(), self._signaling.rooms.limits.welcome_bytes)

    def _opened(self) -> None:
        self._signaling.enter(self, is_stranger=self._first_grant is None)
        if self.preface:
            self.push(b"")  # The client speaks first, once it knows that it is let in.

    async def run(self, link: Link) -> EndReason:
        try:
            return await super().run(link)
        finally:
            self._signaling.leave(self, self.reason or EndReason.SERVER_ERROR)

    def end(self, reason: EndReason) -> None:
        is_first = self.reason is None
        super().end(reason)
        if is_first:
            self._signaling.leave(self, reason)

    def tell(self, messages: list[bytes]) -> None:
        """Send messages of the rooms."""
        self._push_texts(messages)

    def _beat(self) -> None:
        if not self._heard:
            self.end(EndReason.PEER_LOST)
            return
        if not self._is_peer:
            self.end(EndReason.POLICY)  # It had the time of a heartbeat to join.
            return
        self._heard = False
        received = self._signaling.rooms.received(self.id)
        ping = Ping(t=time.time()) if received is None else Ping(t=time.time(), received=received)
        self._push_text(encode(ping))

    # What the client says.

    async def _handle(self, message: str | bytes) -> None:
        if delay := self._pace.delay():
            self._signaling.carry_out()
            await trio.sleep(delay)
            if self.reason is not None:
                return
            self._heard = True  # Whoever is made to wait is alive.
        try:
            self._take(message)
        except Exception:
            # Ours, or it would have been told: the client hears of it before it is sent away.
            log.exception("connection %s: a message could not be handled", self.id)
            failed = error_message(SignalingError("the server made a mistake"))
            failed.fatal = True
            self._tell_now(failed)
            self.end(EndReason.SERVER_ERROR)

    def _take(self, message: str | bytes) -> None:
        rooms = self._signaling.rooms
        try:
            if isinstance(message, bytes):
                raise MessageError(BadMessage("send text, with one JSON object"))
            said = parse(message, rooms.limits.sizes)
        except MessageError as error:
            self._tell_now(refusal(error))
            return
        now = trio.current_time()
        if not isinstance(said, Join):
            effects = self._charge(message, rooms.handle(self.id, said, now))
            if isinstance(said, Signal):
                self._signaling.put_off(effects)
            else:
                self._signaling.carry_out(effects)
            return
        try:
            admission = self._admit(said)
        except SignalingError as error:
            self._refuse(error, said.id)
            return
        fresh = Fresh(peer=secrets.token_urlsafe(12), token=secrets.token_urlsafe(24))
        effects = rooms.join(self.id, said, admission, fresh, now)
        self._signaling.carry_out(self._charge(message, effects))
        self._is_peer = rooms.received(self.id) is not None

    async def _answer(self) -> None:
        self._signaling.carry_out()

    def _charge(self, message: str, effects: list[Effect]) -> list[Effect]:
        """Make the client wait for what a message costs; return the effects."""
        # What waits for a suspended peer is no effect, so what was said counts as well.
        self._pace.charge(max(len(message), size_of(effects)))
        return effects

    def _admit(self, join: Join) -> Admission:
        """Return what the client may do in the room. Raises SignalingError."""
        if not self._is_peer:
            self._take_grant(join.token)
        right = self.grant.room_right(join.room)
        if right is None:
            raise JoinForbidden("you may not join this room")
        ends = self.grant.expires_at
        return Admission(
            subject=self._subject(),
            role=right.role,
            may_create=right.create,
            may_claim=right.claim,
            may_send_data=right.data,
            is_known=self.user is not None,
            seconds=None if ends is None else max(0, int(ends - time.time())),
        )

    def _subject(self) -> str | None:
        if self.user is not None:
            return user_subject(self.user)
        return None if self._shares_address else subject_at(self.address)

    def _take_grant(self, token: str | None) -> None:
        if token is None or self._grant_of is None:
            if self._first_grant is None:
                raise JoinUnauthorized("a token is needed, in 'token' or with the handshake")
            grant = self._first_grant
        else:
            try:
                grant = self._grant_of(token)
            except TriocastError as error:
                raise JoinUnauthorized(error.message) from None
        self._signaling.recognize(self)
        self.grant = grant
        self.user = grant.user
        if self._scope is not None:
            self._scope.deadline = self._grant_deadline()

    def _tell_now(self, message: Told) -> None:
        """Answer, behind what was decided before."""
        self._signaling.carry_out()
        self.tell([encode(message)])

    def _refuse(self, error: SignalingError, re: RequestId) -> None:
        self._pace.charge(REFUSED_BYTES)
        self._tell_now(error_message(error, re=re))
