"""Servers under test as child processes, and one that somebody else runs."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.probing import Frame

SPARE_DESCRIPTORS = 500
"""What a server has open besides its stream clients: publishers, files, connections that end."""

START_SECONDS = 20.0
STOP_SECONDS = 15.0


class ServerFailed(Exception):
    """A server did not start, or ended before its time."""


@attrs.frozen
class Paths:
    """Where and how a server takes stream clients and publications."""

    sse: str = "/realtime/events"
    websocket: str = "/realtime/ws"
    publish: str = "/realtime/broadcast"
    body: str = '{"type":"bench","data":{data}}'
    """What is posted; the event's data goes in the place of ``{data}``."""
    content_type: str = "application/json"
    """A form gets the data percent-encoded."""
    publish_headers: Sequence[str] = ()
    """Lines for POSTs only, such as a token."""
    sse_ready: str = ""
    """What an SSE stream must bring before its client counts as open; empty: the head is enough."""
    websocket_ready: str = ""
    """The same of a WebSocket."""
    websocket_messages: Sequence[str] = ()
    """Texts that a WebSocket client sends after the upgrade."""

    def stream(self, transport: str) -> str:
        return self.websocket if transport == "websocket" else self.sse

    def ready(self, transport: str) -> str:
        return self.websocket_ready if transport == "websocket" else self.sse_ready

    def messages(self, transport: str) -> Sequence[str]:
        return self.websocket_messages if transport == "websocket" else ()


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


def need_descriptors(wanted: int) -> None:
    """Let this process and its children open ``wanted`` files. Raises ServerFailed."""
    if raise_descriptor_limit(wanted) < wanted:
        raise ServerFailed(f"{wanted} open files are needed: raise `ulimit -n`")


@contextlib.contextmanager
def _child(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command; it is ended, by its pid, whatever happens."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
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


def free_port() -> int:
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
def serve(
    command: Sequence[str],
    port: int,
    ready_path: str | None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run a server until the block ends. Raises ServerFailed with what it wrote.

    ``environment`` is added to that of this process.
    """
    with _child(command, environment) as (process, output):
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(port, ready_path):
            if process.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace")[-2000:]
                raise ServerFailed(f"{shlex.join(command)} did not start:\n{said}")
            time.sleep(0.05)
        yield Running("127.0.0.1", port, process.pid)


def serve_triocast(
    max_connections: int, *more_options: str
) -> contextlib.AbstractContextManager[Running]:
    port = free_port()
    command = [sys.executable, "-m", "triocast", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-connections", str(max_connections)]
    command += ["--engine", "memory://"]
    # Over TLS, that it can be connected to has to be enough.
    ready_path = None if "--tls-certificate" in more_options else "/readyz"
    return serve([*command, "--log-level", "error", *more_options], port, ready_path)


def serve_command(template: str) -> contextlib.AbstractContextManager[Running]:
    """Run any other server; ``{port}`` in the command stands for its port."""
    port = free_port()
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
