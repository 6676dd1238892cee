"""The handshakes of streams, answered without Hypercorn and Quart: for a third of their cost.

After a restart all clients return at once, and what a handshake costs decides how long they wait.
So a plain request for a stream is read by h11 and answered right here, and the stream belongs to
its connection from the first byte on: it is *taken over*. Who may come in and what it subscribes
to is decided by the very functions behind Quart's endpoints. Whatever is not such a request, or
is refused, goes to Hypercorn and Quart as if nobody had looked at it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import time
from email.utils import formatdate
from typing import Final

import attrs
import h11
from websockets.utils import accept_key

from triocast.connection import Connection
from triocast.errors import TriocastError
from triocast.node import Node
from triocast.web import events, websocket
from triocast.web.call import Call
from triocast.web.origins import Origins

_END_OF_HEAD: Final = b"\r\n\r\n"

Headers = list[tuple[str, str]]


@attrs.frozen
class _Request:
    """A whole request without a body, and what came behind it."""

    path: bytes
    call: Call
    behind: bytes


class Handshakes:
    """Answers requests for streams on one server."""

    def __init__(self, node: Node, origins: Origins, *, max_head_bytes: int) -> None:
        self._node = node
        self._origins = origins
        self._max_head_bytes = max_head_bytes
        self._routes = {
            events.PATH.encode(): self._open_stream,
            websocket.PATH.encode(): self._open_websocket,
        }
        self._beginnings = [b"GET " + path for path in self._routes]

    def is_candidate(self, data: bytes) -> bool:
        """Whether these first bytes can become a request for a stream, or are one."""
        return any(
            data.startswith(beginning) or beginning.startswith(data)
            for beginning in self._beginnings
        )

    def needs_more(self, data: bytes) -> bool:
        """Whether a candidate is still without its end, and may be."""
        return _END_OF_HEAD not in data and len(data) < self._max_head_bytes

    def answer(self, data: bytes, *, address: str | None, secure: bool) -> Connection | None:
        """Return the connection that a request opens, ready to run, with its head as preface.

        None for anything that is not such a request, or is refused: nothing has happened then.
        """
        try:
            request = self._parse(data, address=address, secure=secure)
            open_connection = None if request is None else self._routes.get(request.path)
            if request is None or open_connection is None:
                return None
            return open_connection(request)
        except (h11.RemoteProtocolError, TriocastError):
            return None  # Hypercorn or Quart say what is wrong with it.

    def _parse(self, data: bytes, *, address: str | None, secure: bool) -> _Request | None:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head_bytes)
        parser.receive_data(data)
        head = parser.next_event()
        if not isinstance(head, h11.Request) or head.method != b"GET":
            return None
        if not isinstance(parser.next_event(), h11.EndOfMessage):
            return None  # It has a body, or its body is to come.
        path, _, query = head.target.partition(b"?")
        call = Call(
            method="GET",
            scheme="https" if secure else "http",
            http_version=head.http_version.decode(),
            query_string=query,
            headers=list(head.headers),
            address=address,
        )
        return _Request(path, call, parser.trailing_data[0])

    def _open_stream(self, request: _Request) -> Connection | None:
        call = request.call
        if "Upgrade" in call.headers:
            return None  # to HTTP/2, perhaps
        self._origins.check_http(call)
        connection = events.open_stream(self._node, call)
        self._node.connections.admit(connection)
        chunked = call.http_version == "1.1"
        connection.use_framing(chunked=chunked)
        headers = [*events.HEADERS.items(), *self._origins.response_headers(call)]
        if chunked:
            headers += [("connection", "keep-alive"), ("transfer-encoding", "chunked")]
        else:
            headers += [("connection", "close")]
        connection.preface = _head("200 OK", headers)
        return connection

    def _open_websocket(self, request: _Request) -> Connection | None:
        call = request.call
        key = _websocket_key(call)
        if key is None:
            return None
        self._origins.check(call)
        connection = websocket.open_websocket(self._node, call)
        self._node.connections.admit(connection)
        headers = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", accept_key(key)),
        ]
        subprotocol = websocket.choose_subprotocol(call)
        if subprotocol is not None:
            headers.append(("sec-websocket-protocol", subprotocol))
        connection.use_frames(request.behind)
        connection.preface = _head("101 Switching Protocols", headers)
        return connection


def _head(status: str, headers: Headers) -> bytes:
    date = _date(int(time.time()))
    lines = [
        f"HTTP/1.1 {status}",
        f"date: {date}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _websocket_key(call: Call) -> str | None:
    """Return the key of a well-formed opening handshake (RFC 6455, section 4.2.1), else None."""
    headers = call.headers
    keys = headers.all("Sec-WebSocket-Key")
    well_formed = (
        call.http_version == "1.1"
        and [upgrade.lower() for upgrade in headers.all("Upgrade")] == ["websocket"]
        and "upgrade" in (token.lower() for token in headers.tokens("Connection"))
        and headers.all("Sec-WebSocket-Version") == ["13"]
        and len(keys) == 1
    )
    if not well_formed:
        return None
    try:
        nonce = base64.b64decode(keys[0], validate=True)
    except (binascii.Error, ValueError):
        return None
    return keys[0] if len(nonce) == 16 else None
