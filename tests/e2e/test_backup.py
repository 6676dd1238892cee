"""`triocast backup` of a server at work, and `triocast restore`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.clients import Socket, Stream
from e2e.rest import call, publish, until
from e2e.servers import Server, start

IN_FILE = ("--engine", "sqlite:///events.db")
MANY = ("--history-events", "1000000")


@pytest.fixture
def start_in() -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start_in(folder: Path) -> Server:
        running.append(start(folder, *IN_FILE, *MANY))
        return running[-1]

    yield start_in
    for server in running:
        server.stop()


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIOCAST_")}
    done = subprocess.run(
        [sys.executable, "-m", "triocast", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    return done


def failed(folder: Path, *command: str) -> str:
    """Run a command that must fail; return the one line that it says."""
    done = run(folder, *command)
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    return line


def history(server: Server, channel: str) -> list[dict]:
    events: list[dict] = []
    target = f"/realtime/history?channel={channel}&limit=1000"
    page = call(server, "GET", target).json
    while page["more"]:
        events = page["events"] + events
        page = call(server, "GET", f"{target}&before={page['before']}").json
    return page["events"] + events


class Publisher:
    """Publishes numbers until it is told to stop; `acknowledged` are those that were taken."""

    def __init__(self, server: Server) -> None:
        self.acknowledged: dict[int, str] = {}
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def _publish(self) -> None:
        numbers = itertools.count()
        with Socket(self._server) as socket:
            while not self._end.is_set():
                batch = [next(numbers) for _ in range(40)]
                for n in batch:
                    socket.send({"type": "publish", "id": n, "event": {"channel": "a", "data": n}})
                for _ in batch:
                    answer = socket.answer()
                    assert answer["type"] == "reply", answer
                    self.acknowledged[answer["id"]] = answer["data"]["id"]


def test_a_server_at_work_is_backed_up_and_restored(
    start_in: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_in(tmp_path / "old")
    with Publisher(server) as publisher:
        until(lambda: len(publisher.acknowledged) > 1_000, "events")
        before = dict(publisher.acknowledged)
        done = run(tmp_path / "old", "backup", "../copy.db", *IN_FILE)
        assert done.returncode == 0, done.stderr
        count = len(publisher.acknowledged)
        until(lambda: len(publisher.acknowledged) > count + 200, "more events")
    future = publish(server, channel="a", data="later")["id"]
    everything = history(server, "a")

    done = run(tmp_path, "restore", "copy.db", "--engine", "sqlite:///new/events.db")
    assert done.returncode == 0, done.stderr
    server = start_in(tmp_path / "new")
    events = history(server, "a")
    assert done.stdout.startswith(f"new/events.db has {len(events)} events of 1 channels")
    numbers = [event["data"] for event in events]
    assert numbers == list(range(len(numbers))), "each once, in order, up to one moment"
    assert set(before) <= set(numbers), "an acknowledged event is not there"
    assert len(numbers) < len(everything)
    seqs = [event["id"].split(".")[-1] for event in everything[: len(events)]]
    assert [event["id"].split(".")[-1] for event in events] == seqs

    epoch = publish(server, channel="a", data="new")["epoch"]
    assert done.stdout.endswith(f"the new epoch is {epoch}\n")
    assert epoch != future.split(".")[1]
    for id in (future, before[0]):
        with Stream(server, channel="a", headers={"Last-Event-ID": id}) as stream:
            stream.opened()
            gap = stream.event()
        assert (gap["type"], gap["data"]["reason"]) == ("gap", "epoch")


def test_a_store_is_not_replaced_under_a_server_that_runs(
    start_in: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_in(tmp_path)
    publish(server, channel="a", data=1)
    assert run(tmp_path, "backup", "copy.db", *IN_FILE).returncode == 0
    publish(server, channel="a", data=2)
    for force in ((), ("--force",)):
        said = failed(tmp_path, "restore", "copy.db", *IN_FILE, *force)
        assert said == (
            f"triocast: another server (process {server.process.pid}) has events.db: "
            "stop it, restore, and start it again"
        )
    publish(server, channel="a", data=3)
    assert [event["data"] for event in history(server, "a")] == [1, 2, 3]
    server.stop()
    assert "give --force" in failed(tmp_path, "restore", "copy.db", *IN_FILE)
    done = run(tmp_path, "restore", "copy.db", *IN_FILE, "--force")
    assert done.returncode == 0
    kept = done.stdout.split("kept as ")[1].strip()
    assert [event["data"] for event in history(start_in(tmp_path), "a")] == [1]
    said = run(tmp_path, "backup", "kept.db", "--engine", f"sqlite:///{kept}").stdout
    assert said.startswith("kept.db has 3 events of 1 channels, up to position 3 of epoch ")


def test_a_backup_that_exists_is_replaced_by_force_only(
    start_in: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_in(tmp_path)
    assert run(tmp_path, "backup", "copy.db", *IN_FILE).returncode == 0
    publish(server, channel="a", data=1)
    assert failed(tmp_path, "backup", "copy.db", *IN_FILE) == (
        "triocast: copy.db exists: give another name, or --force to replace it"
    )
    said = run(tmp_path, "backup", "copy.db", *IN_FILE, "--force").stdout
    assert said.startswith("copy.db has 1 events of 1 channels, up to position 1 of epoch ")
