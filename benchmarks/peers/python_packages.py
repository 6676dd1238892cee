"""The environment of the peers that are written in Python, and how uvicorn runs them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.compiling import BUILD
from benchmarks.peers.installing import PythonPackages
from benchmarks.servers import Running, free_port, serve

APPS = Path(__file__).parent / "apps"

PACKAGES = PythonPackages(
    folder=BUILD / "python-peers",
    # "standard" brings what makes uvicorn fast: uvloop and httptools.
    packages=("starlette", "sse-starlette", "python-socketio", "uvicorn[standard]"),
    measured=("starlette", "sse-starlette", "python-socketio", "uvicorn", "uvloop", "websockets"),
)


def serve_app(app: str) -> contextlib.AbstractContextManager[Running]:
    """Run an app of the folder ``apps`` by one uvicorn process."""
    port = free_port()
    command = [str(PACKAGES.python), "-m", "uvicorn", f"{app}:app", "--app-dir", str(APPS)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # A line per request is work that the others do not do.
    command += ["--no-access-log", "--log-level", "error"]
    # A backlog for many clients that come at once, like Triocast's.
    command += ["--backlog", "4096"]
    # The load client does not answer pings; those of uvicorn would end its WebSockets.
    command += ["--ws-ping-interval", "3600", "--ws-ping-timeout", "3600"]
    return serve(command, port, "/ready")
