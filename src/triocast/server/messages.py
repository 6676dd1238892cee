"""HTTP/1 messages without I/O: requests as we demand them, and the heads of responses."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, Final

import attrs
import h11

from triocast.errors import (
    BadRequest,
    HeadTooLarge,
    NotSupported,
    TriocastError,
    VersionNotSupported,
)
from triocast.web.call import Call
from triocast.web.targets import check_framing, split_target, with_authority

MAX_PIECES: Final = 16
"""Pieces of a body that are parsed at once."""

MAX_EMPTY_LINES: Final = 8
"""Empty lines before a request that are passed over (RFC 9112, 2.2)."""

_EMPTY_LINES: Final = re.compile(rb"(?:\r?\n){1,%d}" % MAX_EMPTY_LINES)
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?"  # RFC 3986, 3.2
)


class RefusedRequest(h11.RemoteProtocolError):
    """A request that h11 would take, and we do not."""

    def __init__(self, error: TriocastError) -> None:
        super().__init__(error.message, error_status_hint=error.status)
        self.error = error


def error_of(error: h11.RemoteProtocolError) -> TriocastError:
    """Return what the client is told about a request that is none."""
    if isinstance(error, RefusedRequest):
        return error.error
    if error.error_status_hint == HeadTooLarge.status:
        return HeadTooLarge("the head of the request is larger than max_header_bytes")
    if error.error_status_hint == NotSupported.status:
        return NotSupported(f"this is not supported: {error}")
    return BadRequest(f"this is no request that HTTP/1.1 allows: {str(error)[:200]}")


class RequestParser(h11.Connection):
    """h11's parser of requests, stricter and more patient than it is (checked with h11 0.16).

    It passes over empty lines before a request, bounds heads that come in one piece too, and
    refuses bodies whose end is in doubt.
    """

    def __init__(self, *, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self.refused: h11.RemoteProtocolError | None = None
        """Why the client's input is not read further."""
        self.method: bytes | None = None
        """The method of the request under way."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Its headers: h11's own take long to go through."""
        self._max_head_bytes = max_head_bytes
        self._empty_lines = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return what h11 does. Raises h11.RemoteProtocolError."""
        try:
            return self._next_request() if self.their_state is h11.IDLE else super().next_event()
        except h11.RemoteProtocolError as error:
            self.refused = error
            raise

    def _next_request(self) -> Any:
        if self._skip_empty_lines():
            return h11.NEED_DATA
        before = len(self._receive_buffer)
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._empty_lines = 0
            self.method = event.method
            try:
                if before - len(self._receive_buffer) > self._max_head_bytes:
                    raise HeadTooLarge("the head of the request is larger than max_header_bytes")
                self.headers = list(event.headers)
                _check(event, self.headers)
            except TriocastError as error:
                raise RefusedRequest(error) from None
        return event

    def _skip_empty_lines(self) -> bool:
        """Pass over empty lines; return whether there is only the beginning of another one."""
        data = self._receive_buffer._data
        while data and data[0] in b"\r\n" and self._empty_lines < MAX_EMPTY_LINES:
            begin = bytes(data[:2])
            if begin == b"\r":
                return True
            length = 1 if begin[:1] == b"\n" else 2 if begin == b"\r\n" else 0
            if not length:
                break
            self._receive_buffer.maybe_extract_at_most(length)
            self._empty_lines += 1
        return False


def skip_empty_lines(data: bytes) -> bytes:
    """Return data without the empty lines that it begins with, unless there is nothing else."""
    if data[:1] not in (b"\r", b"\n"):
        return data
    lines = _EMPTY_LINES.match(data)
    return data if lines is None or lines.end() == len(data) else data[lines.end() :]


def _check(head: h11.Request, headers: list[tuple[bytes, bytes]]) -> None:
    """Raise TriocastError for a head that h11 takes, and we do not."""
    if head.http_version not in (b"1.0", b"1.1"):
        if head.method == b"PRI":
            return  # The beginning of HTTP/2.
        raise VersionNotSupported("this server speaks HTTP/1.0, HTTP/1.1 and HTTP/2")
    if head.method == b"CONNECT" or not head.method.isupper():
        raise NotSupported("this method is not known here; methods are in capitals")
    split_target(head.target)
    check_framing(headers, head.http_version.decode())
    for name, value in headers:
        if name == b"host" and _HOST.fullmatch(value) is None:
            raise BadRequest("the header Host is no host")


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
    parser = RequestParser(max_head_bytes=max_head_bytes)
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
    authority, target = split_target(head.target)
    path, _, query = target.partition(b"?")
    headers = with_authority(parser.headers, authority)
    call = _call(head, query, headers, address=address, secure=secure)
    closing = parser.their_state is h11.MUST_CLOSE
    return Request(path, call, b"".join(body), parser.trailing_data[0], not closing)


def read_head(
    data: bytes, *, address: str | None, secure: bool, max_head_bytes: int
) -> Call | None:
    """Return the call that ``data`` begins with, whatever follows; None if it is not whole.

    Raises h11.RemoteProtocolError if it is none.
    """
    parser = RequestParser(max_head_bytes=max_head_bytes)
    parser.receive_data(data)
    head = parser.next_event()
    if not isinstance(head, h11.Request):
        return None
    authority, target = split_target(head.target)
    headers = with_authority(parser.headers, authority)
    return _call(head, target.partition(b"?")[2], headers, address=address, secure=secure)


def _call(
    head: h11.Request,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    address: str | None,
    secure: bool,
) -> Call:
    return Call(
        method=head.method.decode(),
        scheme="https" if secure else "http",
        http_version=head.http_version.decode(),
        query_string=query,
        headers=headers,
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
