"""python-socketio on uvicorn: the Socket.IO protocol in Python, over WebSocket."""

from __future__ import annotations

import contextlib

from benchmarks.peers.peer import Peer
from benchmarks.peers.python_packages import PACKAGES, serve_app
from benchmarks.servers import Paths, Running

SOCKET_IO = Paths(
    websocket="/socket.io/?EIO=4&transport=websocket",
    publish="/publish",
    body="{data}",
    # Joins the default namespace; the answer says that it did.
    websocket_messages=("40",),
    websocket_ready="40{",
)


def _serve(_max_connections: int) -> contextlib.AbstractContextManager[Running]:
    return serve_app("python_socketio_app")


PEER = Peer(
    name="python-socketio",
    transports=("websocket",),
    paths=SOCKET_IO,
    missing=PACKAGES.missing,
    version=lambda: PACKAGES.version("python-socketio", "uvicorn", "uvloop", "websockets"),
    serve=_serve,
    install=PACKAGES.install,
)
