"""``WS /realtime/ws``: the query says what a client begins with; a bad one opens nothing."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.errors import Disabled
from triocast.transports.links import StreamLink
from triocast.web.websocket import PATH, open_websocket

from .serving import KEY, bearer, make_call, serve


@pytest.fixture
def server(nursery):
    return serve(nursery, max_channels_per_connection=2, max_json_depth=3, max_message_bytes=200)


async def publish(server, channel, data):
    reply = await server.http.post("/realtime/broadcast", json={"channel": channel, "data": data})
    return reply.json()["id"]


async def test_the_connection_belongs_to_the_caller(nursery):
    server = serve(nursery, token_key=KEY)
    client = await server.connect(PATH, headers=bearer("ann", subscribe=["*"]))
    (hello,) = await client.take()
    assert (hello["type"], hello["data"]["user"]) == ("connected", "ann")
    (connection,) = server.node.connections.live
    assert (connection.id, connection.address) == (hello["data"]["connection_id"], "127.0.0.1")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("triocast.v1", "triocast.v1"),
        ("chat, triocast.v1", "triocast.v1"),
        ("chat", None),
    ],
)
async def test_our_subprotocol_is_chosen_where_it_is_offered(server, offered, chosen):
    client = await server.connect(PATH, subprotocol=offered)
    assert client.accepted
    assert client.subprotocol == chosen


async def test_the_query_names_channels_and_a_filter(server):
    client = await server.connect(f"{PATH}?channel=a&channel=n:*&tag=red")
    await client.take()
    for channel, tags in (("a", ["red"]), ("a", []), ("n:b", ["red"]), ("b", ["red"])):
        event = {"channel": channel, "tags": tags, "data": None}
        await server.http.post("/realtime/broadcast", json=event)
    assert [event["channel"] for event in await client.take()] == ["a", "n:b"]


@pytest.mark.parametrize("name", ["cursor", "last_event_id", "lastEventId", "header Last-Event-ID"])
async def test_a_cursor_brings_what_was_missed(server, name):
    before = await publish(server, "a", 1)
    missed = await publish(server, "a", 2)
    if name.startswith("header"):
        headers = {"Last-Event-ID": before}
        client = await server.connect(f"{PATH}?channel=a&cursor={missed}", headers=headers)
    else:
        client = await server.connect(f"{PATH}?channel=a&{name}={before}")
    hello, event, live = await client.take()
    assert (hello["type"], event["data"], event["id"]) == ("connected", 2, missed)
    assert (live["type"], live["id"]) == ("live", missed)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("heartbeat=often", "bad_request"),
        ("heartbeat=", "bad_request"),
        ("channel=a%20b", "invalid_channel"),
        ("channel=a&channel=b&channel=c", "too_many_channels"),
        ("type=", "invalid_event"),
        ("cursor=yesterday", "invalid_cursor"),
        ("since=latest&last=1", "bad_request"),
    ],
)
async def test_a_bad_query_is_refused_and_takes_no_place(server, query, code):
    client = await server.connect(f"{PATH}?{query}")
    assert not client.accepted
    assert (client.status, client.refusal["code"]) == (400, code)
    assert not server.node.connections.live
    assert server.node.hub.subscribers() == ()


async def test_a_token_is_needed_and_has_to_cover_the_channels(nursery):
    server = serve(nursery, token_key=KEY)
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (401, "unauthorized")
    refused = await server.connect(f"{PATH}?channel=b", headers=bearer(subscribe=["a"]))
    assert (refused.status, refused.refusal["code"]) == (403, "forbidden")
    assert (await server.connect(f"{PATH}?channel=a", headers=bearer(subscribe=["a"]))).accepted


async def test_a_full_server_refuses_for_now_and_has_room_again_later(nursery):
    server = serve(nursery, max_connections=1)
    first = await server.connect(PATH)
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (503, "too_many_connections")
    assert refused.refusal["temporary"]
    await first.leave()
    assert (await server.connect(PATH)).accepted


async def test_a_draining_server_refuses_newcomers(server):
    await server.node.drain(1)
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (503, "shutting_down")


async def test_websockets_can_be_switched_off(nursery):
    server = serve(nursery, websocket_enabled=False)
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (404, "disabled")
    with pytest.raises(Disabled, match="Server-Sent Events"):
        open_websocket(server.node, make_call(PATH))


async def test_the_limits_of_the_settings_hold_for_what_the_client_sends(server):
    client = await server.connect(PATH)
    await client.take()
    (reply,) = await client.ask(type="subscribe", id=1, channels=["a", "b", "c"])
    assert (reply["type"], reply["code"]) == ("error", "too_many_channels")
    (reply,) = await client.ask(type="publish", id=2, event={"data": [[[]]]})
    assert (reply["type"], reply["code"]) == ("error", "invalid_json")
    await client.ask(type="publish", event={"data": "x" * 200})
    assert client.close_code == 1009


@pytest.mark.parametrize(("query", "expected"), [("", False), ("?heartbeat=event", True)])
async def test_heartbeats_come_as_messages_where_the_query_asks(
    nursery, autojump_clock, query, expected
):
    server = serve(nursery, heartbeat_seconds=10)
    connection = open_websocket(server.node, make_call(PATH + query))
    connection.use_frames(b"")
    stream, other = memory_stream_pair()
    nursery.start_soon(connection.run, StreamLink(other))
    await wait_all_tasks_blocked()
    assert b"connected" in await stream.receive_some(1_000)
    await trio.sleep(11)
    beat = bytes(await stream.receive_some(1_000))
    assert beat.endswith(b"\x89\x00")  # a ping in either case
    assert (b'"HEARTBEAT"' in beat) == expected
