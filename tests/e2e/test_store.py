"""Events in a file: over restarts, however a server ended, and when the file cannot be used."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import httpx_sse
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from e2e.clients import Socket, Stream
from e2e.rest import PATIENCE, call, publish, until
from e2e.servers import Server, start

IN_FILE = ("--engine", "sqlite:///events.db")


@pytest.fixture
def start_in(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers on one file, one after the other."""
    running: list[Server] = []

    def start_in(*options: str) -> Server:
        running.append(start(tmp_path, *(options or IN_FILE)))
        return running[-1]

    yield start_in
    for server in running:
        server.stop()


def history(server: Server, channel: str) -> list[dict]:
    events: list[dict] = []
    target = f"/realtime/history?channel={channel}&limit=1000"
    page = call(server, "GET", target).json
    while page["more"]:
        events = page["events"] + events
        page = call(server, "GET", f"{target}&before={page['before']}").json
    return page["events"] + events


def test_events_and_cursors_live_through_a_restart(start_in: Callable[..., Server]) -> None:
    server = start_in()
    ids = [publish(server, channel="a", data=n, key="k", tags=["t"])["id"] for n in range(3)]
    before = history(server, "a")
    assert server.stop() == 0
    server = start_in()
    assert history(server, "a") == before
    with Stream(server, channel="a", headers={"Last-Event-ID": ids[0]}) as stream:
        stream.opened()
        assert [event["data"] for event in stream.events(2)] == [1, 2]
        newer = publish(server, channel="a", data=3)
        assert stream.event()["data"] == 3
    assert newer["epoch"] == ids[0].split(".")[1]
    assert newer["seq"] == 4


def test_what_was_acknowledged_is_there_after_a_kill_and_clients_miss_none(
    start_in: Callable[..., Server],
) -> None:
    """Twenty kills, at moments of their own, while publishers are at work."""
    numbers = itertools.count()
    acknowledged: dict[int, str] = {}
    sent: set[int] = set()
    seen: list[int] = []
    cursor: str | None = None
    dice = random.Random(20)

    def publish_on(server: Server) -> None:
        try:
            with Socket(server) as socket:
                while True:
                    batch = [next(numbers) for _ in range(40)]
                    for n in batch:
                        sent.add(n)
                        socket.send(
                            {"type": "publish", "id": n, "event": {"channel": "a", "data": n}}
                        )
                    for _ in batch:
                        answer = socket.answer()
                        assert answer["type"] == "reply", answer
                        acknowledged[answer["id"]] = answer["data"]["id"]
        except (OSError, ConnectionClosed, InvalidHandshake):
            return  # What was not acknowledged is open.

    for _ in range(20):
        server = start_in(*IN_FILE, "--history-events", "1000000")
        goal = len(acknowledged) + dice.randrange(500, 700)
        publishers = [threading.Thread(target=publish_on, args=(server,)) for _ in range(2)]
        headers = {"Last-Event-ID": cursor} if cursor else {}
        with Stream(server, channel="a", headers=headers) as stream:
            first = stream.opened()
            cursor = cursor or first.id
            for thread in publishers:
                thread.start()
            while len(acknowledged) < goal:
                event = stream.event()
                assert event["type"] != "gap"
                seen.append(event["data"])
                cursor = event["id"]
            os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        for thread in publishers:
            thread.join()
    server = start_in(*IN_FILE, "--history-events", "1000000")
    kept = history(server, "a")
    with Stream(server, channel="a", headers={"Last-Event-ID": str(cursor)}) as stream:
        stream.opened()
        while len(seen) < len(kept):
            seen.append(stream.event()["data"])
    assert len(acknowledged) >= 10_000
    where = {event["data"]: event["id"] for event in kept}
    assert len(where) == len(kept), "an event is there twice"
    assert acknowledged.items() <= where.items(), "an acknowledged event is not there"
    assert set(where) <= sent
    assert seen == [event["data"] for event in kept], "a client missed or doubled an event"


def test_an_older_file_that_was_put_back_is_a_new_epoch(
    start_in: Callable[..., Server], tmp_path: Path
) -> None:
    """In place, so that it is the same file to the system: the cursor of its future tells."""
    server = start_in()
    publish(server, channel="a", data="old")
    server.stop()
    backup = (tmp_path / "events.db").read_bytes()
    server = start_in()
    future = [publish(server, channel="a", data=n)["id"] for n in range(3)][-1]
    server.stop()
    (tmp_path / "events.db").write_bytes(backup)
    server = start_in()
    for n in range(5):  # past the position that the client stands at
        publish(server, channel="a", data=n)
    with Stream(server, channel="a", headers={"Last-Event-ID": future}) as stream:
        stream.opened()
        gap = stream.event()
    assert (gap["type"], gap["data"]["reason"]) == ("gap", "epoch")


def test_a_copied_file_is_a_new_epoch(start_in: Callable[..., Server], tmp_path: Path) -> None:
    server = start_in()
    id = publish(server, channel="a", data=1)["id"]
    server.stop()
    shutil.copy(tmp_path / "events.db", tmp_path / "copy.db")
    server = start_in("--engine", "sqlite:///copy.db")
    assert [event["data"] for event in history(server, "a")] == [1]
    assert publish(server, channel="a", data=2)["epoch"] != id.split(".")[1]


def test_httpx_sse_comes_back_over_a_kill(start_in: Callable[..., Server]) -> None:
    """As its manual shows: the last id goes into the header of the next request."""

    def read(server: Server, last_id: str, count: int) -> tuple[list[int], str]:
        found: list[int] = []
        with (
            httpx.Client(timeout=PATIENCE) as client,
            httpx_sse.connect_sse(
                client,
                "GET",
                f"http://{server.authority}/realtime/events",
                params={"channel": "a"},
                headers={"Last-Event-ID": last_id} if last_id else {},
            ) as source,
        ):
            blocks = source.iter_sse()
            last_id = next(blocks).id
            while len(found) < count:
                block = next(blocks)
                last_id = block.id
                if block.data:
                    found.append(block.json()["data"])
        return found, last_id

    server = start_in()
    _, at = read(server, "", 0)
    for n in range(3):
        publish(server, channel="a", data=n)
    server.process.kill()
    server.process.wait()
    server = start_in()
    publish(server, channel="a", data=3)
    found, at = read(server, at, 2)
    assert found == [0, 1]
    assert read(server, at, 2)[0] == [2, 3]


def test_nobody_else_can_read_the_files(start_in: Callable[..., Server], tmp_path: Path) -> None:
    server = start_in("--engine", "sqlite:///folder/events.db")
    publish(server, data="a secret")
    files = list((tmp_path / "folder").iterdir())
    assert {file.name for file in files} >= {"events.db", "events.db-wal"}
    for file in [tmp_path / "folder", *files]:
        assert file.stat().st_mode & 0o077 == 0, file


# What keeps a server from starting.


def failed_start(folder: Path, *options: str) -> str:
    """Start a server that must not start; return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "triocast", "serve", "--port", "0", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_two_servers_on_one_file(start_in: Callable[..., Server], tmp_path: Path) -> None:
    server = start_in()
    said = failed_start(tmp_path, *IN_FILE)
    assert "engine" in said
    assert f"another server (process {server.process.pid}) has events.db" in said
    publish(server, data=1)


def test_a_damaged_file(start_in: Callable[..., Server], tmp_path: Path) -> None:
    server = start_in()
    for _ in range(50):
        publish(server, channel="a", data="x" * 1_000)
    server.process.kill()
    server.process.wait()
    (tmp_path / "events.db").write_bytes(b"SQLite format 3\0" + b"\x55" * 50_000)
    for leftover in ("events.db-wal", "events.db-shm"):
        (tmp_path / leftover).unlink(missing_ok=True)
    said = failed_start(tmp_path, *IN_FILE)
    assert "events.db is damaged" in said
    assert "restore a backup" in said


def test_a_file_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "events.db") as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    assert "is a database of another program" in failed_start(tmp_path, *IN_FILE)
    (tmp_path / "events.db").write_text("not a database at all" * 100)
    assert "events.db is damaged" in failed_start(tmp_path, *IN_FILE)


def test_a_file_of_a_newer_version(start_in: Callable[..., Server], tmp_path: Path) -> None:
    start_in().stop()
    with sqlite3.connect(tmp_path / "events.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "newer version" in failed_start(tmp_path, *IN_FILE)


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = failed_start(tmp_path, "--engine", "sqlite:///file/events.db")
    assert "cannot be made" in said
    assert "slash" in failed_start(tmp_path, "--engine", "sqlite://events.db")
    assert "names no file" in failed_start(tmp_path, "--engine", "sqlite:///")


# What happens to a server at work.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB that can be filled and made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(start_in: Callable[..., Server], small_disk: Path) -> None:
    server = start_in("--engine", "sqlite:///disk/events.db")
    taken = []

    def publish_one(n: int) -> bool:
        body = json.dumps({"channel": "a", "data": [n, "x" * 20_000]}).encode()
        answer = call(server, "POST", "/realtime/broadcast", body, "application/json")
        if answer.status == 200:
            taken.append(n)
            return False
        assert (answer.status, answer.json["code"]) == (503, "store_failed")
        assert answer.json["temporary"] is True
        assert "full" in answer.json["message"]
        return True

    numbers = itertools.count()
    until(lambda: publish_one(next(numbers)), "full disk")
    assert [event["data"][0] for event in history(server, "a")] == taken, "reads go on"
    with Stream(server, channel="a") as stream:
        stream.opened()
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        until(lambda: not publish_one(next(numbers)), "room again")
        assert stream.event()["data"][0] == taken[-1], "what was refused was not spread"
    assert call(server, "GET", "/readyz").status == 200
    server.stop()
    server = start_in("--engine", "sqlite:///disk/events.db")
    assert [event["data"][0] for event in history(server, "a")] == taken


def test_a_disk_that_became_read_only(start_in: Callable[..., Server], small_disk: Path) -> None:
    start_in("--engine", "sqlite:///disk/events.db").stop()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = failed_start(small_disk.parent, "--engine", "sqlite:///disk/events.db")
    assert "cannot be made or written" in said
