"""What has a bound: connections in all, and what may wait for one that does not read."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.crowd import Crowd, Member, sse_request, ws_frame, ws_request
from e2e.faults import FEW_DESCRIPTORS, inject
from e2e.rest import Answer, call, publish, stats, until
from e2e.servers import Certificate, Server
from triocast.server.run import SPARE_SOCKETS

WAYS = ("--takeover", "--no-takeover")

EVENT_BYTES = 8_000
EVENTS = 1_000  # 8 MB in all
READERS = 25  # over each transport


@pytest.fixture
def small_server(servers: Servers, way: str) -> Server:
    """A server that takes three connections."""
    return servers.get(way, max_connections="3")


def test_one_too_many(small_server: Server) -> None:
    server = small_server
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server)) for _ in range(2)]
        socket = stack.enter_context(Socket(server))
        for stream in streams:
            stream.opened()

        refused = call(server, "GET", "/realtime/events")
        _check_refusal(refused)

        # A browser's EventSource would never come back after an error.
        with Stream(server) as polite:
            assert polite.status == 200
            assert polite.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert polite.headers["cache-control"].endswith("no-transform")
            told = polite.block()
            assert told is not None
            assert polite.block() is None
            assert polite.is_broken, "some clients never come back after a whole response"
            assert told.retry is not None
            assert int(told.retry) >= 1_000
            assert told.data is not None
        error = json.loads(told.data)
        assert error["type"] == "ERROR"
        assert error["data"]["code"] == "too_many_connections"
        assert error["data"]["temporary"] is True
        assert error["data"]["message"]

        with pytest.raises(InvalidStatus) as closed:
            Socket(server)
        response = closed.value.response
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert json.loads(response.body or b"")["code"] == "too_many_connections"

        # Those who are in notice nothing, and other requests are no connections.
        publish(server, data="for those who are in")
        for client in (*streams, socket):
            assert client.event()["data"] == "for those who are in"
        assert stats(server)["sse_count"] == 2
        streams[0].close()
        until(lambda: stats(server)["sse_count"] == 1, "free place")
        with Stream(server) as next_one:
            next_one.opened()
    until(lambda: stats(server)["taken_over"] + stats(server)["portable"] == 0, "empty server")


def test_retries_of_those_turned_away_are_spread(small_server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Stream(small_server)).opened()
        retries = set()
        for _ in range(8):
            with Stream(small_server) as polite:
                first = polite.block()
                assert first is not None
                retries.add(first.retry)
        assert len(retries) > 4
    until(lambda: stats(small_server)["sse_count"] == 0, "empty server")


def test_a_refused_handshake_keeps_no_place(small_server: Server) -> None:
    for _ in range(5):
        assert call(small_server, "GET", "/realtime/events?channel=a%20b").status == 400
        assert call(small_server, "HEAD", "/realtime/events").status == 200
        with pytest.raises(InvalidStatus):
            Socket(small_server, "?heartbeat=never")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Stream(small_server)).opened()
    until(lambda: stats(small_server)["sse_count"] == 0, "empty server")


PAGE = "https://app.example"
MANY = 900


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for many sockets of our own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY + 300
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} descriptors are needed: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _is_polite(member: Member) -> bool:
    head, _, body = bytes(member.data).partition(b"\r\n\r\n")
    return (
        head.startswith(b"HTTP/1.1 200 ")
        and b"access-control-allow-origin: https://app.example" in head.lower()
        and body.startswith(b"retry: ")
        and b'"code":"too_many_connections"' in body
        and int(re.search(rb"(?i)content-length: (\d+)", head)[1]) == len(body) + 1
    )


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("secure", [False, True])
def test_a_crowd_of_event_sources_at_a_full_server_gets_the_polite_end(
    serve: Callable[..., Server], certificate: Certificate, secure: bool
) -> None:
    """More of them than there are sockets, and none closes its connection by itself."""
    options = ["--max-connections", "1", "--allowed-origins", PAGE]
    trust = None
    if secure:
        options += certificate.options()
        trust = certificate.trust()
    server = serve(*options, trust=trust)
    ask = sse_request(server).replace(b"\r\n\r\n", b"\r\nOrigin: %b\r\n\r\n" % PAGE.encode())
    count = 40 if secure else MANY
    with Stream(server) as first, Crowd(server) as crowd, ExitStack() as stack:
        first.opened()
        # With so many silent ones there is no place left for a request.
        for _ in range(SPARE_SOCKETS if secure else 0):
            stack.enter_context(server.connect(clear=True))
        crowd.join(count, ask)
        crowd.pump(lambda: all(m.ended for m in crowd.members), "end for all", 60)
        assert [m for m in crowd.members if not _is_polite(m)] == []
    log = server.fresh_log()
    assert "Traceback" not in log


def test_clients_beyond_the_limit_of_descriptors_are_told_so(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    environment = inject(tmp_path / "faults", FEW_DESCRIPTORS.format(number=90))
    server = serve("--max-connections", "1000", environment=environment)
    with Crowd(server) as crowd:
        crowd.join(150, sse_request(server))
        crowd.pump(lambda: all(member.data for member in crowd.members), "answer for all", 30)
        streams = [member for member in crowd.members if b"triocast" in member.data]
        others = [member for member in crowd.members if member not in streams]
        assert streams
        assert others
        assert all(b'"code":"too_many_connections"' in member.data for member in others)
        refused = call(server, "POST", "/realtime/broadcast", b'{"data":1}', "application/json")
        _check_refusal(refused)
        for member in streams:
            crowd.leave(member)
    until(lambda: call(server, "GET", "/readyz").status == 200, "place")
    publish(server, data=1)


@pytest.mark.parametrize("takeover", WAYS)
@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_one_slow_client_costs_only_itself(
    serve: Callable[..., Server], takeover: str, kind: str
) -> None:
    options = [takeover, "--outbox-bytes", "1000000", "--log-level", "warning"]
    if takeover == "--no-takeover":
        # Hypercorn's write cannot be cut short: it ends with the patience of one heartbeat.
        # Longer than a busy machine keeps the readers waiting.
        options += ["--heartbeat-seconds", "4"]
    server = serve(*options)
    requests = {"sse": sse_request(server, "channel=bulk"), "websocket": ws_request(server)}
    with Crowd(server) as crowd:
        readers = crowd.join(READERS, requests["sse"]) + crowd.join(READERS, requests["websocket"])
        (slow,) = crowd.join(1, requests[kind], receive_buffer=16_384)
        _subscribe(crowd, [*readers, slow])
        crowd.ignore(slow)
        lot_size = EVENTS // 20
        for lot in range(1, 21):
            lines = b"".join(
                json.dumps({"channel": "bulk", "data": [n, "x" * EVENT_BYTES]}).encode() + b"\n"
                for n in range((lot - 1) * lot_size, lot * lot_size)
            )
            answer = call(server, "POST", "/realtime/broadcast", lines, "application/x-ndjson")
            assert answer.json["published"] == lot_size
            least = lot * lot_size * EVENT_BYTES
            crowd.pump(
                lambda: all(len(member.data) > least for member in readers),  # noqa: B023
                "everything at those who read",
            )
        until(lambda: stats(server)["ended"].get("slow_consumer") == 1, "end of the slow one")
        publish(server, channel="bulk", type="after", data="it")
        crowd.pump(lambda: all(b'"after"' in member.data for member in readers), "next event")
        for member in readers:
            numbers = re.findall(rb'"data":\[(\d+),', member.data)
            assert [int(number) for number in numbers] == [*range(EVENTS)]
        counts = stats(server)
        assert counts["ended"] == {"slow_consumer": 1}
        assert counts["sse_count"] + counts["websocket_count"] == 2 * READERS
        until(lambda: stats(server)["queue_bytes"] == 0, "empty queues")


def _subscribe(crowd: Crowd, members: list[Member]) -> None:
    subscribe = ws_frame(b'{"type":"subscribe","channel":"bulk","id":1}')
    crowd.pump(
        lambda: all(b"retry:" in m.data or b"connection_id" in m.data for m in members), "greeting"
    )
    sockets = [member for member in members if member.data.startswith(b"HTTP/1.1 101 ")]
    for member in sockets:
        member.sock.sendall(subscribe)
    crowd.pump(lambda: all(b'"reply"' in member.data for member in sockets), "reply")


@pytest.mark.parametrize("prefix", ["TRIOCAST_", ""])
def test_a_transport_that_is_switched_off(serve: Callable[..., Server], prefix: str) -> None:
    without_sse = serve(environment={f"{prefix}SSE_ENABLED": "false"})
    _check_disabled(call(without_sse, "GET", "/realtime/events"))
    _check_disabled(
        call(without_sse, "GET", "/realtime/events", headers={"Accept": "text/event-stream"})
    )
    with Socket(without_sse) as socket:
        publish(without_sse, data="rest and sockets stay")
        assert socket.event()["data"] == "rest and sockets stay"

    without_websocket = serve(environment={f"{prefix}WEBSOCKET_ENABLED": "false"})
    with pytest.raises(InvalidStatus) as refused:
        Socket(without_websocket)
    response = refused.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    _check_disabled(Answer(response.status_code, headers, bytes(response.body or b"")))
    with Stream(without_websocket) as stream:
        stream.opened()
        publish(without_websocket, data="rest and streams stay")
        assert stream.event()["data"] == "rest and streams stay"


def _check_disabled(answer: Answer) -> None:
    assert answer.status == 404
    assert answer.json["code"] == "disabled"
    assert answer.json["temporary"] is False


def _check_refusal(answer: Answer) -> None:
    assert answer.status == 503
    assert re.fullmatch(r"[1-9]\d*", answer.headers["retry-after"])
    refusal: dict[str, Any] = answer.json
    assert refusal.pop("message")
    assert refusal == {"code": "too_many_connections", "temporary": True}
