"""An HTTP/2 client with any number of streams on one connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from e2e.rest import PATIENCE
from e2e.servers import Server


@dataclass
class Exchange:
    """One request and what came back so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class Http2:
    """Speaks HTTP/2 over a connected socket: by prior knowledge, by ALPN, or after `upgrade`."""

    def __init__(self, server: Server, sock: socket.socket, *, upgraded: bool = False) -> None:
        self._authority = server.authority
        self._scheme = "http" if server.trust is None else "https"
        self.sock = sock
        self.exchanges: dict[int, Exchange] = {}
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.http = h2.connection.H2Connection(config)
        self.closed = False
        if upgraded:
            self.upgrade_settings = self.http.initiate_upgrade_connection()
            self.exchanges[1] = Exchange()
        else:
            self.http.initiate_connection()
            self._flush()

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def request(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Exchange:
        """Send one request; header names with underscores."""
        headers = {
            ":method": method,
            ":authority": self._authority,
            ":scheme": self._scheme,
            ":path": path,
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        stream_id = self.http.get_next_available_stream_id()
        self.http.send_headers(stream_id, list(headers.items()), end_stream=body is None)
        if body is not None:
            self.http.send_data(stream_id, body, end_stream=True)
        exchange = self.exchanges[stream_id] = Exchange()
        self._flush()
        return exchange

    def reset(self, exchange: Exchange) -> None:
        (stream_id,) = (id for id, known in self.exchanges.items() if known is exchange)
        self.http.reset_stream(stream_id)
        self._flush()

    def until(self, done: Callable[[], object], what: str) -> None:
        """Read until `done()`; fails at the deadline or when the server closes before."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"no {what} in {PATIENCE} s"
            self.sock.settimeout(left)
            data = self.sock.recv(1 << 18)
            if not data:
                self.closed = True
                assert done(), f"the server closed before there was {what}"
                return
            self.feed(data)

    def feed(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    self.exchanges[event.stream_id].headers = dict(event.headers)
                case h2.events.DataReceived():
                    self.exchanges[event.stream_id].body += event.data
                    self.http.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                case h2.events.StreamEnded():
                    self.exchanges[event.stream_id].ended = True
                case h2.events.StreamReset():
                    self.exchanges[event.stream_id].reset = True
        self._flush()

    def _flush(self) -> None:
        self.sock.sendall(self.http.data_to_send())
