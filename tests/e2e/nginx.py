"""Debian's nginx as a child process in front of a server."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.programs import end, missing, starts
from e2e.servers import Server

_CONFIG = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            {settings}
        }}
    }}
}}
"""

_TRIES = 5
_START_SECONDS = 10.0


@contextmanager
def nginx_before(server: Server, folder: Path, settings: str = "") -> Iterator[Server]:
    """Run nginx with these settings for its `location /`; yields it as the server to talk to."""
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if command is None:
        missing("nginx is missing: apt-get install nginx-light")
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "nginx.conf", folder / "nginx.log"
    for _ in range(_TRIES):
        port = _free_port()
        config.write_text(
            _CONFIG.format(folder=folder, port=port, upstream=server.port, settings=settings)
        )
        with log.open("wb") as err:
            process = subprocess.Popen(
                [command, "-p", str(folder), "-c", str(config), "-e", str(log)],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )
        try:
            front = Server(process, port, None, log, log)
            if not starts(process, front.listens, _START_SECONDS):
                if re.search(r"Address already in use", log.read_text()):
                    continue  # somebody else took the port meanwhile
                pytest.fail(f"nginx did not start:\n{log.read_text()}")
            yield front
            return
        finally:
            end(process)
            print(f"--- nginx\n{log.read_text()}")
    pytest.fail("no free port for nginx")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
