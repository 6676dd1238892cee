"""Hypercorn's HTTP/1.1, made safe for WebSocket upgrades."""

from __future__ import annotations

from typing import Any

import h11
import trio
from hypercorn.events import Closed
from hypercorn.protocol.events import Data, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream

from triocast.errors import BadRequest, Flood, TriocastError
from triocast.floods import MIN_DATA_BYTES, FloodLimiter
from triocast.server.error_responses import SafeHTTPStream, encode_headers
from triocast.server.messages import RefusedRequest, RequestParser, error_of
from triocast.server.opening import is_upgrade
from triocast.server.websocket import SafeWSStream
from triocast.web.answers import refusal
from triocast.web.call import Call
from triocast.web.targets import split_target, with_authority

_TEXT_HEADERS = (b"sec-websocket-protocol", b"sec-websocket-extensions")


class Flooded(Closed):
    """The connection is closed because the client sent too much that says nothing."""


class LimitedConnection(RequestParser):
    """Refuses a body in too many pieces with next to nothing in them (see `triocast.floods`)."""

    def __init__(self, *, max_head_bytes: int) -> None:
        super().__init__(max_head_bytes=max_head_bytes)
        self.is_flooded = False
        self._limiter = FloodLimiter(trio.current_time())

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if not isinstance(event, h11.Data) or not event.chunk_end:
            return event
        if len(event.data) < MIN_DATA_BYTES and not self._limiter.spend(1, trio.current_time()):
            self.is_flooded = True
            # As after what h11 refuses: else Hypercorn raises for what the application still sends.
            self._process_error(h11.CLIENT)
            self.refused = RefusedRequest(Flood("too many small chunks"))
            raise self.refused
        return event


class PatientWSConnection(H11WSConnection):
    """Holds what a client sends behind its upgrade until somebody is there to take it.

    Upstream hands it on at once, and the server ends: pgjones/hypercorn#225.
    """

    def __init__(self, connection: h11.Connection) -> None:
        super().__init__(connection)
        self.accepted = False

    def next_event(self) -> Data | type[h11.NEED_DATA]:
        if not self.accepted:
            return h11.NEED_DATA
        return super().next_event()


class Paused(Exception):
    """A further request came before the one under way was answered."""


class TurnSignal:
    """Stands where upstream waits for the next request's turn, in the task that reads.

    While it waits there, nobody would notice that the client goes.
    """

    async def clear(self) -> None:
        """Nothing to do: nobody waits."""

    async def set(self) -> None:
        """Nothing to do: `SafeH11Protocol.resume` is called instead."""

    def is_set(self) -> bool:
        return False

    async def wait(self) -> None:
        raise Paused


class SafeH11Protocol(H11Protocol):
    """HTTP/1.1 of one connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Another parser than upstream's, which takes what we refuse.
        max_head_bytes = self.config.h11_max_incomplete_size
        self.connection = LimitedConnection(max_head_bytes=max_head_bytes)
        self.can_read = TurnSignal()
        self.paused = False
        """Whether a further request waits for the one under way."""

    @property
    def has_begun(self) -> bool:
        """Whether a request has begun to come, and its head is not there as a whole."""
        connection = self.connection
        return (
            isinstance(connection, h11.Connection)
            and connection.their_state is h11.IDLE
            and bool(connection.trailing_data[0])
        )

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except Paused:
            self.paused = True
        if isinstance(self.connection, LimitedConnection) and self.connection.is_flooded:
            await self.send(Flooded())

    async def resume(self) -> None:
        """Go on with what was held, now that it is its turn."""
        self.paused = False
        await self._handle_events()

    async def _create_stream(self, request: h11.Request) -> None:
        if not _upgrade_is_sane(request):
            await self.refuse(BadRequest("the headers Sec-WebSocket-* are plain ASCII"))
            await self.send(Closed())
            return
        authority, target = split_target(request.target)
        # Compression would be accepted whenever it is offered (pgjones/hypercorn#307); it costs
        # 100 kB a connection, and a stalled process for a bomb of half a megabyte.
        headers = [
            (name, value)
            for name, value in with_authority(request.headers, authority)
            if name != b"sec-websocket-extensions"
        ]
        version = request.http_version.decode()
        kind: type[HTTPStream] | type[WSStream] = SafeHTTPStream
        if _asks_for_websocket(request.method, version, headers):
            kind = SafeWSStream
            assert isinstance(self.connection, h11.Connection)
            self.connection = PatientWSConnection(self.connection)
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=version,
                method=request.method.decode("ascii"),
                raw_path=target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def refuse(self, error: TriocastError) -> None:
        """Answer what is no request, or none that can be answered; the caller ends the rest."""
        answer = refusal(error)
        answer.headers.append(("connection", "close"))
        headers = [*encode_headers(answer), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=answer.status, headers=headers))
        if getattr(self.connection, "method", None) != b"HEAD":
            await self._send_h11_event(h11.Data(data=answer.body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _send_error_response(self, status_code: int) -> None:
        """Called where the parser has refused what came."""
        refused = getattr(self.connection, "refused", None)
        await self.refuse(
            BadRequest("this is no request") if refused is None else error_of(refused)
        )

    async def stream_send(self, event: Any) -> None:
        await super().stream_send(event)
        if isinstance(event, EndBody) and isinstance(self.connection, PatientWSConnection):
            # A refused upgrade. Upstream leaves the connection open, and not even idle.
            await self.send(Closed())

    def let_through(self) -> None:
        """Let what is held, and what follows, go to Hypercorn's WebSocket: it stays portable."""
        if isinstance(self.connection, PatientWSConnection):
            self.connection.accepted = True

    @property
    def held_bytes(self) -> int:
        """How much a client has sent that nobody can take yet."""
        if isinstance(self.connection, PatientWSConnection) and not self.connection.accepted:
            return len(self.connection.buffer)
        if self.paused and isinstance(self.connection, h11.Connection):
            return len(self.connection.trailing_data[0])
        return 0

    @property
    def at_rest(self) -> bool:
        """Whether the next byte begins a request."""
        connection = self.connection
        return (
            isinstance(connection, h11.Connection)
            and connection.their_state is h11.IDLE
            and not connection.trailing_data[0]
        )


def _upgrade_is_sane(request: h11.Request) -> bool:
    """Upstream decodes these headers as ASCII, and ends on others."""
    return all(value.isascii() for name, value in request.headers if name in _TEXT_HEADERS)


def _asks_for_websocket(method: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bool:
    return is_upgrade(
        Call(
            method=method.decode("ascii"),
            scheme="http",
            http_version=version,
            query_string=b"",
            headers=headers,
            address=None,
        )
    )
