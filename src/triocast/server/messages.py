"""HTTP/1 messages without I/O: a request that is there as a whole, and the head of a response."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final

import attrs
import h11

from triocast.web.call import Call

MAX_PIECES: Final = 16
"""Pieces of a body that are parsed at once."""


@attrs.frozen
class Request:
    """A whole request, and the bytes behind it."""

    path: bytes
    call: Call
    body: bytes
    behind: bytes
    keep_alive: bool


def read_request(
    data: bytes, *, address: str | None, secure: bool, max_head_bytes: int
) -> Request | None:
    """Return the request that ``data`` begins with; None if it is not whole, or in many pieces.

    Raises h11.RemoteProtocolError if it is none.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
    parser.receive_data(data)
    head = parser.next_event()
    if not isinstance(head, h11.Request):
        return None
    body = []
    while isinstance(event := parser.next_event(), h11.Data):
        body.append(bytes(event.data))
        if len(body) > MAX_PIECES:
            return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    path = head.target.partition(b"?")[0]
    call = _call(head, address=address, secure=secure)
    closing = parser.their_state is h11.MUST_CLOSE
    return Request(path, call, b"".join(body), parser.trailing_data[0], not closing)


def read_head(
    data: bytes, *, address: str | None, secure: bool, max_head_bytes: int
) -> Call | None:
    """Return the call that ``data`` begins with, whatever follows; None if it is not whole.

    Raises h11.RemoteProtocolError if it is none.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
    parser.receive_data(data)
    head = parser.next_event()
    return _call(head, address=address, secure=secure) if isinstance(head, h11.Request) else None


def _call(head: h11.Request, *, address: str | None, secure: bool) -> Call:
    return Call(
        method=head.method.decode(),
        scheme="https" if secure else "http",
        http_version=head.http_version.decode(),
        query_string=head.target.partition(b"?")[2],
        headers=list(head.headers),
        address=address,
    )


def write_head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a response, with its date; ``status`` is code and phrase."""
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
