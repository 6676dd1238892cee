"""Request bodies that are pulled from the client as they are read.

Quart's own body is pushed: it takes whatever comes, read or not, and the versions for Python 3.11
and 3.13 do it differently. Pulled, a stream of any length costs one chunk of memory, and a client
that sends faster than its events are published waits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from quart.wrappers.request import Body
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge

from triocast.errors import BadRequest
from triocast.transports.links import ASGIReceive


class RequestBody(Body):
    """The body of one request: iterate over it, or await it whole."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        self._expected = expected_content_length
        self._most = max_content_length
        self._ended = False
        self._receive: ASGIReceive

    def attach(self, receive: ASGIReceive) -> None:
        """Say where the body comes from; before it is read."""
        self._receive = receive

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, of any size. Raises BadRequest if the client went away."""
        while not self._ended:
            message = await self._receive()
            if message["type"] != "http.request":
                self._ended = True
                raise BadRequest("the connection ended before the body did")
            self._ended = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            if chunk:
                return chunk
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._whole().__await__()

    async def _whole(self) -> bytes:
        if self._most is not None and (self._expected or 0) > self._most:
            raise RequestEntityTooLarge
        whole = bytearray()
        async for chunk in self:
            whole += chunk
            if self._most is not None and len(whole) > self._most:
                raise RequestEntityTooLarge
        return bytes(whole)

    def clear(self) -> None:
        """Nothing is kept."""


class Request(TrioRequest):
    body_class = RequestBody  # type: ignore[assignment]
