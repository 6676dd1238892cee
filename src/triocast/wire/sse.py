"""Server-Sent Events: blocks of the ``text/event-stream`` format, and HTTP/1.1 chunks.

Source of the format: WHATWG HTML, section 9.2 "Server-sent events". A block is lines of
``field: value`` ended by an empty line. An ``id`` without ``data`` moves a browser's cursor and
raises no event, which is what heartbeats use.
"""

from __future__ import annotations

import re
from typing import Final

from triocast.errors import InvalidEvent

LAST_CHUNK: Final = b"0\r\n\r\n"
"""Ends a chunked body (RFC 9112, section 7.1)."""

UNNAMED: Final = frozenset({"error", "open"})
"""Types that never stand in an ``event:`` line: an `EventSource` has events of its own by these
names, and would call the page's handlers for them."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_FORBIDDEN = re.compile(r"[\r\n\x00]")


def block(
    *,
    data: bytes | None = None,
    event: str | None = None,
    id: str | None = None,
    retry_ms: int | None = None,
    comment: str | None = None,
) -> bytes:
    """Return one block. ``data`` of several lines becomes several ``data:`` lines.

    ``data`` is JSON, or text without U+2028, U+2029 and U+0085: these are escaped as in JSON.
    Raises InvalidEvent if ``event``, ``id`` or ``comment`` holds CR, LF or NUL: passing them on
    would let a publisher write lines of their own into other people's streams.
    """
    lines: list[bytes] = []
    for name, value in (("", comment), ("event", event), ("id", id)):
        if value is not None:
            if _FORBIDDEN.search(value):
                raise InvalidEvent(f"{name or 'comment'} must not hold CR, LF or NUL")
            lines.append(f"{name}: {value}".encode())
    if retry_ms is not None:
        lines.append(b"retry: %d" % retry_ms)
    if data is not None:
        data = _escape(data)
        if b"\n" in data or b"\r" in data:
            lines += (b"data: " + line for line in _LINE_END.split(data))
        else:
            lines.append(b"data: " + data)
    lines.append(b"\n")
    return b"\n".join(lines)


def _escape(json: bytes) -> bytes:
    """Escape what JSON has as it is, and clients that split text by Unicode take for line ends."""
    if b"\xe2\x80" in json:
        json = json.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    if b"\xc2\x85" in json:
        json = json.replace(b"\xc2\x85", rb"\u0085")
    return json


def chunk(data: bytes) -> bytes:
    """Return data as one HTTP/1.1 chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
