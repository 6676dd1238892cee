"""Servers under test as child processes, and one that somebody else runs."""

from __future__ import annotations

import contextlib
import http.client
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.probing import Frame

START_SECONDS = 20.0
STOP_SECONDS = 15.0


class ServerFailed(Exception):
    """A server did not start, or ended before its time."""


@attrs.frozen
class Paths:
    """Where a server takes stream clients and publications."""

    sse: str = "/realtime/events"
    websocket: str = "/realtime/ws"
    publish: str = "/realtime/broadcast"

    def stream(self, transport: str) -> str:
        return self.websocket if transport == "websocket" else self.sse


@attrs.frozen
class Running:
    """A server that answers. Without ``pid`` its CPU time and memory cannot be measured."""

    host: str
    port: int
    pid: int | None


def raise_descriptor_limit(wanted: int) -> int:
    """Let this process and its children open ``wanted`` files; return how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, PermissionError):  # only root may raise it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return most


@contextlib.contextmanager
def _child(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command; it is ended, by its pid, whatever happens."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            yield process, output
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _is_ready(port: int, path: str | None) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        if path is None:
            connection.connect()
            return True
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def serve(command: Sequence[str], port: int, ready_path: str | None) -> Iterator[Running]:
    """Run a server until the block ends. Raises ServerFailed with what it wrote."""
    with _child(command) as (process, output):
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(port, ready_path):
            if process.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace")[-2000:]
                raise ServerFailed(f"{shlex.join(command)} did not start:\n{said}")
            time.sleep(0.05)
        yield Running("127.0.0.1", port, process.pid)


def serve_triocast(max_connections: int) -> contextlib.AbstractContextManager[Running]:
    port = _free_port()
    command = [sys.executable, "-m", "triocast", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-connections", str(max_connections)]
    return serve([*command, "--log-level", "error"], port, "/readyz")


def serve_command(template: str) -> contextlib.AbstractContextManager[Running]:
    """Run any other server; ``{port}`` in the command stands for its port."""
    port = _free_port()
    return serve([part.replace("{port}", str(port)) for part in shlex.split(template)], port, None)


@contextlib.contextmanager
def serve_loop(program: Path, frame: Frame) -> Iterator[Running]:
    """Run the C loop with the frame that the server under test sends."""
    with tempfile.NamedTemporaryFile() as template:
        template.write(frame.raw)
        template.flush()
        command = [str(program), template.name, str(frame.offset), str(frame.length)]
        with _child(command) as (process, output):
            deadline = time.monotonic() + START_SECONDS
            while not (said := output.read_bytes()).endswith(b"\n"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServerFailed(f"the C loop did not start: {said!r}")
                time.sleep(0.01)
            yield Running("127.0.0.1", int(said), process.pid)
