"""Socket.IO on Node's http server, over WebSocket."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.compiling import BUILD
from benchmarks.peers.installing import NodePackages
from benchmarks.peers.peer import Peer
from benchmarks.peers.python_socketio import SOCKET_IO
from benchmarks.servers import Running, free_port, serve

APP = Path(__file__).parent / "apps" / "socket_io.cjs"

# bufferutil is the native code that the documentation advises for speed.
PACKAGES = NodePackages(BUILD / "node-peers", ("socket.io", "bufferutil"))


def _serve(_max_connections: int) -> contextlib.AbstractContextManager[Running]:
    port = free_port()
    # NODE_ENV as in production; the app lies outside of the folder with the packages.
    environment = {"NODE_PATH": str(PACKAGES.modules), "NODE_ENV": "production"}
    return serve(["node", str(APP), str(port)], port, "/ready", environment)


PEER = Peer(
    name="Socket.IO",
    transports=("websocket",),
    paths=SOCKET_IO,
    missing=PACKAGES.missing,
    version=PACKAGES.version,
    serve=_serve,
    install=PACKAGES.install,
)
