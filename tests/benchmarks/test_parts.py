"""Small runs of the parts about connections and publishing: each measures something real."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
from benchmarks import bystanders, flat, memory, publishing, storm, tls
from benchmarks.results import Result
from benchmarks.servers import ServerFailed, serve_triocast


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


def test_memory_knows_all_ways(compiler: str) -> None:
    result = memory.measure(["--clients", "150", "--runs", "1", "--settle-ms", "50"])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == [name for name, *_ in memory.WAYS]
    taken_over, _, portable, _ = column(result, "kB")
    assert 1 < taken_over < portable < 200


def test_the_storm_serves_everybody(compiler: str) -> None:
    result = storm.measure(
        ["--clients", "50", "--bystanders", "5", "--quiet-seconds", "0.2", "--runs", "1"]
    )
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == ["sse", "websocket"]
    for title in ("accepted/s", "others' p99 ms before", "p99 ms meanwhile"):
        assert all(number > 0 for number in column(result, title))


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
