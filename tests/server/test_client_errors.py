"""What ends a client's connection is logged as what it is: its input, or an error of ours."""

import socket

import pytest
import trio

from triocast.server import client as module
from triocast.server.http import HTTP
from triocast.server.run import Server
from triocast.settings import Settings


@pytest.fixture
def connection():
    """A client's socket, and the one that was accepted for it."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs, ours:
        yield theirs, ours


@pytest.fixture
async def service():
    return Server(Settings())._service


async def serve_with(monkeypatch, service, accepted, error):
    async def serve(self):
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(HTTP, "look_at_peer", lambda self: None)
    monkeypatch.setattr(HTTP, "serve", serve)
    await module.Client(service, accepted).run()
    assert accepted.fileno() == -1


@pytest.mark.parametrize("error", [kind("bad input") for kind in module.PROTOCOL_ERRORS])
async def test_input_that_breaks_a_protocol_is_the_clients(
    monkeypatch, service, connection, caplog, error
):
    await serve_with(monkeypatch, service, connection[1], error)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("a client's input ended its connection: ")
    assert type(error).__name__ in record.getMessage()
    assert not record.exc_info


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("x" * 10_000)])
async def test_everything_else_is_ours_and_has_a_traceback(
    monkeypatch, service, connection, caplog, error
):
    monkeypatch.setattr(module, "_error_log", module.Seldom(1))
    await serve_with(monkeypatch, service, connection[1], error)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "by an error of ours" in record.getMessage()
    assert len(record.getMessage()) < 400
    assert record.exc_info is not None


async def test_tracebacks_that_a_client_causes_do_not_fill_the_log(monkeypatch, service, caplog):
    monkeypatch.setattr(module, "_error_log", module.Seldom(1_000))
    for _ in range(5):
        theirs, ours = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            await serve_with(monkeypatch, service, ours, KeyError("a bug"))
    assert [bool(record.exc_info) for record in caplog.records] == [True] + [False] * 4


@pytest.mark.parametrize("error", [BrokenPipeError(), trio.BrokenResourceError()])
async def test_a_client_that_is_gone_is_no_news(monkeypatch, service, connection, caplog, error):
    await serve_with(monkeypatch, service, connection[1], error)
    assert caplog.records == []
