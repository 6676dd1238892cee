"""A machine that vanishes without a word is noticed by its unanswered heartbeats.

Server and client live in network namespaces of their own, joined by a cable that is then pulled.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.crowd import sse_request, ws_request
from e2e.raw import Wire
from e2e.rest import until
from e2e.servers import START_SECONDS, Server

pytestmark = pytest.mark.once

HEARTBEAT_SECONDS = 0.5

CLONE_NEWNET = 0x40000000
SERVER_ADDRESS, CLIENT_ADDRESS = "10.83.0.1", "10.83.0.2"


@dataclass
class Cable:
    """Two namespaces, by name, and the cable between them."""

    here: str
    there: str

    def pull(self) -> None:
        _ip("-n", self.there, "link", "set", "cable", "down")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable(f"triocast-a{os.getpid()}", f"triocast-b{os.getpid()}")
    with ExitStack() as stack:
        try:
            for name in (made.here, made.there):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "delete", name)
                _ip("-n", name, "link", "set", "lo", "up")
            ends = ("cable", "type", "veth", "peer", "name", "cable", "netns", made.there)
            _ip("-n", made.here, "link", "add", *ends)
            for name, address in ((made.here, SERVER_ADDRESS), (made.there, CLIENT_ADDRESS)):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces need root, iproute2 and their right: {error}")
        yield made


def socket_in(namespace: str) -> socket.socket:
    """Make a socket of a namespace: a thread goes there for it, and ends."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{namespace}").open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                failed.append(OSError(ctypes.get_errno(), "setns"))
                return
        made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        pytest.skip(f"a thread cannot enter a network namespace: {failed[0]}")
    made[0].settimeout(10)
    return made[0]


@pytest.fixture
def server(cable: Cable, tmp_path: Path) -> Iterator[Server]:
    """A server in the namespace `here`; nobody else can reach it."""
    stdout, stderr = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    command = [sys.executable, "-m", "triocast", "serve", "--host", SERVER_ADDRESS, "--port", "0"]
    command += ["--insecure-anonymous", "--heartbeat-seconds", f"{HEARTBEAT_SECONDS:g}"]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            ["ip", "netns", "exec", cable.here, *command], cwd=tmp_path, stdout=out, stderr=err
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while not (told := re.search(r"http://[\d.]+:(\d+)", stdout.read_text())):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)  # between two looks; ends at once if the process does
            assert process.returncode is None, stderr.read_text()
            assert time.monotonic() < deadline
        yield Server(process, int(told[1]), None, stdout, stderr)
    finally:
        process.terminate()
        process.wait(20)
        print(stderr.read_text())


def stats(cable: Cable, server: Server) -> dict[str, object]:
    with Wire(_connected(cable.here, server)) as wire:
        wire.send("GET /realtime/stats HTTP/1.1", "Host: a", "Connection: close")
        found: dict[str, object] = json.loads(wire.end().partition(b"\r\n\r\n")[2])
        return found


def _connected(namespace: str, server: Server) -> socket.socket:
    sock = socket_in(namespace)
    sock.connect((SERVER_ADDRESS, server.port))
    return sock


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_clients_behind_a_pulled_cable_are_gone(cable: Cable, server: Server, kind: str) -> None:
    request, greeting = {
        "sse": (sse_request(server), b"retry:"),
        "websocket": (ws_request(server), b"connected"),
    }[kind]
    with ExitStack() as stack:
        for _ in range(3):
            wire = stack.enter_context(Wire(_connected(cable.there, server)))
            wire.sock.sendall(request)
            wire.until(greeting)
        cable.pull()
        ended = {"peer_lost": 3}
        until(lambda: stats(cable, server)["ended"] == ended, "end of those behind the cable")
        assert stats(cable, server)["channels"] == {}


def test_a_client_that_is_there_stays(cable: Cable, server: Server) -> None:
    """The same without pulling: it is the cable that ends a connection, not the silence."""
    with ExitStack() as stack:
        wires = []
        for _ in range(3):
            wire = stack.enter_context(Wire(_connected(cable.there, server)))
            wire.sock.sendall(sse_request(server))
            wires.append(wire)
        for wire in wires:
            wire.until(lambda data: data.count(b"id:") >= 4)  # three heartbeats
        assert stats(cable, server)["sse_count"] == 3
        assert stats(cable, server)["ended"] == {}
