"""WebRTC signaling through real servers, on each way to a client."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets import Origin
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from e2e.conftest import Servers
from e2e.rest import PATIENCE, Answer, call, stats, until
from e2e.servers import Server
from e2e.tokens import KEY, bearer, token

PATH = "/realtime/webrtc/signaling"
ROOMS = "/realtime/webrtc/rooms"
SUBPROTOCOL = "triocast.webrtc.v1"
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"


class Peer:
    """A client of signaling that does what it is told to; messages are kept by type."""

    def __init__(self, server: Server, query: str = "", **headers: str) -> None:
        with ExitStack() as stack:
            self.ws = stack.enter_context(
                connect(
                    f"ws://{server.authority}{PATH}{query}",
                    subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
                    additional_headers=headers,
                    open_timeout=PATIENCE,
                    close_timeout=PATIENCE,
                    ping_interval=None,
                    compression=None,
                    proxy=None,
                )
            )
            self._open = stack.pop_all()
        self.id = ""
        self.seq = 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def next(self) -> dict[str, Any]:
        """Return the next message but pings, which are answered."""
        while True:
            message: dict[str, Any] = json.loads(self.ws.recv(timeout=PATIENCE))
            if "seq" in message:
                assert message["seq"] == self.seq + 1
                self.seq += 1
            if message["type"] != "ping":
                return message
            self.send(type="pong", t=message["t"], seq=self.seq)

    def expect(self, kind: str) -> dict[str, Any]:
        message = self.next()
        assert message["type"] == kind, message
        return message

    def join(self, room: str, **fields: Any) -> dict[str, Any]:
        self.send(type="join", room=room, **fields)
        joined = self.expect("joined")
        self.id = joined["peer"]
        self.seq = joined["resume"]["seq"]
        return joined

    def closed(self) -> int:
        """Return the code with which the server closes; what comes before is passed over."""
        with suppress(ConnectionClosed):
            while True:
                self.ws.recv(timeout=PATIENCE)
        assert self.ws.protocol.close_code is not None
        return self.ws.protocol.close_code


@pytest.fixture
def room(channel: str) -> str:
    return channel.replace(":", "-")


def moderate(server: Server, headers: dict[str, str] | None = None, **order: Any) -> Answer:
    body = json.dumps(order).encode()
    return call(server, "POST", ROOMS, body, "application/json", headers=headers)


def test_two_peers_find_each_other(server: Server, room: str) -> None:
    with Peer(server) as ann, Peer(server) as bob:
        assert ann.ws.subprotocol == SUBPROTOCOL
        joined = ann.join(room, metadata={"name": "Ann"}, capabilities=["trickle"])
        assert (joined["room"], joined["peers"], joined["iceServers"]) == (room, [], [])
        joined = bob.join(room)
        (there,) = joined["peers"]
        assert (there["peer"], there["metadata"]) == (ann.id, {"name": "Ann"})
        assert there["initiator"] is True
        came = ann.expect("peer-joined")
        assert (came["peer"], came["initiator"]) == (bob.id, False)
        assert came["session"] == there["session"]
        about = {"to": ann.id, "session": there["session"]}
        candidate = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0"}
        bob.send(type="offer", description={"type": "offer", "sdp": SDP}, **about)
        bob.send(type="candidate", candidate=candidate, **about, **{"from": "somebody"})
        bob.send(type="end-of-candidates", **about)
        offer = ann.expect("offer")
        assert (offer["from"], offer["description"]["sdp"]) == (bob.id, SDP)
        heard = ann.expect("candidate")
        assert (heard["from"], heard["candidate"]) == (bob.id, candidate)
        assert ann.expect("end-of-candidates")["from"] == bob.id
        answer = {"type": "answer", "sdp": SDP}
        ann.send(type="answer", to=bob.id, session=about["session"], description=answer)
        assert bob.expect("answer")["description"] == answer
        bob.send(type="leave")
        assert ann.expect("peer-left")["reason"] == "left"
        assert bob.closed() == 1000


def test_what_is_wrong_is_told_and_the_connection_goes_on(server: Server, room: str) -> None:
    def refused(peer: Peer, text: str | bytes) -> tuple[str, Any]:
        peer.ws.send(text)
        error = peer.expect("error")
        assert error["fatal"] is False
        return error["code"], error.get("re")

    with Peer(server) as peer:
        assert refused(peer, "{") == ("bad-json", None)
        assert refused(peer, b"{}") == ("bad-message", None)
        assert refused(peer, '{"type":"dance","id":7}') == ("unknown-type", 7)
        assert refused(peer, '{"type":"leave","id":"x"}') == ("not-joined", "x")
        assert refused(peer, '{"type":"join","room":"a b"}') == ("bad-message", None)
        large = json.dumps({"type": "join", "room": room, "metadata": "x" * 5_000})
        assert refused(peer, large)[0] == "message-too-large"
        peer.join(room)
        assert refused(peer, json.dumps({"type": "join", "room": room}))[0] == "already-joined"
        about = {"to": "nobody", "session": 1, "id": 1}
        offer = {"type": "offer", **about, "description": {"type": "offer", "sdp": SDP}}
        assert refused(peer, json.dumps(offer)) == ("peer-not-found", 1)
        offer["description"] = {"type": "offer", "sdp": "hello"}
        assert refused(peer, json.dumps(offer))[0] == "bad-description"
        data = json.dumps({"type": "data", "payload": 1})
        assert refused(peer, data)[0] == "forbidden"
        peer.send(type="get-ice-servers", id=3)
        assert peer.expect("ice-servers")["re"] == 3


def test_what_is_not_in_order_is_told(servers: Servers, way: str, room: str) -> None:
    server = servers.get(way, signaling_peers_per_room="2")

    def refused(by: Peer, **message: Any) -> str:
        by.send(**message)
        return str(by.expect("error")["code"])

    with Peer(server) as ann, Peer(server) as bob, Peer(server) as carl:
        assert refused(ann, type="join", room=room, version=2) == "unsupported-version"
        ann.join(room, peer="ann")
        session = bob.join(room)["peers"][0]["session"]
        ann.expect("peer-joined")
        assert refused(carl, type="join", room=room) == "room-full"
        # All of this machine have one address: it does not say who they are.
        assert refused(carl, type="join", room=room, peer="ann") == "peer-id-taken"
        offer = {"type": "offer", "description": {"type": "offer", "sdp": SDP}}
        assert refused(ann, **offer, to=bob.id, session=session) == "not-initiator"
        assert refused(bob, **offer, to="ann", session=session + 2) == "stale-session"
        bob.ws.socket.close()
        until(lambda: stats(server)["signaling_count"] == 2, "end of the connection")
        large = {"type": "answer", "sdp": SDP + "a=" + "x" * 60_000}
        for _ in range(2):
            ann.send(type="answer", to=bob.id, session=session, description=large)
        codes = []
        while "queue-full" not in codes:
            ann.send(type="answer", to=bob.id, session=session, description=large)
            message = ann.next()
            codes.append(message.get("code", message.get("state")))
        assert set(codes) == {"suspended", "queue-full"}


HARMLESS = {"bad-json", "bad-message", "unknown-type", "bad-description", "not-joined"}

_odd = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(["type", "id", "room", "to", "session", "description", "metadata"]),
        st.none()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["join", "offer", "data", "pong", "dance"])
        | st.lists(st.integers(), max_size=3),
        max_size=5,
    )
    .filter(lambda message: message.get("type") != "join" or type(message.get("room")) is not str)
    .map(json.dumps),  # A join of a room would be no noise.
)


def test_noise_is_answered_and_neither_ends_nor_changes_anything(server: Server, room: str) -> None:
    with Peer(server) as ann, Peer(server) as noisy:
        ann.join(room)
        rooms = call(server, "GET", ROOMS).json["rooms"]

        @settings(max_examples=settings.default.max_examples * 6 // 10)
        @given(_odd)
        @example(b"")
        @example("")
        @example("[" * 60_000)
        @example('{"type":"join","room":"r","metadata":' + '{"a":' * 200 + "1" + "}" * 200 + "}")
        @example('{"type":"pong","seq":' + "9" * 5_000 + "}")
        @example('{"type":"join","room":"r","peer":"\\ud800"}')
        @example('{"type":"join","type":"leave"}')
        def noise(frame: str | bytes) -> None:
            noisy.ws.send(frame)
            error = noisy.expect("error")
            assert error["fatal"] is False
            assert error["code"] in HARMLESS

        noise()
        assert call(server, "GET", ROOMS).json["rooms"] == rooms
        noisy.join(room)
        assert ann.expect("peer-joined")["peer"] == noisy.id
    assert server.alive


@pytest.mark.parametrize("path", [PATH, "/peerjs?key=k&id=a&token=t"])
def test_pages_of_other_origins_are_not_let_in(server: Server, path: str) -> None:
    for origin in ("https://evil.example", "null", f"http://evil.example@{server.authority}"):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://{server.authority}{path}", origin=Origin(origin), proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 403
    own = Origin(f"http://{server.authority}")
    with connect(f"ws://{server.authority}{path}", origin=own, proxy=None):
        pass
    body = b'{"action":"close","room":"a"}'
    for origin, kind, status in (
        ("https://evil.example", "application/json", 403),
        (str(own), "text/plain", 415),
        (str(own), "application/json", 404),
    ):
        answer = call(server, "POST", ROOMS, body, kind, headers={"Origin": origin})
        assert answer.status == status


def test_moderating_needs_the_right(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    for headers, status in (({}, 401), (bearer("ann", rooms=["*"]), 403), (bearer("root"), 404)):
        assert call(server, "GET", f"{ROOMS}?room=r", headers=headers).status == status
        assert moderate(server, headers, action="close", room="r").status == status
    for odd in ("a%20b", "a%0Ab", "%00", "x" * 129, "%ED%A0%80", "*", ""):
        answer = call(server, "GET", f"{ROOMS}?room={odd}", headers=bearer("root"))
        assert answer.status == 400, odd


def test_secrets_do_not_end_in_the_log(serve: Callable[..., Server]) -> None:
    server = serve(
        "--token-key", KEY, "--log-level", "debug", "--turn-servers", "turn:127.0.0.1:3478",
        environment={"TRIOCAST_TURN_SECRET": "a secret of these tests"},
    )  # fmt: skip
    allowed = token("ann", rooms=[{"room": "*", "claim": True}])
    with Peer(server) as ann, Peer(server) as bob:
        ann.send(type="join", room="a", token=allowed + "x", resume={"token": "r-1", "lastSeq": 0})
        assert ann.expect("error")["code"] == "unauthorized"
        ann.send(type="join", room="a", token=allowed, resume={"token": "r-1", "lastSeq": 0})
        assert ann.expect("error")["code"] == "resume-failed"
        joined = ann.join("a", token=allowed)
        resume = {"token": joined["resume"]["token"], "lastSeq": 0}
        bob.send(type="join", room="a", token=token("bob", rooms=["*"]), resume=resume)
        assert bob.expect("error")["code"] == "resume-failed"
    with connect(f"ws://{server.authority}/peerjs?key={allowed}&id=a&token=p-1", proxy=None) as ws:
        assert json.loads(ws.recv(timeout=PATIENCE)) == {"type": "OPEN"}
    call(server, "GET", f"/{allowed}/id")
    until(lambda: "transport=peerjs" in server.stderr.read_text(), "line in the log")
    log = server.stderr.read_text()
    assert "user='ann'" in log
    (turn,) = joined["iceServers"]
    for secret in (
        allowed, "r-1", "p-1", resume["token"], turn["credential"], "a secret of these tests", KEY,
    ):  # fmt: skip
        assert secret not in log


def test_a_message_that_is_too_large_ends_the_connection(server: Server, room: str) -> None:
    with Peer(server) as peer:
        peer.join(room)
        peer.ws.send("x" * 70_000)
        assert peer.closed() == 1009


def test_a_peer_comes_back_and_has_missed_nothing(server: Server, room: str) -> None:
    with Peer(server) as ann, ExitStack() as stack:
        bob = stack.enter_context(Peer(server))
        ann.join(room)
        joined = bob.join(room)
        ann.expect("peer-joined")
        resume = {"token": joined["resume"]["token"], "lastSeq": bob.seq}
        before = stats(server)["signaling_count"]
        bob.ws.socket.close()
        until(lambda: stats(server)["signaling_count"] < before, "end of the connection")
        for n in range(3):
            session = joined["peers"][0]["session"]
            ann.send(type="renegotiate", to=bob.id, session=session, reason=f"{n}")
        with Peer(server) as again:
            told = again.join(room, resume=resume)
            assert told["resume"]["resumed"] is True
            assert told["resume"]["gap"] is False
            assert (again.id, "peers" in told) == (bob.id, False)
            missed = [again.expect("renegotiate") for _ in range(3)]
            assert [message["reason"] for message in missed] == ["0", "1", "2"]
            ann.send(type="leave")
            assert again.expect("peer-left")["peer"] == ann.id


def test_a_newer_connection_takes_the_place_of_the_older(server: Server, room: str) -> None:
    with Peer(server) as old, Peer(server) as new:
        joined = old.join(room)
        resume = {"token": joined["resume"]["token"], "lastSeq": 0}
        new.join(room, resume=resume)
        assert new.id == old.id
        assert old.expect("error")["code"] == "replaced"
        assert old.closed() == 4501


def test_a_wrong_token_resumes_nothing(server: Server, room: str) -> None:
    with Peer(server) as peer:
        peer.send(type="join", room=room, resume={"token": "x", "lastSeq": 0}, id=1)
        error = peer.expect("error")
        assert (error["code"], error["re"]) == ("resume-failed", 1)
        peer.join(room)


def test_who_does_not_come_back_is_gone(servers: Servers, way: str, room: str) -> None:
    server = servers.get(way, signaling_grace_seconds="0.2")
    with Peer(server) as ann, ExitStack() as stack:
        ann.join(room)
        bob = stack.enter_context(Peer(server))
        bob.join(room)
        ann.expect("peer-joined")
        bob.ws.socket.close()
        left = ann.next()
        if left["type"] == "peer-state":
            left = ann.next()
        assert (left["type"], left["reason"]) == ("peer-left", "timeout")
        assert stats(server)["peers"] == 1


def test_a_peer_that_does_not_answer_pings_is_noticed(
    servers: Servers, way: str, room: str
) -> None:
    server = servers.get(way, heartbeat_seconds="1")
    with Peer(server) as peer, Peer(server) as silent:
        peer.join(room)
        assert silent.closed() == 1008
        for _ in range(3):
            ping = json.loads(peer.ws.recv(timeout=PATIENCE))
            assert ping["type"] == "ping"
            peer.send(type="pong", t=ping["t"])
        before = stats(server)["ended"].get("peer_lost", 0)
        peer.closed()
        until(
            lambda: stats(server)["ended"].get("peer_lost", 0) == before + 1, "peer that was lost"
        )


def test_rooms_can_be_moderated(server: Server, room: str) -> None:
    with Peer(server) as ann, Peer(server) as bob, Peer(server) as carl:
        ann.join(room)
        bob.join(room)
        ann.expect("peer-joined")
        found = call(server, "GET", f"{ROOMS}?room={room}").json
        assert [peer["id"] for peer in found["peers"]] == [ann.id, bob.id]
        assert room in call(server, "GET", ROOMS).json["rooms"]
        assert moderate(server, action="lock", room=room).json == {"done": True}
        carl.send(type="join", room=room)
        assert carl.expect("error")["code"] == "room-locked"
        moderate(server, action="unlock", room=room)
        moderate(server, action="kick", room=room, peer=bob.id)
        assert bob.expect("error")["code"] == "kicked"
        assert bob.closed() == 4502
        assert ann.expect("peer-left")["reason"] == "kicked"
        carl.join(room)
        assert ann.expect("peer-joined")["peer"] == carl.id
        moderate(server, action="close", room=room)
        assert (ann.closed(), carl.closed()) == (4503, 4503)
        answer = moderate(server, action="close", room=room)
        assert (answer.status, answer.json["code"]) == (404, "room-not-found")


def test_a_ban_of_who_has_no_user_can_be_lifted(server: Server, room: str) -> None:
    with Peer(server) as ann, Peer(server) as bob:
        ann.join(room)
        [peer] = call(server, "GET", f"{ROOMS}?room={room}").json["peers"]
        kind, address = peer["subject"].split(":", 1)
        assert kind == "address"
        moderate(server, action="kick", room=room, peer=ann.id, ban_seconds=60)
        bob.send(type="join", room=room)
        assert bob.expect("error")["code"] == "forbidden"
        moderate(server, action="unban", room=room, address=address)
        bob.join(room)
        moderate(server, action="ban", room=room, address=address, seconds=60)
        assert bob.closed() == 4502


@pytest.mark.parametrize(
    "order",
    [
        {"action": "dance", "room": "a"},
        {"action": "kick", "room": "a"},
        {"action": "kick", "room": "a b", "peer": "x"},
        {"action": "ban", "room": "a", "user": "x", "seconds": -1},
        {"action": "ban", "room": "a", "user": "x" * 201, "seconds": 1},
        {"action": "ban", "room": "a", "seconds": 1},
        {"action": "ban", "room": "a", "address": "ann", "seconds": 1},
        {"action": "unban", "room": "a", "user": ""},
        {"action": "unban", "room": "a", "user": "x", "address": "127.0.0.1"},
        {"action": "ban", "room": "a", "user": "x", "seconds": 1e9},
        {"room": "a"},
    ],
)
def test_a_wrong_order_is_refused(server: Server, order: dict[str, Any]) -> None:
    answer = moderate(server, **order)
    assert answer.status == 400
    assert set(answer.json) == {"code", "message", "temporary"}


def test_tokens_say_who_may_join_what(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    host = {"room": "team-*", "role": "host", "claim": True}

    def refusal(room: str, **fields: Any) -> str:
        with Peer(server) as peer:
            peer.send(type="join", room=room, **fields)
            return str(peer.expect("error")["code"])

    assert refusal("team-a") == "unauthorized"
    assert refusal("team-a", token="x") == "unauthorized"
    assert refusal("team-a", token=token("ann", rooms=["other"])) == "forbidden"
    assert refusal("team-a", token=token("ann", rooms=["team-*"]), peer="me") == "forbidden"
    limited = {"room": "team-*", "create": False}
    assert refusal("team-a", token=token("ann", rooms=[limited])) == "room-not-found"
    for wrong in ("a", [1], [{"role": "x"}], [{"room": "a*b"}], [{"room": "a", "x": 1}]):
        assert refusal("team-a", token=token("ann", rooms=wrong)) == "unauthorized"
    with pytest.raises(InvalidStatus):
        Peer(server, Authorization="Bearer x")
    with (
        Peer(server) as ann,
        Peer(server, **bearer("bob", rooms=["team-a"])) as bob,
    ):
        joined = ann.join("team-a", token=token("ann", rooms=[host]), peer="ann-1")
        assert (joined["peer"], joined["role"]) == ("ann-1", "host")
        assert bob.join("team-a")["peers"][0]["role"] == "host"
        admin = bearer("root")
        order = {"action": "ban", "room": "team-a", "user": "bob", "seconds": 60}
        assert moderate(server, bearer("x", subscribe=["*"]), **order).status == 403
        assert moderate(server, admin, **order).status == 200
        assert bob.closed() == 4502
    assert refusal("team-a", token=token("bob", rooms=["team-a"])) == "forbidden"


def test_strangers_do_not_take_all_places(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY, "--max-connections", "20")
    allowed = token("ann", rooms=["a"])
    with Peer(server) as first, Peer(server) as second:
        until(
            lambda: stats(server, headers=bearer("root"))["signaling_count"] == 2, "two strangers"
        )
        with Peer(server, Authorization=f"Bearer {allowed}") as known:
            known.join("a")
        first.send(type="join", room="a", token="wrong")
        first.expect("error")
        # They have places for a moment. Then they give way, in their order, to whoever comes.
        third = until(lambda: _come(server), "a place")
        with third:
            third.join("a", token=allowed)
            assert first.closed() == 4002
            second.join("a", token=allowed)


def _come(server: Server) -> Peer | None:
    try:
        return Peer(server)
    except InvalidStatus as refused:
        if refused.response.status_code != 503:
            raise
        return None


def test_a_token_that_ends_takes_its_peer_along(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    rooms = {"rooms": ["a"]}
    with Peer(server) as ann, Peer(server) as bob:
        ann.join("a", token=token("ann", **rooms))
        bob.join("a", token=token("bob", seconds=2, **rooms))
        ann.expect("peer-joined")
        left = ann.expect("peer-left")
        assert (left["peer"], left["reason"]) == (bob.id, "left")
        assert bob.closed() == 4500


def test_a_peer_comes_back_with_a_new_token(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    rooms = {"rooms": ["a"]}
    with Peer(server) as ann, Peer(server) as bob, Peer(server) as carl, Peer(server) as again:
        ann.join("a", token=token("ann", **rooms))
        joined = bob.join("a", token=token("bob", seconds=4, **rooms))
        resume = {"token": joined["resume"]["token"], "lastSeq": 0}
        told = again.join("a", token=token("bob", seconds=600, **rooms), resume=resume)
        assert told["resume"]["resumed"]
        assert joined["tokenTtl"] <= 4 < told["tokenTtl"] <= 600
        assert bob.closed() == 4501
        carl.join("a", token=token("carl", seconds=4, **rooms))
        ann.expect("peer-joined")
        ann.expect("peer-joined")
        # When Carl's token ends, Bob's first would have ended, too. Nothing else is told.
        assert ann.expect("peer-left")["peer"] == carl.id
        again.send(type="leave")
        left = ann.expect("peer-left")
        assert (left["peer"], left["reason"]) == (again.id, "left")


def test_turn_credentials_are_of_this_peer(serve: Callable[..., Server]) -> None:
    server = serve(
        "--stun-servers", "stun:127.0.0.1:3478",
        "--turn-servers", "turn:127.0.0.1:3478,turns:127.0.0.1:5349",
        "--turn-seconds", "600",
        environment={"TRIOCAST_TURN_SECRET": "a secret of these tests"},
    )  # fmt: skip
    with Peer(server) as peer:
        joined = peer.join("a")
        stun, turn = joined["iceServers"]
        assert stun == {"urls": ["stun:127.0.0.1:3478"]}
        assert turn["urls"] == ["turn:127.0.0.1:3478", "turns:127.0.0.1:5349"]
        assert turn["username"].partition(":")[2] == peer.id
        assert joined["iceServersTtl"] == 600
    assert "a secret of these tests" not in server.stderr.read_text()


def test_when_the_server_stops_peers_are_told_to_come_back(serve: Callable[..., Server]) -> None:
    server = serve("--drain-seconds", "1")
    with Peer(server) as peer:
        peer.join("a")
        server.process.terminate()
        assert peer.closed() == 1012


def test_signaling_can_be_off(serve: Callable[..., Server]) -> None:
    server = serve(environment={"TRIOCAST_SIGNALING_ENABLED": "false"})
    with pytest.raises(InvalidStatus) as refused:
        Peer(server)
    assert refused.value.response.status_code == 404
    assert call(server, "GET", ROOMS).status == 404
