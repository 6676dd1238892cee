"""Centrifugo: a realtime server in Go. Its unidirectional SSE and WebSocket endpoints."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import jwt

from benchmarks.peers.installing import GoProgram, ask
from benchmarks.peers.peer import Peer
from benchmarks.servers import Paths, Running, free_port, serve

PROGRAM = GoProgram(
    name="centrifugo",
    package="github.com/centrifugal/centrifugo/v6",
    module="github.com/centrifugal/centrifugo/v6@latest",
)
CHANNEL = "bench"
API_KEY = "bench"
SECRET = "only for servers that live as long as one measurement"

# Unidirectional clients cannot subscribe: their token names their channels.
TOKEN = jwt.encode({"sub": "bench", "channels": [CHANNEL]}, SECRET, "HS256")
CONNECT = json.dumps({"token": TOKEN}, separators=(",", ":"))


def _configuration(port: int) -> dict[str, object]:
    return {
        "http_server": {"address": "127.0.0.1", "port": str(port)},
        "client": {"token": {"hmac_secret_key": SECRET}},
        "http_api": {"key": API_KEY},
        "health": {"enabled": True},
        "uni_sse": {"enabled": True},
        "uni_websocket": {"enabled": True},
        # A line per connection is work that the others do not do.
        "log": {"level": "error"},
        # History and presence are off, as they are by default; so is compression. The engine is
        # the one in memory. Go uses as many cores as there are, as its users have it.
    }


@contextlib.contextmanager
def _serve(_max_connections: int) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "config.json"
        configuration.write_text(json.dumps(_configuration(port)))
        command = [PROGRAM.find() or PROGRAM.name, "--config", str(configuration)]
        with serve(command, port, "/health") as server:
            yield server


def _version() -> str:
    return (ask([PROGRAM.find() or PROGRAM.name, "version"]) or "of unknown version").split("\n")[0]


PEER = Peer(
    name="Centrifugo",
    transports=("sse", "websocket"),
    paths=Paths(
        sse=f"/connection/uni_sse?cf_connect={quote(CONNECT, safe='')}",
        sse_ready='"connect":',
        websocket="/connection/uni_websocket",
        websocket_messages=(CONNECT,),
        websocket_ready='"connect":',
        publish="/api/publish",
        body=f'{{"channel":"{CHANNEL}","data":{{data}}}}',
        publish_headers=(f"X-API-Key: {API_KEY}",),
    ),
    missing=PROGRAM.missing,
    version=_version,
    serve=_serve,
    install=PROGRAM.install,
)
