"""Starlette and sse-starlette on uvicorn: the usual way to do SSE in Python."""

from __future__ import annotations

import contextlib

from benchmarks.peers.peer import Peer
from benchmarks.peers.python_packages import PACKAGES, serve_app
from benchmarks.servers import Paths, Running


def _serve(_max_connections: int) -> contextlib.AbstractContextManager[Running]:
    return serve_app("starlette_sse_app")


PEER = Peer(
    name="Starlette",
    transports=("sse",),
    paths=Paths(sse="/events", publish="/publish", body="{data}"),
    missing=PACKAGES.missing,
    version=lambda: PACKAGES.version("starlette", "sse-starlette", "uvicorn", "uvloop"),
    serve=_serve,
    install=PACKAGES.install,
)
