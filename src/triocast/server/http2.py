"""Hypercorn's HTTP/2, made safe: what ended the process ends a stream, and memory and work are
bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, Request, Response, StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer
from hypercorn.utils import filter_pseudo_headers
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

from triocast.errors import HeadTooLarge, NotSupported, TriocastError
from triocast.floods import MIN_DATA_BYTES, FloodLimiter
from triocast.server.error_responses import SafeHTTPStream, refuse_stream
from triocast.server.http1 import Flooded
from triocast.server.websocket import SafeWSStream
from triocast.turns import Turns

RESET_UNITS: Final = 5
"""What a stream counts for that is reset before it is answered; a flood of them is an attack
(CVE-2023-44487)."""

ANSWER_UNITS: Final = 5
"""What an answered request gives back: around each, clients send frames for windows, priorities
and the end of its stream."""

DATA_UNITS: Final = 2
"""What a frame of data gives back that goes to the client: it may open two windows for it."""

FRAMES_PER_PORTION: Final = 8
"""Frames that are parsed at once."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

END_SECONDS: Final = 1.0
"""How long the end of a stream may take to be sent before its connection is closed without."""

FRAME_HEAD: Final = 9
"""Bytes in a frame's head."""

END_STREAM: Final = 0x1
"""The flag of a frame that is the last of its stream."""

_SETTINGS_BYTES: Final = 64
"""A frame of settings counts once more for each so many: `h2` keeps all that it has ever heard."""

_MIN_UNWANTED_BYTES: Final = 1_024
"""Data for a stream that has ended counts below this: what is still uploaded may come, in large
frames. `h2` answers each and gives its bytes back."""

_MIN_SENT_BYTES: Final = 64
"""A frame of data gives nothing back below this: small windows make us send many of them."""

_TEXT_HEADERS: Final = (b"sec-websocket-protocol", b"sec-websocket-extensions")


class SafeStreamBuffer(StreamBuffer):
    """What waits for a stream's flow control.

    Upstream lets the writer go on when little was *taken*, so the buffer grows without bound
    while the window is closed; here it goes on when little is *left*. (davidbrochart/anycorn#61)
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.popped_bytes = 0

    @property
    def ending(self) -> bool:
        """Whether the writer has said that this is all."""
        return self._complete

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        self.popped_bytes += len(data)
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class FrameHead(NamedTuple):
    """What stands before the payload of a frame (RFC 9113, section 4.1)."""

    length: int
    kind: int
    flags: int
    stream: int


class FrameHeads:
    """Follows the heads of the frames in a client's bytes.

    `h2` looks at a frame only when its payload has come, and at all frames of a read at once.
    """

    def __init__(self) -> None:
        self._skip = len(PREFACE)
        self._head = b""

    def portions(self, data: bytes) -> Iterator[tuple[bytes, list[FrameHead]]]:
        """Yield the bytes in pieces, with the heads that end in each: `FRAMES_PER_PORTION` at the
        most, and no more than one request, as a thousand headers are some milliseconds of work.
        """
        heads: list[FrameHead] = []
        start = at = 0
        while at < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - at)
                self._skip -= skipped
                at += skipped
                continue
            is_request = heads and heads[-1].kind == HeadersFrame.type
            if is_request or len(heads) == FRAMES_PER_PORTION:
                yield data[start:at], heads
                start, heads = at, []
            missing = FRAME_HEAD - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == FRAME_HEAD:
                head, self._head = self._head, b""
                self._skip = int.from_bytes(head[:3], "big")
                stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                heads.append(FrameHead(self._skip, head[3], head[4], stream))
        yield data[start:], heads


class SafeH2Protocol(H2Protocol):
    """HTTP/2 of one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._newest_stream = 0
        self._was_ended = False
        self._unanswered: set[int] = set()
        self._limiter = FloodLimiter(trio.current_time())
        self._turns = Turns()
        self._heads = FrameHeads()
        self._sent = trio.Event()
        self._is_sending = False

    async def stream_send(self, event: Any) -> None:
        if isinstance(event, StreamClosed):
            await self._wait_for_end(event.stream_id)
            await self._break_off(event.stream_id)
        elif isinstance(event, Response) and event.stream_id in self.streams:
            # It was not reset before its answer. Event streams end by a reset in the normal course.
            self._unanswered.discard(event.stream_id)
            self._limiter.give_back(ANSWER_UNITS)
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

    async def _break_off(self, stream_id: int) -> None:
        """Reset a stream whose writer has gone without its end, behind what it has written.

        Upstream leaves it open: its client would wait for ever.
        """
        buffer = self.stream_buffers.get(stream_id)
        if not isinstance(buffer, SafeStreamBuffer) or buffer.ending:
            return
        with trio.move_on_after(END_SECONDS):
            while (buffer.buffer or self._is_sending) and not self.closed:
                if self._sent.is_set():
                    self._sent = trio.Event()
                await self._sent.wait()
        try:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return  # The client, or its connection, has ended it before.
        await self._flush()
        buffer.set_complete()
        await self._window_updated(stream_id)  # so that what upstream keeps of it is dropped

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        before = buffer.popped_bytes if isinstance(buffer, SafeStreamBuffer) else 0
        self._is_sending = True
        await super()._send_data(stream_id)
        self._is_sending = False
        if isinstance(buffer, SafeStreamBuffer) and buffer.popped_bytes - before >= _MIN_SENT_BYTES:
            self._limiter.give_back(DATA_UNITS)
        self._sent.set()

    async def handle(self, event: Any) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        if self._is_over():
            return
        self._turns = Turns()
        for portion, heads in self._heads.portions(event.data):
            if any(head.length > self.config.h2_max_inbound_frame_size for head in heads):
                await self._end(h2.errors.ErrorCodes.FRAME_SIZE_ERROR, Closed())
            elif not self._spend(sum(map(self._head_units, heads))):
                await self._end_flood()
            else:
                await super().handle(RawData(portion))
            if self._is_over():
                return
            await self._turns.give_if_over()

    def _is_over(self) -> bool:
        """Whether one side has ended the connection: what still comes means nothing."""
        state = self.connection.state_machine.state
        return self.closed or state is h2.connection.ConnectionState.CLOSED

    def _spend(self, units: int) -> bool:
        """Count units; return whether the client had as many left (see `triocast.floods`)."""
        return self._limiter.spend(units, trio.current_time())

    def _head_units(self, head: FrameHead) -> int:
        """Return what a frame counts for: nothing if it opens a stream or brings data."""
        if head.kind == HeadersFrame.type and head.stream > self._newest_stream:
            self._newest_stream = head.stream
            return 0
        if head.kind == DataFrame.type:
            is_last = head.flags & END_STREAM and head.stream in self.streams
            return int(head.length < self._min_data_bytes(head.stream) and not is_last)
        if head.kind == SettingsFrame.type:
            return 1 + head.length // _SETTINGS_BYTES
        return 1

    def _event_units(self, event: h2.events.Event) -> int:
        """Return what an event counts for, besides its frame."""
        if isinstance(event, h2.events.StreamReset) and event.stream_id in self._unanswered:
            self._unanswered.remove(event.stream_id)
            return RESET_UNITS - 1
        if isinstance(event, h2.events.DataReceived):
            least = self._min_data_bytes(event.stream_id)
            return int(len(event.data) < least <= event.flow_controlled_length)  # all padding
        return 0

    def _min_data_bytes(self, stream_id: int) -> int:
        """Return below how many bytes data counts as nothing."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return _MIN_UNWANTED_BYTES
        # The frames of a WebSocket are counted there, and may be small.
        return 1 if isinstance(stream, SafeWSStream) else MIN_DATA_BYTES

    async def _end_flood(self) -> None:
        await self._end(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, Flooded())

    async def _end(self, code: h2.errors.ErrorCodes, event: Closed) -> None:
        """Tell the client why the connection ends, and the server that it has ended."""
        self._was_ended = True
        self.connection.close_connection(code)
        await self._flush()
        await self.send(event)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            await self._turns.give_if_over()
            if not self._spend(self._event_units(event)):
                await self._end_flood()
            if self._was_ended:
                return
            if isinstance(event, h2.events.DataReceived):
                await self._take_data(event)
            elif isinstance(event, h2.events.PriorityUpdated):
                # Deprecated by RFC 9113, section 5.3.2; upstream's tree of them ends the server
                # when it is full.
                continue
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

    def _error_of(self, method: bytes, request: h2.events.RequestReceived) -> TriocastError | None:
        """Return why a request is refused whatever it asks for; None if it is not."""
        if _head_size(request.headers) > self.config.h11_max_incomplete_size:
            return HeadTooLarge("the head of the request is larger than max_header_bytes")
        if not method.isupper():
            return NotSupported("this method is not known here; methods are in capitals")
        return None

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
            if not self._spend(RESET_UNITS):
                await self._end_flood()
            return
        self._unanswered.add(stream_id)
        kind = SafeWSStream if websocket else SafeHTTPStream
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
        error = self._error_of(fields[b":method"], request)
        if error is not None:
            refused: Any = self.streams[stream_id]
            refused.closed = True
            refused.scope = {"http_version": "2", "method": method.decode("ascii")}
            self.task_group.spawn(refuse_stream, refused, error)
            return
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


def _head_size(headers: Any) -> int:
    """Return the size of a request's head, as RFC 9113 counts it (6.5.2), without the overhead."""
    return sum(len(name) + len(value) for name, value in headers)
