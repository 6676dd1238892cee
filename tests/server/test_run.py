"""The server as a coroutine and as a process: where it listens, whom it accepts, how it ends."""

import errno
import gc
import io
import os
import re
import resource
import signal
import socket
import sys
from collections import deque

import attrs
import httpx
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from triocast.server import CannotListen, accepting, run, run_server, serve
from triocast.server.run import Server
from triocast.settings import Settings, SettingsError

from .clients import HTTPClient

DRAIN = 4.0
STREAM = b"GET /realtime/events HTTP/1.1\r\nHost: x\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = (
    b"POST /realtime/broadcast HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
    b'Content-Type: application/json\r\n\r\n{"data"'
)


# As a coroutine.


async def test_it_serves_until_it_is_told_to_stop(nursery):
    stop = trio.Event()
    ended = trio.Event()

    async def run(*, task_status) -> None:  # noqa: ASYNC128  # it passes it on
        await serve(Settings(port=0, drain_seconds=2), stop=stop, task_status=task_status)
        ended.set()

    (address,) = await nursery.start(run)
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        stop.set()
        with trio.fail_after(20):
            await ended.wait()
        with pytest.raises(httpx.TransportError):
            await client.get("/readyz")


async def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1 port {port}: Address already in use"):
            await serve(Settings(port=port), stop=trio.Event())


async def test_strangers_are_not_let_in_by_accident():
    with pytest.raises(SettingsError, match="host"):
        await serve(Settings(host="0.0.0.0", port=0), stop=trio.Event())


# Accepting and draining, over socket pairs.


class Listener:
    """Stands for a listening socket: what `accept` returns or raises is up to the test."""

    def __init__(self, address=("127.0.0.1", 8_000)):
        self.is_closed = False
        self._address = address
        self._coming = deque()
        self._ready, self._bell = socket.socketpair()
        self._sockets = [self._ready, self._bell]

    def connect(self):
        """Come as a client."""
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        self._sockets += [theirs, ours]
        self.add(ours)
        return HTTPClient(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))

    def add(self, what):
        """Have this accepted next, or raised."""
        self._coming.append(what)
        self._bell.send(b".")

    @property
    def left(self):
        """How many have not been accepted."""
        return len(self._coming)

    def accept(self):
        if not self._coming:
            raise BlockingIOError
        self._ready.recv(1)
        what = self._coming.popleft()
        if isinstance(what, OSError):
            raise what
        return what, None

    def fileno(self):
        return self._ready.fileno()

    def getsockname(self):
        return self._address

    def getsockopt(self, *_):
        """Say that it listens."""
        return 1

    def close(self):
        self.is_closed = True

    def clear_away(self):
        """Close whatever a test has left open."""
        for each in self._sockets:
            each.close()


@attrs.define
class Running:
    """A server at work."""

    server: Server
    listener: Listener
    addresses: list[str] = attrs.field(factory=list)
    stop: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, *, task_status):  # noqa: ASYNC128  # it passes it on
        await self.server.serve([self.listener], self.stop, task_status=task_status)
        self.ended.set()

    async def ends_within(self, seconds):
        with trio.move_on_after(seconds):
            await self.ended.wait()
        return self.ended.is_set()


@pytest.fixture
async def start(nursery):
    """Start a server; its clients come by its listener's `connect`."""
    opened = []

    async def start(*, address=("127.0.0.1", 8_000), **settings):
        settings = {"drain_seconds": DRAIN, "insecure_anonymous": True} | settings
        running = Running(Server(Settings(**settings)), Listener(address))
        opened.append(running)
        running.addresses = await nursery.start(running.run)
        return running

    yield start
    for running in opened:
        running.listener.clear_away()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (("127.0.0.1", 8_000), "http://127.0.0.1:8000"),
        (("::1", 8_000, 0, 0), "http://[::1]:8000"),
    ],
)
async def test_addresses_are_told_as_clients_need_them(start, address, told):
    assert (await start(address=address)).addresses == [told]


async def test_with_a_certificate_it_is_https(start, tmp_path):
    certificate = trustme.CA().issue_cert("x")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    running = await start(tls_certificate=chain, tls_key=key)
    assert running.addresses == ["https://127.0.0.1:8000"]


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO])
async def test_a_client_that_was_gone_before_it_was_accepted_harms_nobody(
    start, number, autojump_clock
):
    running = await start()
    running.listener.add(OSError(number, "gone"))
    client = running.listener.connect()
    assert (await client.ask(READY)).status == 200
    assert trio.current_time() < accepting.MAX_PAUSE_SECONDS


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS])
async def test_when_resources_run_out_it_pauses_and_tries_again(
    start, number, autojump_clock, caplog
):
    running = await start()
    for _ in range(3):
        running.listener.add(OSError(number, "too many open files"))
    client = running.listener.connect()
    assert (await client.ask(READY)).status == 200
    assert trio.current_time() >= 7 * accepting.MIN_PAUSE_SECONDS  # 1, 2 and 4 of them
    assert caplog.text.count("clients cannot be accepted now") == 1


async def test_a_burst_of_new_clients_does_not_block_the_loop(start, autojump_clock):
    running = await start()
    crowd = [running.listener.connect() for _ in range(100)]
    # The passes of the run loop until they are all in: a task that is ready has as many turns.
    passes = 0
    while running.listener.left:  # noqa: ASYNC110  # nobody tells
        await trio.lowlevel.checkpoint()
        passes += 1
    assert passes >= 100 // accepting.ACCEPTS_PER_PASS
    for client in crowd:
        client.close()


async def test_one_socket_too_many_is_told_to_come_back(start, autojump_clock, monkeypatch):
    monkeypatch.setattr(run, "SPARE_SOCKETS", 1)
    running = await start(max_connections=1)
    first, second = running.listener.connect(), running.listener.connect()
    for client in (first, second):
        assert (await client.ask(READY)).status == 200
    third = running.listener.connect()
    refusal = await third.response()
    assert refusal.status == 503
    assert int(refusal.headers[b"retry-after"]) > 0
    assert b'"code":"too_many_connections"' in refusal.body
    assert await third.rest() == b""
    first.close()
    await wait_all_tasks_blocked()
    assert (await running.listener.connect().ask(READY)).status == 200


async def test_without_clients_it_stops_at_once(start, autojump_clock):
    running = await start()
    running.stop.set()
    assert await running.ends_within(0.1)
    assert running.listener.is_closed


async def test_a_drain_says_goodbye_and_waits_until_all_have_gone(start, autojump_clock):
    running = await start()
    idle, stream = running.listener.connect(), running.listener.connect()
    assert (await idle.ask(READY)).status == 200
    await stream.send(STREAM)
    await stream.read_until(b"retry: ")
    running.stop.set()
    with trio.fail_after(DRAIN / 2):
        assert await idle.rest() == b""
        assert b"\nretry: " in await stream.rest()
    assert not running.ended.is_set()
    idle.close()
    stream.close()
    assert await running.ends_within(0.1)


@pytest.fixture
async def slow(start):
    """A client whose request is under way, and its server."""
    running = await start()
    client = running.listener.connect()
    await client.send(SLOW)
    await trio.sleep(2)  # so long that it is not waited for as a whole any more
    return client, running


async def test_a_drain_waits_for_the_answer_to_a_request_under_way(slow, autojump_clock):
    client, running = slow
    running.stop.set()
    assert not await running.ends_within(DRAIN / 4)
    response = await client.ask(b":1}")
    assert b'"code":"shutting_down"' in response.body
    assert await client.rest() == b""
    client.close()
    assert await running.ends_within(0.1)


async def test_clients_that_outlast_the_drain_are_cut_off(slow, autojump_clock):
    _, running = slow
    running.stop.set()
    assert not await running.ends_within(DRAIN - 0.1)
    assert await running.ends_within(0.2)


async def test_new_clients_are_not_accepted_during_a_drain(slow, autojump_clock):
    _, running = slow
    running.stop.set()
    await wait_all_tasks_blocked()
    assert running.listener.is_closed
    running.listener.connect()
    await wait_all_tasks_blocked()
    assert running.listener.left == 1
    assert not running.ended.is_set()


# As a process.


@pytest.fixture
def process():
    """Undo what a server does to the process that it has for itself."""
    thresholds, limits = gc.get_threshold(), resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Output(io.StringIO):
    """Standard output that sends this process a signal when ``last`` is written to it."""

    def __init__(self, last, number):
        super().__init__()
        self._last = last
        self._number = number

    def write(self, text):
        if self._last in text:
            os.kill(os.getpid(), self._number)  # to the process, as a supervisor would
        return super().write(text)


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_tells_where_it_listens_and_ends_at_a_signal(monkeypatch, number):
    output = Output("publish: ", number)
    monkeypatch.setattr(sys, "stdout", output)
    run_server(Settings(port=0, max_connections=1))
    first, *rest = output.getvalue().splitlines()
    address = first.removeprefix("Triocast listens on ")
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*", address)
    assert all(f" {address}/realtime/" in line for line in rest)


@pytest.mark.usefixtures("process")
def test_a_process_that_cannot_listen_says_so_in_plain_words():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CannotListen, match="Address already in use"),
    ):
        run_server(Settings(port=taken.getsockname()[1], max_connections=1))
    with pytest.raises(SettingsError, match="host"):
        run_server(Settings(host="0.0.0.0", port=0))


MANY = 10_000
NEEDED = MANY + run.SPARE_SOCKETS + run.MAX_REFUSALS + run.OTHER_DESCRIPTORS


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(
    ("soft", "hard", "becomes", "warned"),
    [
        (NEEDED, NEEDED, None, False),
        (1_024, NEEDED, (NEEDED, NEEDED), False),
        (1_024, 2 * NEEDED, (NEEDED, 2 * NEEDED), False),
        (1_024, resource.RLIM_INFINITY, (NEEDED, resource.RLIM_INFINITY), False),
        (1_024, NEEDED - 1, (NEEDED - 1, NEEDED - 1), True),
    ],
)
def test_a_process_has_descriptors_for_as_many_clients_as_it_takes_or_warns(
    monkeypatch, caplog, soft, hard, becomes, warned
):
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    monkeypatch.setattr(trio, "run", lambda *_: None)
    run_server(Settings(max_connections=MANY))
    assert limits == ([] if becomes is None else [becomes])
    assert ("file descriptors" in caplog.text) is warned
