"""What fails for good ends the process, so that it is started again; what does not, does not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from e2e.clients import Socket, Stream
from e2e.conftest import start_stock
from e2e.faults import POISONED_ENCODERS, POISONED_HUB, inject
from e2e.rest import call, post, publish, stats
from e2e.servers import Server

ENGINES = ("memory://", "sqlite:///events.db")
POISON = {"type": "poison", "channel": "a", "data": 2}


def end_of(stream: Stream) -> str | None:
    """Read a stream to its end; return when to come back, if it says so at last."""
    retry = None
    while (block := stream.block()) is not None:
        retry = block.retry
    return retry


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_failure_of_the_hub_ends_the_process_and_tells_the_clients(
    serve: Callable[..., Server], tmp_path: Path, engine: str, takeover: str
) -> None:
    environment = inject(tmp_path / "faults", POISONED_HUB)
    server = serve(takeover, "--engine", engine, environment=environment)
    with Stream(server, channel="a") as stream, Socket(server, "?channel=a") as socket:
        stream.opened()
        publish(server, channel="a", data=1)
        assert stream.event()["data"] == socket.event()["data"] == 1
        post(server, "/realtime/broadcast", POISON)
        assert end_of(stream) is not None
        with pytest.raises(ConnectionClosed) as closed:
            socket.event()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    assert server.process.wait(10) == 1
    log = server.fresh_log()
    (line,) = (line for line in log.splitlines() if " CRITICAL " in line)
    assert "the hub failed (RuntimeError: injected)" in line
    assert "Traceback" in log


@pytest.mark.parametrize("engine", ENGINES)
def test_an_event_that_cannot_be_encoded_is_a_gap_and_no_more(
    serve: Callable[..., Server], tmp_path: Path, engine: str
) -> None:
    server = serve("--engine", engine, environment=inject(tmp_path / "faults", POISONED_ENCODERS))
    with Stream(server, channel="a") as stream, Socket(server, "?channel=a") as ws:
        stream.opened()
        for number, type in enumerate(("t", "poison", "t")):
            publish(server, channel="a", type=type, data=number)
        for client in (stream, ws):
            assert client.event()["data"] == 0
            gap = client.event()
            assert (gap["type"], gap["data"]["reason"]) == ("gap", "internal")
            assert client.event()["data"] == 2
    with Stream(server, channel="a", since="latest") as newcomer:
        assert newcomer.event()["data"] == 2
    assert stats(server)["encode_failures"] == 2  # for streams and for WebSockets
    assert call(server, "GET", "/readyz").status == 200
    log = server.fresh_log()
    assert "by an error of ours" in log
    assert "RuntimeError: injected" in log


def test_on_a_stock_hypercorn_a_failure_sends_clients_away_and_refuses_everybody(
    tmp_path: Path,
) -> None:
    server = start_stock(tmp_path / "server", inject(tmp_path / "faults", POISONED_HUB))
    try:
        with Stream(server, channel="a") as stream:
            stream.opened()
            post(server, "/realtime/broadcast", POISON)
            assert end_of(stream) is not None
        for path in ("/healthz", "/readyz", "/realtime/poll", "/realtime/events"):
            answer = call(server, "GET", path)
            assert (answer.status, answer.json["code"]) == (503, "node_failed")
        answer = post(server, "/realtime/broadcast", {"data": 1})
        assert (answer.status, answer.json["code"]) == (503, "node_failed")
        log = server.fresh_log()
        assert log.count("every request is refused until this process is restarted") == 1
        assert "the hub failed (RuntimeError: injected)" in log
    finally:
        server.stop()


LISTENER_THAT_ENDS = """
import signal, socket
from triocast.server import run

open_listeners = run.open_listeners

def keep(settings):
    listeners = open_listeners(settings)

    def stop_listening(*_):
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)

    signal.signal(signal.SIGUSR1, stop_listening)
    return listeners

run.open_listeners = keep
"""


def test_a_listener_that_does_not_listen_any_more_ends_the_process(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(environment=inject(tmp_path / "faults", LISTENER_THAT_ENDS))
    with Stream(server) as stream:
        stream.opened()
        server.process.send_signal(signal.SIGUSR1)
        assert end_of(stream) is not None
    assert server.process.wait(10) == 1
    log = server.fresh_log()
    assert log.count(" CRITICAL ") == 1
    assert "does not listen any more" in log
