"""REST calls, whole or line by line, and waiting for what they tell."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from e2e.servers import Server

PATIENCE = 20.0
"""Seconds within which a server on a slow machine must have done its part."""


def until(reached: Callable[[], Any], what: str) -> Any:
    """Ask again and again until `reached` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (value := reached()):
        assert time.monotonic() < deadline, f"in {PATIENCE} s there was no {what}"
    return value


@dataclass
class Answer:
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers.get("content-type") == "application/json", (self.headers, self.body)
        return json.loads(self.body)


def call(
    server: Server,
    method: str,
    target: str,
    body: bytes | None = None,
    content_type: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request on a connection of its own."""
    connection = _connection(server)
    try:
        sent = dict(headers or {})
        if content_type is not None:
            sent["Content-Type"] = content_type
        # A server may refuse a large body before it has all of it; its answer is there to read.
        with suppress(BrokenPipeError):
            connection.request(method, target, body, sent)
        return _answer(connection.getresponse())
    finally:
        connection.close()


def post(
    server: Server, target: str, value: Any, *, headers: Mapping[str, str] | None = None
) -> Answer:
    """Post a value as JSON."""
    body = json.dumps(value).encode()
    return call(server, "POST", target, body, "application/json", headers=headers)


def publish(server: Server, target: str = "/realtime/broadcast", **event: Any) -> dict[str, Any]:
    """Publish one event that must be taken; return the answer."""
    answer = post(server, target, event)
    assert answer.status == 200, answer
    return answer.json


def stats(server: Server, *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    answer = call(server, "GET", "/realtime/stats", headers=headers)
    assert answer.status == 200, answer
    return answer.json


def _connection(server: Server) -> http.client.HTTPConnection:
    if server.trust is None:
        return http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    return http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=PATIENCE, context=server.trust
    )


def _answer(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


class Upload:
    """A POST of NDJSON whose body stays open: lines go out one by one."""

    def __init__(
        self,
        server: Server,
        target: str = "/realtime/broadcast",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = _connection(server)
        self._connection.putrequest("POST", target)
        self._connection.putheader("Content-Type", "application/x-ndjson")
        self._connection.putheader("Transfer-Encoding", "chunked")
        for name, value in (headers or {}).items():
            self._connection.putheader(name, value)
        self._connection.endheaders()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def send(self, data: bytes) -> None:
        """Send a piece of the body, a chunk of its own."""
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def line(self, **event: Any) -> None:
        self.send(json.dumps(event).encode() + b"\n")

    def finish(self) -> Answer:
        """End the body and return the answer."""
        self._connection.send(b"0\r\n\r\n")
        return _answer(self._connection.getresponse())

    def cut(self) -> None:
        """Close the connection in the midst of the body."""
        self._connection.close()
