"""SIGTERM under load: everybody is sent away politely, and told to return at different times."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.clients import Stream
from e2e.crowd import Crowd, Member, sse_request, ws_request
from e2e.faults import BUSY_LOOP, STUCK_DISK, inject
from e2e.rest import PATIENCE, Upload, call, publish, stats, until
from e2e.servers import Server

DRAIN_SECONDS = 20 * PATIENCE
"""Longer than a test waits: a server that uses up its time to drain makes the test fail."""

EACH = 50

_GOODBYE = re.compile(b"\x88[\x02\x0a]" + struct.pack(">H", 1012) + b"(?:shutdown)?\\Z")


@pytest.fixture
def draining(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Start a server that has long to drain."""

    def start(*options: str) -> Server:
        return serve("--drain-seconds", f"{DRAIN_SECONDS:g}", *options)

    return start


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
def test_everybody_is_sent_away_and_then_the_server_ends(
    draining: Callable[..., Server], takeover: str
) -> None:
    server = draining(takeover, "--log-level", "warning")
    with Crowd(server) as crowd:
        streams, sockets = _gather(crowd)
        server.process.send_signal(signal.SIGTERM)
        crowd.pump(lambda: any(member.ended for member in crowd.members), "farewell")
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        crowd.pump(lambda: all(member.ended for member in crowd.members), "end for all")
        assert server.process.wait(PATIENCE) == 0
        assert not any(member.reset for member in crowd.members)
        retries = [_check_farewell(member) for member in streams]
        for member in sockets:
            assert _GOODBYE.search(member.data), bytes(member.data[-100:])
    assert len(set(retries)) > EACH // 3, "they would all come back at the same time"
    assert all(1_000 <= retry <= 3_000 + 1_000 * DRAIN_SECONDS for retry in retries)
    assert "Traceback" not in server.fresh_log()


def test_what_was_acknowledged_reaches_everybody_before_the_farewell(
    draining: Callable[..., Server],
) -> None:
    server = draining("--log-level", "warning")
    with Crowd(server) as crowd:
        streams, sockets = _gather(crowd)
        lines = b"".join(b'{"type":"last words","data":%d}\n' % number for number in range(50))
        assert call(server, "POST", "/realtime/broadcast", lines, "application/x-ndjson").json[
            "published"
        ]
        server.process.send_signal(signal.SIGTERM)
        crowd.pump(lambda: all(member.ended for member in crowd.members), "end for all")
        heard = [member.data.count(b"last words") for member in (*streams, *sockets)]
        assert heard == [50] * (2 * EACH)


def _gather(crowd: Crowd) -> tuple[list[Member], list[Member]]:
    """Open the streams and the sockets; return when all have been greeted."""
    streams = crowd.join(EACH, sse_request(crowd.server))
    sockets = crowd.join(EACH, ws_request(crowd.server))
    crowd.pump(
        lambda: (
            all(b"retry:" in member.data for member in streams)
            and all(b"connection_id" in member.data for member in sockets)
        ),
        "greeting for all",
    )
    counts = stats(crowd.server)
    assert (counts["sse_count"], counts["websocket_count"]) == (EACH, EACH)
    return streams, sockets


def _check_farewell(member: Member) -> int:
    """A stream ends with a time to come back at, behind whole chunks but not the last one."""
    text, rest = b"", member.body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        text += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
        assert length, "some clients never come back after the last chunk"
    block = text.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    found = re.fullmatch(rb'retry: (\d+)\ndata: .*"code":"shutting_down".*', block)
    assert found is not None, block
    return int(found[1])


def test_a_stream_over_http_1_0_ends_politely_too_and_by_a_reset(
    draining: Callable[..., Server],
) -> None:
    server = draining()
    with Crowd(server) as crowd:
        (member,) = crowd.join(1, sse_request(server).replace(b"HTTP/1.1", b"HTTP/1.0"))
        crowd.pump(lambda: b"retry:" in member.data, "first block")
        server.process.send_signal(signal.SIGTERM)
        crowd.pump(lambda: member.ended, "end")
    assert re.search(rb'\n\nretry: \d+\ndata: .*"shutting_down".*\n\n\Z', bytes(member.data))
    assert member.reset, "it would look whole, and some clients never come back then"
    assert server.process.wait(PATIENCE) == 0


def test_clients_that_take_nothing_do_not_hold_up_the_end(draining: Callable[..., Server]) -> None:
    server = draining("--outbox-bytes", "64000000")
    with Crowd(server) as crowd:
        members = crowd.join(3, sse_request(server), receive_buffer=4_096)
        members += crowd.join(3, ws_request(server), receive_buffer=4_096)
        crowd.pump(lambda: all(b"\r\n\r\n" in member.data for member in members), "heads")
        until(lambda: stats(server)["sse_count"] == 3, "streams")
        until(lambda: stats(server)["websocket_count"] == 3, "sockets")
        line = b'{"data":"%b"}\n' % (b"x" * 60_000)
        assert call(server, "POST", "/realtime/broadcast", line * 100, "application/x-ndjson")
        until(lambda: stats(server)["queue_bytes"] > 0, "queue")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_request_that_never_ends_is_cut_off_when_the_time_is_up(
    serve: Callable[..., Server],
) -> None:
    server = serve("--drain-seconds", "0.2")
    with Upload(server) as upload:
        upload.line(data=1)
        until(lambda: stats(server)["published"] == 1, "the first line")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_request_under_way_is_answered(draining: Callable[..., Server]) -> None:
    server = draining()
    with Stream(server) as stream, Upload(server) as upload:
        stream.opened()
        upload.line(data=1)
        assert stream.event()["data"] == 1
        server.process.send_signal(signal.SIGTERM)
        last = stream.block()
        while last is not None:
            last = stream.block()
        upload.line(data=2)
        answer = upload.finish()
    assert answer.json["published"] in (1, 2)
    if answer.json["published"] == 1:
        assert answer.json["error"]["code"] == "shutting_down"
        assert answer.json["error"]["temporary"] is True
    assert server.process.wait(PATIENCE) == 0


def test_idle_connections_are_closed_while_others_are_still_answered(
    draining: Callable[..., Server],
) -> None:
    server = draining()
    with server.connect() as idle, server.connect() as silent, Upload(server) as upload:
        idle.sendall(f"GET /healthz HTTP/1.1\r\nHost: {server.authority}\r\n\r\n".encode())
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        upload.line(data=1)
        # all are known to the server when another, later one was served
        assert call(server, "GET", "/healthz").status == 200
        server.process.send_signal(signal.SIGTERM)
        for sock in (idle, silent):
            assert _rest(sock) == b""
        assert upload.finish().json["published"] in (0, 1)
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_other_signals(
    draining: Callable[..., Server], signals: tuple[signal.Signals, ...]
) -> None:
    """One SIGINT drains like SIGTERM; a second signal of either kind is final."""
    server = draining()
    with Crowd(server) as crowd:
        (stalled,) = crowd.join(1, sse_request(server))
        crowd.pump(lambda: b"retry:" in stalled.data, "first block")
        if len(signals) == 1:
            server.process.send_signal(signals[0])
            crowd.pump(lambda: stalled.ended, "end")
        else:
            # a POST without its body keeps the drain waiting
            with Upload(server):
                server.process.send_signal(signals[0])
                crowd.pump(lambda: stalled.ended, "end")
                server.process.send_signal(signals[1])
                server.process.wait(PATIENCE)
    assert server.process.wait(PATIENCE) == len(signals) - 1


@pytest.fixture(params=["1"])
def stuck(
    serve: Callable[..., Server], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A server with a publish under way whose commit does not end; the parameter is its drain."""
    flag = tmp_path / "stuck"
    environment = inject(tmp_path / "faults", STUCK_DISK.format(flag=str(flag)))
    options = ("--engine", "sqlite:///events.db", "--drain-seconds", request.param)
    server = serve(*options, environment=environment)
    publish(server, data=1)
    flag.touch()
    try:
        with server.connect() as publisher:
            publisher.sendall(
                f"POST /realtime/broadcast HTTP/1.1\r\nHost: {server.authority}\r\n"
                'Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"data":2}'.encode()
            )
            # This one is read later, and answered at once.
            assert call(server, "GET", "/healthz").status == 200
            yield server
    finally:
        flag.unlink()


def test_a_disk_that_hangs_does_not_hold_up_the_end(stuck: Server) -> None:
    stuck.process.send_signal(signal.SIGTERM)
    assert stuck.process.wait(PATIENCE) == 1
    log = stuck.fresh_log()
    assert log.count(" CRITICAL ") == 1
    assert "it did not end within 4 s of SIGTERM" in log


@pytest.mark.parametrize("stuck", ["300"], indirect=True)
def test_a_second_signal_ends_the_process_while_the_disk_hangs(stuck: Server) -> None:
    stuck.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        stuck.process.wait(0.5)
    stuck.process.send_signal(signal.SIGTERM)
    assert stuck.process.wait(PATIENCE) == 1
    assert "it did not end at once at a second SIGTERM" in stuck.fresh_log()


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_loop_that_hangs_does_not_hold_up_the_end(
    serve: Callable[..., Server], tmp_path: Path, count: int
) -> None:
    drain_seconds = "1" if count == 1 else "100"
    environment = inject(tmp_path / "faults", BUSY_LOOP)
    server = serve("--drain-seconds", drain_seconds, environment=environment)
    server.process.send_signal(signal.SIGUSR1)
    for _ in range(count):
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 1
    assert server.fresh_log().count(" CRITICAL ") == 1


def _rest(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1)
    except ConnectionResetError:
        return b""
