"""The HTTP of one client: Hypercorn's protocols, and the time in which requests must come.

A request for a stream may come behind others on a connection that is kept alive. It ends the HTTP
there, as it does on a new connection, and the socket is the stream's.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from triocast.connection import Connection
from triocast.errors import Timeout
from triocast.server.http1 import Flooded, SafeH11Protocol
from triocast.server.messages import skip_empty_lines
from triocast.server.protocols import SafeProtocol
from triocast.server.shortcuts import Shortcuts
from triocast.server.turnstile import Turnstile
from triocast.transports.links import BREAKS_OFF, close_now

RECEIVE_BYTES: Final = 65_536

MOST_HELD_BYTES: Final = 65_536
"""What is read of a client ahead of the answer to its request or upgrade."""

_WHOLE_SECONDS: Final = 1.0
"""How long the rest of a request may take before it is left to Hypercorn."""

_LOST_SECONDS: Final = 1.0
"""How long what runs for a client that is gone may take to notice."""


@attrs.frozen(kw_only=True)
class Service:
    """What all clients of a server share. Without ``shortcuts`` no stream is taken over.

    ``arrivals`` is the turnstile for the first requests of connections, ``requests`` that for
    later ones. ``note_flood`` is called with the address of a client that was ended for a flood.
    """

    app: Any
    config: Config
    context: WorkerContext
    state: dict[str, Any]
    ssl_context: ssl.SSLContext | None
    shortcuts: Shortcuts | None
    arrivals: Turnstile
    requests: Turnstile
    send_seconds: float
    note_flood: Callable[[str | None], None]


class HTTP:
    """The HTTP of one client: Hypercorn's protocols, and the time in which requests must come."""

    def __init__(
        self,
        service: Service,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        deadline: float,
    ) -> None:
        self.linger = False
        self.alpn = "http/1.1"
        self._service = service
        self._stream = stream
        self._shortcuts = service.shortcuts
        self._turnstile = service.arrivals
        self._ended = False
        self._idle = True
        self._draining = False
        self._deadline = deadline
        self._reading = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._send_lock = trio.Lock()
        self._tasks: TaskGroup
        self._protocol: SafeProtocol | None = None
        self._joining: bytearray | None = None
        self._taken: Connection | None = None
        self._lost = False
        self._handlers = 0
        self._no_handlers: trio.Event | None = None
        self._peer: tuple[str, int] | None = None

    def look_at_peer(self) -> None:
        """Note who talks to us, and in what; once TLS is set up."""
        if isinstance(self._stream, trio.SSLStream):
            self.alpn = self._stream.selected_alpn_protocol() or "http/1.1"
        peer = socket_stream(self._stream).socket
        self._peer = parse_socket_addr(peer.family, peer.getpeername())

    async def serve(self) -> Connection | None:
        """Answer requests until one is for a stream, which is returned, or until the end."""
        data: bytes | None = b""
        if self._shortcuts is not None and self.alpn != "h2":
            data = await self._receive()
            while data:
                data = await self._complete(skip_empty_lines(data))
                rest = await self._take_shortcut(data)
                if self._taken is not None or self._ended:
                    return self._taken
                if rest is None:
                    break
                data = rest or await self._receive()
            if not data:
                return None
        return await self._speak(data or b"")

    async def _receive(self, seconds: float = math.inf) -> bytes | None:
        """Return what comes next, b"" at the end.

        None after ``seconds``, when the client's time is over, or for what was held to go on.
        """
        deadline = min(self._deadline, trio.current_time() + seconds)
        with trio.CancelScope(deadline=deadline) as self._reading:
            if self._holds_enough():
                await trio.sleep_forever()
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        self.linger = self._time_is_over()
        return None

    async def _complete(self, data: bytes) -> bytes:
        """Wait a little for the rest of what can become a request for a shortcut."""
        shortcuts = self._shortcuts
        if shortcuts is not None and shortcuts.is_candidate(data):
            while shortcuts.needs_more(data):
                more = await self._receive(_WHOLE_SECONDS)
                if not more:
                    break
                data += more
        return data

    async def _take_shortcut(self, data: bytes) -> bytes | None:
        """Answer a request right here, if it is one for that; return what came behind it.

        Else None. A request for a stream is answered by its connection, which is in ``_taken``.
        """
        shortcuts = self._shortcuts
        if shortcuts is None or not shortcuts.is_candidate(data):
            return None
        await self._turnstile.wait_for_turn()
        request = shortcuts.read(
            data,
            address=self._peer[0] if self._peer else None,
            secure=isinstance(self._stream, trio.SSLStream),
        )
        if request is None:
            return None
        if request.call.method == "GET":
            self._taken = shortcuts.open(request)
            return None
        # Who is here already does not stand in line with those who come.
        self._turnstile = self._service.requests
        self._note_idle(False)
        await self._send_data(await shortcuts.reply(request))
        self._note_idle(True)
        self.linger = self._ended = self._ended or not request.keep_alive
        return request.behind

    async def _speak(self, first: bytes) -> Connection | None:
        """Go on with Hypercorn from these bytes on."""
        own = socket_stream(self._stream).socket
        # A scope of our own: Hypercorn's task group does not pass on its nursery's verdict.
        with self._scope:
            async with TaskGroup() as self._tasks:
                protocol = self._protocol = SafeProtocol(
                    self._call_app,
                    self._service.config,
                    self._service.context,
                    self._tasks,
                    ConnectionState(self._service.state.copy()),
                    isinstance(self._stream, trio.SSLStream),
                    self._peer,
                    parse_socket_addr(own.family, own.getsockname()),
                    self._send,
                    alpn_protocol=self.alpn,
                )
                await protocol.initiate()
                if await self._read(protocol, first):
                    self._lose()
                    await trio.sleep_forever()  # until what runs for this client has heard of it
                self._scope.cancel()
        return self._taken

    def drain(self) -> None:
        """No further request: end now, or when the one under way is answered."""
        self._draining = True
        if self._idle:
            self._deadline = self._reading.deadline = -math.inf

    async def _read(self, protocol: SafeProtocol, first: bytes) -> bool:
        """Hand on what the client sends; return whether that ended with the client's end."""
        data: bytes | None = first or None
        try:
            if not first:
                data = await self._receive()
            while True:
                if data is None:
                    if self._time_is_over():
                        if self._http1 is not None and self._http1.has_begun:
                            await self._http1.refuse(Timeout("the request did not come in time"))
                        self.linger = True
                        return False
                    # A request or an upgrade was answered: what was held behind it goes on now.
                    await protocol.resume()
                else:
                    if data and self._idle and self._http1 is not None and self._http1.at_rest:
                        data = await self._complete(skip_empty_lines(data))
                        rest = await self._take_shortcut(data)
                        if self._taken is not None or self._ended:
                            return False
                        if rest is not None:
                            data = rest or await self._receive()
                            continue
                    await protocol.handle(RawData(data))
                    if not data:
                        return True
                data = await self._receive()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return True

    @property
    def _http1(self) -> SafeH11Protocol | None:
        return None if self._protocol is None else self._protocol.http1

    def _time_is_over(self) -> bool:
        return self._idle and trio.current_time() >= self._deadline

    def _holds_enough(self) -> bool:
        """Whether the client has to wait with more until what it sent has its turn."""
        return self._http1 is not None and self._http1.held_bytes > MOST_HELD_BYTES

    async def _send(self, event: Any) -> None:
        """What Hypercorn's protocols call to reach the client."""
        if isinstance(event, RawData):
            if self._joining is not None:
                self._joining += event.data
            elif event.data:
                await self._send_data(event.data)
            return
        await self._send_joined()
        if isinstance(event, Flooded):
            self._service.note_flood(self._peer[0] if self._peer else None)
        if isinstance(event, Closed):
            self.linger = True
            self._lose()
        elif isinstance(event, Updated):
            self._note_idle(event.idle)
            if event.idle and self._http1 is not None and self._http1.paused:
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
                with trio.move_on_after(self._service.send_seconds, shield=True) as patience:
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                self._lose()
                return
        if patience.cancelled_caught:
            close_now(socket_stream(self._stream))
            self._lose()

    def _lose(self) -> None:
        """The client is gone, or is to go: tell its streams, then end everything of it."""
        self._ended = True
        if not self._lost and self._protocol is not None:
            self._lost = True
            self._tasks.spawn(self._tell_streams)

    async def _tell_streams(self) -> None:
        with trio.move_on_after(_LOST_SECONDS):
            assert self._protocol is not None
            await self._protocol.handle(Closed())
            while self._handlers:
                self._no_handlers = trio.Event()
                await self._no_handlers.wait()
        self._scope.cancel()

    def _note_idle(self, idle: bool) -> None:
        """Start or stop the time in which the next request has to come.

        A deadline that moves, where upstream starts a task for each pause: that one is cancelled
        together with a handler, and then an idle connection stays open for ever.
        """
        self._idle = idle
        if not idle:
            self._deadline = math.inf
        elif self._draining:
            self._deadline = -math.inf
        else:
            self._deadline = trio.current_time() + self._service.config.keep_alive_timeout
        self._reading.deadline = self._deadline

    async def _call_app(
        self, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
    ) -> None:
        head: Any = None
        joins = scope["type"] == "http" and self._http1 is not None

        async def send_joined(message: Any) -> None:
            """Send a small response's head and body in one write."""
            nonlocal head
            if joins and message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                self._joining = bytearray()
                start, head = head, None
                await send(start)
            await send(message)
            await self._send_joined()
            if message["type"] == "websocket.accept" and self._http1 is not None:
                # What was held behind the upgrade goes on, by way of the reading task.
                self._http1.let_through()
                self._reading.cancel()

        if scope["type"] == "http":
            scope["extensions"] = {**(scope.get("extensions") or {}), BREAKS_OFF: {}}
        self._handlers += 1
        try:
            await self._service.app(scope, receive, send_joined)
        finally:
            self._handlers -= 1
            if not self._handlers and self._no_handlers is not None:
                self._no_handlers.set()


def socket_stream(
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
) -> trio.SocketStream:
    """Return the stream of the socket itself."""
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
