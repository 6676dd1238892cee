"""Server-Sent Events: the first block, events, heartbeats and the farewell."""

import json
import re

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.errors import EndReason, TooManyConnections
from triocast.events import Position, user_channel
from triocast.hub import Hub
from triocast.subscriptions import make_filter
from triocast.transports.links import StreamLink
from triocast.transports.sse import SSEConnection, StreamOptions, polite_end
from triocast.wire.start import After, Last, Latest

from .reading import blocks

HEARTBEAT = 10.0


def seqs(body):
    return [int(value.rpartition(".")[2]) for b in blocks(body) for f, value in b if f == "id"]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("start", "id"),
    [
        (None, "0.e.1"),
        (After(Position("e", 0)), "0.e.0"),
        (After(Position("other", 7)), "0.other.7"),
        (After(None), None),
        (Latest(), None),
        (Last(3), None),
    ],
)
async def test_the_first_message_comes_at_once_with_the_cursor_that_the_client_came_with(
    parts, open_sse, named, start, id
):
    await parts.publish("x")
    client = open_sse(
        channels=("x",), grant=Grant(user="ann", subscribe=("*",)), named=named, start=start
    )
    first = blocks(await client.read())[0]
    assert first[0] == ("", "triocast s1")
    fields = dict(first)
    assert 1_000 <= int(fields["retry"]) <= 3_000
    assert fields.get("event") == ("connected" if named else None)
    assert fields.get("id") == id
    message = json.loads(fields["data"])
    assert message.pop("timestamp")
    assert message == {
        "type": "connected",
        "data": {"connection_id": "s1", "user": "ann", "heartbeat_seconds": HEARTBEAT},
        **({} if id is None else {"id": id}),
    }


async def test_clients_are_told_different_times_to_come_back(open_sse):
    clients = [open_sse(id=f"s{n}") for n in range(20)]
    times = {dict(blocks(await client.read())[0])["retry"] for client in clients}
    assert len(times) > 10


async def test_events_of_its_channels_its_user_and_itself(parts, open_sse):
    client = open_sse(channels=("x", "n:*"), grant=Grant(user="ann", subscribe=("*",)))
    await client.read()
    for channel in ("x", "y", "n:a", "$all", user_channel("ann"), "$conn:s1", "$conn:s2"):
        await parts.publish(channel, data=b'{"a":1}')
    got = [dict(block) for block in blocks(await client.read())]
    assert [json.loads(block["data"])["channel"] for block in got] == [
        "x",
        "n:a",
        "$all",
        "$user:ann",
        "$conn:s1",
    ]
    assert [block.get("id") for block in got] == ["0.e.1", "0.e.3", "0.e.4", "0.e.5", None]
    assert all("event" not in block for block in got)
    assert all(json.loads(block["data"])["data"] == {"a": 1} for block in got)


async def test_named_events_and_filters(parts, open_sse):
    client = open_sse(channels=("x",), named=True, filter=make_filter(["A"], []))
    await client.read()
    await parts.publish("x", "B")
    await parts.publish("x", "A")
    (block,) = blocks(await client.read())
    assert (dict(block)["event"], dict(block)["id"]) == ("A", "0.e.2")


async def test_chunks_carry_the_same_blocks(parts, open_sse):
    plain, chunked = open_sse(id="p"), open_sse(chunked=True, id="c")
    await plain.read()
    await chunked.read()
    await parts.publish("$all")
    await parts.publish("$all")
    unwrapped = await plain.read()
    pieces = re.findall(rb"([0-9a-f]+)\r\n(.*?)\r\n", await chunked.read(), re.DOTALL)
    assert [int(size, 16) for size, _ in pieces] == [len(piece) for _, piece in pieces]
    assert b"".join(piece for _, piece in pieces) == unwrapped


async def test_heartbeats_move_the_cursor_of_a_quiet_stream(parts, open_sse, autojump_clock):
    client = open_sse(channels=("x",))
    await client.read()
    await parts.publish("elsewhere")
    await parts.publish("elsewhere")
    await trio.sleep(HEARTBEAT)
    body = await client.read()
    assert seqs(body) == [2]
    assert b"data" not in body


async def test_heartbeat_ids_never_go_back_and_cover_what_was_written(
    parts, open_sse, autojump_clock
):
    client = open_sse(channels=("x",))
    for n in range(40):
        await trio.sleep(HEARTBEAT / 4)
        await parts.publish("x" if n % 3 else "elsewhere")
    await wait_all_tasks_blocked()
    got = blocks(await client.read())
    numbers = [int(dict(block)["id"].rpartition(".")[2]) for block in got]
    assert numbers == sorted(numbers)
    events = [n for n, block in zip(numbers, got, strict=True) if "data" in dict(block)][1:]
    assert events == [seq for seq in range(1, 41) if (seq - 1) % 3]
    beats = [n for n, block in zip(numbers, got, strict=True) if "data" not in dict(block)]
    assert 8 <= len(beats) <= 10


async def test_a_heartbeat_within_a_batch_covers_only_what_was_given(
    nursery, parts, open_sse, monkeypatch
):
    """An id beyond what a client has would make it lose the rest when it resumes."""
    connections = parts.connections
    hub = Hub(inbox_bytes=10_000, head=parts.engine.head)  # nobody runs it
    connections.hub = hub
    client = open_sse(channels=("x",))
    await client.read()
    parts.engine.attach(hub)
    await parts.publish("x")
    client.connection._beat()  # what the heartbeat's task does at its time
    assert seqs(await client.read()) == [0]
    nursery.start_soon(hub.run)
    assert seqs(await client.read()) == [1]
    client.connection._beat()
    assert seqs(await client.read()) == [1]


async def test_a_heartbeat_does_not_go_back_behind_the_first_block(
    nursery, parts, open_sse, autojump_clock
):
    """A stream is live from what was accepted, which may not have been written yet."""
    connections = parts.connections
    hub = connections.hub = Hub(inbox_bytes=10_000, head=parts.engine.head)  # nobody runs it
    parts.engine.attach(hub)
    await parts.publish("x")
    client = open_sse(channels=("x",))
    assert seqs(await client.read()) == [1]
    await trio.sleep(HEARTBEAT)
    assert seqs(await client.read()) == [1]
    nursery.start_soon(hub.run)
    await trio.sleep(HEARTBEAT)
    assert seqs(await client.read()) == [1]


async def test_heartbeat_events_on_demand(open_sse, autojump_clock):
    plain = open_sse(heartbeat_events=True, id="p")
    named = open_sse(heartbeat_events=True, named=True, id="n")
    await trio.sleep(HEARTBEAT)
    for client, event in ((plain, None), (named, "HEARTBEAT")):
        beat = dict(blocks(await client.read())[-1])
        assert beat.get("event") == event
        assert beat["id"] == "0.e.0"
        message = json.loads(beat["data"])
        assert (message["type"], message["data"]) == ("HEARTBEAT", None)


ENDS = [
    # reason, code, whether the client should come back
    (EndReason.SHUTDOWN, "shutting_down", True),
    (EndReason.SLOW_CONSUMER, "slow_consumer", True),
    (EndReason.SERVER_ERROR, "unavailable", True),
    (EndReason.GRANT_ENDED, "unauthorized", False),
    (EndReason.POLICY, "bad_request", False),
]


@pytest.mark.parametrize(("reason", "code", "returns"), ENDS)
async def test_the_end_of_a_stream_says_why_and_only_whoever_should_stay_away_gets_all_of_it(
    open_sse, reason, code, returns
):
    """Some clients never come back after a response that is whole."""
    client = open_sse(chunked=True, named=True)
    await client.read()
    client.connection.retry_ms = 4_321
    client.connection.end(reason)
    end = await client.read_to_end()
    assert end.endswith(b"\r\n0\r\n\r\n") is not returns
    length, _, chunk = end.partition(b"\r\n")
    (block,) = blocks(chunk[: int(length, 16)])
    assert (dict(block)["retry"], dict(block)["event"]) == ("4321", "ERROR")
    message = json.loads(dict(block)["data"])
    assert (message["type"], message["data"]["code"]) == ("ERROR", code)
    assert message["data"]["temporary"] is returns


@pytest.mark.parametrize(("reason", "code", "returns"), ENDS)
@pytest.mark.parametrize("chunked", [True, False])
async def test_where_only_the_link_s_end_tells_it_has_to_look_like_a_fault(
    parts, nursery, chunked, reason, code, returns
):
    class Recorded(StreamLink):
        abruptly = None

        async def finish(self, farewell, *, abruptly=False):
            self.abruptly = abruptly
            await super().finish(farewell, abruptly=abruptly)

    link = Recorded(memory_stream_pair()[0])
    grant = Grant(subscribe=("*",))
    connection = SSEConnection(
        parts.connections, StreamOptions(), id="s", grant=grant, address=None
    )
    connection.use_framing(chunked=chunked)
    nursery.start_soon(connection.run, link)
    await wait_all_tasks_blocked()
    connection.end(reason)
    await wait_all_tasks_blocked()
    assert link.abruptly is (returns and not chunked)


async def test_what_was_queued_comes_before_the_farewell(open_sse, autojump_clock):
    client = open_sse()
    await client.read()
    client.connection.push(b"id: 0.e.1\n\n")  # its send task has this in its hands already
    client.connection.push(b"id: 0.e.2\n\n")
    client.connection.end(EndReason.SHUTDOWN)
    await wait_all_tasks_blocked()
    with trio.fail_after(5):
        *before, farewell = blocks(await client.read_to_end())
    assert before == [[("id", "0.e.1")], [("id", "0.e.2")]]
    assert farewell[0][0] == "retry"


def test_a_refusal_for_now_sends_an_event_source_away_politely():
    (error,) = blocks(polite_end(TooManyConnections("full")))
    assert 1_000 <= int(dict(error)["retry"]) <= 3_000 + 2_000 * TooManyConnections.retry_after
    assert json.loads(dict(error)["data"])["data"] == {
        "code": "too_many_connections",
        "message": "full",
        "temporary": True,
    }
