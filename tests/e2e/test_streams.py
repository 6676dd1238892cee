"""Server-Sent Events, over each way to the client."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.clients import HEARTBEAT, Stream
from e2e.rest import call, publish, stats
from e2e.servers import Server

CURSOR = r"0\.[0-9a-f]{8}\.\d+"
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_stream_begins_at_once_with_a_message_that_has_retry_and_id(
    server: Server, channel: str
) -> None:
    before = publish(server, channel=channel, data=None)
    with Stream(server, channel=channel) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"].endswith("must-revalidate, no-transform")
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
        first = stream.block()
    assert first is not None
    assert len(first.comments) == 1
    assert re.fullmatch(r"triocast [A-Za-z0-9_-]{16}", first.comments[0])
    assert first.retry is not None
    assert 500 <= int(first.retry) <= 10_000
    assert first.id == before["id"]
    assert first.event is None
    assert first.data is not None
    hello = json.loads(first.data)
    assert (hello["type"], hello["id"]) == ("connected", before["id"])
    assert f"triocast {hello['data']['connection_id']}" == first.comments[0]


def test_retry_times_are_spread(server: Server) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server)) for _ in range(8)]
        assert len({stream.opened().retry for stream in streams}) > 4


def test_an_event_is_the_same_envelope_everywhere(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream:
        stream.opened()
        sent = publish(
            server,
            channel=channel,
            type="APPLICATION_ADDED",
            data={"name": "my-app", "text": "línea\n\u2028 ∎"},
            key="app:1",
            tags=["a", "b"],
        )
        block = stream.block()
    assert block is not None
    assert block.event is None
    assert block.id == sent["id"]
    assert block.data is not None
    event = json.loads(block.data)
    assert re.fullmatch(TIMESTAMP, event.pop("timestamp"))
    assert event == {
        "type": "APPLICATION_ADDED",
        "data": {"name": "my-app", "text": "línea\n\u2028 ∎"},
        "channel": channel,
        "key": "app:1",
        "tags": ["a", "b"],
        "id": sent["id"],
    }


def test_events_come_by_channel_by_pattern_and_to_everybody(server: Server, channel: str) -> None:
    other = channel + "/other"
    with (
        Stream(server, channel=channel) as one,
        Stream(server, channel=[channel, other]) as both,
        Stream(server, channel=channel + "/*") as pattern,
        Stream(server, channel="*") as every,
        Stream(server) as none,
    ):
        for stream in (one, both, pattern, every, none):
            stream.opened()
        publish(server, channel=channel, data=1)
        publish(server, channel=other, data=2)
        publish(server, channel=channel, data=3)
        publish(server, data="all")
        heard = {
            name: [event["data"] for event in stream.events(count)]
            for name, stream, count in (
                ("one", one, 3),
                ("both", both, 4),
                ("pattern", pattern, 2),
                ("every", every, 4),
                ("none", none, 1),
            )
        }
    assert heard == {
        "one": [1, 3, "all"],
        "both": [1, 2, 3, "all"],
        "pattern": [2, "all"],
        "every": [1, 2, 3, "all"],
        "none": ["all"],
    }


def test_a_channel_and_a_pattern_that_covers_it_bring_an_event_once(
    server: Server, channel: str
) -> None:
    with Stream(server, channel=[channel, "room:*", "*"]) as stream:
        stream.opened()
        publish(server, channel=channel, data=1)
        publish(server, channel=channel, data=2)
        assert [event["data"] for event in stream.events(2)] == [1, 2]


def test_the_namespace_default_may_be_named(server: Server, channel: str) -> None:
    name = channel.removeprefix("room:")
    with Stream(server, channel=f"default:{name}") as stream:
        stream.opened()
        assert publish(server, channel=name, data=1)["channel"] == name
        assert publish(server, channel=f"default:{name}", data=2)["channel"] == name
        assert [(event["channel"], event["data"]) for event in stream.events(2)] == [
            (name, 1),
            (name, 2),
        ]


def test_types_and_tags_filter(server: Server, channel: str) -> None:
    with (
        Stream(server, channel=channel, type=["a", "b"]) as types,
        Stream(server, channel=channel, tag=["red", "blue"]) as tags,
        Stream(server, channel=channel, type="a", tag="red") as both,
    ):
        for stream in (types, tags, both):
            stream.opened()
        publish(server, channel=channel, type="a", data=1)
        publish(server, channel=channel, type="c", data=2, tags=["red"])
        publish(server, channel=channel, type="b", data=3, tags=["green"])
        publish(server, channel=channel, type="a", data=4, tags=["green", "blue"])
        publish(server, channel=channel, type="a", data=5, tags=["red"])
        assert [event["data"] for event in types.events(4)] == [1, 3, 4, 5]
        assert [event["data"] for event in tags.events(3)] == [2, 4, 5]
        assert [event["data"] for event in both.events(1)] == [5]


def test_named_streams_have_event_lines(server: Server, channel: str) -> None:
    with Stream(server, channel=channel, named=1) as stream:
        stream.opened()
        publish(server, channel=channel, type="FLAG_UPDATED", data=1)
        publish(server, channel=channel, data=2)
        blocks = [stream.block(), stream.block()]
    assert [block and block.event for block in blocks] == ["FLAG_UPDATED", "message"]


def test_a_stream_is_addressed_by_its_connection_id(server: Server, channel: str) -> None:
    with Stream(server) as stream, Stream(server) as other:
        connection_id = stream.opened().comments[0].removeprefix("triocast ")
        other.opened()
        sent = publish(server, "/realtime/send", connection_id=connection_id, data="you")
        assert sent["subscribers"] == 1
        publish(server, data="all")
        first, second = stream.events(2)
        assert (first["data"], first["channel"]) == ("you", f"$conn:{connection_id}")
        assert "id" not in first  # it cannot be resumed
        assert second["data"] == "all"
        assert other.event()["data"] == "all"


def test_a_heartbeat_is_a_comment_with_the_position(beating_server: Server, channel: str) -> None:
    with Stream(beating_server, channel=channel) as stream:
        stream.opened()
        elsewhere = publish(beating_server, channel=channel + "/other", data=1)
        seen = 0
        while (block := stream.block()) is not None:
            assert block.data is None
            assert block.retry is None
            assert len(block.comments) == 1
            assert block.id is not None
            seen += 1
            # a stream that hears nothing moves on all the same
            if block.id == elsewhere["id"] and seen >= 2:
                break
        assert block is not None


@pytest.mark.parametrize("named", [0, 1])
def test_a_heartbeat_is_an_event_if_asked_for(
    beating_server: Server, channel: str, named: int
) -> None:
    with Stream(beating_server, channel=channel, heartbeat="event", named=named) as stream:
        stream.opened()
        here = publish(beating_server, channel=channel, data=1)
        beats: list[Any] = []
        while len(beats) < 2:
            block = stream.block()
            assert block is not None
            assert block.data is not None
            message = json.loads(block.data)
            if message["type"] == HEARTBEAT:
                beats.append(message)
                assert block.event == (HEARTBEAT if named else None)
                assert block.id is not None
                assert re.fullmatch(CURSOR, block.id)
                assert message.pop("id") == block.id
        assert block.id == here["id"]
    for beat in beats:
        assert re.fullmatch(TIMESTAMP, beat.pop("timestamp"))
        assert beat == {"type": HEARTBEAT, "data": None}


def test_many_clients_get_all_events_in_order(server: Server, channel: str) -> None:
    count, clients = 2_000, 20
    lines = b"".join(
        b'{"channel":"%s","type":"n","data":{"n":%d}}\n' % (channel.encode(), number)
        for number in range(count)
    )
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, channel=channel)) for _ in range(clients)]
        for stream in streams:
            stream.opened()
        answer = call(server, "POST", "/realtime/broadcast", lines, "application/x-ndjson")
        assert answer.status == 200
        assert answer.json["published"] == count
        for stream in streams:
            events = stream.events(count)
            assert [event["data"]["n"] for event in events] == list(range(count))
            assert events[0]["id"] == answer.json["first"]
            assert events[-1]["id"] == answer.json["last"]
            assert len({event["id"] for event in events}) == count


def test_the_largest_event_comes_whole(server: Server, channel: str) -> None:
    text = "é" * ((65_536 - 2) // 6)  # json.dumps writes six bytes for each
    with Stream(server, channel=channel) as stream:
        stream.opened()
        publish(server, channel=channel, data=text)
        assert stream.event()["data"] == text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("channel=", "invalid_channel"),
        ("channel=a%20b", "invalid_channel"),
        ("channel=a%0ab", "invalid_channel"),
        ("channel=a*b*", "invalid_channel"),
        ("channel=$all", "invalid_channel"),
        ("channel=$user:alice", "invalid_channel"),
        ("channel=" + "a" * 256, "invalid_channel"),
        ("type=", "invalid_event"),
        ("type=a%0ab", "invalid_event"),
        ("tag=" + "a" * 65, "invalid_event"),
        ("named=2", "bad_request"),
        ("heartbeat=never", "bad_request"),
    ],
)
def test_a_wrong_query_is_refused(server: Server, query: str, code: str) -> None:
    answer = call(server, "GET", f"/realtime/events?{query}")
    assert answer.status == 400
    assert answer.json["code"] == code
    assert answer.json["message"]
    assert answer.json["temporary"] is False


def test_head_gives_the_head_and_ends(server: Server) -> None:
    before = stats(server)["sse_count"]
    answer = call(server, "HEAD", "/realtime/events")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"].endswith("must-revalidate, no-transform")
    assert answer.body == b""
    assert stats(server)["sse_count"] <= before
