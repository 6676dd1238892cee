"""The ways to a client: the same tests run over each."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from e2e.browser import Browsers
from e2e.npm import install
from e2e.servers import START_SECONDS, Server, certificate, serve, start

__all__ = ["certificate", "serve"]

WAYS = ("taken over", "portable", "stock hypercorn")
"""By our own server over its sockets; by our own server over ASGI; by a Hypercorn as it is."""

_RUNS = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")


class _StockServer(Server):
    """A Hypercorn with its one worker process: both are ended."""

    def stop(self) -> int:
        code = super().stop()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return code


def start_stock(folder: Path, environment: dict[str, str]) -> Server:
    """Start `create_app` in a stock Hypercorn and return when it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    stdout, stderr = folder / "stdout.txt", folder / "stderr.txt"
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TRIOCAST_")
    }
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-w", "1", "-b", "127.0.0.1:0"]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*command, "triocast.web:create_app()"],
            cwd=folder,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while (told := _RUNS.search(stderr.read_text(errors="replace"))) is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)  # between two looks; ends at once if the process does
        if process.returncode is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"Hypercorn did not start:\n{stderr.read_text()[-5000:]}")
    return _StockServer(process, int(told[1]), None, stdout, stderr)


class Servers:
    """Starts servers, one for each way and settings, which all tests of the session share."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._running: dict[object, Server] = {}
        self._stack = ExitStack()

    def get(self, way: str, **settings: str) -> Server:
        key = (way, *sorted(settings.items()))
        running = self._running.get(key)
        if running is None or not running.alive:
            running = self._running[key] = self.fresh(way, **settings)
        return running

    def fresh(self, way: str, **settings: str) -> Server:
        """Start a server that nobody else has."""
        environment = {f"TRIOCAST_{name.upper()}": value for name, value in settings.items()}
        if way == "stock hypercorn":
            running = start_stock(self._folder(), environment)
        else:
            options = () if way == "taken over" else ("--no-takeover",)
            running = start(self._folder(), *options, environment=environment)
        self._stack.callback(running.stop)
        return running

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    running = Servers(lambda: tmp_path_factory.mktemp("way"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def browsers() -> Iterator[Browsers]:
    running = Browsers()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the scripts in `tests/js` with the packages that they import."""
    return install(tmp_path_factory.mktemp("npm"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The way on which this test's clients are reached."""
    return str(request.param)


@pytest.fixture
def server(servers: Servers, way: str) -> Iterator[Server]:
    """A server with default settings for one way; it has other tests' history."""
    yield from _shown(servers.get(way))


@pytest.fixture
def beating_server(servers: Servers, way: str) -> Iterator[Server]:
    """The same with heartbeats every 0.3 s."""
    yield from _shown(servers.get(way, heartbeat_seconds="0.3"))


@pytest.fixture
def fresh_server(servers: Servers, way: str) -> Iterator[Server]:
    """A server that no test used before."""
    running = servers.fresh(way)
    yield from _shown(running)
    running.stop()


_numbers = itertools.count(1)


@pytest.fixture
def channel() -> str:
    """A channel that no other test uses."""
    return f"room:{os.getpid()}-{next(_numbers)}"


def _shown(server: Server) -> Iterator[Server]:
    server.fresh_log()
    yield server
    assert server.alive
    log = server.fresh_log()
    print(f"--- the server's stderr\n{log}")  # pytest shows it if the test failed
    assert "Traceback" not in log
