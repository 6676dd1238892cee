"""The PeerJS protocol, as its client from npm speaks it, on each way to a client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from e2e.conftest import Servers
from e2e.rest import PATIENCE, call, stats, until
from e2e.servers import Server
from e2e.tokens import KEY, token

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"


class Peer:
    """A client of PeerJS that does what it is told to."""

    def __init__(
        self,
        server: Server,
        id: str = "",
        *,
        key: str = "peerjs",
        secret: str = "s1",
        query: str | None = None,
        origin: str | None = None,
        headers: dict[str, str] | None = None,
        path: str = "/",
    ) -> None:
        self.id = id
        asked = f"key={key}&id={id}&token={secret}&version=1.5.5" if query is None else query
        with ExitStack() as stack:
            self.ws = stack.enter_context(
                connect(
                    f"ws://{server.authority}{path}peerjs?{asked}",
                    origin=origin,  # type: ignore[arg-type]
                    additional_headers=headers,
                    open_timeout=PATIENCE,
                    close_timeout=PATIENCE,
                    ping_interval=None,
                    compression=None,
                    proxy=None,
                )
            )
            self._open = stack.pop_all()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.ws.recv(timeout=PATIENCE))
        return message

    def opened(self) -> Peer:
        assert self.next() == {"type": "OPEN"}
        return self

    def offer(self, dst: str, metadata: Any = None) -> None:
        self.send(type="OFFER", dst=dst, payload=offered(metadata))

    def closed(self) -> int:
        """Return the code with which the server closes; what comes before is passed over."""
        with suppress(ConnectionClosed):
            while True:
                self.ws.recv(timeout=PATIENCE)
        assert self.ws.protocol.close_code is not None
        return self.ws.protocol.close_code


def offered(metadata: Any = None) -> dict[str, Any]:
    description = {"type": "offer", "sdp": SDP}
    more = {"label": "dc_1", "reliable": False, "serialization": "binary"}
    connection = {"type": "data", "connectionId": "dc_1"}
    return {"sdp": description, **connection, "metadata": metadata, **more}


@pytest.fixture
def name(channel: str) -> str:
    """An id that no other test uses."""
    return channel.replace(":", "-")


def refusal(server: Server, id: str = "a", **options: Any) -> str:
    """What a client is told that is sent away."""
    with Peer(server, id, **options) as peer:
        told = peer.next()
        assert told["type"] == "ERROR"
        peer.send(type="HEARTBEAT")  # Who speaks again has read it: the server need not wait.
        assert peer.closed() == 1008
        return str(told["payload"]["msg"])


def test_an_id_is_given_and_opened(server: Server) -> None:
    answer = call(server, "GET", "/peerjs/id?ts=17&version=1.5.5")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert call(server, "GET", "/peerjs/id").body != answer.body
    with Peer(server, answer.body.decode()) as peer:
        peer.opened()
        assert stats(server)["peerjs_count"] >= 1
        assert stats(server)["peerjs"]["peers"] >= 1


def test_messages_are_passed_on_from_who_sends_them(server: Server, name: str) -> None:
    with Peer(server, name) as ann, Peer(server, f"{name}-b", secret="s2") as bob:
        ann.opened()
        bob.opened()
        ann.send(type="HEARTBEAT")
        ann.send(type="OFFER", dst=bob.id, src="somebody", extra=1, payload=offered({"x": "ü"}))
        expected = {"type": "OFFER", "src": ann.id, "dst": bob.id, "payload": offered({"x": "ü"})}
        assert bob.next() == expected
        about = {"type": "data", "connectionId": "dc_1"}
        answer = {"sdp": {"type": "answer", "sdp": SDP}, **about}
        bob.send(type="ANSWER", dst=ann.id, payload=answer)
        assert ann.next() == {"type": "ANSWER", "src": bob.id, "dst": ann.id, "payload": answer}
        line = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0"}
        candidate = {"candidate": {**line, "sdpMLineIndex": 0, "usernameFragment": "x"}, **about}
        bob.send(type="CANDIDATE", dst=ann.id, payload=candidate)
        assert ann.next()["payload"] == candidate
        bob.send(type="SOMETHING", dst=ann.id)
        bob.send(type="LEAVE", dst=ann.id)
        assert ann.next() == {"type": "LEAVE", "src": bob.id, "dst": ann.id}


def test_nobody_is_told_that_a_line_broke(server: Server, name: str) -> None:
    with Peer(server, name) as ann:
        ann.opened()
        with Peer(server, f"{name}-b") as bob:
            bob.opened()
        with Peer(server, f"{name}-b", secret="other") as bob:
            bob.opened()
            bob.offer(ann.id)
            assert ann.next()["type"] == "OFFER"


def test_an_id_is_taken(server: Server, name: str) -> None:
    with Peer(server, name) as ann, Peer(server, name, secret="s2") as other:
        ann.opened()
        assert other.next() == {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}
        assert other.closed() == 1008
        ann.offer(ann.id)
        assert ann.next()["src"] == name


def test_who_comes_back_is_opened_and_replaces_itself(server: Server, name: str) -> None:
    with Peer(server, name) as old, Peer(server, name) as new:
        old.opened()
        new.opened()
        assert old.closed() == 4501
        new.offer(name)
        assert new.next()["type"] == "OFFER"


def test_what_waits_comes_after_open(server: Server, name: str) -> None:
    with Peer(server, name) as ann:
        ann.opened()
        for n in range(3):
            ann.offer(f"{name}-b", n)
        until(lambda: stats(server)["peerjs"]["waiting"] >= 3, "three that wait")
        assert stats(server)["peerjs"]["waiting_bytes"] > 0
        with Peer(server, f"{name}-b") as bob:
            bob.opened()
            assert [bob.next()["payload"]["metadata"] for _ in range(3)] == [0, 1, 2]


def test_who_is_not_there_expires(server: Server, name: str) -> None:
    with Peer(server, name) as ann:
        ann.opened()
        ann.offer(f"{name}-b")
        ann.offer(f"{name}-b")
        assert ann.next() == {"type": "EXPIRE", "src": f"{name}-b", "dst": name}
        ann.offer(name)
        assert ann.next()["type"] == "OFFER"  # and no second EXPIRE
        with Peer(server, f"{name}-b") as bob:
            bob.opened()
            bob.offer(bob.id)
            assert bob.next()["src"] == bob.id  # nothing of old


@pytest.mark.parametrize(
    "query",
    ["", "id=a&token=b", "key=peerjs&token=b", "key=peerjs&id=a", "key=&id=a&token=b"],
)
def test_what_a_client_has_to_say(server: Server, query: str) -> None:
    told = refusal(server, query=query)
    assert told == "No id, token, or key supplied to websocket server"


def test_what_is_wrong_is_told(server: Server, name: str) -> None:
    assert refusal(server, key="a%2Fb") == "Invalid key provided"
    assert refusal(server, key="x" * 65) == "Invalid key provided"
    for id in ("-", "a--b", "%C3%BC", "a%0A", "x" * 129):
        assert refusal(server, id) == "Invalid id or token provided"
    assert refusal(server, secret="x" * 8_193) == "Invalid id or token provided"
    assert "proxy" in refusal(server, headers={"X-Forwarded-For": "10.0.0.1"})
    with Peer(server, f"{name}%20b") as peer:
        peer.opened()
    for scheme in ("Basic c2l0ZTpwdw==", "Bearer a.b.c", "Negotiate YII=", "Digest username=x"):
        with Peer(server, name, key="a.b.c", headers={"Authorization": scheme}) as peer:
            peer.opened()


@pytest.mark.parametrize(
    "message",
    [
        "{",
        b"{}",
        "[]",
        "{}",
    ],
)
def test_what_is_no_message_ends_the_connection(
    server: Server, name: str, message: str | bytes
) -> None:
    with Peer(server, name) as peer:
        peer.opened()
        peer.ws.send(message)
        assert peer.next()["type"] == "ERROR"
        assert peer.closed() == 1008


@pytest.mark.parametrize(
    ("message", "dst"),
    [
        ('{"type":"OFFER"}', None),
        ('{"type":"OFFER","dst":"a/b","payload":{}}', "a/b"),
        ('{"type":"OFFER","dst":"a","payload":{"sdp":{"type":"offer","sdp":"hello"}}}', "a"),
        (json.dumps({"type": "ANSWER", "dst": "a", "payload": offered()}), "a"),
        (json.dumps({"type": "OFFER", "dst": "a@b", "payload": offered()}), "a@b"),
        ('{"type":"CANDIDATE","dst":"a","payload":{"candidate":null}}', None),
        ('{"type":"LEAVE","dst":' + "[" * 100 + "]" * 100 + "}", None),
    ],
)
def test_a_message_that_is_refused_fails_alone(
    server: Server, name: str, message: str, dst: str | None
) -> None:
    with Peer(server, name) as peer:
        peer.opened()
        peer.ws.send(message)
        if dst is not None:
            assert peer.next() == {"type": "EXPIRE", "src": dst, "dst": name}
        peer.offer(name)
        assert peer.next()["type"] == "OFFER"


def test_a_message_that_is_too_large_ends_the_connection(server: Server, name: str) -> None:
    with Peer(server, name) as peer:
        peer.opened()
        peer.offer("a", "x" * 70_000)
        assert peer.closed() == 1009


def test_who_gives_no_sign_is_dropped(servers: Servers, way: str, name: str) -> None:
    server = servers.get(way, heartbeat_seconds="0.5")
    with (
        Peer(server, name) as ann,
        Peer(server, f"{name}-b") as quiet,
        server.connect(patience=1) as silent,
    ):
        ann.opened()
        quiet.opened()
        # By hand, because libraries answer pings.
        silent.sendall(
            f"GET /peerjs?key=peerjs&id={name}-c&token=x HTTP/1.1\r\n"
            f"Host: {server.authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        deadline, heard = time.monotonic() + PATIENCE, b""
        while time.monotonic() < deadline:
            ann.send(type="HEARTBEAT")
            with suppress(TimeoutError):
                data = silent.recv(4096)
                heard += data
                if not data:
                    break
        else:
            pytest.fail("the silent client is still there")
        assert b"OPEN" in heard
        ann.offer(ann.id)  # she is still there, and sent nothing but heartbeats
        assert ann.next()["type"] == "OFFER"
        if way == "taken over":  # Elsewhere there are no pings that it could answer.
            quiet.offer(quiet.id)
            assert quiet.next()["type"] == "OFFER"
        with Peer(server, f"{name}-c", secret="other") as new:
            new.opened()


def test_listing_everybody_is_off(server: Server) -> None:
    answer = call(server, "GET", "/peerjs/peers")
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")


def test_listing_everybody_can_be_on(servers: Servers, way: str, name: str) -> None:
    server = servers.get(way, peerjs_discovery="true")
    with Peer(server, name) as ann:
        ann.opened()
        assert name in call(server, "GET", "/anykey/peers").json


@pytest.mark.parametrize("path", ["/realtime/id", "/a.b/id", "/a%2Fb/id", "/a/b/id", "/a/id/", "/"])
def test_no_other_address_is_taken(server: Server, path: str) -> None:
    assert call(server, "GET", path).status == 404


def test_tokens_are_keys(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    free = token("ann", rooms=[{"room": "peerjs", "claim": True}])
    given = token("bob", rooms=["peer*"])
    other = token("eve", rooms=["other"])
    assert call(server, "GET", "/peerjs/id").status == 401
    assert call(server, "GET", f"/{given}x/id").status == 401
    assert call(server, "GET", f"/{other}/id").status == 403
    for key in ("peerjs", f"{free}x", other, token("eve", seconds=-10, rooms=["peerjs"])):
        assert refusal(server, key=key) == "Invalid key provided"
    bob_id = call(server, "GET", f"/{given}/id").body.decode()
    assert "does not allow" in refusal(server, "of-my-own", key=given)
    assert "does not allow" in refusal(server, bob_id[:-1] + "x", key=given)
    carl = token("carl", rooms=["peerjs"])
    assert "does not allow" in refusal(server, bob_id, key=carl)
    with Peer(server, "ann", key=free) as ann, Peer(server, bob_id, key=given) as bob:
        ann.opened()
        bob.opened()
        ann.offer(bob_id)
        assert bob.next()["src"] == "ann"
        with Peer(
            server, "ann", key=token("x", rooms=[{"room": "*", "claim": True}])
        ) as other_user:
            assert other_user.next()["type"] == "ID-TAKEN"
    assert free not in server.stderr.read_text()


def test_a_token_that_ends_ends_its_connection(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    key = token("ann", seconds=2, rooms=[{"room": "peerjs", "claim": True}])
    with Peer(server, "ann", key=key) as ann:
        ann.opened()
        assert ann.closed() == 4500


def test_pages_of_other_sites(servers: Servers, way: str, name: str) -> None:
    server = servers.get(way, allowed_origins="http://a.example")
    answer = call(server, "GET", "/peerjs/id", headers={"Origin": "http://a.example"})
    assert answer.headers["access-control-allow-origin"] == "http://a.example"
    answer = call(server, "GET", "/peerjs/id", headers={"Origin": "http://b.example"})
    assert "access-control-allow-origin" not in answer.headers
    with Peer(server, name, origin="http://a.example") as peer:
        peer.opened()
    with pytest.raises(InvalidStatus) as refused:
        Peer(server, name, origin="http://b.example")
    assert refused.value.response.status_code == 403


def test_when_the_server_stops_and_starts_peers_come_back(serve: Callable[..., Server]) -> None:
    server = serve("--drain-seconds", "1")
    with Peer(server, "ann") as ann:
        ann.opened()
        server.process.terminate()
        assert ann.closed() == 1012
    server = serve()
    with Peer(server, "ann") as ann:
        ann.opened()


def test_it_can_have_another_path(servers: Servers, way: str, name: str) -> None:
    server = servers.get(way, peerjs_path="chat/room")
    id = call(server, "GET", "/chat/room/peerjs/id").body.decode()
    with Peer(server, id, path="/chat/room/") as peer:
        peer.opened()
        assert stats(server)["peerjs_count"] == 1
        assert stats(server)["taken_over"] == int(way == "taken over")
    assert call(server, "GET", "/peerjs/id").status == 404
    with pytest.raises(InvalidStatus):
        Peer(server, id)


def test_peerjs_can_be_off(serve: Callable[..., Server]) -> None:
    server = serve(environment={"TRIOCAST_PEERJS_ENABLED": "false"})
    with pytest.raises(InvalidStatus) as refused:
        Peer(server, "ann")
    assert refused.value.response.status_code == 404
    assert call(server, "GET", "/peerjs/id").status == 404
    assert "peerjs" in stats(server)
