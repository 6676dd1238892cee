"""A server that fails, in what it consists of or in a way in, ends and says why."""

import math
import socket

import httpx
import pytest
import trio

from triocast.server import ServerFailed, run
from triocast.server.config import open_listeners
from triocast.server.run import Server
from triocast.settings import Settings

# The server fails: what it consists of, or a way in.


@pytest.fixture
async def start(nursery):
    """Return how a server ends that is started by a test, and where it listens."""

    async def start(server):
        outcome = []
        ended = trio.Event()
        listeners = open_listeners(server._settings)

        async def run(*, task_status):  # noqa: ASYNC128  # it passes it on
            try:
                await server.serve(listeners, trio.Event(), task_status=task_status)
            except ServerFailed as error:
                outcome.append(error)
            ended.set()

        async def failure():
            with trio.fail_after(10):
                await ended.wait()
            (error,) = outcome
            return error

        (address,) = await nursery.start(run)
        return address, listeners, failure

    return start


def make_server(**settings):
    alarms = []
    server = Server(Settings(port=0, **settings), on_failure=lambda: alarms.append(1))
    return server, alarms


def critical(caplog):
    return [record for record in caplog.records if record.levelname == "CRITICAL"]


async def test_a_failure_of_the_node_is_a_failure_of_the_server(start, caplog):
    server, alarms = make_server()
    address, listeners, failure = await start(server)
    server._node.hub._take_batch = lambda: 1 / 0
    async with (
        httpx.AsyncClient(base_url=address) as client,
        client.stream("GET", "/realtime/events") as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        await client.post("/realtime/broadcast", json={"data": 1})
        told = []

        async def read():
            async for line in lines:
                told.append(line)

        with pytest.raises(httpx.RemoteProtocolError):  # so that every client comes back
            await read()
    assert told[-3].startswith("retry: ")
    assert '"type":"ERROR"' in told[-2]
    error = await failure()
    assert str(error) == "the hub failed (ZeroDivisionError: division by zero)"
    (record,) = critical(caplog)
    assert str(error) in record.getMessage()
    assert record.exc_info is not None
    assert alarms == [1]
    assert server._node.connections.ended == {"server_error": 1}
    assert all(listener.fileno() == -1 for listener in listeners)


async def test_a_listener_that_is_lost_is_a_failure_of_the_server(start, caplog):
    server, alarms = make_server()
    _, listeners, failure = await start(server)
    listeners[0].shutdown(socket.SHUT_RDWR)
    assert "does not listen any more" in str(await failure())
    assert len(critical(caplog)) == 1
    assert alarms == [1]


@pytest.mark.parametrize("part", ["arrivals", "requests"])
async def test_every_task_of_the_server_counts(start, monkeypatch, caplog, part):
    server, alarms = make_server()

    async def fail():
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("injected")

    turnstile = getattr(server._service, part)
    monkeypatch.setattr(turnstile, "run", fail, raising=False)
    _, _, failure = await start(server)
    await failure()
    (record,) = critical(caplog)
    assert "injected" in str(record.exc_info[1].exceptions)
    assert alarms == [1]


async def test_a_client_that_cannot_be_served_costs_only_itself(start, monkeypatch, caplog):
    server, _ = make_server()
    address, _, _ = await start(server)
    client_class = run.Client

    def fail(service, accepted):
        monkeypatch.setattr(run, "Client", client_class)
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(run, "Client", fail)
    async with httpx.AsyncClient(base_url=address) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/readyz")
        assert (await client.get("/readyz")).status_code == 200
    assert "by an error of ours" in caplog.text
    assert "injected" in caplog.text


@pytest.mark.parametrize(
    ("descriptors", "max_connections", "clients", "refusals"),
    [
        (math.inf, 10_000, 10_512, 256),
        (20_000, 10_000, 10_512, 256),
        (4_096, 10_000, 4_096 - 256 - 64, 256),
        (1_024, 10_000, 1_024 - 128 - 64, 128),
        (80, 1_000, 8, 10),
        (10, 1_000, 8, 8),
    ],
)
def test_clients_leave_room_for_refusals_and_the_store(
    descriptors, max_connections, clients, refusals
):
    bounds = run._Bounds.within(descriptors, max_connections)
    assert (bounds.clients, bounds.refusals) == (clients, refusals)
