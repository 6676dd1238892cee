"""Raw HTTP/1 for one connection: what a client library would not send, or would hide."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from e2e.rest import PATIENCE


class Wire:
    """A connected socket with everything that came over it so far in `data`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.ended = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, *lines: str, body: bytes = b"") -> None:
        """Send lines as one HTTP head, and what follows it, in one segment."""
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def until(self, wanted: bytes | Callable[[bytes], object]) -> bytes:
        """Read until `wanted` is there; return everything. Fails if the server closes before."""
        reached = wanted if callable(wanted) else lambda data: wanted in data
        deadline = time.monotonic() + PATIENCE
        while not reached(self.data):
            assert time.monotonic() < deadline, f"no {wanted!r} in {self.data[-500:]!r}"
            assert self._take(deadline), f"closed before {wanted!r} came: {self.data[-500:]!r}"
        return self.data

    def end(self) -> bytes:
        """Read until the server closes; return everything."""
        deadline = time.monotonic() + PATIENCE
        while self._take(deadline):
            assert time.monotonic() < deadline, f"still open behind {self.data[-500:]!r}"
        return self.data

    def _take(self, deadline: float) -> bool:
        self.sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.data += data
        self.ended = not data
        return bool(data)


def head_of(data: bytes) -> tuple[int, dict[str, str]]:
    """The status and headers (lower case) of the first HTTP answer in `data`."""
    status_line, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return int(status_line.split()[1]), {name.lower(): value.strip() for name, value in pairs}
