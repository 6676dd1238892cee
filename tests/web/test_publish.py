"""``POST /realtime/broadcast`` and ``/realtime/send``: what is accepted, and that a refusal changes
nothing."""

import gzip
import hashlib
import json

import pytest
import trio

from triocast.broadcaster import EventBroadcaster
from triocast.settings import Namespace, Namespaces
from triocast.web.body import RequestBody
from triocast.web.publish import ENDPOINTS, MOST_EVENTS

from .serving import KEY, bearer, make_call, serve

BROADCAST, SEND = "/realtime/broadcast", "/realtime/send"
NDJSON = "application/x-ndjson"


@pytest.fixture
def server(nursery):
    return serve(
        nursery,
        max_event_bytes=100,
        max_body_bytes=100_000,
        max_json_depth=5,
        namespaces=Namespaces({"slow": Namespace(debounce_ms=1_000)}),
    )


@pytest.fixture
async def listener(server):
    client = await server.connect("/realtime/ws?channel=a&channel=n:*")
    await client.take()
    return client


@pytest.fixture
def post(server):
    async def post(path, body, kind="application/json", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Content-Type"] = kind
        return await server.http.post(path, content=content, headers=headers)

    return post


def lines(*events):
    return b"\n".join(json.dumps(event).encode() for event in events)


def outcome(reply):
    return reply.status_code, reply.json()["code"]


# One event.


async def test_the_answer_says_where_the_event_stands_and_who_listens(server, listener, post):
    reply = await post(BROADCAST, {"channel": "default:a", "data": 1})
    assert reply.headers["cache-control"] == "no-store"
    epoch = server.node.engine.head.epoch
    place = {"id": f"0.{epoch}.1", "epoch": epoch, "seq": 1, "channel": "a"}
    assert reply.json() == {**place, "subscribers": 1}
    (event,) = await listener.take()
    assert (event["data"], event["id"]) == (1, place["id"])
    assert (await post(BROADCAST, {"channel": "b", "data": 1})).json()["subscribers"] == 0


async def test_all_fields_of_an_event_are_passed_on(listener, post):
    fields = {"type": "T", "key": "k", "tags": ["x"], "urgent": True}
    await post(BROADCAST, {"channel": "a", "data": {"a": 1}, **fields})
    (event,) = await listener.take()
    del event["id"], event["timestamp"]
    assert event == {
        "type": "T",
        "data": {"a": 1},
        "channel": "a",
        "key": "k",
        "tags": ["x"],
    }


@pytest.mark.parametrize(
    ("written", "data"),
    [
        (b'{ "a": 1.50, "b": "\\u00e9" }', b'{ "a": 1.50, "b": "\\u00e9" }'),
        (b'{"a":\r\n 1.50}', b'{"a":1.50}'),
    ],
)
async def test_data_are_passed_on_as_written_but_on_one_line(server, post, written, data):
    async with EventBroadcaster(server.node).subscribe(["a"]) as events:
        await post(BROADCAST, b'{"channel":"a","data":%s}' % written)
        assert (await anext(events)).data == data


async def test_listeners_are_served_before_the_publisher_is_answered(server):
    body = RequestBody(None, None)

    async def receive():
        return {"type": "http.request", "body": b'{"channel":"a","data":1}'}

    body.attach(receive)
    call = make_call(BROADCAST, {"Content-Type": "application/json"}, method="POST")
    await ENDPOINTS[BROADCAST](server.node, call, body)
    assert server.node.hub.written.seq == 1


async def test_an_event_without_a_channel_is_for_everybody(listener, post):
    assert (await post(BROADCAST, {"data": None})).json()["channel"] == "$all"
    (event,) = await listener.take()
    assert (event["type"], event["channel"], event["data"]) == ("message", "$all", None)


@pytest.mark.parametrize(
    ("target", "channel"),
    [
        ({"channel": "default:a"}, "a"),
        ({"user_id": "ann"}, "$user:ann"),
        ({"user_id": 7}, "$user:7"),
        ({"connection_id": "x_-1"}, "$conn:x_-1"),
    ],
)
async def test_an_event_is_sent_to_a_user_a_connection_or_a_channel(post, target, channel):
    reply = await post(SEND, {**target, "data": 1})
    assert (reply.status_code, reply.json()["channel"]) == (200, channel)


async def test_only_the_connection_that_is_named_hears_it(server, listener, post):
    other = await server.connect("/realtime/ws?channel=a")
    (hello,) = await other.take()
    reply = await post(SEND, {"connection_id": hello["data"]["connection_id"], "data": 1})
    assert reply.json()["subscribers"] == 1
    assert [event["data"] for event in await other.take()] == [1]
    assert await listener.take() == []


async def test_a_debounced_event_has_no_place_yet(post):
    event = {"channel": "slow:a", "type": "T", "key": "k", "data": 1}
    assert (await post(BROADCAST, event)).json()["seq"] == 1
    held = (await post(BROADCAST, event)).json()
    assert held == {"pending": True, "channel": "slow:a", "subscribers": 0}
    assert (await post(BROADCAST, {**event, "urgent": True})).json()["seq"] == 2


@pytest.mark.parametrize("body", [{"channel": "n:x", "data": 1}, [{"channel": "n:x", "data": 1}]])
async def test_a_repeated_publish_gets_the_first_answer_byte_for_byte(server, post, body):
    first = await post(BROADCAST, body, Idempotency_Key="once")
    listener = await server.connect("/realtime/ws?channel=n:x")
    await listener.take()
    again = await post(BROADCAST, body, Idempotency_Key="once")
    assert (again.status_code, again.content) == (200, first.content)
    other = await post(BROADCAST, body, Idempotency_Key="other")
    assert b'"subscribers":1' in other.content


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/problem+json"])
async def test_json_may_be_called_by_more_than_one_name(post, kind):
    assert (await post(BROADCAST, {"data": 1}, kind)).status_code == 200


BAD = [
    (BROADCAST, b"hello", 400, "invalid_json"),
    (BROADCAST, b"", 400, "bad_request"),
    (BROADCAST, b" \n ", 400, "bad_request"),
    (BROADCAST, b'{"data":"\xff"}', 400, "invalid_json"),
    (BROADCAST, b'{"data":[[[[[1]]]]]}', 400, "invalid_json"),
    (BROADCAST, b"1", 400, "invalid_event"),
    (BROADCAST, {}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "chanel": "a"}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "user_id": "ann"}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "user": "ann"}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "type": ""}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "type": "gap"}, 400, "reserved_type"),
    (BROADCAST, [{"data": 1}, {"data": 1, "type": "ERROR"}], 400, "reserved_type"),
    (BROADCAST, {"data": 1, "key": ""}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "tags": "red"}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "tags": [""]}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "idempotency_key": ""}, 400, "invalid_event"),
    (BROADCAST, {"data": 1, "channel": ""}, 400, "invalid_channel"),
    (BROADCAST, {"data": 1, "channel": "n:*"}, 400, "invalid_channel"),
    (BROADCAST, {"data": 1, "channel": "$all"}, 400, "invalid_channel"),
    (BROADCAST, {"data": "x" * 100}, 413, "too_large"),
    (SEND, {"data": 1}, 400, "invalid_event"),
    (SEND, {"data": 1, "channel": "a", "type": "connected"}, 400, "reserved_type"),
    (SEND, {"data": 1, "user_id": "ann", "channel": "a"}, 400, "invalid_event"),
    (SEND, {"data": 1, "user_id": True}, 400, "invalid_event"),
    (SEND, {"data": 1, "user_id": ""}, 400, "invalid_channel"),
    (SEND, {"data": 1, "connection_id": "a b"}, 400, "invalid_channel"),
    (SEND, {"data": 1, "channel": "$user:ann"}, 400, "invalid_channel"),
]


@pytest.mark.parametrize(("path", "body", "status", "code"), BAD)
async def test_a_bad_event_is_refused_and_changes_nothing(server, post, path, body, status, code):
    assert outcome(await post(path, body)) == (status, code)
    assert server.node.engine.head.seq == 0


async def test_a_line_of_a_reserved_type_is_refused(server, post):
    reply = await post(BROADCAST, lines({"data": 1}, {"data": 2, "type": "HEARTBEAT"}), NDJSON)
    error = reply.json()["error"]
    assert (reply.status_code, error["line"], error["code"]) == (400, 2, "reserved_type")
    assert server.node.engine.head.seq == 1


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
async def test_other_media_types_are_refused(post, kind):
    assert outcome(await post(BROADCAST, {"data": 1}, kind)) == (415, "wrong_content_type")


async def test_a_token_says_who_publishes_and_where_to(nursery):
    server = serve(nursery, token_key=KEY)
    client = await server.connect("/realtime/ws?channel=a", headers=bearer(subscribe=["*"]))
    await client.take()
    event = {"channel": "a", "data": 1}
    assert outcome(await server.http.post(BROADCAST, json=event)) == (401, "unauthorized")
    headers = bearer("ann", publish=["a"])
    assert (await server.http.post(BROADCAST, json=event, headers=headers)).status_code == 200
    assert [event["user"] for event in await client.take()] == ["ann"]
    for other in ({"data": 1}, {"channel": "b", "data": 1}):
        reply = await server.http.post(BROADCAST, json=other, headers=headers)
        assert outcome(reply) == (403, "forbidden")


async def test_a_draining_server_takes_no_events(server, post):
    await server.node.drain(1)
    reply = await post(BROADCAST, {"data": 1})
    assert outcome(reply) == (503, "shutting_down")
    assert int(reply.headers["retry-after"]) > 0


# Bodies.


async def test_a_body_that_is_too_large_is_refused(post):
    padded = b'{"data":1}' + b" " * 100_000
    reply = await post(BROADCAST, padded)
    assert outcome(reply) == (413, "too_large")
    assert "NDJSON" in reply.json()["message"]


async def test_a_body_has_to_come_in_time(server, autojump_clock):
    async def slow():
        yield b'{"data":'
        await trio.sleep(server.node.settings.handshake_seconds + 1)
        yield b"1}"

    headers = {"Content-Type": "application/json"}
    reply = await server.http.post(BROADCAST, content=slow(), headers=headers)
    assert outcome(reply) == (408, "timeout")
    assert server.node.engine.head.seq == 0


@pytest.mark.parametrize("path", [BROADCAST, SEND])
@pytest.mark.parametrize("kind", ["application/json", NDJSON])
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
async def test_an_encoded_body_is_refused_for_that(server, post, path, kind, coding):
    for body in (b'{"channel":"a","data":1}', gzip.compress(b'{"channel":"a","data":1}')):
        reply = await post(path, body, kind, Content_Encoding=coding)
        assert outcome(reply) == (415, "wrong_content_encoding")
        assert reply.headers["accept-encoding"] == "identity"
    assert server.node.engine.head.seq == 0
    reply = await post(path, b'{"channel":"a","data":1}', kind, Content_Encoding="identity")
    assert reply.status_code == 200


# Arrays.


async def test_an_array_is_published_in_its_order(listener, post):
    events = [{"channel": channel, "data": n} for n, channel in enumerate(["a", "b", "n:c"])]
    answer = (await post(BROADCAST, b" \n" + json.dumps(events).encode())).json()
    assert answer["published"] == 3
    positions = [(each["seq"], each["channel"]) for each in answer["positions"]]
    assert positions == [(1, "a"), (2, "b"), (3, "n:c")]
    assert [each["subscribers"] for each in answer["positions"]] == [1, 0, 1]
    assert [event["data"] for event in await listener.take()] == [0, 2]


async def test_an_empty_array_publishes_nothing(post):
    assert (await post(SEND, [])).json() == {"published": 0, "positions": []}


async def test_an_array_has_a_bound(server, post):
    assert (await post(BROADCAST, [{"data": 1}] * MOST_EVENTS)).json()["published"] == MOST_EVENTS
    reply = await post(BROADCAST, [{"data": 1}] * (MOST_EVENTS + 1))
    assert outcome(reply) == (413, "too_large")
    assert server.node.engine.head.seq == MOST_EVENTS


@pytest.mark.parametrize(
    ("bad", "code"),
    [({"channel": "a b"}, "invalid_channel"), ({"type": ""}, "invalid_event")],
)
async def test_an_array_with_a_bad_event_publishes_nothing(server, post, bad, code):
    reply = await post(BROADCAST, [{"data": 1}, {"data": 2, **bad}, {"data": 3}])
    assert outcome(reply) == (400, code)
    assert reply.json()["message"].startswith("event 1: ")
    assert server.node.engine.head.seq == 0


# Lines.


@pytest.mark.parametrize("kind", [NDJSON, "application/ndjson", "application/jsonl; charset=utf-8"])
async def test_lines_are_published_one_by_one(listener, post, kind):
    reply = await post(BROADCAST, lines({"channel": "a", "data": 1}, {"data": 2}), kind)
    events = await listener.take()
    assert [event["data"] for event in events] == [1, 2]
    assert (reply.status_code, reply.json()) == (
        200,
        {
            "published": 2,
            "pending": 0,
            "first": events[0]["id"],
            "last": events[1]["id"],
            "error": None,
        },
    )


@pytest.mark.parametrize(
    ("path", "line", "status", "code"),
    [
        (BROADCAST, b"{", 400, "invalid_json"),
        (BROADCAST, b'{"data":[[[[[1]]]]]}', 400, "invalid_json"),
        (BROADCAST, b'{"data":1,"user_id":"ann"}', 400, "invalid_event"),
        (BROADCAST, b'{"data":"%s"}' % (b"x" * 100), 413, "too_large"),
        (BROADCAST, b'{"data":1}' + b" " * 100_000, 413, "too_large"),
        (SEND, b'{"data":1}', 400, "invalid_event"),
    ],
)
async def test_lines_are_published_up_to_the_first_bad_one(server, post, path, line, status, code):
    good = b'{"channel":"a","data":1}'
    reply = await post(path, b"\n".join([good, line, good]), NDJSON)
    answer = reply.json()
    assert (reply.status_code, answer["error"]["code"]) == (status, code)
    assert (answer["published"], answer["error"]["line"]) == (1, 2)
    assert server.node.engine.head.seq == 1


async def test_lines_that_stop_coming_end_the_stream(server, autojump_clock):
    async def slow():
        yield b'{"data":1}\n'
        await trio.sleep(server.node.settings.handshake_seconds + 1)
        yield b'{"data":2}\n'

    reply = await server.http.post(BROADCAST, content=slow(), headers={"Content-Type": NDJSON})
    answer = reply.json()
    assert (reply.status_code, answer["error"]["code"]) == (408, "timeout")
    assert answer["published"] == server.node.engine.head.seq == 1


# Idempotency.


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"channel": "a", "data": 1}, "application/json"),
        ([{"channel": "a", "data": 1}, {"channel": "a", "data": 1}], "application/json"),
    ],
)
async def test_a_request_under_the_same_key_does_nothing_again(server, post, body, kind):
    first = await post(BROADCAST, body, kind, idempotency_key="k")
    seq = server.node.engine.head.seq
    again = await post(BROADCAST, body, kind, idempotency_key="k")
    assert again.json() == first.json()
    assert server.node.engine.head.seq == seq
    await post(BROADCAST, body, kind, idempotency_key="other")
    assert server.node.engine.head.seq == 2 * seq


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"data": 1}, {"data": 2}),
        ([{"data": 1}, {"data": 2}], [{"data": 1}, {"data": 3}]),
        ([{"data": 1}, {"data": 2}], [{"data": 1}]),
        ({"data": 1}, [{"data": 1}]),
    ],
)
async def test_a_key_cannot_be_used_for_another_request(server, post, before, after):
    await post(BROADCAST, before, idempotency_key="k")
    seq = server.node.engine.head.seq
    reply = await post(BROADCAST, after, idempotency_key="k")
    assert outcome(reply) == (422, "idempotency_conflict")
    assert server.node.engine.head.seq == seq


@pytest.mark.parametrize("count", [10, 200])
async def test_a_request_is_hashed_once_however_many_events_it_has(post, monkeypatch, count):
    hashed, real = [], hashlib.sha256
    monkeypatch.setattr(
        hashlib, "sha256", lambda data=b"", **options: hashed.append(len(data)) or real(data)
    )
    reply = await post(BROADCAST, [{"channel": "a", "data": 1}] * count, idempotency_key="k")
    assert reply.json()["published"] == count
    assert sum(hashed) <= 200 * count


async def test_an_event_may_have_a_key_of_its_own(server, post):
    event = {"data": 1, "idempotency_key": "k"}
    first = (await post(BROADCAST, event)).json()
    assert (await post(BROADCAST, [event])).json()["positions"][0]["id"] == first["id"]
    answer = (await post(BROADCAST, lines(event, {"data": 2}, event), NDJSON)).json()
    assert (answer["published"], answer["first"]) == (3, first["id"])
    assert server.node.engine.head.seq == 2


@pytest.mark.parametrize(
    ("body", "key"),
    [({"data": 1, "idempotency_key": "k"}, "k"), ({"data": 1}, ""), ({"data": 1}, "k" * 256)],
)
async def test_a_malformed_key_or_a_second_one_is_refused(server, post, body, key):
    assert outcome(await post(BROADCAST, body, idempotency_key=key)) == (400, "invalid_event")
    assert server.node.engine.head.seq == 0
