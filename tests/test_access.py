"""The access log: one line when a connection opens, one when it closes, and no secrets in them."""

import pytest
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast import access
from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines import MemoryEngine
from triocast.errors import EndReason
from triocast.events import Position
from triocast.hub import Hub
from triocast.transports.links import ASGIResponseLink, StreamLink
from triocast.transports.sse import SSEConnection, StreamOptions


@pytest.fixture
def lines(caplog):
    """Return what has been logged since the last call."""
    caplog.set_level("INFO", "triocast.access")

    def lines():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return lines


def make_connection(user="ann", address="192.0.2.1"):
    engine = MemoryEngine(epoch="e", history_events=10, history_bytes=1_000)
    hub = Hub(inbox_bytes=1_000, head=Position("e", 0))
    connections = Connections(engine, hub, most=1, outbox_bytes=1_000, heartbeat_seconds=10)
    return SSEConnection(
        connections, StreamOptions(), id="c1", grant=Grant(user=user), address=address
    )


async def test_a_connection_has_a_line_for_its_beginning_and_one_for_its_end(
    lines, nursery, autojump_clock
):
    client, server = memory_stream_pair()
    nursery.start_soon(make_connection().run, StreamLink(server))
    await wait_all_tasks_blocked()
    assert lines() == ["open id=c1 transport=sse way=taken_over user='ann' address=192.0.2.1"]
    await client.send_eof()
    await wait_all_tasks_blocked()
    (line,) = lines()
    fields = dict(field.split("=", 1) for field in line.removeprefix("close ").split())
    assert float(fields.pop("seconds")) >= 0
    assert int(fields.pop("bytes")) > 0
    assert fields == {
        "id": "c1",
        "transport": "sse",
        "user": "'ann'",
        "address": "192.0.2.1",
        "reason": "client_closed",
        "events": "0",
    }


async def test_a_connection_over_another_server_is_called_portable(lines, autojump_clock):
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    await make_connection().run(ASGIResponseLink(receive, send))
    assert "way=portable" in lines()[0]


def test_the_end_is_told_with_its_reason_and_what_the_client_got(lines):
    connection = make_connection(user=None, address=None)
    connection.reason = EndReason.SLOW_CONSUMER
    connection.bytes, connection.events = 7, 2
    access.closed(connection, 1.23456)
    assert lines() == [
        "close id=c1 transport=sse user=None address=None reason=slow_consumer"
        " seconds=1.235 bytes=7 events=2"
    ]


def test_an_end_without_a_reason_is_a_dash(lines):
    access.closed(make_connection(), 0)
    assert " reason=- " in lines()[0]


async def test_a_users_name_cannot_pass_for_other_fields(lines, autojump_clock):
    client, server = memory_stream_pair()
    await client.send_eof()
    await make_connection("ann id=c2 'x'").run(StreamLink(server))
    opened, closed = lines()
    assert """ user="ann id=c2 'x'" """ in opened
    assert """ user="ann id=c2 'x'" """ in closed
