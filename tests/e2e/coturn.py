"""Debian's coturn as a child process: a STUN and TURN server on loopback."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.programs import end, missing, starts
from e2e.servers import Certificate

# All that it writes lies in its folder. Its relays take what is free of the dynamic ports.
_CONFIG = """\
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
realm=triocast.example
use-auth-secret
{secrets}
allow-loopback-peers
cert={certificate}
pkey={key}
tls-listening-port={tls_port}
no-dtls
no-cli
no-rfc5780
userdb={folder}/turndb
pidfile={folder}/turnserver.pid
log-file=stdout
"""

_TRIES = 5
_START_SECONDS = 20.0
_COOKIE = bytes.fromhex("2112a442")
_BINDING_REQUEST = bytes.fromhex("0001 0000") + _COOKIE
_BINDING_SUCCESS = bytes.fromhex("0101")


@dataclass
class Coturn:
    """One running TURN server."""

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    _log: Path

    def url(self, transport: str = "udp") -> str:
        """How peers are told of it; ``transport`` (udp, tcp or tls) is how they talk to it."""
        if transport == "tls":
            return f"turns:127.0.0.1:{self.tls_port}?transport=tcp"
        return f"turn:127.0.0.1:{self.port}?transport={transport}"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def answers(self) -> bool:
        """Whether it takes TCP, and answers a binding request over UDP (RFC 8489) at once."""
        request = _BINDING_REQUEST + secrets.token_bytes(12)
        with socket.socket(type=socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.connect(("127.0.0.1", self.port))
            sock.settimeout(1)
            sock.send(request)
            answer = sock.recv(1500)
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return answer[:2] == _BINDING_SUCCESS and answer[4:20] == request[4:]
        return False


@contextmanager
def coturn(folder: Path, certificate: Certificate, *shared_secrets: str) -> Iterator[Coturn]:
    """Run a TURN server that takes time-limited credentials made with any of the secrets."""
    command = shutil.which("turnserver")
    if command is None:
        missing("turnserver is missing: apt-get install coturn")
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "turnserver.conf", folder / "turnserver.log"
    lines = "\n".join(f"static-auth-secret={secret}" for secret in shared_secrets)
    for _ in range(_TRIES):
        port, tls_port = _free_port(), _free_port()
        config.write_text(
            _CONFIG.format(
                folder=folder,
                port=port,
                tls_port=tls_port,
                certificate=certificate.certificate,
                key=certificate.key,
                secrets=lines,
            )
        )
        with log.open("wb") as out:
            process = subprocess.Popen(
                [command, "-c", str(config)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            relay = Coturn(process, port, tls_port, log)
            if not starts(process, relay.answers, _START_SECONDS):
                if "bind" in relay.log():
                    continue  # somebody else took the port meanwhile
                pytest.fail(f"coturn did not start:\n{relay.log()}")
            yield relay
            return
        finally:
            end(process)
            print(f"--- coturn\n{relay.log()[-20_000:]}")
    pytest.fail("no free port for coturn")


def _free_port() -> int:
    """A port that is free for TCP and for UDP."""
    for _ in range(100):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            with suppress(OSError):
                udp.bind(tcp.getsockname())
                return int(tcp.getsockname()[1])
    pytest.fail("no port is free for both TCP and UDP")
