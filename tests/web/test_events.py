"""``GET /realtime/events``: what a client asks of its stream, and how it is refused."""

import json
import time

import httpx
import jwt
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.auth import EVERYTHING
from triocast.errors import BadRequest, Disabled, TooManyConnections
from triocast.node import build_node
from triocast.settings import Settings
from triocast.web import create_app, node_of
from triocast.web.call import Call
from triocast.web.events import PATH, open_stream, refusal_for_now

from .serving import completing

KEY = "k" * 40
STREAM = {"Accept": "text/event-stream"}


def connect(app):
    async def in_time(scope, receive, send):
        with trio.fail_after(10):  # A stream that opens by mistake would never end.
            await completing(app)(scope, receive, send)

    transport = httpx.ASGITransport(app=in_time, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
async def client(app):
    async with connect(app) as client:
        yield client


async def publish(node, channel, type, data=b"null"):
    publisher = node.publisher
    await publisher.publish([publisher.event(EVERYTHING, channel=channel, type=type, data=data)])
    await wait_all_tasks_blocked()


@pytest.fixture
async def read(app, nursery):
    """Open a stream, publish events while it is open, drain the node, and return the response."""

    async def read(query="", *, headers=STREAM, events=(), over=app):
        replies = []

        async def get():
            async with connect(over) as client:
                replies.append(await client.get(f"{PATH}?{query}", headers=headers))

        nursery.start_soon(get)
        await wait_all_tasks_blocked()
        for channel, type in events:
            await publish(node_of(app), channel, type)
        await node_of(app).drain(1)
        await wait_all_tasks_blocked()
        (reply,) = replies
        return reply

    return read


def events_in(reply):
    """Return the blocks of events: these have a channel, the server's own messages have none."""
    found = [block for block in blocks(reply) if "data" in block]
    return [block for block in found if "channel" in json.loads(block["data"])]


def blocks(reply):
    """Return the fields of each block of a stream."""
    return [
        dict(line.partition(": ")[::2] for line in block.split("\n"))
        for block in reply.text.removesuffix("\n\n").split("\n\n")
    ]


async def test_a_stream_tells_where_it_begins_then_its_events_then_when_to_return(app, read):
    await publish(node_of(app), "news", "before")
    reply = await read("channel=news", events=[("news", "a"), ("other", "b"), ("$all", "c")])
    epoch = node_of(app).engine.head.epoch
    assert reply.status_code == 200
    hello, *events, farewell = blocks(reply)
    assert hello["id"] == f"0.{epoch}.1"
    assert int(hello["retry"]) > 0
    assert [event["id"] for event in events] == [f"0.{epoch}.2", f"0.{epoch}.4"]
    assert [json.loads(event["data"])["type"] for event in events] == ["a", "c"]
    assert list(farewell) == ["retry", "data"]
    assert json.loads(farewell["data"])["data"]["code"] == "shutting_down"


async def test_of_several_cursors_that_polyfills_have_added_the_last_counts(app, read):
    for type in "abc":
        await publish(node_of(app), "news", type)
    epoch = node_of(app).engine.head.epoch
    reply = await read(f"channel=news&lastEventId=0.{epoch}.1&lastEventId=0.{epoch}.2")
    assert [block["id"] for block in events_in(reply)] == [f"0.{epoch}.3"]


async def test_no_cache_or_proxy_keeps_a_stream_back(read):
    headers = (await read()).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["connection"] == "keep-alive"


async def test_http_2_has_no_connection_header(app, read):
    async def http_2(scope, receive, send):
        await app(scope | {"http_version": "2"}, receive, send)

    assert "connection" not in (await read(over=http_2)).headers


async def test_a_client_comes_back_behind_its_cursor(app, read):
    for type in "abc":
        await publish(node_of(app), "news", type)
    epoch = node_of(app).engine.head.epoch
    headers = STREAM | {"Last-Event-ID": f"0.{epoch}.1"}
    reply = await read(f"channel=news&last_event_id=0.{epoch}.2", headers=headers)
    ids = [block["id"] for block in events_in(reply)]
    assert ids == [f"0.{epoch}.2", f"0.{epoch}.3"]


async def test_a_polyfill_comes_back_with_its_own_name_for_the_cursor(app, read):
    """npm's event-source-polyfill adds ``lastEventId`` to the address, whatever that has."""
    for type in "abc":
        await publish(node_of(app), "news", type)
    epoch = node_of(app).engine.head.epoch
    reply = await read(f"channel=news&last_event_id=0.{epoch}.1&lastEventId=0.{epoch}.2")
    assert [block["id"] for block in events_in(reply)] == [f"0.{epoch}.3"]


async def test_a_stream_can_be_filtered_and_have_named_events(read):
    reply = await read("type=a&named=1", events=[("$all", "a"), ("$all", "b")])
    assert [block["event"] for block in events_in(reply)] == ["a"]
    assert "event:" in reply.text


async def test_events_have_no_names_unless_they_are_asked_for(read):
    reply = await read("named=0&heartbeat=comment", events=[("$all", "a")])
    assert len(events_in(reply)) == 1
    assert "event:" not in reply.text


async def test_the_server_s_own_messages_have_names_too(read):
    named = [block["event"] for block in blocks(await read("heartbeat=event&named=1&last=1"))]
    assert named == ["connected", "live", "ERROR"]


async def test_head_is_answered_without_a_stream(app, client):
    reply = await client.head(PATH)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (await client.head(f"{PATH}?named=2")).status_code == 400
    node = node_of(app)
    assert not node.connections.live
    node.connections.most = 1
    node.connections.admit(open_stream(node, call()))  # No place is kept for a HEAD.


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("named=yes", "bad_request"),
        ("named=", "bad_request"),
        ("heartbeat=ping", "bad_request"),
        ("channel=a%20b", "invalid_channel"),
        ("channel=$all", "invalid_channel"),
        ("type=%0a", "invalid_event"),
        ("last_event_id=x", "invalid_cursor"),
        ("cursor=x", "invalid_cursor"),
        ("since=ever", "bad_request"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_for_good(app, client, query, code):
    """Also to an `EventSource`, which does not come back after that."""
    reply = await client.get(f"{PATH}?{query}", headers=STREAM)
    assert (reply.status_code, reply.json()["code"]) == (400, code)
    assert not node_of(app).connections.live


@pytest.mark.parametrize("reason", ["too_many_connections", "shutting_down"])
async def test_an_event_source_that_is_refused_for_now_is_told_when_to_return(app, client, reason):
    connections = node_of(app).connections
    connections.admit(kept := open_stream(node_of(app), call()))
    if reason == "too_many_connections":
        connections.most = 1
    else:
        connections.draining = True
    reply = await client.get(PATH, headers=STREAM)
    assert (reply.status_code, reply.headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert int(reply.headers["content-length"]) > len(reply.content)  # It breaks off.
    (error,) = blocks(reply)
    assert int(error["retry"]) > 0
    assert json.loads(error["data"])["data"]["code"] == reason
    assert reply.headers["connection"] == "close"  # It would take a place that others need.
    reply = await client.get(PATH)
    assert (reply.status_code, reply.json()["code"]) == (503, reason)
    assert int(reply.headers["retry-after"]) > 0
    assert reply.headers["connection"] == "close"
    assert kept.reason is None
    assert connections.refused == {reason: 2}


async def test_streams_can_be_switched_off(run_node):
    app = await run_node(create_app(Settings(sse_enabled=False)))
    async with connect(app) as client:
        reply = await client.get(PATH, headers=STREAM)
    assert (reply.status_code, reply.json()["code"]) == (404, "disabled")
    with pytest.raises(Disabled):
        open_stream(node_of(app), call())


async def test_who_may_not_hear_a_channel_gets_no_stream(run_node):
    app = await run_node(create_app(Settings(token_key=KEY)))
    async with connect(app) as client:
        assert (await client.get(PATH, headers=STREAM)).status_code == 401
        headers = STREAM | {"Authorization": f"Bearer {token()}"}
        reply = await client.get(f"{PATH}?channel=news&channel=chat", headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert "chat" in reply.json()["message"]
    assert not node_of(app).connections.live


# Without an application.


def call(query=b"", *, address="127.0.0.1", **headers):
    headers = {"host": "localhost"} | headers
    return Call(
        method="GET",
        scheme="http",
        http_version="1.1",
        query_string=query,
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        address=address,
    )


def token():
    claims = {
        "sub": "ann",
        "exp": int(time.time()) + 86_400,
        "triocast": {"subscribe": ["news"]},
    }
    return jwt.encode(claims, KEY, "HS256")


def test_a_connection_knows_whose_it_is_and_takes_no_place_before_it_is_admitted():
    node = build_node(Settings(token_key=KEY))
    caller = call(b"channel=news", address="192.0.2.1", authorization=f"Bearer {token()}")
    one, other = open_stream(node, caller), open_stream(node, caller)
    assert (one.user, one.address, one.transport) == ("ann", "192.0.2.1", "sse")
    assert one.id != other.id
    assert not node.connections.live
    assert node.hub.subscribers() == ()


@pytest.mark.parametrize("query", [b"named=2", b"heartbeat=often"])
def test_a_wrong_choice_is_told_what_there_is_to_choose_from(query):
    with pytest.raises(BadRequest, match=r"is '.*' or '.*'"):
        open_stream(build_node(Settings()), call(query))


@pytest.mark.parametrize(("version", "closes"), [("1.0", False), ("1.1", True), ("2", False)])
def test_only_where_it_would_be_kept_is_a_refused_connection_closed(version, closes):
    for accept in ("*/*", "text/event-stream"):
        caller = call(accept=accept)
        caller.http_version = version
        headers = dict(refusal_for_now(TooManyConnections("full"), caller).headers)
        assert ("connection" in headers) is closes


def test_only_a_get_is_the_request_of_an_event_source():
    caller = call(accept="text/event-stream")
    assert refusal_for_now(TooManyConnections("full"), caller).status == 200
    caller.method = "POST"
    assert refusal_for_now(TooManyConnections("full"), caller).status == 503
