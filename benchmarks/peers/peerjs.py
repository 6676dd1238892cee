"""The PeerJS server from npm, and the client that goes with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.compiling import BUILD
from benchmarks.peers.installing import NodePackages
from benchmarks.servers import Running, free_port, serve

APP = Path(__file__).parent / "apps" / "peerjs.cjs"
_HINT = "run `python -m benchmarks --install-peers signaling`"

SERVER = NodePackages(BUILD / "peerjs-server", ("peer@1.0.2",), _HINT)
CLIENT = NodePackages(BUILD / "peerjs-client", ("peerjs@1.5.5",), _HINT)


def serve_peerjs() -> contextlib.AbstractContextManager[Running]:
    """Run the server, which lets 5000 clients in. Raises ServerFailed."""
    port = free_port()
    environment = {"NODE_PATH": str(SERVER.modules), "NODE_ENV": "production"}
    return serve(["node", str(APP), str(port)], port, "/", environment)


def client_script() -> str:
    """Return the client for browsers, which makes `window.peerjs`."""
    return (CLIENT.modules / "peerjs" / "dist" / "peerjs.min.js").read_text()
