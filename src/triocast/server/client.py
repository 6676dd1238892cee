"""One client's TCP connection: the HTTP it speaks, the guard around it, and the takeover.

Hypercorn's protocol classes do the HTTP. Whatever they raise ends this connection and no other.
When a response brings a connection along (see `triocast.web.asgi`) and its head went out as
expected, Hypercorn's tasks end, and the stream belongs to that connection alone.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from triocast.connection import Connection, Link
from triocast.server.http1 import SafeH11Protocol
from triocast.server.http2 import SafeH2Protocol
from triocast.transports.links import SocketLink, StreamLink, close_now
from triocast.transports.sse import SSEConnection
from triocast.transports.websocket import WebSocketConnection
from triocast.web.asgi import CONNECTION_KEY

log = logging.getLogger("triocast.server")

RECEIVE_BYTES: Final = 65_536

MOST_HELD_BYTES: Final = 65_536
"""What is read of a client ahead of the answer to its request or upgrade."""

LINGER_SECONDS: Final = 1.0
"""How long a closed connection is read on, so that the kernel does not reset it under the last
response while the client is still sending."""

_LOST_SECONDS: Final = 1.0
"""How long what runs for a client that is gone may take to notice."""

_SSE_HEAD: Final = re.compile(
    rb"HTTP/1\.1 200 .*?\r\n(?=(?:.*\r\n)*content-type: text/event-stream\b)", re.IGNORECASE
)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: chunked\r\n", re.IGNORECASE)
_SIZED: Final = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)


class SafeProtocol(ProtocolWrapper):
    """Chooses between our HTTP/1.1 and HTTP/2, as Hypercorn does between its own."""

    def __init__(self, *args: Any, alpn_protocol: str | None) -> None:
        # Not calling up: it would make Hypercorn's own protocol objects.
        (
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.state,
            self.ssl,
            self.client,
            self.server,
            self.send,
        ) = self._parts = args
        kind = SafeH2Protocol if alpn_protocol == "h2" else SafeH11Protocol
        self.protocol: Any = self._make(kind)

    def _make(self, kind: Callable[..., Any]) -> Any:
        app, config, context, task_group, state, ssl, client, server, send = self._parts
        return kind(app, config, context, task_group, state, ssl, client, server, send)

    async def handle(self, event: Any) -> None:
        await self._with_switches(self.protocol.handle(event))

    async def resume(self) -> None:
        """Go on with what an HTTP/1.1 connection held back."""
        await self._with_switches(self.protocol.resume())

    async def _with_switches(self, handling: Awaitable[None]) -> None:
        try:
            await handling
        except H2ProtocolAssumedError as error:
            self.protocol = self._make(SafeH2Protocol)
            await self.protocol.initiate()
            # What looked like a request was none: the connection is idle again.
            await self.send(Updated(idle=True))
            data = error.data
        except H2CProtocolRequiredError as error:
            self.protocol = self._make(SafeH2Protocol)
            await self.protocol.initiate(error.headers, error.settings)
            data = error.data
        else:
            return
        if data:
            await self.protocol.handle(RawData(data=data))


class Client:
    """One accepted socket, from its first byte to its end."""

    def __init__(
        self,
        app: Any,
        config: Config,
        context: WorkerContext,
        state: dict[str, Any],
        accepted: socket.socket,
        ssl_context: ssl.SSLContext | None,
        *,
        take_over: bool,
        send_seconds: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._state = state
        # The stream closes this very socket; it stays here for what writes to it directly.
        self._accepted = accepted
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if ssl_context is not None:
            self._stream = trio.SSLStream(
                stream, ssl_context, server_side=True, https_compatible=True
            )
        self._may_take_over = take_over
        self._send_seconds = send_seconds
        self._send_lock = trio.Lock()
        self._idle = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._tasks: TaskGroup
        self._protocol: SafeProtocol
        self._head: bytearray | None = None
        self._joining: bytearray | None = None
        self._taken: Connection | None = None
        self._linger = False
        self._lost = False
        self._handlers = 0
        self._no_handlers = trio.Event()

    async def run(self) -> None:
        """Serve the client. Lets nothing out but cancellation."""
        try:
            await self._speak_http()
            if self._taken is not None:
                await self._taken.run(self._hand_over(self._taken))
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client is gone, and has been told nothing it could miss.
        except* Exception as errors:
            log.warning("a client's input ended its connection: %s", _short(errors))
            log.debug("details", exc_info=errors)
        finally:
            if self._linger and self._taken is None:
                with trio.move_on_after(LINGER_SECONDS, shield=True):
                    await self._close_lingering()
            self.abort()

    def abort(self) -> None:
        """Close the stream at once; whoever waits on it is woken with an error."""
        close_now(_socket_stream(self._stream))

    # HTTP.

    async def _speak_http(self) -> None:
        stream = self._stream
        alpn = "http/1.1"
        if isinstance(stream, trio.SSLStream):
            with trio.move_on_after(self._config.ssl_handshake_timeout) as patience:
                await stream.do_handshake()
            if patience.cancelled_caught:
                return
            alpn = stream.selected_alpn_protocol() or "http/1.1"
        peer = _socket_stream(stream).socket
        client = parse_socket_addr(peer.family, peer.getpeername())
        server = parse_socket_addr(peer.family, peer.getsockname())
        # A scope of our own: Hypercorn's task group does not pass on its nursery's verdict.
        with self._scope:
            async with TaskGroup() as self._tasks:
                self._protocol = SafeProtocol(
                    self._call_app,
                    self._config,
                    self._context,
                    self._tasks,
                    ConnectionState(self._state.copy()),
                    isinstance(stream, trio.SSLStream),
                    client,
                    server,
                    self._send,
                    alpn_protocol=alpn,
                )
                await self._protocol.initiate()
                self._idle.deadline = trio.current_time() + min(
                    self._config.keep_alive_timeout, self._config.ssl_handshake_timeout
                )
                self._tasks.spawn(self._end_when_idle)
                await self._read()

    async def _read(self) -> None:
        while True:
            data: bytes | None = None
            with trio.CancelScope() as self._reading:
                try:
                    if self._holds_enough():
                        await trio.sleep_forever()
                    data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    break
            if data is None:
                # A request or an upgrade was answered: what was held behind it goes on now.
                assert isinstance(self._protocol.protocol, SafeH11Protocol)
                await self._protocol.resume()
                continue
            await self._protocol.handle(RawData(data))
            if not data:
                break
        self._lose()
        await trio.sleep_forever()  # until what runs for this client has heard of it

    def _holds_enough(self) -> bool:
        """Whether the client has to wait with more until what it sent has its turn."""
        protocol = self._protocol.protocol
        return isinstance(protocol, SafeH11Protocol) and protocol.held_bytes > MOST_HELD_BYTES

    async def _send(self, event: Any) -> None:
        """What Hypercorn's protocols call to reach the client."""
        if self._taken is not None:
            return
        if isinstance(event, RawData):
            if self._head is not None:
                self._head += event.data
            if self._joining is not None:
                self._joining += event.data
            elif event.data:
                await self._send_data(event.data)
            return
        await self._send_joined()
        if isinstance(event, Closed):
            self._linger = True
            self._lose()
        elif isinstance(event, Updated):
            self._note_idle(event.idle)
            protocol = self._protocol.protocol
            if event.idle and isinstance(protocol, SafeH11Protocol) and protocol.paused:
                self._reading.cancel()

    async def _send_joined(self) -> None:
        joined, self._joining = self._joining, None
        if joined:
            await self._send_data(bytes(joined))

    async def _send_data(self, data: bytes) -> None:
        async with self._send_lock:
            try:
                # Shielded, so that a cancelled handler does not cut a frame in two, but not for
                # ever: a client that takes nothing is let go.
                with trio.move_on_after(self._send_seconds, shield=True) as patience:
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                self._lose()
                return
        if patience.cancelled_caught:
            self.abort()
            self._lose()

    def _lose(self) -> None:
        """The client is gone, or is to go: tell its streams, then end everything of it."""
        if not self._lost:
            self._lost = True
            self._tasks.spawn(self._tell_streams)

    async def _tell_streams(self) -> None:
        with trio.move_on_after(_LOST_SECONDS):
            await self._protocol.handle(Closed())
            while self._handlers:
                self._no_handlers = trio.Event()
                await self._no_handlers.wait()
        self._scope.cancel()

    def _note_idle(self, idle: bool) -> None:
        """Start or stop the time in which the next request has to come."""
        if not idle:
            self._idle.deadline = math.inf
        elif self._context.terminated.is_set():
            self._idle.deadline = -math.inf
        else:
            self._idle.deadline = trio.current_time() + self._config.keep_alive_timeout

    async def _end_when_idle(self) -> None:
        """End the connection when it was idle for too long, or is idle and the server drains.

        A scope whose deadline moves, where upstream starts a task for each pause: that one is
        cancelled together with a handler, and then an idle connection stays open for ever.
        """
        with self._idle:
            await self._context.terminated.wait()
            if self._idle.deadline == math.inf:
                await trio.sleep_forever()
        self._linger = True
        self._scope.cancel()

    async def _close_lingering(self) -> None:
        """End our side and read on until the client's end. The caller owns the deadline."""
        try:
            if isinstance(self._stream, trio.SSLStream):
                await self._stream.aclose()
                return
            self._stream.socket.shutdown(socket.SHUT_WR)
            while await self._stream.receive_some(RECEIVE_BYTES):
                pass
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    # The takeover.

    async def _call_app(
        self, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
    ) -> None:
        head_to_join: Any = None

        async def send_or_take_over(message: Any) -> None:
            nonlocal head_to_join
            connection = message.get(CONNECTION_KEY)
            if connection is None or not self._can_take_over(scope):
                if message["type"] == "http.response.start" and connection is None and joins:
                    head_to_join = message
                    return
                if head_to_join is not None:
                    # A small response's head and body go out in one write.
                    self._joining = bytearray()
                    head, head_to_join = head_to_join, None
                    await send(head)
                await send(message)
                await self._send_joined()
                if message["type"] == "websocket.accept":
                    self._let_through()
                return
            self._head = bytearray()
            await send(message)
            head, self._head = bytes(self._head), None
            if self._lost or not _prepare(connection, scope, head):
                self._let_through()
                return
            self._taken = connection
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

        joins = scope["type"] == "http" and isinstance(self._protocol.protocol, SafeH11Protocol)
        self._handlers += 1
        try:
            await self._app(scope, receive, send_or_take_over)
        finally:
            self._handlers -= 1
            if not self._handlers:
                self._no_handlers.set()

    def _let_through(self) -> None:
        """Hand what was held behind an upgrade to Hypercorn, by way of the reading task."""
        if isinstance(self._protocol.protocol, SafeH11Protocol):
            self._protocol.protocol.let_through()
            self._reading.cancel()

    def _can_take_over(self, scope: Any) -> bool:
        return (
            self._may_take_over
            and scope["http_version"] in ("1.0", "1.1")
            and not isinstance(self._protocol.protocol, H2Protocol)
            and (scope["type"] == "websocket" or scope["method"] == "GET")
        )

    def _hand_over(self, connection: Connection) -> Link:
        """Let go of all of HTTP's objects, and return the bare stream as a link.

        An idle stream should not pay for its handshake: nothing may refer to them after this.
        """
        protocol = self._protocol.protocol
        assert isinstance(protocol, SafeH11Protocol)
        if isinstance(connection, WebSocketConnection):
            connection.use_frames(protocol.take_leftover())
        del self._protocol, self._tasks, self._idle, self._app, self._send_lock
        if isinstance(self._stream, trio.SSLStream):
            return StreamLink(self._stream)
        return SocketLink(self._stream, self._accepted)


def _prepare(connection: Connection, scope: Any, head: bytes) -> bool:
    """Say whether this is the head that the connection can go on behind; set its framing."""
    if isinstance(connection, WebSocketConnection):
        return head.startswith(b"HTTP/1.1 101 ")
    if not isinstance(connection, SSEConnection) or _SSE_HEAD.match(head) is None:
        return False
    chunked = _CHUNKED.search(head) is not None
    if _SIZED.search(head) or chunked != (scope["http_version"] == "1.1"):
        return False
    connection.use_framing(chunked=chunked)
    return True


def _socket_stream(
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
) -> trio.SocketStream:
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream


def _short(errors: BaseExceptionGroup[Exception]) -> str:
    """Name the errors without what a client could have written into them at length."""
    leaves: list[str] = []
    waiting: list[BaseException] = [errors]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(f"{type(error).__name__}: {str(error)[:120]!r}")
    return "; ".join(leaves)
