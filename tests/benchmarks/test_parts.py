"""Small runs of the parts about connections and publishing: each measures something real."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from benchmarks import bystanders, flat, many_channels, memory, publishing, storm, tls
from benchmarks.crowding import crowd, need_all, record, turned_away
from benchmarks.loading import LoadFailed
from benchmarks.results import Result
from benchmarks.servers import Running, ServerFailed, free_port, serve_triocast
from benchmarks.wire import connect, publish_singly


def numbers_in(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.?\d*", cell)]


def column(result: Result, title: str, table: int = 0) -> list[float]:
    """The medians of a column."""
    found = result.tables[table]
    place = list(found.columns).index(title)
    return [numbers_in(row[place])[0] for row in found.rows]


def test_flat_compares_with_the_c_loop(compiler: str) -> None:
    result = flat.measure(
        ["--clients", "10,20", "--runs", "1", "--events", "20", "--settle-ms", "10"]
    )
    assert result.problems == []
    assert column(result, "clients") == [10, 20]
    assert column(result, "growth")[0] == 1
    assert len(result.raw) == 4


@pytest.mark.parametrize(
    ("files", "found", "missing"),
    [
        (20_500, [100, 5000, 20_000], 0),
        (20_000, [100, 5000, 19_500], 1),
        (5600, [100, 5000], 1),
        (700, [100, 200], 1),
    ],
)
def test_flat_measures_as_many_as_there_can_be(
    monkeypatch: pytest.MonkeyPatch, files: int, found: list[int], missing: int
) -> None:
    monkeypatch.setattr(flat, "raise_descriptor_limit", lambda wanted: min(files, wanted))
    monkeypatch.setattr(flat, "_PORTS", Path("/does/not/exist"))
    sizes, said = flat.fitting([100, 5000, 20_000])
    assert sizes == found
    assert len(said) == missing


def test_flat_says_when_there_is_room_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "raise_descriptor_limit", lambda wanted: 500)
    with pytest.raises(ServerFailed, match="500 open files"):
        flat.fitting([100])


def test_flat_needs_a_port_for_each_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ports = tmp_path / "ip_local_port_range"
    ports.write_text("32768\t34767\n")
    monkeypatch.setattr(flat, "raise_descriptor_limit", lambda wanted: wanted)
    monkeypatch.setattr(flat, "_PORTS", ports)
    sizes, (said,) = flat.fitting([100, 5000])
    assert sizes == [100, 1500]
    assert "2000 ports" in said


def test_memory_knows_all_ways(compiler: str) -> None:
    result = memory.measure(["--clients", "150", "--runs", "1", "--settle-ms", "50"])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == [name for name, *_ in memory.WAYS]
    taken_over, _, portable, _ = column(result, "kB")
    assert 1 < taken_over < portable < 200


STORM = ["--bystanders", "5", "--quiet-seconds", "0.2", "--runs", "1"]


def test_the_storm_serves_everybody(compiler: str) -> None:
    result = storm.measure(["--clients", "300", *STORM])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == ["sse", "websocket"]
    assert column(result, "served") == [300, 300]
    for title in ("accepted/s", "accepted per server CPU second", "others' p99 ms before"):
        assert all(number > 0 for number in column(result, title))


def test_a_storm_counts_whom_the_server_turns_away(compiler: str) -> None:
    result = storm.measure(["--clients", "40", "--max-connections", "25", *STORM])
    # Five of the 25 places are the bystanders'.
    assert column(result, "served") == [20, 20]
    assert result.problems == [f"40 {how}, run 1: 20 turned away" for how in ("sse", "websocket")]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_the_crowd_counts_what_arrives(compiler: str, transport: str) -> None:
    with serve_triocast(50) as server, crowd(server, 7, transport) as comers:
        need_all(comers)
        if transport == "websocket":
            comers.wait("messages", 7, 5)  # the greetings
        comers.reset()
        with connect(server) as stream:
            event = f'{{"data":"{record()}"}}'.encode()
            publish_singly(stream, [event] * 3)
        comers.wait("records", 21, 5)
        counts = comers.rest(0.1)
    assert counts["records"] == 21
    assert counts["messages"] == (21 if transport == "websocket" else 0)
    assert counts["delivered"] is None  # no event said when it was due
    assert turned_away(counts) == []


def test_the_crowd_notices_the_end_of_its_streams(compiler: str) -> None:
    with serve_triocast(50) as server, crowd(server, 4, "sse") as comers:
        os.kill(server.pid, signal.SIGKILL)
        counts = (comers.rest(0.2) for _ in range(50))
        assert any(turned_away(each) == ["4 closed"] for each in counts)


def test_a_crowd_that_nobody_listens_to_is_refused(compiler: str) -> None:
    with crowd(Running("127.0.0.1", free_port(), None), 5, "sse") as comers:
        assert turned_away(comers.arrival) == ["5 refused"]
        with pytest.raises(LoadFailed, match="5 refused"):
            need_all(comers)


CHANNELS = ["--channels", "40", "--clients", "10", "--posts", "100", "--streamed", "1000"]
CHANNELS += ["--own-channels", "120", "--patterns", "20", "--requests", "100", "--runs", "1"]


def test_many_channels_compares_with_one(compiler: str) -> None:
    result = many_channels.measure(CHANNELS)
    assert result.problems == []
    fan_out, requests = result.tables
    assert len(fan_out.rows) == 12
    assert [row[4] for row in fan_out.rows].count("") == 6
    # A difference of two measurements this small may be anything; what it is made of may not.
    assert all(cost > 0 for cost in column(result, "server CPU µs per publish"))
    assert all(each >= 1 for each in column(result, "deliveries per read"))
    assert len(requests.rows) == 3
    assert all(cost > 0 for cost in column(result, "subscribe, CPU µs", table=1))


def test_many_channels_notices_a_loss(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_channels, "_PATIENCE", 1.0)
    monkeypatch.setattr(many_channels, "_BLOCKS", dict.fromkeys(many_channels._BLOCKS, 1))
    publish = many_channels.publish_singly
    monkeypatch.setattr(many_channels, "publish_singly", lambda to, them: publish(to, them[1:]))
    result = many_channels.measure(CHANNELS)
    (problem,) = result.problems
    assert "500 deliveries were due, 495 came" in problem
    assert result.tables == []


def test_bystanders_see_every_event() -> None:
    with serve_triocast(50) as server, bystanders.bystanders(server.port, 3, 50) as others:
        others.end()
    dues = [due for due, _ in others.deliveries]
    assert dues
    assert len(dues) == 3 * len(set(dues))
    assert all(arrived > due for due, arrived in others.deliveries)


def test_bystanders_who_lose_their_streams_say_so() -> None:
    with serve_triocast(50) as server, bystanders.bystanders(server.port, 3, 50) as others:
        os.kill(server.pid, signal.SIGKILL)
        others.process.wait(30)  # told to end before it has noticed, it would have lost nothing
        with pytest.raises(ServerFailed):
            others.end()


def test_publishing_measures_streams_and_posts() -> None:
    result = publishing.measure(["--events", "500", "--posts", "20", "--runs", "1"])
    assert result.problems == []
    assert len(column(result, "events/s")) == 3
    assert all(rate > 100 for rate in column(result, "events/s"))
    assert len(result.tables[1].rows) == 5


def test_publishing_notices_what_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_DATA", '{"pad":')
    monkeypatch.setattr(publishing, "_cost_of_posts", lambda posts: {publishing._BASE: 1.0})
    result = publishing.measure(["--events", "3", "--posts", "1", "--runs", "1"])
    assert len(result.problems) == 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="install openssl")
def test_tls_stands_next_to_clear_text() -> None:
    result = tls.measure(["--clients", "20", "--events", "3", "--runs", "1"])
    rows = {row[0]: row[1:] for row in result.tables[0].rows}
    clear, secure, _ = rows["deliveries per second"]
    assert float(clear) > 0
    assert float(secure) > 0
    clear, secure, _ = rows["accepted per server CPU second"]
    assert float(clear) > float(secure) > 0
