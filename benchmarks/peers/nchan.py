"""Nchan: a pub/sub module of nginx, in C. One worker, as Triocast is one process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.peers.installing import ask
from benchmarks.peers.peer import Peer
from benchmarks.servers import Paths, Running, ServerFailed, free_port, serve

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
WORKER_SECONDS = 5.0

CONFIGURATION = """
load_module {module};
# In the foreground, so that it is ended as the child that it is.
daemon off;
# One process delivers, as with every other server in the comparison.
worker_processes 1;
pid nginx.pid;
error_log stderr error;
# Each client is a connection and a file.
worker_rlimit_nofile {files};
events {{
    worker_connections {files};
}}
http {{
    # A line per request is disk I/O that the others do not do.
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    # Publications stay in memory.
    client_body_buffer_size 1m;
    # Publishers keep their connections, as they do at the others.
    keepalive_requests 1000000000;
    server {{
        # A backlog for many clients that come at once, like Triocast's.
        listen 127.0.0.1:{port} backlog=4096;
        location = /ready {{
            return 200;
        }}
        location = /publish {{
            nchan_publisher;
            nchan_channel_id bench;
            # Nchan's defaults for what it keeps: ten messages, in memory.
        }}
        location = /events {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            # A newcomer gets what is new, as at the others.
            nchan_subscriber_first_message newest;
        }}
        location = /websocket {{
            nchan_subscriber websocket;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


def _missing() -> str | None:
    if _nginx() and MODULE.exists():
        return None
    return "there is no nginx with Nchan: apt-get install libnginx-mod-nchan"


def _version() -> str:
    query = ["dpkg-query", "-W", "-f", "${Version}"]
    nchan, nginx = (ask([*query, package]) for package in ("libnginx-mod-nchan", "nginx-common"))
    return f"Nchan {nchan or 'of unknown version'}, nginx {nginx or 'of unknown version'}"


def _worker_of(master: int) -> int:
    """Return the process that has the clients."""
    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise ServerFailed("nginx has no worker process")


@contextlib.contextmanager
def _serve(max_connections: int) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        # Some files more, for its own use.
        text = CONFIGURATION.format(module=MODULE, files=max_connections + 100, port=port)
        configuration.write_text(text)
        command = [_nginx() or "nginx", "-p", folder, "-c", str(configuration), "-e", "stderr"]
        with serve(command, port, "/ready") as server:
            if server.pid is None:
                raise ServerFailed("nginx ended")
            yield attrs.evolve(server, pid=_worker_of(server.pid))


PEER = Peer(
    name="Nchan",
    transports=("sse", "websocket"),
    paths=Paths(sse="/events", websocket="/websocket", publish="/publish", body="{data}"),
    missing=_missing,
    version=_version,
    serve=_serve,
)
