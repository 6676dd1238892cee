"""What Hypercorn refuses by itself, in the form that all our refusals have: JSON with a code."""

from __future__ import annotations

from typing import Any

from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

from triocast.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    NotFound,
    TriocastError,
    UpgradeRequired,
)
from triocast.web.answers import Answer, refusal

_OF_HTTP_1 = ("connection", "upgrade")
"""Headers about the connection, which HTTP/2 does not have (RFC 9113, 8.2.2)."""

_ERRORS: dict[int, TriocastError] = {
    400: BadRequest("this is no handshake of a WebSocket, or something came before its answer"),
    403: Forbidden("this WebSocket is refused"),
    404: NotFound("there is no such host here"),
}


def error_of_status(status: int) -> TriocastError:
    """Return the error that Hypercorn means by a status."""
    return _ERRORS.get(status) or InternalError()


def encode_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Return the headers of a whole answer as Hypercorn has them."""
    headers = [*answer.headers, ("content-length", str(len(answer.body)))]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def send_error(stream: Any, error: TriocastError) -> None:
    """Answer a stream of Hypercorn with an error, whole."""
    answer = refusal(error)
    if stream.scope["http_version"] == "2":
        if isinstance(error, UpgradeRequired):
            answer.status = 400  # There is no upgrade to ask for.
        answer.headers = [pair for pair in answer.headers if pair[0] not in _OF_HTTP_1]
    elif not isinstance(error, UpgradeRequired):
        answer.headers.append(("connection", "close"))
    response = Response(
        stream_id=stream.stream_id, status_code=answer.status, headers=encode_headers(answer)
    )
    await stream.send(response)
    if stream.scope.get("method") != "HEAD":
        await stream.send(Body(stream_id=stream.stream_id, data=answer.body))
    await stream.send(EndBody(stream_id=stream.stream_id))


async def refuse_stream(stream: Any, error: TriocastError) -> None:
    """Answer a stream of HTTP/2 with an error, and end it.

    In a task of its own: what is sent waits for windows that the client opens, and so for what is
    read.
    """
    await send_error(stream, error)
    await stream.send(StreamClosed(stream_id=stream.stream_id))


class SafeHTTPStream(HTTPStream):
    """One HTTP request and its response."""

    async def _send_error_response(self, status_code: int) -> None:
        await send_error(self, error_of_status(status_code))
        self.state = ASGIHTTPState.CLOSED
