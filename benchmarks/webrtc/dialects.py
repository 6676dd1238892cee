"""How clients of the two protocols come in and say something, as their SDKs do."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import attrs

from benchmarks.servers import Running
from benchmarks.wire import WebSocket, Wrong, connect, frame, upgrade

FIRST = 100_000
"""The number of a client's first candidate: from here on all have as many digits."""

MOST = 899_999

_INSTANCE = "0123456789abcdef01234567"
_MARK = 999_999
_NUMBER = re.compile(rb'"candidate:(\d+) ')


@attrs.define(eq=False)
class Client:
    """A raw client that is in, under the id that others know it by."""

    line: WebSocket
    id: str
    session: int = 0
    """With the one that was in the room before it."""
    last_seq: int = 0


class Dialect(Protocol):
    """One of the protocols."""

    def enter(self, server: Running, number: int, room: int) -> Client:
        """Bring a client in; it has been told so. Raises Wrong or OSError."""

    def leave(self, client: Client) -> None:
        """Let it go for good."""

    def candidates(self, to: Client, session: int) -> Candidates:
        """Return frames with candidates for another client."""

    def hear(self, client: Client, text: bytes) -> None:
        """Do what a client does about what it is told. Raises Wrong for an error."""

    heartbeat: bytes | None
    """The frame that a client sends by itself, if it does."""


@attrs.frozen
class Candidates:
    """Frames of one length that differ in a number only."""

    before: bytes
    between: bytes
    after: bytes

    @classmethod
    def of(cls, message: dict[str, Any]) -> Candidates:
        """Take a message apart that has the mark where numbers go, once or twice."""
        parts = frame(json.dumps(message, separators=(",", ":")).encode()).split(b"%d" % _MARK)
        return cls(parts[0], parts[1] if len(parts) == 3 else b"", parts[-1])

    def frames(self, numbers: range) -> bytes:
        if self.between:
            form = self.before + b"%d" + self.between + b"%d" + self.after
            return b"".join([form % (number, number) for number in numbers])
        form = self.before + b"%d" + self.after
        return b"".join([form % number for number in numbers])

    @property
    def size(self) -> int:
        """Bytes of one message."""
        digits = len(str(_MARK))
        parts = len(self.before) + len(self.between) + len(self.after)
        return parts + digits * (2 if self.between else 1) - 8  # without the head of a frame


def number_of(text: bytes) -> int | None:
    """Return the number of the candidate in a message; None if it has none."""
    found = _NUMBER.search(text)
    return int(found[1]) if found else None


def _candidate() -> dict[str, Any]:
    line = f"candidate:{_MARK} 1 udp 2122260223 192.168.178.23 54321 typ host generation 0"
    line += " ufrag Yq3b network-id 1"
    return {"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "Yq3b"}


class Native:
    """``triocast.webrtc.v1``."""

    heartbeat = None

    def enter(self, server: Running, number: int, room: int) -> Client:
        line = upgrade(
            connect(server),
            "/realtime/webrtc/signaling",
            "Sec-WebSocket-Protocol: triocast.webrtc.v1",
        )
        join = {
            "type": "join",
            "id": "join",
            "version": 1,
            "room": f"room{room}",
            "metadata": {"name": f"peer {number}", "instance": _INSTANCE},
            "capabilities": ["trickle", "rollback", "ice-restart"],
        }
        line.send(json.dumps(join).encode())
        told = json.loads(line.receive()[1])
        if told["type"] != "joined":
            raise Wrong(f"a join was answered with {told}")
        peers = told["peers"]
        return Client(line, told["peer"], peers[0]["session"] if peers else 0)

    def leave(self, client: Client) -> None:
        client.line.send(b'{"type":"leave"}')
        client.line.stream.close()

    def candidates(self, to: Client, session: int) -> Candidates:
        message = {"type": "candidate", "to": to.id, "session": session}
        return Candidates.of({**message, "candidate": _candidate(), "seq": _MARK})

    def hear(self, client: Client, text: bytes) -> None:
        told = json.loads(text)
        if told["type"] == "error":
            raise Wrong(f"told {told}")
        client.last_seq = told.get("seq", client.last_seq)
        if told["type"] == "ping":
            pong = {"type": "pong", "t": told["t"], "seq": client.last_seq}
            client.line.send(json.dumps(pong).encode())


class PeerJS:
    """What the client ``peerjs`` 1.5 from npm speaks."""

    heartbeat = frame(b'{"type":"HEARTBEAT"}')

    def enter(self, server: Running, number: int, room: int) -> Client:
        asked = f"key=peerjs&id=peer-{room}-{number}&token=secret{number}&version=1.5.5"
        line = upgrade(connect(server), f"/peerjs?{asked}")
        told = json.loads(line.receive()[1])
        if told["type"] != "OPEN":
            raise Wrong(f"a client was told {told}")
        return Client(line, f"peer-{room}-{number}")

    def leave(self, client: Client) -> None:
        client.line.stream.close()

    def candidates(self, to: Client, session: int) -> Candidates:
        payload = {"candidate": _candidate(), "type": "data", "connectionId": "dc_w4tstzq3x8"}
        return Candidates.of({"type": "CANDIDATE", "payload": payload, "dst": to.id})

    def hear(self, client: Client, text: bytes) -> None:
        raise Wrong(f"told {text!r}")
