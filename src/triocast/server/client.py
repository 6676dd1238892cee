"""One client's TCP connection, from its first byte to its end, with a guard around it.

`triocast.server.http` answers its requests. One for a stream ends that: the socket is the stream's
connection's from then on. Whatever is raised there ends this connection and no other.
"""

from __future__ import annotations

import logging
import socket
from typing import Final

import h2.exceptions
import h11
import trio
import wsproto.utilities

from triocast.clock import Seldom
from triocast.connection import Connection
from triocast.link import Link
from triocast.server.http import HTTP, RECEIVE_BYTES, Service, socket_stream
from triocast.transports.links import SocketLink, StreamLink, close_now

log = logging.getLogger("triocast.server")

PROTOCOL_ERRORS: Final = (
    h11.RemoteProtocolError,
    h2.exceptions.ProtocolError,
    wsproto.utilities.RemoteProtocolError,
)
"""What the parsers of HTTP and WebSocket raise for input that breaks their protocols."""

_error_log = Seldom(1.0)

LINGER_SECONDS: Final = 1.0
"""How long a closed connection is read on, so that the kernel does not reset it under the last
response while the client is still sending."""


class Client:
    """One accepted socket."""

    __slots__ = ("_accepted", "_http", "_service", "_stream")

    def __init__(self, service: Service, accepted: socket.socket) -> None:
        self._service = service
        # The stream closes this very socket; it stays here for what writes to it directly.
        self._accepted = accepted
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if service.ssl_context is not None:
            self._stream = trio.SSLStream(
                stream, service.ssl_context, server_side=True, https_compatible=True
            )
        self._http: HTTP | None = None

    async def run(self) -> None:
        """Serve the client. Lets nothing out but cancellation."""
        linger = False
        try:
            taken = await self._serve_requests()
            if taken is not None:
                # An idle stream should not pay for its handshake: nothing refers to it any more.
                self._http = None
                await taken.run(self._link())
            else:
                linger = self._http is None or self._http.linger
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client is gone, and has been told nothing it could miss.
        except* PROTOCOL_ERRORS as errors:
            log.warning("a client's input ended its connection: %s", _short(errors))
            log.debug("details", exc_info=errors)
        except* Exception as errors:
            # A client that finds out how to cause it could fill the log with tracebacks.
            with_traceback = _error_log.count(trio.current_time()) > 0
            log.error(
                "the connection of a client was ended by an error of ours: %s",
                _short(errors),
                exc_info=errors if with_traceback else None,
            )
        finally:
            if linger:
                with trio.move_on_after(LINGER_SECONDS, shield=True):
                    await self._close_lingering()
            self.abort()

    def abort(self) -> None:
        """Close the stream at once; whoever waits on it is woken with an error."""
        close_now(socket_stream(self._stream))

    def drain(self) -> None:
        """End the connection if no request is under way, else behind that request."""
        if self._http is not None:
            self._http.drain()

    async def _serve_requests(self) -> Connection | None:
        """Answer requests until one is for a stream, which is returned, or until the end."""
        config = self._service.config
        patience = min(config.keep_alive_timeout, config.ssl_handshake_timeout)
        http = self._http = HTTP(self._service, self._stream, trio.current_time() + patience)
        if isinstance(self._stream, trio.SSLStream):
            await self._service.arrivals.wait_for_turn()
            with trio.move_on_after(config.ssl_handshake_timeout) as handshaking:
                await self._stream.do_handshake()
            if handshaking.cancelled_caught:
                return None
        http.look_at_peer()
        return await http.serve()

    def _link(self) -> Link:
        if isinstance(self._stream, trio.SSLStream):
            return StreamLink(self._stream)
        return SocketLink(self._stream, self._accepted)

    async def _close_lingering(self) -> None:
        """End our side and read on until the client's end. The caller owns the deadline.

        TLS gets no ``close_notify``: HTTPS clients do without it, and it would not make them close.
        """
        stream = socket_stream(self._stream)
        try:
            stream.socket.shutdown(socket.SHUT_WR)
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return


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
