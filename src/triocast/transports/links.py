"""Links of bytes: a socket of our own, another stream of our own, or ASGI's ``send``.

`SocketLink` is the fast one: the hub writes to the kernel itself. `StreamLink` serves what has a
state between the bytes and the socket (TLS) and memory streams in tests. `ASGIResponseLink` is
the portable way for response bodies.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

RECEIVE_BYTES: Final = 16_384

TAKEN_POLL_SECONDS: Final = 0.01
"""How often it is looked whether a client has taken the last of a response that is broken off."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` for closing by RST."""

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
            self._check_open()
            await trio.lowlevel.wait_writable(self._socket)
            try:
                self._unsent = self._unsent[self.write_now(self._unsent) :]
            except BlockingIOError:
                continue

    async def receive(self) -> bytes | None:
        # Ours rather than `SocketStream.receive_some`, which tries in vain before it waits, and
        # keeps five frames on the stack of each client that says nothing.
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(RECEIVE_BYTES) or None
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        await self._send_unsent()
        await self.send(farewell)
        if abruptly:
            # The kernel forgets what it has not sent yet when it resets a connection.
            while self._untaken_bytes():  # noqa: ASYNC110  # nothing tells when it is taken
                await trio.sleep(TAKEN_POLL_SECONDS)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            return
        self._socket.shutdown(socket.SHUT_WR)
        # Closing with something unread makes the kernel reset the connection, and the client
        # may lose the farewell. So what still comes is read until the client is done, too.
        while await self._stream.receive_some(RECEIVE_BYTES):
            pass

    def _untaken_bytes(self) -> int:
        """Return how much the peer's kernel has not acknowledged yet."""
        self._check_open()
        found = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(found, sys.byteorder)

    def _check_open(self) -> None:
        """Raise ClosedResourceError for a closed socket.

        Trio's I/O loop raises ValueError for one, and keeps the task as if it were waiting.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket was closed")

    def close(self) -> None:
        close_now(self._stream)


class TaskLink(ABC):
    """A link that only its connection's send task writes to."""

    write_now = None

    def __init__(self) -> None:
        self._pending: list[bytes | memoryview] = []
        self._whole = True

    @abstractmethod
    async def _transmit(self, frames: Sequence[bytes | memoryview]) -> None:
        """Write frames. Cancelled, it cannot say how far it came."""

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        # A connection that ends while these are handed over has not written any of them yet:
        # its farewell takes them along.
        self._pending = list(frames)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._whole = False
        await self._transmit(frames)
        self._pending, self._whole = [], True

    async def _send_last(self, farewell: Sequence[bytes | memoryview]) -> bool:
        """Send what was handed over and the farewell, unless a frame was cut in two."""
        if self._whole:
            await self.send([*self._pending, *farewell])
        return self._whole


class StreamLink(TaskLink):
    """A stream of our own with a state between bytes and socket: TLS, or a memory stream."""

    taken_over = True

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        self._stream = stream

    async def _transmit(self, frames: Sequence[bytes | memoryview]) -> None:
        await self._stream.send_all(b"".join(frames))

    async def receive(self) -> bytes | None:
        data: bytes | bytearray = await self._stream.receive_some(RECEIVE_BYTES)
        return bytes(data) or None

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        # Without TLS's own word for the end a client knows that something is missing.
        is_cut = abruptly and isinstance(self._stream, trio.SSLStream)
        if await self._send_last(farewell) and not is_cut:
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


BREAKS_OFF: Final = "triocast.breaks_off"
"""The ASGI extension by which our server says that it does so over HTTP/2, too."""


def breaks_off(scope: Any) -> bool:
    """Whether the server breaks off a response that the application leaves without its end.

    All do so over HTTP/1. Over HTTP/2, Hypercorn (0.18) does nothing: the client would wait for
    ever.
    """
    is_http1: bool = scope["http_version"] in ("1.0", "1.1")
    return is_http1 or BREAKS_OFF in (scope.get("extensions") or {})


class ASGIResponseLink(TaskLink):
    """The body of an ASGI response under way.

    ``breaks_off`` says whether the server breaks off a response without an end.
    """

    taken_over = False

    def __init__(self, receive: ASGIReceive, send: ASGISend, *, breaks_off: bool = True) -> None:
        super().__init__()
        self._breaks_off = breaks_off
        self._receive = receive
        self._send = send

    async def _transmit(self, frames: Sequence[bytes | memoryview]) -> None:
        await self._send(
            {"type": "http.response.body", "body": b"".join(frames), "more_body": True}
        )

    async def receive(self) -> bytes | None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            if message.get("body"):
                return bytes(message["body"])

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        if await self._send_last(farewell) and not (abruptly and self._breaks_off):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Nothing to do: the response ends when the application returns.

        Without its last message, that looks like a fault to the client; see `finish`.
        """
