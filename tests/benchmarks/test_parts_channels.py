"""Small runs of the parts about single clients among many: each sees what is wrong."""

from __future__ import annotations

import json
import os
import signal
import time
import zlib

import pytest
from benchmarks import compression, fairness, slow_consumers
from benchmarks.framing import COMPRESSED, PONG, TEXT, frames
from benchmarks.listening import OFFER, listeners
from benchmarks.loading import LoadFailed
from benchmarks.pinging import FRAME, REQUEST, pinging
from benchmarks.servers import ServerFailed, serve_triocast

COMPRESSION = ["--clients", "8", "--events", "6", "--patience", "1", "--runs", "1"]
SLOW = ["--clients", "20", "--stalled", "2", "--open-rate", "100", "--settle-ms", "50"]


def server_frame(first: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes([first, length]) + payload
    size = b"\x7e" + length.to_bytes(2) if length < 1 << 16 else b"\x7f" + length.to_bytes(8)
    return bytes([first]) + size + payload


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_are_found_when_they_are_whole(length: int) -> None:
    payload = b"x" * length
    raw = server_frame(PONG, b"5") + server_frame(TEXT | COMPRESSED, payload)
    cuts = {0, 1, 2, 3, 4, 5, 7, 13, len(raw) - 1} & set(range(len(raw)))
    for cut in cuts:
        found = [first for first, *_ in frames(raw[:cut])]
        assert found == [PONG][: cut >= 3]
    (_, pong, behind), (first, start, end) = frames(raw)
    assert raw[pong:behind] == b"5"
    assert first == TEXT | COMPRESSED
    assert raw[start:end] == payload
    assert end == len(raw)


def test_compression_stands_next_to_plain() -> None:
    result = compression.measure(COMPRESSION)
    assert result.problems == []
    (plain,), (compressed,) = result.raw["plain"], result.raw["compressed"]
    assert plain["bytes"] > 2000
    assert 50 < compressed["bytes"] < plain["bytes"] / 2
    for run in (plain, compressed):
        assert {"us", "rate"} <= set(run)
    assert len(result.tables[0].rows) == 3


@pytest.mark.parametrize("by", [-1, 1], ids=["lost", "repeated"])
def test_compression_notices_what_is_lost_or_repeated(
    by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = compression._publish

    def another_number(server, crowd, events, clients, patience):
        changed = events[:-1] if by < 0 else [*events, events[-1]]
        return publish(server, crowd, changed, clients, patience)

    monkeypatch.setattr(compression, "_publish", another_number)
    problems = compression.measure(COMPRESSION).problems
    for name in ("plain", "compressed"):
        assert f"{name}, run 1: 8 clients got {6 + by} or other counts, not 6" in problems
        assert f"{name}, run 1: what the first client got is not what was published" in problems


def test_compression_is_not_measured_where_nothing_is_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compression, "_NAMESPACES", "{}")
    with pytest.raises(ServerFailed, match="0 of 8 clients"):
        compression.measure(COMPRESSION)


def test_events_that_were_not_compressed_are_a_fault() -> None:
    event = {"number": 1}
    found = {"counts": [1, 1], "compressed": 1, "texts": [json.dumps({"data": event})]}
    faults = compression.faults_in(found, [event], compressed=True)
    assert faults == ["1 frames were compressed, not 2"]
    found["compressed"] = 2
    assert compression.faults_in(found, [event], compressed=True) == []
    assert compression.faults_in(found, [event], compressed=False)


def test_events_differ_and_shrink() -> None:
    texts = [json.dumps(compression.event_data(number, 2000)) for number in range(20)]
    assert len(set(texts)) == 20
    for text in texts:
        assert 2000 <= len(text) < 2500
        assert len(zlib.compress(text.encode())) < len(text) / 2


def test_listeners_who_lose_their_streams_say_so() -> None:
    with serve_triocast(50) as server, listeners(server) as crowd:
        assert crowd.join(3, [OFFER]) == 0  # nothing is compressed by default
        crowd.begin()
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerFailed):
            crowd.wait(1, patience=5)


@pytest.mark.usefixtures("compiler")
def test_fairness_asks_meanwhile() -> None:
    arguments = ["--clients", "10", "--seconds", "0.4", "--interval-ms", "10", "--runs", "1"]
    result = fairness.measure([*arguments, "--transports", "websocket"])
    assert result.problems == []
    (run,) = result.raw[0]["runs"]
    for when in (fairness.REST, "open", "burst"):
        for kind in (REQUEST, FRAME):
            asked = run[f"{when}, seconds"] / 0.01
            assert run[f"{when}, {kind}, answers"] == pytest.approx(asked, abs=1)
            assert {f"{when}, {kind}, p50", f"{when}, {kind}, most"} <= set(run)
    assert {"open, deliveries/s", "burst, deliveries/s"} <= set(run)
    assert len(result.tables[0].rows) == 6


def test_fairness_without_an_answer_is_no_measurement() -> None:
    with pytest.raises(LoadFailed, match="at rest"):
        fairness.quantiles("at rest", [])


@pytest.mark.parametrize("who", ["server", "client"])
def test_a_halt_shows_in_all_answers_that_were_due(who: str) -> None:
    with serve_triocast(50) as server, pinging(server.port, 10) as client:
        pid = server.pid if who == "server" else client.process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        halted = time.monotonic()
        while time.monotonic() < halted + 0.3:  # pings are due meanwhile
            pass
        over = time.monotonic()
        os.kill(pid, signal.SIGCONT)
        client.end()
    assert client.unanswered == 0
    for kind in (REQUEST, FRAME):
        pings = [(due, came) for due, came in client.answers[kind] if halted <= due <= over]
        assert len(pings) == pytest.approx((over - halted) / 0.01, abs=1)
        assert min(came for _, came in pings) >= over
        latencies = client.latencies_ms(kind, halted, over)
        assert latencies == sorted((came - due) * 1e3 for due, came in pings)


def test_a_client_that_pings_and_loses_its_server_says_so() -> None:
    with serve_triocast(50) as server, pinging(server.port, 10) as client:
        os.kill(server.pid, signal.SIGKILL)
        client.process.wait(30)  # told to end before it has noticed, it would have lost nothing
        with pytest.raises(ServerFailed):
            client.end()


@pytest.mark.usefixtures("compiler")
def test_the_stalled_are_cut_off_and_nobody_else() -> None:
    result = slow_consumers.measure(
        [*SLOW, "--outbox-bytes", "70000", "--seconds", "3", "--runs", "1"]
    )
    assert result.problems == []
    runs = {name: run for name, (run,) in result.raw[0]["runs"].items()}
    assert runs[slow_consumers.STALLED]["cut"] == 2
    assert runs[slow_consumers.ALL_READ]["cut"] == runs[slow_consumers.FEWER]["cut"] == 0
    assert all(slow_consumers.P99 in run for run in runs.values())
    assert [row[2:4] for row in result.tables[0].rows] == [["20", "0"], ["20", "2"], ["18", "0"]]


@pytest.mark.usefixtures("compiler")
def test_stalled_clients_whose_buffers_never_fill_are_a_problem() -> None:
    result = slow_consumers.measure(
        [*SLOW, "--outbox-bytes", "67108864", "--seconds", "0.3", "--runs", "1"]
    )
    assert list(result.problems) == [
        "sse, some stall, run 1: 0 clients were cut off as too slow, 2 stalled"
    ]
