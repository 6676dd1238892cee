"""A network at its worst: links that take as many bytes at a time as a plan says, stall and break.

Four ways to a client, each with the product's own link where there is one: a socket that the hub
writes to itself, a stream that only the send task writes to, and ASGI's ``send`` for response
bodies and for WebSocket messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import trio

from triocast.transports.links import ASGIResponseLink, StreamLink
from triocast.transports.websocket import ASGIWebSocketLink

ALL = None
"""In a plan: as many bytes as there are."""

BREAK = -1
"""In a plan: the client is gone."""

RETRY_SECONDS = 0.5


class Wire:
    """The way to one client and back.

    ``plan`` has how many bytes each write takes, one after the other: 0 is a full buffer, `BREAK`
    an error for ever. When it is used up, all is taken.
    """

    def __init__(self, plan: Sequence[int | None]) -> None:
        self.arrived = bytearray()
        self.messages: list[str] = []
        self.stalled = False
        self.broken = False
        self.hindered = bool(plan)
        self.closed = False
        self.finished = False
        """Whether the server ended its side, after everything else."""
        self.late_writes = 0
        self._cut = trio.Event()
        self._plan = list(reversed(plan))
        self.to_server, self._from_client = trio.open_memory_channel[bytes | str](math.inf)

    def stall(self) -> None:
        self.stalled = self.hindered = True

    def cut(self) -> None:
        """Be broken from now on, and have whoever tries to write see it at once."""
        self.broken = True
        self._cut.set()

    async def pause(self) -> None:
        """Wait until it makes sense to try again to write."""
        with trio.move_on_after(RETRY_SECONDS):
            await self._cut.wait()

    def _room(self) -> int | None:
        """How many bytes are taken now; `ALL` for any number."""
        if self.closed:
            self.late_writes += 1
            raise OSError("the socket is closed")
        if self.broken:
            raise BrokenPipeError
        if self.stalled:
            raise BlockingIOError
        room = self._plan.pop() if self._plan else ALL
        if room == BREAK:
            self.broken = True
            raise ConnectionResetError
        if room == 0:
            raise BlockingIOError
        return room

    def write(self, data: bytes | memoryview) -> int:
        room = self._room()
        taken = data[:room]
        self.arrived += taken
        return len(taken)

    async def write_all(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.checkpoint()
            try:
                rest = rest[self.write(rest) :]
            except BlockingIOError:
                await self.pause()

    async def write_message(self, text: str) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            try:
                self._room()
            except BlockingIOError:
                await self.pause()
            else:
                self.messages.append(text)
                return

    async def receive(self) -> bytes | str | None:
        try:
            return await self._from_client.receive()
        except trio.EndOfChannel:
            return None


class DirectLink:
    """A socket that the hub writes to."""

    taken_over = True

    def __init__(self, wire: Wire) -> None:
        self.write_now = wire.write
        self._wire = wire
        self._unsent = memoryview(b"")

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        self._unsent = memoryview(b"".join(frames))
        await self._send_unsent()

    async def _send_unsent(self) -> None:
        while self._unsent:
            await trio.lowlevel.checkpoint()
            try:
                self._unsent = self._unsent[self._wire.write(self._unsent) :]
            except BlockingIOError:
                await self._wire.pause()

    async def receive(self) -> bytes | str | None:
        return await self._wire.receive()

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        await self._send_unsent()
        await self.send(farewell)
        self._wire.finished = True

    def close(self) -> None:
        self._wire.closed = True


class FlakyStream(trio.abc.Stream):
    """A stream that cannot say how far it came when it is cancelled: as TLS is."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._wire.write_all(data)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._wire.receive()
        assert not isinstance(data, str)
        return data or b""

    async def aclose(self) -> None:
        self._wire.finished = True
        self.close()

    def close(self) -> None:
        self._wire.closed = True


def stream_link(wire: Wire) -> StreamLink:
    return StreamLink(FlakyStream(wire))


def response_link(wire: Wire) -> ASGIResponseLink:
    async def receive() -> dict[str, Any]:
        data = await wire.receive()
        if data is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": data}

    async def send(message: dict[str, Any]) -> None:
        await wire.write_all(message["body"])

    return ASGIResponseLink(receive, send)


def websocket_link(wire: Wire) -> ASGIWebSocketLink:
    async def receive() -> dict[str, Any]:
        text = await wire.receive()
        if text is None:
            return {"type": "websocket.disconnect", "code": 1001}
        return {"type": "websocket.receive", "text": text}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await wire.write_message(message["text"])

    return ASGIWebSocketLink(receive, send)
