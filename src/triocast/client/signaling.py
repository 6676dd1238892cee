"""A peer's line to the others: `SignalingClient` joins a room, and comes back when the line breaks.

It passes signals on and keeps the list of peers; the ``RTCPeerConnection``s are the caller's::

    async with open_signaling(url, room="stage") as client:
        async for message in client:
            match message["type"]:
                case "peer-joined" if message["initiator"]:
                    sdp = await make_offer(message["peer"])
                    await client.send_webrtc_signal("offer", message["peer"], sdp)

Protocol: ``docs/reference/signaling.md``.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import attrs
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from triocast.errors import CloseCode, should_reconnect

SUBPROTOCOL: Final = "triocast.webrtc.v1"
MOST_UNRECEIVED: Final = 256
"""Own messages that are kept until the server says that they came through."""

MOST_WAITING: Final = 256
"""Messages that wait for the caller; beyond it nothing more is read."""

LARGEST_MESSAGE: Final = 16_777_216
"""Bytes: more than the list of a room of 1 000 peers, each with all the metadata it may have."""

SHORTEST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
ICE_RETRY_SECONDS: Final = 10.0
ICE_REFRESH_AFTER: Final = 0.8
"""Of the time for which the credentials of ICE servers hold."""

RENEW_AFTER: Final = 0.8
"""The part of a token's time after which it is renewed."""

Message = dict[str, Any]

Token = str | Callable[[], Awaitable[str]] | None
"""A token, or what gets one: it is asked for a new one for each connection, and before one ends."""


class SignalingClosed(Exception):
    """The server does not want this client back; ``code`` is the WebSocket's close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"signaling has ended: {code} {reason}")
        self.code = code
        self.reason = reason


@attrs.define
class SignalingPeer:
    """Another peer of the room. ``initiator`` and ``polite`` are whether this client is."""

    id: str
    session: int
    initiator: bool
    polite: bool
    strict: bool
    role: str = "peer"
    metadata: Any = None
    state: str = "connected"


class SignalingClient:
    """One peer of one room; made by `open_signaling`. Iterate over it for what it is told.

    Every message is a dict as the protocol has it, ``joined`` and errors among them; pings are
    answered by themselves. The attributes are as of the last message that was taken, so what is
    sent while one is looked at belongs to the same session.
    """

    def __init__(
        self,
        url: str,
        room: str,
        *,
        token: Token = None,
        peer: str | None = None,
        metadata: Any = None,
        capabilities: Sequence[str] = ("trickle",),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.peer: str | None = None
        """The own id, once it has joined."""
        self.peers: dict[str, SignalingPeer] = {}
        """Who else is in the room now."""
        self.ice_servers: list[dict[str, Any]] = []
        """For ``RTCConfiguration``; their credentials are fetched anew before they end."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a WebSocket")
        self._is_secure = parts.scheme == "wss"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._is_secure else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._resource = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        self._join: Message = {"type": "join", "room": room, "capabilities": list(capabilities)}
        self._join |= {} if peer is None else {"peer": peer}
        self._join |= {} if metadata is None else {"metadata": metadata}
        self._token = token
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._socket: WebSocketConnection | None = None
        self._resume_token: str | None = None
        self._last_seq = 0
        self._own_seq = 0
        self._unreceived: deque[Message] = deque(maxlen=MOST_UNRECEIVED)
        self._sending = trio.Lock()
        self._attempts = 0
        self._told, self._waiting = trio.open_memory_channel[Message](MOST_WAITING)

    def __aiter__(self) -> SignalingClient:
        return self

    async def __anext__(self) -> Message:
        """Return what came next. Raises StopAsyncIteration when the server wants no more of us."""
        message = await self._waiting.__anext__()
        self._note(message)
        return message

    # What it says.

    async def send_webrtc_signal(
        self,
        signal_type: Literal["offer", "answer"],
        target_peer_id: str,
        sdp: str,
        *,
        session: int | None = None,
        offer_id: int | None = None,
    ) -> None:
        """Send a session description to another peer. Raises KeyError if it is not in the room.

        ``session`` is the pair's present one if it is left out; the initiator's offer of the next
        number begins that one, with a new ``RTCPeerConnection``. ``offer_id`` numbers the own
        offers, and is repeated by the answer.
        """
        fields: Message = {"description": {"type": signal_type, "sdp": sdp}}
        fields |= {} if session is None else {"session": session}
        fields |= {} if offer_id is None else {"offerId": offer_id}
        await self.send(signal_type, target_peer_id, **fields)

    async def send_candidate(
        self, target_peer_id: str, candidate: Mapping[str, Any] | None
    ) -> None:
        """Send an ICE candidate, or None for their end. Raises KeyError."""
        if candidate is None:
            await self.send("end-of-candidates", target_peer_id)
        else:
            await self.send("candidate", target_peer_id, candidate=dict(candidate))

    async def send(self, type: str, target_peer_id: str, **fields: Any) -> None:
        """Send a message of the protocol to another peer of the room. Raises KeyError.

        While the line is broken it is kept, and sent when that is back; of more than
        `MOST_UNRECEIVED` the oldest are dropped.
        """
        peer = self.peers[target_peer_id]
        self._own_seq += 1
        message: Message = {"type": type, "to": target_peer_id, "session": peer.session} | fields
        message["seq"] = self._own_seq
        if type == "offer":
            peer.session = message["session"]
        self._unreceived.append(message)
        await self._transmit(message)

    async def leave(self) -> None:
        """Leave the room for good: nobody waits for this peer to come back."""
        await self._transmit({"type": "leave"})

    async def _transmit(self, message: Message) -> None:
        socket = self._socket
        if socket is None:
            return
        try:
            async with self._sending:
                await socket.send_message(json.dumps(message))
        except ConnectionClosed:
            return  # What is to be kept is sent again when the line is back.

    # Its life.

    async def _run(self) -> None:
        """Keep the line up until the server wants no more of us. Raises SignalingClosed."""
        async with self._told:
            while True:
                closed = await self._connect_once()
                if closed is not None:
                    code, reason = closed
                    if code == CloseCode.NORMAL:
                        return
                    has_another = code == CloseCode.UNAUTHORIZED and callable(self._token)
                    if not has_another and not should_reconnect(code):
                        raise SignalingClosed(code, reason)
                most = min(LONGEST_WAIT_SECONDS, SHORTEST_WAIT_SECONDS * 2**self._attempts)
                self._attempts = min(self._attempts + 1, 10)
                await trio.sleep(random.uniform(SHORTEST_WAIT_SECONDS / 2, most))  # noqa: S311

    async def _connect_once(self) -> tuple[int, str] | None:
        """Have a connection until it ends; return its close code, if there was one."""
        closed: tuple[int, str] | None = None
        try:
            # Before there is a line: whoever does not join soon is sent away.
            join = await self._introduction()
            # The stream is ours, and closed however the conversation on it ends.
            async with await self._open_stream() as stream, trio.open_nursery() as nursery:
                with _patience(CONNECT_SECONDS):
                    socket = await wrap_client_stream(
                        nursery,
                        stream,
                        self._authority,
                        self._resource,
                        subprotocols=[SUBPROTOCOL],
                        extra_headers=self._headers,
                        max_message_size=LARGEST_MESSAGE,
                    )
                await self._talk(socket, nursery, join)
        except* SignalingClosed as group:
            closed = (_first(group).code, _first(group).reason)
        except* ConnectionRejected as group:
            status = _first(group).status_code
            if status in (400, 401, 403, 404):  # Trying again does not help.
                closed = (CloseCode.POLICY, f"HTTP {status}")
        except* ConnectionClosed as group:
            reason = _first(group).reason
            if reason is not None:
                closed = (reason.code or 1006, reason.reason or "")
        except* (HandshakeError, OSError):
            pass  # The server is away; it may be back soon.
        finally:
            self._socket = None
        return closed

    async def _open_stream(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        with _patience(CONNECT_SECONDS):
            if self._is_secure:
                return await trio.open_ssl_over_tcp_stream(
                    self._host, self._port, https_compatible=True
                )
            return await trio.open_tcp_stream(self._host, self._port)

    async def _talk(
        self, socket: WebSocketConnection, nursery: trio.Nursery, join: Message
    ) -> None:
        await socket.send_message(json.dumps(join | self._resume_part()))
        patience, renew_at = CONNECT_SECONDS, math.inf
        while True:
            # The server pings, so a line that is silent is dead.
            with trio.move_on_at(renew_at) as renewal, _patience(patience):
                message = json.loads(await socket.get_message())
            if renewal.cancelled_caught:  # The next line has the next token.
                nursery.cancel_scope.cancel()
                return
            self._last_seq = message.get("seq", self._last_seq)
            match message["type"]:
                case "ping":
                    self._forget_received(message.get("received", 0))
                    pong = {"type": "pong", "t": message["t"], "seq": self._last_seq}
                    await socket.send_message(json.dumps(pong))
                    continue
                case "joined":
                    patience = sum(message["heartbeat"].values())
                    await self._joined(socket, message)
                case "error" if message["code"] == "resume-failed":
                    self._resume_token = None
                    await socket.send_message(json.dumps(join))
                    continue
            if message.get("tokenTtl") is not None and callable(self._token):
                wait = max(SHORTEST_WAIT_SECONDS, message["tokenTtl"] * RENEW_AFTER)
                renew_at = trio.current_time() + wait
            if message.get("iceServersTtl") is not None:
                wait = message["iceServersTtl"] * ICE_REFRESH_AFTER
                nursery.start_soon(self._refresh_ice_servers, socket, wait)
            elif message.get("code") == "turn-unavailable":
                nursery.start_soon(self._refresh_ice_servers, socket, ICE_RETRY_SECONDS)
            await self._told.send(message)
            if message["type"] == "error" and self._socket is None:  # It may not join.
                if not message["temporary"]:
                    reason = f"{message['code']}: {message['message']}"
                    raise SignalingClosed(CloseCode.POLICY, reason)
                raise OSError(message["message"])

    async def _refresh_ice_servers(self, socket: WebSocketConnection, wait: float) -> None:
        await trio.sleep(wait)
        await socket.send_message(json.dumps({"type": "get-ice-servers"}))

    async def _introduction(self) -> Message:
        token = await self._token() if callable(self._token) else self._token
        return self._join if token is None else self._join | {"token": token}

    def _resume_part(self) -> Message:
        if self._resume_token is None:
            return {}
        return {"resume": {"token": self._resume_token, "lastSeq": self._last_seq}}

    async def _joined(self, socket: WebSocketConnection, message: Message) -> None:
        resume = message["resume"]
        if resume["resumed"]:
            self._forget_received(resume["received"])
        else:
            self._unreceived.clear()
            self._own_seq = 0
        self._resume_token = resume["token"]
        self._last_seq = resume["seq"]
        self._attempts = 0
        sent = 0
        # Until there is nothing left: more may be said while these are on their way.
        while rest := [said for said in self._unreceived if said["seq"] > sent]:
            for said in rest:
                await socket.send_message(json.dumps(said))
                sent = said["seq"]
        self._socket = socket

    def _forget_received(self, seq: int) -> None:
        while self._unreceived and self._unreceived[0]["seq"] <= seq:
            self._unreceived.popleft()

    def _note(self, message: Message) -> None:
        """Keep the attributes right."""
        kind = message["type"]
        if kind == "joined":
            self.peer = message["peer"]
            self.ice_servers = message["iceServers"]
            if "peers" in message:
                self.peers = {entry["peer"]: _peer_of(entry) for entry in message["peers"]}
        elif kind == "ice-servers":
            self.ice_servers = message["iceServers"]
        elif kind == "peer-joined":
            self.peers[message["peer"]] = _peer_of(message)
        elif kind == "peer-left":
            self.peers.pop(message["peer"], None)
        elif kind == "peer-state" and message["peer"] in self.peers:
            self.peers[message["peer"]].state = message["state"]
        elif kind == "offer" and message["from"] in self.peers:
            self.peers[message["from"]].session = message["session"]


@asynccontextmanager
async def open_signaling(url: str, room: str, **options: Any) -> AsyncIterator[SignalingClient]:
    """Join a room for the time of the block; options are those of `SignalingClient`.

    Leaving the block leaves the room. Raises SignalingClosed, in an exception group, if the server
    does not want this client, or not any more.
    """
    client = SignalingClient(url, room, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client._run)
        yield client
        with trio.move_on_after(1, shield=True):
            await client.leave()
        nursery.cancel_scope.cancel()


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Raise OSError if the server takes longer than this."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise OSError("the server does not answer")


def _peer_of(entry: Message) -> SignalingPeer:
    return SignalingPeer(
        id=entry["peer"],
        session=entry["session"],
        initiator=entry["initiator"],
        polite=entry["polite"],
        strict=entry["strict"],
        role=entry["role"],
        metadata=entry["metadata"],
        state=entry["state"],
    )


def _first(group: BaseExceptionGroup[Any]) -> Any:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
