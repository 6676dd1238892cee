"""Small clients of the served protocols, over blocking sockets: a stream of Server-Sent Events, and
a WebSocket that matches answers to requests."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import h11
from websockets.sync.client import connect

from e2e.rest import PATIENCE, Answer, Upload, call, post, publish, stats, until
from e2e.servers import Server

__all__ = [
    "HEARTBEAT",
    "PATIENCE",
    "Answer",
    "Block",
    "Socket",
    "Stream",
    "Upload",
    "call",
    "post",
    "publish",
    "stats",
    "until",
]

HEARTBEAT = "HEARTBEAT"


# Server-Sent Events


@dataclass
class Block:
    """One block of an event stream; `comments` are without their colon and the space after it."""

    comments: list[str] = field(default_factory=list)
    event: str | None = None
    id: str | None = None
    retry: str | None = None
    data: str | None = None

    @classmethod
    def parse(cls, text: str) -> Block:
        block = cls()
        data: list[str] = []
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                block.comments.append(value)
            elif name == "data":
                data.append(value)
            else:
                assert name in ("event", "id", "retry"), f"a client does not know {line!r}"
                assert getattr(block, name) is None, f"a second {name!r} in {text!r}"
                setattr(block, name, value)
        block.data = "\n".join(data) if data else None
        return block


class Stream:
    """A reader of `/realtime/events` over HTTP/1.1. `options` are the query; lists repeat."""

    def __init__(
        self,
        server: Server,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._sock = server.connect(patience=PATIENCE)
        try:
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
            query = urlencode(options, doseq=True)
            target = "/realtime/events" + (f"?{query}" if query else "")
            fields = {"Host": server.authority, "Accept": "text/event-stream", **(headers or {})}
            head = h11.Request(method=method, target=target, headers=list(fields.items()))
            self._sock.sendall(self._http.send(head) + self._http.send(h11.EndOfMessage()))
            response = self._next()
            assert isinstance(response, h11.Response), response
        except BaseException:
            self._sock.close()
            raise
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        self._text = b""
        self._blocks: deque[Block] = deque()
        self.is_broken = False
        """Whether it ended without the end of the response, as where clients should come back."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def block(self) -> Block | None:
        """Return the next block; None at the end of the stream. Raises TimeoutError."""
        while not self._blocks:
            try:
                event = self._next()
            except h11.RemoteProtocolError:
                self.is_broken = True
                event = h11.EndOfMessage()
            if isinstance(event, h11.EndOfMessage):
                assert not self._text, f"the stream ended within a block: {self._text!r}"
                return None
            assert isinstance(event, h11.Data), event
            *blocks, self._text = (self._text + bytes(event.data)).split(b"\n\n")
            self._blocks += [Block.parse(block.decode()) for block in blocks]
        return self._blocks.popleft()

    def opened(self) -> Block:
        """Return the first block: from here on events are live."""
        assert self.status == 200, self.status
        block = self.block()
        assert block is not None
        assert block.data is not None
        hello = json.loads(block.data)
        assert hello["type"] == "connected"
        assert hello.get("id") == block.id
        return block

    def event(self) -> dict[str, Any]:
        """Return the next event or gap."""
        while True:
            block = self.block()
            assert block is not None, "the stream ended"
            if block.data is not None:
                event: dict[str, Any] = json.loads(block.data)
                if event["type"] not in (HEARTBEAT, "connected", "live"):
                    assert event.get("id") == block.id
                    return event

    def events(self, count: int) -> list[dict[str, Any]]:
        return [self.event() for _ in range(count)]

    def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._sock.recv(1 << 16))
        return event


# WebSocket


class Socket:
    """A client of `/realtime/ws`. `hello` is the server's first message."""

    def __init__(
        self,
        server: Server,
        query: str = "",
        *,
        subprotocols: list[Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        scheme, trust = ("ws", None) if server.trust is None else ("wss", server.trust)
        opening = connect(
            f"{scheme}://{server.authority}/realtime/ws{query}",
            ssl=trust,
            additional_headers=headers,
            subprotocols=subprotocols,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            ping_interval=None,
            compression=None,
            proxy=None,
        )
        self._ids = itertools.count(1)
        self._events: deque[dict[str, Any]] = deque()
        with ExitStack() as stack:
            self.ws = stack.enter_context(opening)
            self.hello = self._receive()
            self._open = stack.pop_all()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    @property
    def id(self) -> str:
        return str(self.hello["data"]["connection_id"])

    def send(self, message: Any) -> None:
        """Send a text or bytes as they are, anything else as JSON."""
        self.ws.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def answer(self) -> dict[str, Any]:
        """Return the next answer; events before it are kept for `event`."""
        while (message := self._receive())["type"] not in ("reply", "error"):
            self._events.append(message)
        return message

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request under an id of its own; return the data of its reply."""
        answer = self._ask(request)
        assert answer["type"] == "reply", answer
        data: dict[str, Any] = answer["data"]
        return data

    def refused(self, **request: Any) -> dict[str, Any]:
        """Send a request that must fail; return the error."""
        answer = self._ask(request)
        assert answer["type"] == "error", answer
        return answer

    def event(self) -> dict[str, Any]:
        """Return the next message that is neither an answer nor a heartbeat."""
        while not self._events:
            message = self._receive()
            assert message["type"] not in ("reply", "error"), f"nobody asked for {message}"
            self._events.append(message)
        return self._events.popleft()

    def heartbeat(self) -> dict[str, Any]:
        while (message := self._receive(heartbeats=True))["type"] != HEARTBEAT:
            self._events.append(message)
        return message

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        id = next(self._ids)
        self.send({**request, "id": id})
        answer = self.answer()
        assert answer["id"] == id, answer
        return answer

    def _receive(self, *, heartbeats: bool = False) -> dict[str, Any]:
        while True:
            text = self.ws.recv(timeout=PATIENCE)
            assert isinstance(text, str), text
            message: dict[str, Any] = json.loads(text)
            if heartbeats or message["type"] != HEARTBEAT:
                return message
