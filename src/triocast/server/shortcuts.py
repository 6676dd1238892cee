"""Requests that come so often that they are answered without Hypercorn: streams and publishes.

Hypercorn and Quart spend most of a request's time on what these requests do not need. So where one
of them is there as a whole, h11 reads it and the function behind its endpoint answers it, under
the same rules. Whatever is not such a request, or is a stream that is refused, goes to Hypercorn
and Quart as if nobody had looked at it.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

import h11

from triocast.connection import Connection
from triocast.errors import TriocastError
from triocast.node import Node
from triocast.server.handshake import (
    open_peerjs,
    open_signaling,
    open_stream,
    open_websocket,
)
from triocast.server.messages import Request, read_request, write_head
from triocast.transports.links import ASGIReceive
from triocast.web import events, peerjs, plain, publish, signaling, websocket
from triocast.web.origins import Origins

MOST_BODY_BYTES: Final = 65_536
"""Larger bodies, and those that come bit by bit, are Hypercorn's business."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)
_EXPECT: Final = re.compile(rb"\r\nexpect:", re.IGNORECASE)


class Shortcuts:
    """What one server answers by itself."""

    def __init__(self, node: Node, origins: Origins, *, max_head_bytes: int) -> None:
        self._node = node
        self._origins = origins
        self._max_head_bytes = max_head_bytes
        self._streams = {
            events.PATH.encode(): open_stream,
            websocket.PATH.encode(): open_websocket,
            signaling.PATH.encode(): open_signaling,
            (node.settings.peerjs_path.rstrip("/") + peerjs.PATH).encode(): open_peerjs,
        }
        self._endpoints = {path.encode(): each for path, each in publish.ENDPOINTS.items()}
        self._beginnings = tuple(
            [b"GET " + path for path in self._streams]
            + [b"POST " + path for path in self._endpoints]
        )

    def is_candidate(self, data: bytes) -> bool:
        """Whether these bytes can become a request that is answered here, or are one."""
        return data.startswith(self._beginnings) or any(
            beginning.startswith(data) for beginning in self._beginnings
        )

    def needs_more(self, data: bytes) -> bool:
        """Whether a candidate is not whole, and worth waiting for."""
        end = data.find(_END_OF_HEAD)
        if end < 0:
            return len(data) < self._max_head_bytes
        length = _LENGTH.search(data, 0, end + 2)
        if length is None or _EXPECT.search(data, 0, end):
            return False
        body_bytes = int(length[1])
        return body_bytes <= MOST_BODY_BYTES and len(data) < end + 4 + body_bytes

    def read(self, data: bytes, *, address: str | None, secure: bool) -> Request | None:
        """Return the request that the data begins with, if it can be answered here."""
        if not data.startswith(self._beginnings):
            return None
        try:
            request = read_request(
                data, address=address, secure=secure, max_head_bytes=self._max_head_bytes
            )
        except h11.RemoteProtocolError:
            return None  # Hypercorn says what is wrong with it.
        if request is None:
            return None
        if request.call.method == "GET":
            return request if request.path in self._streams else None
        known = request.path in self._endpoints and request.call.method == "POST"
        return request if known and request.call.http_version == "1.1" else None

    def open(self, request: Request) -> Connection | None:
        """Return the connection of a request for a stream, ready to run.

        None for one that is to be answered in another way; nothing has happened then.
        """
        try:
            return self._streams[request.path](self._node, self._origins, request)
        except TriocastError:
            return None  # Quart says why.

    async def reply(self, request: Request) -> bytes:
        """Answer a publish; return the whole response."""
        endpoint = self._endpoints[request.path]
        answer = await plain.answer(
            endpoint, self._node, self._origins, request.call, _whole(request.body)
        )
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        if not request.keep_alive:
            headers.append(("connection", "close"))
        status = HTTPStatus(answer.status)
        return write_head(f"{status.value} {status.phrase}", headers) + answer.body


def _whole(body: bytes) -> ASGIReceive:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
