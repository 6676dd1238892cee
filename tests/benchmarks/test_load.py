"""What the load clients do for servers other than Triocast, seen by a server that checks it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from benchmarks.figures import problems_of
from benchmarks.loading import Load, LoadFailed, run_load
from benchmarks.servers import Paths, Running

from .greeting_server import GreetingServer, greeting_server, text_frame

PLAIN = Paths()
FORM = "application/x-www-form-urlencoded"


def _run(
    program: Path | None,
    server: GreetingServer,
    paths: Paths = PLAIN,
    transport: str = "sse",
    clients: int = 3,
    events: int = 10,
    data_bytes: int = 128,
    stall_ms: int = 2000,
    stalled: int = 0,
) -> dict:
    load = Load(
        program,
        clients=clients,
        transport=transport,
        phases=["single"],
        seconds=20,
        events=events,
        data_bytes=data_bytes,
        publishers=1,
        settle_ms=10,
        stall_ms=stall_ms,
        stalled=stalled,
        headers=["X-Everywhere: yes"],
    )
    return run_load(load, Running("127.0.0.1", server.port, None), paths)


def _deliveries(report: dict) -> int:
    assert problems_of(report) == []
    (phase,) = report["phases"]
    return phase["deliveries"]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_the_servers_own_form_is_posted(load_program: Path | None, chunked: bool) -> None:
    paths = Paths(
        body='{"channel":"100%","data":{data}}',
        content_type="application/x-own",
        publish_headers=("X-API-Key: 1", "X-Other: 2"),
    )
    with greeting_server(chunked=chunked) as server:
        assert _deliveries(_run(load_program, server, paths)) == 30

    bodies = set()
    for headers, body in server.posts:
        assert headers["content-type"] == "application/x-own"
        assert (headers["x-api-key"], headers["x-other"]) == ("1", "2")
        assert headers["x-everywhere"] == "yes"
        posted = json.loads(body)
        assert posted["channel"] == "100%"
        assert len(body) == len('{"channel":"100%","data":}') + 128
        bodies.add(posted["data"]["n"])
    assert len(bodies) == len(server.posts)
    for headers in server.gets:
        assert headers["x-everywhere"] == "yes"
        assert "x-api-key" not in headers


def test_a_form_has_its_data_percent_encoded(load_program: Path | None) -> None:
    paths = Paths(body="topic=bench&data={data}", content_type=FORM)
    with greeting_server() as server:
        assert _deliveries(_run(load_program, server, paths)) == 30
    for _, body in server.posts:
        fields = parse_qs(body.decode(), strict_parsing=True)
        assert fields["topic"] == ["bench"]
        assert len(fields["data"][0]) == 128
        assert b'"' not in body
        assert b"{" not in body


# A message of more than 125 bytes has another frame header.
@pytest.mark.parametrize("message", ["40", "x" * 300])
def test_a_websocket_says_what_it_has_to_before_it_is_greeted(
    load_program: Path | None, message: str
) -> None:
    paths = Paths(websocket_messages=(message,), websocket_ready='40{"sid"')
    greeting = text_frame(b'0{"pingInterval":1}') + text_frame(b'40{"sid":"a"}')
    with greeting_server(greeting, message.encode()) as server:
        assert _deliveries(_run(load_program, server, paths, "websocket")) == 30


def test_an_sse_client_says_nothing_and_waits_for_its_greeting(
    load_program: Path | None,
) -> None:
    paths = Paths(sse_ready='"connect":', websocket_messages=("40",), websocket_ready="never")
    with greeting_server(b'data: {"connect":{}}\n\n') as server:
        assert _deliveries(_run(load_program, server, paths)) == 30


def test_a_client_that_is_not_greeted_does_not_count_as_open(load_program: Path | None) -> None:
    with (
        greeting_server(b"data: something else\n\n") as server,
        pytest.raises(LoadFailed),
    ):
        _run(load_program, server, Paths(sse_ready="connect"), stall_ms=300)
    assert server.posts == []


def test_stalled_clients_are_in_but_do_not_read(load_program: Path | None) -> None:
    with greeting_server() as server:
        report = _run(
            load_program, server, clients=7, stalled=2, events=20, data_bytes=4000, stall_ms=5000
        )
        assert _deliveries(report) == 20 * 5
        assert len(server.stuck) == 2
    assert (report["clients"], report["stalled"]) == (7, 2)


def test_a_phase_is_told_by_the_clock_of_all_processes(load_program: Path | None) -> None:
    before = time.monotonic()
    with greeting_server() as server:
        (phase,) = _run(load_program, server)["phases"]
    after = time.monotonic()
    rounding = 1e-5
    assert before - rounding <= phase["began"]
    assert phase["began"] + phase["seconds"] <= after + rounding


def test_without_stalled_clients_all_read(load_program: Path | None) -> None:
    with greeting_server() as server:
        report = _run(load_program, server, clients=7, events=20, data_bytes=4000)
        assert _deliveries(report) == 20 * 7
        assert not server.stuck
