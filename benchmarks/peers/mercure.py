"""The Mercure hub, version 1 or newer: SSE, a module of the Caddy server, in Go."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jwt

from benchmarks.peers.installing import GoProgram, ask
from benchmarks.peers.peer import Peer
from benchmarks.servers import Paths, Running, free_port, serve

PROGRAM = GoProgram(
    name="mercure",
    package="github.com/dunglas/mercure/caddy/mercure",
    module="github.com/dunglas/mercure/caddy@latest",
    # Storage that Caddy brings for its certificates and the hub has no use for.
    tags="nobadger,nomysql,nopgx",
)
TOPIC = "bench"
SECRET = "only for hubs that live as long as one measurement"
TOKEN = jwt.encode({"mercure": {"publish": ["*"]}}, SECRET, "HS256")

CONFIGURATION = """
{{
    admin off
    auto_https off
    persist_config off
    log {{
        # A line per subscriber and update is work that the others do not do.
        level ERROR
    }}
}}
http://127.0.0.1:{port} {{
    mercure {{
        # Without history, which would be written to disk: the others do not write either.
        transport local
        anonymous
        # One key for publishers, in the way that all versions know.
        publisher_jwt "{secret}"
        protocol_version_compatibility 8
    }}
    respond /ready 200
    respond 404
}}
"""


@contextlib.contextmanager
def _serve(_max_connections: int) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "Caddyfile"
        configuration.write_text(CONFIGURATION.format(port=port, secret=SECRET))
        command = [PROGRAM.find() or PROGRAM.name, "run", "--config", str(configuration)]
        # Caddy keeps what it remembers in the user's folders.
        environment = {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
        with serve(command, port, "/ready", environment) as server:
            yield server


def _version() -> str:
    return (ask([PROGRAM.find() or PROGRAM.name, "version"]) or "of unknown version").split("\n")[0]


PEER = Peer(
    name="Mercure",
    transports=("sse",),
    paths=Paths(
        sse=f"/.well-known/mercure?topic={TOPIC}",
        publish="/.well-known/mercure",
        body=f"topic={TOPIC}&data={{data}}",
        content_type="application/x-www-form-urlencoded",
        publish_headers=(f"Authorization: Bearer {TOKEN}",),
    ),
    missing=PROGRAM.missing,
    version=_version,
    serve=_serve,
    install=PROGRAM.install,
)
