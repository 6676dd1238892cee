"""Answers in JSON, and refusals in one form: ``{"code", "message", "temporary"}``."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from quart import Response
from werkzeug.datastructures import Headers

from triocast.errors import TriocastError, UpgradeRequired, WrongContentEncoding


@attrs.define
class Answer:
    """A whole response, for Quart as well as for plain ASGI. Header names are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    is_unfinished: bool = False
    """Whether it breaks off before its end. A client that reads streams comes back after that, and
    after a whole one perhaps not."""

    @property
    def content_length(self) -> int:
        """What ``Content-Length`` says: one more than there is of a body that breaks off."""
        return len(self.body) + self.is_unfinished

    @property
    def has_content(self) -> bool:
        """False for 204 and 304, which must not say ``Content-Length: 0`` (RFC 9110, 8.6)."""
        return self.status not in (204, 304)

    def as_response(self) -> Response:
        """Return this as Quart has it."""
        kind = UnfinishedResponse if self.is_unfinished else Response
        response = kind(self.body, status=self.status, headers=Headers(self.headers))
        if self.is_unfinished:
            response.headers["Content-Length"] = str(self.content_length)
        if not self.has_content:
            # Quart's own describe an empty page. With a 304, caches would take them over.
            del response.headers["Content-Type"], response.headers["Content-Length"]
        return response


class UnfinishedResponse(Response):
    """A response that breaks off before its end."""


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return a value as JSON that no cache keeps."""
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    return Answer(status, headers, msgspec.json.encode(value))


def refusal(error: TriocastError, *, status: int | None = None, code: str | None = None) -> Answer:
    """Return the answer that an error stands for, with the headers that say what would help."""
    body = error.as_dict()
    if code is not None:
        body["code"] = code
    answer = json_answer(body, error.status if status is None else status)
    if error.temporary:
        answer.headers.append(("retry-after", str(error.retry_after)))
    if answer.status == 401:
        answer.headers.append(("www-authenticate", "Bearer"))
    if isinstance(error, UpgradeRequired):  # RFC 9110, 15.5.22; RFC 6455, 4.2.2
        answer.headers += [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
        ]
    if isinstance(error, WrongContentEncoding):
        answer.headers.append(("accept-encoding", "identity"))  # RFC 9110, 12.5.3
    return answer


def failure() -> Answer:
    """Return the answer to a request that met an error of ours: it says nothing about it."""
    return refusal(TriocastError("an error of ours; it has been logged"), code="internal")
