"""Links of bytes: a socket of our own, another stream of our own, or ASGI's ``send``.

`SocketLink` is the fast one: the hub writes to the kernel itself. `StreamLink` serves what has a
state between the bytes and the socket (TLS) and memory streams in tests. `ASGIResponseLink` is
the portable way for response bodies.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

RECEIVE_BYTES: Final = 16_384

ASGISend = Callable[[dict[str, Any]], Awaitable[None]]
ASGIReceive = Callable[[], Awaitable[dict[str, Any]]]


class SocketLink:
    """A clear TCP (or Unix) stream that was taken over from the HTTP server."""

    taken_over = True

    def __init__(self, stream: trio.SocketStream, raw: socket.socket) -> None:
        """Take the stream, and the non-blocking socket that it was made from."""
        self._stream = stream
        self._socket = raw
        self.write_now: Callable[[bytes | memoryview], int] = raw.send
        self._unsent = memoryview(b"")

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        self._unsent = memoryview(frames[0] if len(frames) == 1 else b"".join(frames))
        await self._send_unsent()

    async def _send_unsent(self) -> None:
        # Ours rather than `SocketStream.send_all`, which does not say how far it came when it is
        # cancelled: a farewell must not begin in the middle of a frame.
        while self._unsent:
            await trio.lowlevel.wait_writable(self._socket)
            try:
                self._unsent = self._unsent[self.write_now(self._unsent) :]
            except BlockingIOError:
                continue

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some(RECEIVE_BYTES))

    async def finish(self, farewell: Sequence[bytes | memoryview]) -> None:
        await self._send_unsent()
        await self.send(farewell)
        self._socket.shutdown(socket.SHUT_WR)
        # Closing with something unread makes the kernel reset the connection, and the client
        # may lose the farewell. So what still comes is read until the client is done, too.
        while await self._stream.receive_some(RECEIVE_BYTES):
            pass

    def close(self) -> None:
        close_now(self._stream)


class StreamLink:
    """A stream of our own that only its own task may write to: TLS, or a memory stream."""

    taken_over = True
    write_now = None

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._whole = True

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        self._whole = False
        await self._stream.send_all(b"".join(frames))
        self._whole = True

    async def receive(self) -> bytes:
        data: bytes | bytearray = await self._stream.receive_some(RECEIVE_BYTES)
        return bytes(data)

    async def finish(self, farewell: Sequence[bytes | memoryview]) -> None:
        if self._whole:
            await self.send(farewell)
            await self._stream.aclose()

    def close(self) -> None:
        stream = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        close_now(stream)


def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close a stream without waiting for anything."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    elif hasattr(stream, "close"):
        stream.close()


class ASGIResponseLink:
    """The body of an ASGI response under way."""

    taken_over = False
    write_now = None

    def __init__(self, receive: ASGIReceive, send: ASGISend) -> None:
        self._receive = receive
        self._send = send
        self._whole = True

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        self._whole = False
        await self._send(
            {"type": "http.response.body", "body": b"".join(frames), "more_body": True}
        )
        self._whole = True

    async def receive(self) -> bytes:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return b""
            if message.get("body"):
                return bytes(message["body"])

    async def finish(self, farewell: Sequence[bytes | memoryview]) -> None:
        if self._whole:
            await self.send(farewell)

    def close(self) -> None:
        """Nothing to do: the response ends when the application returns."""
