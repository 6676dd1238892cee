"""Real servers for the end-to-end tests: one `triocast serve` child process each, on a port the
system picks.

The fixtures here are imported by the `conftest.py` of each folder that wants them. The
environment variable
`HOSTILE_SERVER` names another command to start in place of `python -m triocast serve`; it gets
the same options
and has to print the same line. That is how a test is shown to be dangerous: run it against a
server that is not ours.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_LISTENS = re.compile(r"Triocast listens on (https?)://127\.0\.0\.1:(\d+)")


@dataclass
class Server:
    """One running server process. `trust` is the client's TLS context, or None on a clear port."""

    process: subprocess.Popen[bytes]
    port: int
    trust: ssl.SSLContext | None
    stdout: Path
    stderr: Path
    _read: int = field(default=0)

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def listens(self) -> bool:
        """Whether it lives and still takes connections."""
        try:
            self.connect(clear=True).close()
        except OSError:
            return False
        return self.alive

    def connect(
        self,
        *,
        clear: bool = False,
        alpn: str | None = None,
        receive_buffer: int | None = None,
        patience: float = 10.0,
    ) -> socket.socket:
        """A connected blocking socket, with TLS if the server has it and `clear` does not forbid
        it.

        `alpn` is the only protocol offered, `receive_buffer` the size in bytes of SO_RCVBUF, set
        before the
        connection is made so that the window is small from the start.
        """
        sock = socket.socket()
        sock.settimeout(patience)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(("127.0.0.1", self.port))
            if self.trust is None or clear:
                return sock
            context = ssl.create_default_context()
            context.load_verify_locations(cadata=_authorities(self.trust))
            if alpn is not None:
                context.set_alpn_protocols([alpn])
            return context.wrap_socket(sock, server_hostname="127.0.0.1")
        except BaseException:
            sock.close()
            raise

    def open_files(self) -> int:
        """How many descriptors the process holds: one per connection, beside a constant. 0 where
        /proc is missing."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0

    def fresh_log(self) -> str:
        """The end of what the process wrote to stderr since the last call."""
        with self.stderr.open("rb") as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        return text[-20_000:].decode(errors="replace")

    def stop(self) -> int:
        """End the process by SIGTERM, by SIGKILL after a deadline. Returns its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(STOP_SECONDS)


@dataclass
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key, as files."""

    certificate: Path
    key: Path

    def options(self) -> tuple[str, ...]:
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def _authorities(context: ssl.SSLContext) -> bytes:
    return b"".join(context.get_ca_certs(binary_form=True))


def start(
    folder: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    trust: ssl.SSLContext | None = None,
) -> Server:
    """Start a server in `folder` and return when it listens. Settings of the caller's own shell
    are not passed on."""
    other = os.environ.get("HOSTILE_SERVER")
    command = shlex.split(other) if other else [sys.executable, "-m", "triocast", "serve"]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRIOCAST_") and name != "HOSTILE_SERVER"
    }
    folder.mkdir(parents=True, exist_ok=True)
    stdout, stderr = folder / "stdout.txt", folder / "stderr.txt"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", *options],
            cwd=folder,
            env=inherited | {"TRIOCAST_ENGINE": "memory://"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    deadline = time.monotonic() + START_SECONDS
    while (told := _LISTENS.search(stdout.read_text(errors="replace"))) is None:
        try:
            code: int | None = process.wait(
                0.02
            )  # between two looks; ends at once if the process does
        except subprocess.TimeoutExpired:
            code = None
        if code is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            pytest.fail(
                f"the server did not start (exit code {code}):\n"
                f"{stdout.read_text()}\n{stderr.read_text()[-5000:]}"
            )
    assert (told[1] == "https") is (trust is not None), told[0]
    return Server(process, int(told[2]), trust, stdout, stderr)


class _Standing:
    """A server that outlives one test. If a test ended it, the next test gets a new one."""

    def __init__(self, make: Callable[[], Server]) -> None:
        self._make = make
        self._server: Server | None = None

    def get(self) -> Server:
        if self._server is not None and not self._server.listens():
            self._server.stop()  # it may hang in its own end
            self._server = None
        if self._server is None:
            self._server = self._make()
        return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


@contextmanager
def _standing(make: Callable[[], Server]) -> Iterator[_Standing]:
    standing = _Standing(make)
    try:
        yield standing
    finally:
        standing.stop()


@contextmanager
def _log_on_failure(server: Server) -> Iterator[Server]:
    server.fresh_log()
    try:
        yield server
    finally:
        # pytest shows captured output of a failed test only
        print(f"--- the server's stderr (exit code {server.process.poll()})\n{server.fresh_log()}")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate made by openssl, which is on every Debian that has certificates
    at all."""
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("install openssl to run the TLS tests")
    return made


@pytest.fixture(scope="session")
def standing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Standing]:
    with _standing(lambda: start(tmp_path_factory.mktemp("server"))) as standing:
        yield standing


@pytest.fixture(scope="session")
def standing_tls_server(
    tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[_Standing]:
    def make() -> Server:
        return start(
            tmp_path_factory.mktemp("tls"), *certificate.options(), trust=certificate.trust()
        )

    with _standing(make) as standing:
        yield standing


@pytest.fixture(scope="session")
def standing_hasty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Standing]:
    options = ("--keep-alive-seconds", "1", "--handshake-seconds", "1")
    with _standing(lambda: start(tmp_path_factory.mktemp("hasty"), *options)) as standing:
        yield standing


@pytest.fixture
def server(standing_server: _Standing) -> Iterator[Server]:
    """A server with default settings on a clear port, shared by the session while it lives."""
    with _log_on_failure(standing_server.get()) as running:
        yield running


@pytest.fixture
def tls_server(standing_tls_server: _Standing) -> Iterator[Server]:
    """A server with default settings and TLS, shared by the session while it lives."""
    with _log_on_failure(standing_tls_server.get()) as running:
        yield running


@pytest.fixture
def hasty_server(standing_hasty_server: _Standing) -> Iterator[Server]:
    """A server that waits a second for a request, shared by the session while it lives."""
    with _log_on_failure(standing_hasty_server.get()) as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own: `serve("--drain-seconds", "2")`; arguments
    as of `start`."""
    with ExitStack() as stack:
        counter = iter(range(100))

        def make(*options: str, **arguments: object) -> Server:
            running = start(tmp_path / f"server{next(counter)}", *options, **arguments)  # type: ignore[arg-type]
            stack.callback(running.stop)
            return stack.enter_context(_log_on_failure(running))

        yield make
