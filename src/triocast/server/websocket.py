"""Hypercorn's WebSockets, made safe. They serve HTTP/2, and HTTP/1.1 up to a takeover."""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.protocol.events import EndData, Request, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.events import CloseConnection, Event, Message
from wsproto.frame_protocol import CloseReason

from triocast.errors import EndReason, TriocastError
from triocast.floods import FloodLimiter, fragment_units
from triocast.server.error_responses import error_of_status, refuse_stream, send_error
from triocast.server.opening import check_key, check_version
from triocast.turns import Turns
from triocast.web.call import Call


class BoundedMessage(WebsocketBuffer):
    """The fragments of a message, refused before they are kept. Upstream keeps them first, and
    counts a text's characters for bytes.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length)
        self.size = 0
        """Bytes kept so far, text as UTF-8."""

    def extend(self, event: Message[Any]) -> None:
        size = len(event.data.encode()) if isinstance(event.data, str) else len(event.data)
        if self.size + size > self.max_length:
            raise FrameTooLargeError
        super().extend(event)
        self.size += size

    def clear(self) -> None:
        super().clear()
        self.size = 0


class SafeWSStream(WSStream):
    """A WebSocket in an HTTP/2 stream (RFC 8441), or over HTTP/1.1 up to a takeover."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = BoundedMessage(self.config.websocket_max_message_size)
        self._limiter = FloodLimiter(trio.current_time())
        self._fragments = 0
        """Frames of the message that is on its way."""

    async def handle(self, event: Any) -> None:
        if isinstance(event, Request) and not self.closed:
            try:
                self._check(event)
            except TriocastError as error:
                self.closed = True
                self.scope: Any = {"http_version": event.http_version}
                if event.http_version == "2":
                    self.task_group.spawn(refuse_stream, self, error)
                else:
                    await send_error(self, error)
                return
        await super().handle(event)

    def _check(self, request: Request) -> None:
        """Raise TriocastError for a handshake that is wrong at every address."""
        call = Call(
            method=request.method,
            scheme=self.scheme,
            http_version=request.http_version,
            query_string=b"",
            headers=request.headers,
            address=None,
        )
        check_version(call)
        if request.http_version != "2":
            check_key(call)

    async def _send_error_response(self, status_code: int) -> None:
        await send_error(self, error_of_status(status_code))

    async def _handle_events(self) -> None:
        # Upstream goes on collecting after it has refused a message.
        turns = Turns()
        for event in self.connection.events():
            await turns.give_if_over()
            if self.closed:
                return
            if not self._limiter.spend(self._units(event), trio.current_time()):
                await self._end_flood()
                return
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._send_wsproto_event(
                        CloseConnection(code=CloseReason.MESSAGE_TOO_BIG)
                    )
                    await self._end()
                    return
                if event.message_finished:
                    assert self.app_put is not None
                    await self.app_put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, CloseConnection):
                await self._send_wsproto_event(event.response())
                await self._end()
                return
            elif hasattr(event, "response"):
                await self._send_wsproto_event(event.response())

    def _units(self, event: Event) -> int:
        """Return what an event counts for (see `triocast.floods`)."""
        if not isinstance(event, Message):
            return 1
        if event.message_finished:
            self._fragments = 0
            return 0  # An empty message is counted by who takes it.
        if event.frame_finished:
            self._fragments += 1
        return fragment_units(self._fragments, len(event.data))

    async def _end_flood(self) -> None:
        """End it, and tell the application that this was our doing."""
        reason = EndReason.FLOOD
        await self._send_wsproto_event(CloseConnection(code=reason.close_code, reason=reason.word))
        if self.app_put is not None:
            await self.app_put(
                {
                    "type": "websocket.disconnect",
                    "code": int(reason.close_code),
                    "reason": reason.word,
                }
            )
        await self._end()

    async def _end(self) -> None:
        await self.send(EndData(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))
