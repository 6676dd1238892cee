"""Tells clients that the server is full: those that come when all sockets are in use.

Each is read up to the end of its request's head, because the answer depends on it: an `EventSource`
gets the end of a stream that says when to come back, all others get 503. This goes on HTTP/1.1
alone, over TLS too: HTTP/2 is not offered to these clients.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
from typing import Final

import h11
import trio

from triocast.connections import Connections
from triocast.errors import TooManyConnections
from triocast.server.messages import read_head, write_head
from triocast.server.turnstile import Turnstile
from triocast.web.answers import refusal
from triocast.web.call import Call
from triocast.web.events import refusal_for_now
from triocast.web.origins import Origins

log = logging.getLogger("triocast.server")

REFUSAL_SECONDS: Final = 2.0
"""How long a refusal may take, until the socket is closed."""

HEAD_SECONDS: Final = 0.5
"""How long a client's request is waited for; after that it is answered without having been read."""

LINGER_SECONDS: Final = 0.5
"""How long the rest of a request is read on behind its answer."""

RECEIVE_BYTES: Final = 16_384

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")


class Refusals:
    """Refuses clients, at a bounded number at one time."""

    def __init__(
        self,
        connections: Connections,
        origins: Origins,
        *,
        most: int,
        max_head_bytes: int,
        arrivals: Turnstile,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        """``ssl_context`` is changed; it must not be that of clients who are served."""
        self._connections = connections
        self._origins = origins
        self._most = most
        self._max_head_bytes = max_head_bytes
        self._arrivals = arrivals
        self._ssl_context = ssl_context
        if ssl_context is not None:
            ssl_context.set_alpn_protocols(["http/1.1"])
        self._count = 0
        self._room = trio.Event()

    @property
    def has_room(self) -> bool:
        """Whether one more client can be refused now."""
        return self._count < self._most

    async def wait_for_room(self) -> None:
        """Return when one more client can be refused; one refusal takes `REFUSAL_SECONDS`."""
        while not self.has_room:
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    async def refuse(self, accepted: socket.socket) -> None:
        """Answer a client that there is no room for it, and close its socket."""
        self._count += 1
        try:
            with trio.move_on_after(REFUSAL_SECONDS):
                await self._answer(accepted)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client is gone, and need not be told.
        except Exception:
            log.exception("a client could not be refused, by an error of ours")
        finally:
            accepted.close()
            self._count -= 1
            self._room.set()

    async def _answer(self, accepted: socket.socket) -> None:
        plain = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
        if self._ssl_context is not None:
            stream = trio.SSLStream(
                plain, self._ssl_context, server_side=True, https_compatible=True
            )
            await self._arrivals.wait_for_turn()
            await stream.do_handshake()
        peer = accepted.getpeername()
        address = peer[0] if isinstance(peer, tuple) else None
        call = await self._read(stream, address)
        await stream.send_all(self._response(call, address))
        if isinstance(stream, trio.SSLStream):
            await stream.aclose()
            return
        accepted.shutdown(socket.SHUT_WR)
        if call is None or call.has_body:
            # Closing with something unread makes the kernel reset the connection, and the client
            # may lose the answer.
            with trio.move_on_after(LINGER_SECONDS):
                while await stream.receive_some(RECEIVE_BYTES):
                    pass

    async def _read(self, stream: trio.abc.ReceiveStream, address: str | None) -> Call | None:
        """Return the head of the request; None if it does not come in time, or is none."""
        data = b""
        with trio.move_on_after(HEAD_SECONDS):
            while len(data) <= self._max_head_bytes:
                more = await stream.receive_some(RECEIVE_BYTES)
                if not more:
                    break
                data += more
                if _END_OF_HEAD.search(data) is None:
                    continue
                try:
                    call = read_head(
                        data,
                        address=address,
                        secure=self._ssl_context is not None,
                        max_head_bytes=self._max_head_bytes,
                    )
                except h11.RemoteProtocolError:
                    break
                if call is not None:
                    return call
        return None

    def _response(self, call: Call | None, address: str | None) -> bytes:
        error = TooManyConnections("this server has all the connections that it takes")
        self._connections.note_refusal(error, address)
        if call is None:
            answer = refusal(error)
            answer.headers.append(("connection", "close"))
        else:
            answer = refusal_for_now(error, call)
            answer.headers += self._origins.response_headers(call)
        body = b"" if call is not None and call.method == "HEAD" else answer.body
        status = "200 OK" if answer.status == 200 else "503 Service Unavailable"
        headers = [*answer.headers, ("content-length", str(answer.content_length))]
        return write_head(status, headers) + body
