"""Hypercorn's WebSockets, made safe. They serve HTTP/2, and HTTP/1.1 up to a takeover."""

from __future__ import annotations

from typing import Any

from hypercorn.protocol.events import EndData, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.events import CloseConnection, Message
from wsproto.frame_protocol import CloseReason


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
    """A WebSocket in an HTTP/2 stream (RFC 8441)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = BoundedMessage(self.config.websocket_max_message_size)

    async def _handle_events(self) -> None:
        # Upstream goes on collecting after it has refused a message.
        for event in self.connection.events():
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

    async def _end(self) -> None:
        await self.send(EndData(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))
