"""Small runs of the parts about connections and publishing: each fills its tables, sees faults."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
from pathlib import Path

import attrs
import pytest
from benchmarks import (
    bystanders,
    draining,
    flat,
    hostile_memory,
    many_channels,
    memory,
    publishing,
    storm,
    tls,
)
from benchmarks.attacks import COMPRESS, HTTP1, HTTP2, KINDS, STALLED, WEBSOCKET, warm_up
from benchmarks.crowding import crowd, need_all, record, turned_away
from benchmarks.loading import LoadFailed
from benchmarks.results import Result
from benchmarks.servers import Running, ServerFailed, free_port, serve_triocast
from benchmarks.wire import connect, get_json, publish_singly


def numbers_in(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.?\d*", cell)]


def column(result: Result, title: str, table: int = 0) -> list[float]:
    """The medians of a column; every row has one."""
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
    result = memory.measure(["--clients", "30", "--runs", "1", "--settle-ms", "50"])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == [name for name, *_ in memory.WAYS]
    assert len(column(result, "kB")) == len(memory.WAYS)


HOSTILE = ["--share", "0.02", "--runs", "1"]


def test_hostile_memory_measures_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a kind one is enough here, and what it comes to is for the benchmark to judge.
    attacks = {attack.kind: attack for attack in hostile_memory.ATTACKS}
    chosen = [attrs.evolve(attack, max_growth_mb=math.inf) for attack in attacks.values()]
    monkeypatch.setattr(hostile_memory, "ATTACKS", chosen)
    result = hostile_memory.measure(HOSTILE)
    assert result.problems == []
    assert set(attacks) == set(KINDS)
    assert [row[0] for row in result.tables[0].rows] == [attack.name for attack in chosen]
    assert len(column(result, "MB more")) == len(chosen)


@pytest.mark.parametrize("kind", [HTTP1, WEBSOCKET, HTTP2])
def test_every_hostile_input_can_be_sent(kind: str) -> None:
    with serve_triocast(50, *COMPRESS) as server:
        warm_up(server, 1)
        for attack in hostile_memory.ATTACKS:
            if attack.kind == kind:
                assert attack.run(server, 0.001) > 0, attack.name
        assert get_json(server, "/healthz")


def test_memory_beyond_the_target_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = attrs.evolve(hostile_memory.ATTACKS[0], max_growth_mb=-math.inf)
    monkeypatch.setattr(hostile_memory, "ATTACKS", [attack])
    result = hostile_memory.measure(HOSTILE)
    (problem,) = result.problems
    assert problem.startswith(f"{attack.name}: ")
    assert len(result.tables[0].rows) == 1


def test_a_server_that_hostile_input_ends_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(server: Running, _share: float) -> int:
        os.kill(server.pid, signal.SIGKILL)
        return 1

    attack = attrs.evolve(hostile_memory.ATTACKS[0], run=kill)
    monkeypatch.setattr(hostile_memory, "ATTACKS", [attack])
    result = hostile_memory.measure(HOSTILE)
    (problem,) = result.problems
    assert problem.startswith(f"{attack.name}, run 1: ")
    assert result.tables[0].rows == []


def test_clients_who_never_read_and_are_not_cut_off_are_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.attacks.MAX_PUBLISHED_BYTES", 0)
    attack = next(each for each in hostile_memory.ATTACKS if each.kind == STALLED)
    monkeypatch.setattr(hostile_memory, "ATTACKS", [attack])
    (problem,) = hostile_memory.measure(HOSTILE).problems
    assert "are still given events" in problem


STORM = ["--bystanders", "5", "--quiet-seconds", "0.2", "--runs", "1"]


def test_the_storm_serves_everybody(compiler: str) -> None:
    result = storm.measure(["--clients", "60", *STORM])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == ["sse", "websocket"]
    assert column(result, "served") == [60, 60]
    for title in ("accepted/s", "accepted per server CPU second", "others' p99 ms before"):
        assert len(column(result, title)) == 2


def test_a_storm_counts_whom_the_server_turns_away(compiler: str) -> None:
    result = storm.measure(["--clients", "40", "--max-connections", "25", *STORM])
    # Five of the 25 places are the bystanders'.
    assert column(result, "served") == [20, 20]
    assert result.problems == [f"40 {how}, run 1: 20 turned away" for how in ("sse", "websocket")]


DRAIN = ["--clients", "20", "--transports", "sse", "--runs", "1"]


def test_draining_sees_everybody_go_and_the_server_end(compiler: str) -> None:
    result = draining.measure([*DRAIN, "--drain-seconds", "60"])
    assert result.problems == []
    assert [row[:2] for row in result.tables[0].rows] == [["sse", "20"]]
    for title in ("first gone after s", "last gone", "ended"):
        assert len(column(result, title)) == 1


def test_a_server_that_does_not_send_its_clients_away_is_a_problem(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_SIGNAL", signal.SIGCONT)  # which changes nothing
    result = draining.measure([*DRAIN, "--patience", "0.5"])
    assert result.problems == ["sse, run 1: 20 clients were not sent away"]
    assert result.tables[0].rows == []


def test_a_server_that_is_killed_has_not_ended_well(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_SIGNAL", signal.SIGKILL)
    assert draining.measure(DRAIN).problems == ["sse, run 1: the server ended with 9"]


def test_a_server_that_takes_longer_to_end_is_a_problem(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_ended_after", lambda *_: 11.0)
    assert draining.measure(DRAIN).problems == ["sse: ended after 11.0 s, not 10"]


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


def test_many_channels_compares_with_one(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_channels, "_BLOCKS", dict.fromkeys(many_channels._BLOCKS, 2))
    result = many_channels.measure(CHANNELS)
    assert result.problems == []
    fan_out, requests = result.tables
    assert len(fan_out.rows) == 12
    assert [row[4] for row in fan_out.rows].count("") == 6
    assert len(column(result, "server CPU µs per publish")) == 12
    assert len(column(result, "deliveries per read")) == 12
    assert len(requests.rows) == 3
    assert len(column(result, "subscribe, CPU µs", table=1)) == 3


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
    assert all(arrived >= due for due, arrived in others.deliveries)  # by one clock


def test_bystanders_who_lose_their_streams_say_so() -> None:
    with serve_triocast(50) as server, bystanders.bystanders(server.port, 3, 50) as others:
        os.kill(server.pid, signal.SIGKILL)
        others.process.wait(30)  # told to end before it has noticed, it would have lost nothing
        with pytest.raises(ServerFailed):
            others.end()


def test_publishing_measures_streams_and_posts() -> None:
    result = publishing.measure(["--events", "100", "--posts", "20", "--runs", "1"])
    assert result.problems == []
    assert len(column(result, "events/s")) == 3
    assert len(column(result, "server CPU µs", table=1)) == 5


def test_publishing_notices_what_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_DATA", '{"pad":')
    monkeypatch.setattr(publishing, "_cost_of_posts", lambda posts: {publishing._BASE: 1.0})
    result = publishing.measure(["--events", "3", "--posts", "1", "--runs", "1"])
    assert len(result.problems) == 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="install openssl")
def test_tls_stands_next_to_clear_text() -> None:
    result = tls.measure(["--clients", "20", "--events", "3", "--runs", "1"])
    rows = {row[0]: row[1:] for row in result.tables[0].rows}
    for name in ("deliveries per second", "accepted per server CPU second"):
        clear, secure, _ = rows[name]
        assert numbers_in(clear)
        assert numbers_in(secure)
