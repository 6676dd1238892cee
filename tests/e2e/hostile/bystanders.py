"""Harmless clients that must not notice that somebody else attacks their server."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import h11
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Ping, Request, TextMessage

from e2e.rest import stats, until
from e2e.servers import Server

from .attacker import PATIENCE, Attacker, readable

_marks = (f"{os.getpid()}-{number}" for number in itertools.count())


class _Stream:
    """A client that reads what is there and keeps the marks of the events, in the order in which
    they came."""

    def __init__(self, server: Server) -> None:
        self.marks: list[str] = []
        self._sock = server.connect(alpn="http/1.1", patience=PATIENCE)

    def pump(self, seconds: float = 0.0) -> None:
        """Take what came, waiting up to `seconds` for the first byte."""
        while readable(self._sock, seconds):
            self._sock.settimeout(0)
            try:
                data = self._sock.recv(1 << 20)
            except (BlockingIOError, ssl.SSLWantReadError):
                break  # half a TLS record
            finally:
                self._sock.settimeout(PATIENCE)
            assert data, f"{type(self).__name__} was disconnected, had {len(self.marks)} events"
            self.feed(data)
            seconds = 0.0

    def feed(self, data: bytes) -> None:
        raise NotImplementedError

    def saw(self, text: str) -> None:
        # Python refuses to make an int of more than 4 300 digits; a client that shows events
        # need not
        event = json.loads(text, parse_int=str)
        if (
            isinstance(event, dict)
            and isinstance(event.get("data"), dict)
            and "mark" in event["data"]
        ):
            self.marks.append(event["data"]["mark"])

    def close(self) -> None:
        self._sock.close()


class SseBystander(_Stream):
    """Reads `/realtime/events` over HTTP/1.1."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._text = b""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        headers = [("Host", server.authority), ("Accept", "text/event-stream")]
        target = "/realtime/events"
        self._sock.sendall(
            self._http.send(h11.Request(method="GET", target=target, headers=headers)) or b""
        )

    def feed(self, data: bytes) -> None:
        self._http.receive_data(data)
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                assert event.status_code == 200, event
            elif isinstance(event, h11.Data):
                self._text += event.data
            else:
                pytest.fail(f"the stream ended: {event}")
        *blocks, self._text = self._text.split(b"\n\n")
        for block in blocks:
            lines = [
                line[5:].lstrip() for line in block.decode().split("\n") if line.startswith("data:")
            ]
            if lines:
                self.saw("\n".join(lines))


class WebSocketBystander(_Stream):
    """Reads `/realtime/ws` over HTTP/1.1 and answers pings."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._text: list[str] = []
        self._socket = WSConnection(ConnectionType.CLIENT)
        self._sock.sendall(self._socket.send(Request(host=server.authority, target="/realtime/ws")))

    def feed(self, data: bytes) -> None:
        self._socket.receive_data(data)
        for event in self._socket.events():
            if isinstance(event, TextMessage):
                self._text.append(event.data)
                if event.message_finished:
                    self.saw("".join(self._text))
                    self._text = []
            elif isinstance(event, Ping):
                self._sock.sendall(self._socket.send(event.response()))
            elif not isinstance(event, AcceptConnection):
                pytest.fail(f"the WebSocket ended: {event}")


@dataclass
class Scene:
    """A server under attack: the attacker's connections, and everybody else."""

    server: Server
    attacker: Attacker
    bystanders: tuple[SseBystander, WebSocketBystander]
    files: int = 0
    """Descriptors the server held before the attack."""

    def publish(self, count: int, size: int) -> list[str]:
        """Publish `count` events of about `size` bytes; returns their marks. The bystanders keep
        reading."""
        marks = [next(_marks) for _ in range(count)]
        publish(self.server, marks, size, self.bystanders)
        return marks

    def publish_until(self, done: Callable[[], object], size: int) -> list[str]:
        """Publish events of about `size` bytes until `done()`, 64 MB at the most; returns their
        marks. Fails if it never is."""
        marks: list[str] = []
        while not done():
            assert len(marks) * size < 64 << 20, "64 MB were published and nothing happened"
            marks += self.publish(10, size)
        return marks

    @contextmanager
    def ends(self, reason: str, count: int = 1) -> Iterator[None]:
        """Wait, after the block, until the server has ended `count` connections for `reason`."""
        before = self.ended(reason)
        yield
        until(lambda: self.ended(reason) >= before + count, f"end by {reason}")

    def ended(self, reason: str) -> int:
        """How many connections the server has ended for `reason` so far."""
        return int(stats(self.server)["ended"].get(reason, 0))

    def everybody_has(self, marks: list[str]) -> None:
        """Wait until the bystanders have `marks`, all, once and in this order."""
        deadline = time.monotonic() + PATIENCE
        for bystander in self.bystanders:
            while marks[-1] not in bystander.marks and time.monotonic() < deadline:
                bystander.pump(0.2)
            wanted = set(marks)
            assert [mark for mark in bystander.marks if mark in wanted] == marks, type(
                bystander
            ).__name__

    def hostile_ones_are_forgotten(self) -> None:
        """Wait until the server holds no more descriptors than before the attack."""
        deadline = time.monotonic() + PATIENCE
        while (more := self.server.open_files() - self.files) > 0:
            if time.monotonic() > deadline:
                pytest.fail(f"{more} connections are still open on the server")
            self.bystanders[0].pump(0.05)


def publish(
    server: Server, marks: list[str], size: int = 0, readers: tuple[_Stream, ...] = ()
) -> None:
    """Broadcast one event per mark, each acknowledged before the next is sent, letting `readers`
    read in between."""
    with closing(_connection(server)) as connection:
        for mark in marks:
            event = {"type": "hostile", "data": {"mark": mark, "filler": "x" * size}}
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/realtime/broadcast", json.dumps(event).encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status in (200, 201, 202), (answer.status, text)
            for reader in readers:
                reader.pump()


def health(server: Server) -> int:
    """The status that `/healthz` answers."""
    with closing(_connection(server)) as connection:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        return answer.status


def _connection(server: Server) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.sock = server.connect(alpn="http/1.1", patience=PATIENCE)
    return connection


@contextmanager
def unharmed(server: Server) -> Iterator[Scene]:
    """Attack inside. Before, an SSE and a WebSocket client listen; after, the process must live,
    answer `/healthz`,
    deliver the next event to both, and hold no descriptor of the attacker's closed connections."""
    with closing(SseBystander(server)) as sse, closing(WebSocketBystander(server)) as websocket:
        with Attacker(server) as attacker:
            scene = Scene(server, attacker, (sse, websocket))
            _listening(scene)
            scene.files = server.open_files()
            try:
                yield scene
            except BaseException as error:
                error.add_note(
                    f"The server's exit code: {server.process.poll()}; "
                    f"it listens: {server.listens()}."
                )
                raise
        try:
            assert health(server) == 200
            scene.everybody_has(scene.publish(1, 0))
            scene.hostile_ones_are_forgotten()
        except (OSError, http.client.HTTPException) as error:
            pytest.fail(
                f"the server does not answer ({error!r}), exit code {server.process.poll()}"
            )
        assert server.alive, f"the server ended with exit code {server.process.poll()}"


def _listening(scene: Scene) -> None:
    """Both bystanders have had one event: from here on they miss nothing."""
    deadline = time.monotonic() + PATIENCE
    while not all(bystander.marks for bystander in scene.bystanders):
        assert time.monotonic() < deadline, "the bystanders get no events at all"
        marks = scene.publish(1, 0)
        for bystander in scene.bystanders:
            if marks[0] not in bystander.marks:
                bystander.pump(0.02)  # it may have come too late for this one
