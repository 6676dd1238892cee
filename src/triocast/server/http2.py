"""Hypercorn's HTTP/2, made safe: what ended the process ends a stream, and memory is bounded."""

from __future__ import annotations

from typing import Any, Final

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, Request, Response, StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.utils import filter_pseudo_headers

from triocast.server.websocket import SafeWSStream

MOST_RESETS: Final = 200
"""Streams a client may reset before they are answered, beyond those that are answered; a flood of
them is an attack (CVE-2023-44487)."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

END_SECONDS: Final = 1.0
"""How long the end of a stream may take to be sent before its connection is closed without."""

FRAME_HEAD: Final = 9
"""Bytes in a frame's head."""

_TEXT_HEADERS: Final = (b"sec-websocket-protocol", b"sec-websocket-extensions")


class SafeStreamBuffer(StreamBuffer):
    """What waits for a stream's flow control.

    Upstream lets the writer go on when little was *taken*, so the buffer grows without bound
    while the window is closed; here it goes on when little is *left*. (davidbrochart/anycorn#61)
    """

    @property
    def ending(self) -> bool:
        """Whether the writer has said that this is all."""
        return self._complete

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class FrameHeads:
    """Follows the heads of the frames in a client's bytes (RFC 9113, section 4.1), to know the
    length of a frame before its payload has come: `h2` looks at it only then.
    """

    def __init__(self) -> None:
        self._skip = len(PREFACE)
        self._head = b""
        self.longest = 0

    def feed(self, data: bytes) -> None:
        """Note the longest length that any head in these bytes announced."""
        at = 0
        while at < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - at)
                self._skip -= skipped
                at += skipped
                continue
            missing = FRAME_HEAD - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == FRAME_HEAD:
                self._skip = int.from_bytes(self._head[:3], "big")
                self.longest = max(self.longest, self._skip)
                self._head = b""


class SafeH2Protocol(H2Protocol):
    """HTTP/2 of one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resets = 0
        self._heads = FrameHeads()
        self._sent = trio.Event()

    async def stream_send(self, event: Any) -> None:
        if isinstance(event, StreamClosed):
            await self._wait_for_end(event.stream_id)
        elif isinstance(event, Response) and event.stream_id in self.streams:
            # It was not reset before its answer. Event streams end by a reset in the normal course.
            self._resets = max(0, self._resets - 1)
        await super().stream_send(event)

    async def _wait_for_end(self, stream_id: int) -> None:
        """Wait until a stream's end is on its way.

        Upstream does not when nothing else is left to send, and while it drains closes the
        connection before the stream: its client would see it broken off.
        """
        with trio.move_on_after(END_SECONDS):
            while not self.closed:
                buffer = self.stream_buffers.get(stream_id)
                if not isinstance(buffer, SafeStreamBuffer) or not buffer.ending:
                    return
                if self._sent.is_set():
                    self._sent = trio.Event()
                await self._sent.wait()

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        self._sent.set()

    async def handle(self, event: Any) -> None:
        if isinstance(event, RawData):
            self._heads.feed(event.data)
            if self._heads.longest > self.config.h2_max_inbound_frame_size:
                self.connection.close_connection(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
                await self._flush()
                await self.send(Closed())
                return
        await super().handle(event)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                await self._take_data(event)
            elif isinstance(event, h2.events.PriorityUpdated):
                # Deprecated by RFC 9113, section 5.3.2; upstream's tree of them ends the server
                # when it is full.
                continue
            elif isinstance(event, h2.events.StreamReset):
                self._resets += 1
                if self._resets > MOST_RESETS:
                    self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
                    await self._flush()
                    await self.send(Closed())
                    return
                await super()._handle_events([event])
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _take_data(self, event: h2.events.DataReceived) -> None:
        stream_id = event.stream_id
        if stream_id in self.streams:
            await self.streams[stream_id].handle(Body(stream_id=stream_id, data=event.data))
        # Data behind a response that was complete early (a 413) is none of anybody's business,
        # but counts for flow control. Upstream ends on it: pgjones/hypercorn#329.
        try:
            self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        except h2.exceptions.ProtocolError:
            return  # The stream or connection has been closed meanwhile.

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        fields = dict(request.headers)
        method = fields.get(b":method", b"").upper()
        path = fields.get(b":path", b"")
        websocket = method == b"CONNECT"
        if (
            not path.startswith((b"/", b"*"))
            or not path.isascii()
            or not method.isascii()
            or not all(fields.get(name, b"").isascii() for name in _TEXT_HEADERS)
            or (websocket and fields.get(b":protocol") != b"websocket")
        ):
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        kind = SafeWSStream if websocket else HTTPStream
        self.streams[stream_id] = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        self.stream_buffers[stream_id] = SafeStreamBuffer(self.context.event_class)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        headers = [(n, v) for n, v in request.headers if n != b"sec-websocket-extensions"]
        await self.streams[stream_id].handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(headers),
                http_version="2",
                method=method.decode("ascii"),
                raw_path=path,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()
