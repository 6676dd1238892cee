"""What comes before what is live: in order, once, and no faster than the client takes it."""

import json

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.errors import EndReason, Unavailable
from triocast.events import Position
from triocast.subscriptions import make_filter
from triocast.transports.links import StreamLink
from triocast.transports.sse import SSEConnection, StreamOptions
from triocast.wire import envelope
from triocast.wire.start import After, Last, Latest, parse_cursor

from .reading import blocks


def after(seq, epoch="e"):
    return After(Position(epoch, seq))


def told(body):
    """Return (id, type) of all blocks; the type is None where there is no data."""
    found = []
    for block in blocks(body):
        fields = dict(block)
        kind = json.loads(fields["data"])["type"] if "data" in fields else None
        found.append((fields.get("id"), kind))
    return found


@pytest.fixture
def gate(parts, monkeypatch):
    """The engine answers what was in its history once this is set."""
    gate = trio.Event()
    history = parts.engine.history

    async def wait_and_read(*names, **bounds):
        await gate.wait()
        return await history(*names, **bounds)

    monkeypatch.setattr(parts.engine, "history", wait_and_read)
    return gate


class TestSSE:
    async def test_what_was_missed_comes_first(self, parts, open_sse):
        for kind in "abc":
            await parts.publish("x", kind)
        client = open_sse(channels=("x",), start=after(1))
        await parts.publish("x", "d")
        assert told(await client.read()) == [
            ("0.e.1", "connected"),
            ("0.e.2", "b"),
            ("0.e.3", "c"),
            ("0.e.4", "d"),
            ("0.e.4", "live"),
        ]
        await parts.publish("x", "e")
        assert told(await client.read()) == [("0.e.5", "e")]

    async def test_however_much_was_held_it_comes_in_steps(
        self, parts, open_sse, gate, work, monkeypatch
    ):
        queue = SSEConnection._queue

        def count(connection, frames, publications):
            work.did()
            queue(connection, frames, publications)

        monkeypatch.setattr(SSEConnection, "_queue", count)
        client = open_sse(channels=("x",), start=after(0))
        await wait_all_tasks_blocked()
        for _ in range(1_000):
            await parts.publish("x")
        work.longest = 0
        gate.set()
        found = told(await client.read())
        assert len(found) > 1_000
        assert 0 < work.longest <= work.PER_TURN + 2

    async def test_also_what_is_for_all_and_for_its_user(self, parts, open_sse):
        for channel in ("$all", "$user:ann", "$user:bob", "$conn:s1"):
            await parts.publish(channel)
        await wait_all_tasks_blocked()
        client = open_sse(grant=Grant(user="ann"), start=after(0))
        _, *got, _ = told(await client.read())
        assert [id for id, _ in got] == ["0.e.1", "0.e.2"]

    async def test_a_gap_is_told_in_the_stream(self, parts, open_sse):
        await parts.publish("y", "kept")
        for _ in range(11):
            await parts.publish("x")
        client = open_sse(channels=("x", "y"), start=after(0), named=True)
        opened, gap, event, live = (dict(block) for block in blocks(await client.read()))
        assert (opened["id"], event["event"], live["id"]) == ("0.e.0", "kept", "0.e.12")
        assert (gap["event"], gap["id"]) == ("gap", "0.e.0")
        data = json.loads(gap["data"])
        assert data["data"] == {
            "reason": "expired",
            "channels": ["x"],
            "from": "0.e.0",
            "to": "0.e.12",
        }
        assert data["id"] == "0.e.0"

    async def test_a_cursor_of_another_store_is_a_gap_and_moves_on(self, parts, open_sse):
        await parts.publish("x")
        client = open_sse(channels=("x",), start=after(7, "old"))
        _, (id, kind), live = told(await client.read())
        assert (id, kind, live) == ("0.e.1", "gap", ("0.e.1", "live"))

    @pytest.mark.parametrize(
        ("start", "kinds"), [(Latest(), ["b", "c"]), (Last(1), ["c"]), (Last(9), ["a", "b", "c"])]
    )
    async def test_a_newcomer_gets_the_state(self, parts, open_sse, start, kinds):
        for kind, key in (("a", "k"), ("b", "k"), ("c", None)):
            await parts.publish("x", kind, key=key)
        client = open_sse(channels=("x",), start=start)
        first, *events, live = told(await client.read())
        assert first == (None, "connected"), "before it has the state, it stands nowhere"
        assert [kind for _, kind in events] == kinds
        assert live == ("0.e.3", "live")

    @pytest.mark.parametrize(("start", "first"), [(after(0), "0.e.0"), (Latest(), None)])
    async def test_no_block_is_without_data_where_heartbeats_are_events(
        self, parts, open_sse, start, first
    ):
        await parts.publish("x", "a")
        await parts.publish("elsewhere")
        client = open_sse(channels=("x",), start=start, heartbeat_events=True)
        assert told(await client.read()) == [
            (first, "connected"),
            ("0.e.1", "a"),
            ("0.e.2", "live"),
        ]

    async def test_heartbeats_wait_until_it_is_live(self, parts, open_sse, gate, autojump_clock):
        """Their cursor would be ahead of what the client has."""
        await parts.publish("x", "a")
        client = open_sse(channels=("x",), start=after(0))
        assert told(await client.read()) == [("0.e.0", "connected")]
        await trio.sleep(60)
        gate.set()
        assert told(await client.read()) == [("0.e.1", "a"), ("0.e.1", "live")]
        await trio.sleep(60)
        assert set(told(await client.read())) == {("0.e.1", None)}


class TestWebSocket:
    async def test_a_subscription_begins_behind_its_cursor(self, parts, open_websocket):
        for kind in "abc":
            await parts.publish("x", kind)
        client = await open_websocket()
        answers = await client.ask(
            {"type": "subscribe", "id": 1, "channel": "x", "cursor": "0.e.1"}
        )
        assert [(a["type"], a["id"]) for a in answers] == [
            ("b", "0.e.2"),
            ("c", "0.e.3"),
            ("reply", 1),
        ]
        assert answers[-1]["data"] == {"channels": ["x"], "cursor": "0.e.3"}
        await parts.publish("x", "d")
        await wait_all_tasks_blocked()
        assert [text["type"] for text in client.take()] == ["d"]

    async def test_what_is_live_meanwhile_waits(self, parts, open_websocket, gate):
        client = await open_websocket()
        await client.ask({"type": "subscribe", "channel": "y"})
        await parts.publish("x", "old")
        await parts.publish("y", "other")
        await wait_all_tasks_blocked()
        assert [text["type"] for text in client.take()] == ["other"]
        await client.send({"type": "subscribe", "channel": "x", "cursor": "0.e.0"})
        await parts.publish("y", "new")
        await wait_all_tasks_blocked()
        assert client.take() == []
        gate.set()
        await wait_all_tasks_blocked()
        assert [text["type"] for text in client.take()] == ["old", "new", "reply"]

    @pytest.mark.parametrize(
        ("start", "seqs"),
        [({"cursor": "0.e.0"}, [1, 2, 4]), ({"since": "latest"}, [4]), ({"last": 9}, [1, 2, 4])],
        ids=str,
    )
    async def test_a_later_subscription_does_not_move_the_clients_cursor_back(
        self, parts, open_websocket, start, seqs
    ):
        for channel in "xxyx":
            await parts.publish(channel)
        client = await open_websocket(channels=("y",), start=after(2))
        *_, given, live = client.take()
        assert (given["id"], live["id"]) == ("0.e.3", "0.e.4")
        *missed, reply = await client.ask({"type": "subscribe", "id": 1, "channel": "x", **start})
        assert [event.get("position") for event in missed] == [f"0.e.{seq}" for seq in seqs]
        ids = [event["id"] for event in missed]
        assert len(set(ids)) == len(ids), "each is told apart by its id"
        assert {parse_cursor(id).position for id in ids} == {Position("e", 4)}
        assert reply["data"]["cursor"] == "0.e.4"
        await parts.publish("x")
        await wait_all_tasks_blocked()
        (event,) = client.take()
        assert (event["id"], "position" in event) == ("0.e.5", False)

    @pytest.mark.parametrize("cursor", ["0.e.0", "0.other.5"])
    async def test_a_gap_of_a_later_subscription_does_not_move_it_either(
        self, parts, open_websocket, gate, cursor
    ):
        for _ in range(12):
            await parts.publish("x")
        client = await open_websocket(channels=("y",))
        await parts.publish("y")
        await wait_all_tasks_blocked()
        client.take()
        await client.send({"type": "subscribe", "id": 1, "channel": "x", "cursor": cursor})
        await parts.publish("y")
        gate.set()
        await wait_all_tasks_blocked()
        messages = client.take()
        assert (messages[0]["type"], messages[0]["id"]) == ("gap", "0.e.13")
        cursors = [m["data"]["cursor"] if m["type"] == "reply" else m["id"] for m in messages]
        assert cursors == sorted(cursors)
        assert cursors[-1] == "0.e.14"

    async def test_a_gap_that_others_events_have_to_follow_moves_nothing(
        self, parts, open_websocket
    ):
        """It would say that the client stands behind an event that it has not got yet."""
        client = await open_websocket(channels=("y",))
        await client.send({"type": "subscribe", "id": 1, "channel": "x", "cursor": "0.other.5"})
        await parts.publish("y")  # before the subscription is read
        await wait_all_tasks_blocked()
        told = [message for message in client.take() if message["type"] in ("gap", "t")]
        ids = [message["id"] for message in told]
        assert ids == sorted(ids)
        assert ids[-1] == "0.e.1"

    async def test_a_subscription_without_a_start_answers_behind_what_others_get(
        self, parts, open_websocket
    ):
        client = await open_websocket(channels=("y",))
        client.take()
        await client.send({"type": "subscribe", "id": 1, "channel": "x"})
        await parts.publish("y")
        await wait_all_tasks_blocked()
        kinds = [message["type"] for message in client.take()]
        assert sorted(kinds) == ["reply", "t"]

    async def test_a_damaged_event_of_a_later_subscription_moves_nothing(
        self, parts, open_websocket, monkeypatch
    ):
        await parts.publish("x")
        client = await open_websocket(channels=("y",))
        await parts.publish("y")
        await wait_all_tasks_blocked()
        client.take()

        def fail(*_, **__):
            raise RuntimeError("injected")

        monkeypatch.setattr(envelope, "encode_publication", fail)
        gap, _ = await client.ask({"type": "subscribe", "id": 1, "channel": "x", "last": 1})
        assert (gap["data"]["reason"], gap["id"]) == ("internal", "0.e.2")

    async def test_it_comes_back_to_all_it_had_by_its_address(self, parts, open_websocket):
        for channel in ("x", "$all", "$user:ann", "y"):
            await parts.publish(channel, channel)
        client = await open_websocket(channels=("x",), start=after(0))
        hello, *events, live = client.take()
        assert (hello["type"], hello["id"]) == ("connected", "0.e.0")
        assert [event["type"] for event in events] == ["x", "$all", "$user:ann"]
        assert (live["type"], live["id"]) == ("live", "0.e.4")

    async def test_the_state_passes_the_filter(self, parts, open_websocket):
        for kind in "abab":
            await parts.publish("x", kind)
        client = await open_websocket()
        answers = await client.ask(
            {"type": "subscribe", "id": 1, "channel": "x", "types": ["a"], "last": 2}
        )
        assert [a["type"] for a in answers] == ["a", "a", "reply"]

    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            ({"cursor": "nonsense"}, "invalid_cursor"),
            ({"since": "yesterday"}, "bad_request"),
            ({"last": 0}, "bad_request"),
            ({"last": 1, "since": "latest"}, "bad_request"),
        ],
    )
    async def test_a_start_that_is_none_changes_nothing(self, parts, open_websocket, wrong, code):
        client = await open_websocket()
        (error,) = await client.ask({"type": "subscribe", "id": 1, "channel": "x", **wrong})
        assert (error["type"], error["code"]) == ("error", code)
        assert await parts.hub.count("x") == 0

    async def test_a_gap_comes_before_the_reply(self, parts, open_websocket):
        client = await open_websocket()
        gap, reply = await client.ask(
            {"type": "subscribe", "id": 1, "channel": "x", "cursor": "0.other.5"}
        )
        assert (gap["type"], gap["data"]["reason"]) == ("gap", "epoch")
        assert gap["data"]["channels"] == ["x"]
        assert reply["data"]["cursor"] == gap["id"] == "0.e.0"


async def test_a_client_that_reads_slowly_gets_a_long_backlog_whole(parts, nursery):
    """Ten events of 20 kB each are more than its outbox may hold at once."""
    parts.connections.outbox_bytes = 50_000
    for _ in range(10):
        await parts.publish("x", data=b'"%s"' % (b"x" * 20_000))
    connection = SSEConnection(
        parts.connections,
        StreamOptions(channels=("x",), start=after(0), filter=make_filter(["t"], [])),
        id="s",
        grant=Grant(subscribe=("*",)),
        address=None,
    )
    client, server = memory_stream_pair()
    slow = trio.Event()

    send = server.send_stream.send_all_hook

    async def send_slowly():
        await slow.wait()
        await send()

    server.send_stream.send_all_hook = send_slowly
    nursery.start_soon(connection.run, StreamLink(server))
    await wait_all_tasks_blocked()
    assert 0 < connection.queued_bytes <= 50_000
    slow.set()
    await wait_all_tasks_blocked()
    _, *events, _ = told(bytes(await client.receive_some(1_000_000)))
    assert [id for id, _ in events] == [f"0.e.{n}" for n in range(1, 11)]
    assert connection.reason is None


async def test_live_events_that_outgrow_the_outbox_meanwhile_end_the_connection(parts, nursery):
    parts.connections.outbox_bytes = 50_000
    for _ in range(10):
        await parts.publish("x", data=b'"%s"' % (b"x" * 20_000))
    connection = SSEConnection(
        parts.connections,
        StreamOptions(channels=("x", "y"), start=after(0)),
        id="s",
        grant=Grant(subscribe=("*",)),
        address=None,
    )
    _, server = memory_stream_pair()
    server.send_stream.send_all_hook = trio.sleep_forever
    nursery.start_soon(connection.run, StreamLink(server))
    await wait_all_tasks_blocked()
    for _ in range(5):
        await parts.publish("y", data=b'"%s"' % (b"y" * 20_000))
    await wait_all_tasks_blocked()
    assert connection.reason is not None
    assert connection.reason.word == "slow_consumer"


@pytest.mark.parametrize("published", [1, 20])  # of 20, the first are kept no more
async def test_one_that_ends_in_the_moment_of_a_read_counts_nothing_as_given(
    parts, nursery, monkeypatch, published
):
    for _ in range(published):
        await parts.publish("x")
    history, was_read = parts.engine.history, trio.Event()

    async def read(*names, **bounds):
        found = await history(*names, **bounds)
        await was_read.wait()
        return found

    monkeypatch.setattr(parts.engine, "history", read)
    options = StreamOptions(channels=("x",), start=after(0))
    grant = Grant(subscribe=("*",))
    connection = SSEConnection(parts.connections, options, id="s", grant=grant, address=None)
    _, server = memory_stream_pair()
    nursery.start_soon(connection.run, StreamLink(server))
    await wait_all_tasks_blocked()
    was_read.set()
    connection.end(EndReason.SHUTDOWN)
    await wait_all_tasks_blocked()
    assert (connection.events, connection.seq) == (0, 0)


async def test_an_engine_that_cannot_be_read_ends_the_connection(
    parts, open_websocket, monkeypatch
):
    """It must not hold live events for ever."""

    async def fail(*names, **bounds):
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(parts.engine, "history", fail)
    client = await open_websocket()
    await client.send({"type": "subscribe", "channel": "x", "cursor": "0.e.0"})
    assert client.close == (1011, "server_error")
    await parts.assert_nothing_is_left("server_error")
