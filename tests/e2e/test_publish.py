"""Publishing through REST, over each way to the client: what is taken, what is refused, and that a
refusal changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.clients import Socket, Stream
from e2e.rest import Answer, Upload, call, post, publish, stats
from e2e.servers import Server

BROADCAST, SEND = "/realtime/broadcast", "/realtime/send"
JSON, NDJSON = "application/json", "application/x-ndjson"


class OpenUpload(Upload):
    """One that looks for its answer while the body is open."""

    def answer(self) -> Answer:
        response = self._connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def split(cursor: str) -> tuple[str, int]:
    """The epoch and the seq in a cursor."""
    shard, epoch, seq = cursor.split(".")
    assert shard == "0"
    return epoch, int(seq)


# One event.


def test_answers_are_json_that_no_cache_keeps(server: Server, channel: str) -> None:
    answer = post(server, BROADCAST, {"channel": channel, "data": 1})
    assert answer.headers["content-type"] == JSON
    assert answer.headers["cache-control"] == "no-store"


def test_a_broadcast_without_a_channel_is_for_everybody(server: Server) -> None:
    with Stream(server) as stream, Socket(server) as socket:
        stream.opened()
        answer = publish(server, type="hello", data="world")
        assert answer["channel"] == "$all"
        assert answer["subscribers"] >= 2
        assert stream.event() == socket.event()


def test_a_user_who_is_not_here_hears_nothing(server: Server) -> None:
    with Stream(server) as stream:
        stream.opened()
        answer = publish(server, SEND, user_id="alice", data=1)
        assert (answer["channel"], answer["subscribers"]) == ("$user:alice", 0)
        assert publish(server, SEND, user_id=7, data=1)["channel"] == "$user:7"
        publish(server, data="for all")
        assert stream.event()["data"] == "for all"


# Arrays.


def test_an_array_is_published_in_its_order(server: Server, channel: str) -> None:
    other = channel + "/other"
    with Stream(server, channel=channel) as one, Stream(server, channel=[channel, other]) as both:
        one.opened()
        both.opened()
        events = [
            {"channel": (channel, other)[number % 2], "data": number} for number in range(1_000)
        ]
        answer = post(server, BROADCAST, events).json
        assert answer["published"] == 1_000
        positions = answer["positions"]
        seqs = [position["seq"] for position in positions]
        assert seqs == list(range(seqs[0], seqs[0] + 1_000))
        assert [position["channel"] for position in positions[:2]] == [channel, other]
        assert [position["subscribers"] for position in positions[:2]] == [2, 1]
        heard = both.events(1_000)
        assert [event["data"] for event in heard] == list(range(1_000))
        assert [event["id"] for event in heard] == [position["id"] for position in positions]
        assert [event["data"] for event in one.events(500)] == list(range(0, 1_000, 2))


# Lines.


def test_a_line_is_published_while_the_body_is_open(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream, Upload(server) as upload:
        stream.opened()
        upload.line(channel=channel, data=1)
        first = stream.event()
        assert first["data"] == 1
        upload.send(b'{"channel":"%s","da' % channel.encode())
        assert stats(server)["seq"] == split(first["id"])[1]  # half a line is no line
        upload.send(b'ta":2}\n\n  \r\n{"channel":"%s","data":3}\r\n' % channel.encode())
        second, third = stream.events(2)
        upload.send(b'{"channel":"%s","data":4}' % channel.encode())
        answer = upload.finish()
        fourth = stream.event()
    assert [event["data"] for event in (second, third, fourth)] == [2, 3, 4]
    assert answer.status == 200
    assert answer.json == {
        "published": 4,
        "pending": 0,
        "first": first["id"],
        "last": fourth["id"],
        "error": None,
    }


@pytest.mark.parametrize("lines", [0, 1, 63, 64, 65, 200])
def test_publishing_stops_at_the_first_bad_line(server: Server, channel: str, lines: int) -> None:
    good = b'{"channel":"%s","data":1}\n' % channel.encode()
    with Stream(server, channel=channel) as stream:
        stream.opened()
        body = good * lines + b"\n" + b'{"data":}\n' + good
        answer = call(server, "POST", BROADCAST, body, NDJSON)
        assert answer.status == 400
        error = answer.json["error"]
        assert (error["line"], error["code"], error["temporary"]) == (
            lines + 2,
            "invalid_json",
            False,
        )
        assert error["message"]
        assert answer.json["published"] == lines
        heard = stream.events(lines)
        publish(server, channel=channel, data="after")
        assert stream.event()["data"] == "after"
    assert answer.json["first"] == (heard[0]["id"] if lines else None)
    assert answer.json["last"] == (heard[-1]["id"] if lines else None)


def test_a_bad_line_is_answered_while_the_body_is_open(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream, OpenUpload(server) as upload:
        stream.opened()
        upload.line(channel=channel, data=1)
        upload.line(channel="no channel", data=2)
        answer = upload.answer()
        assert answer.status == 400
        assert answer.json["published"] == 1
        assert answer.json["error"]["line"] == 2
        assert answer.json["error"]["code"] == "invalid_channel"
        assert stream.event()["data"] == 1


def test_a_line_that_is_too_long_is_refused_before_it_ends(server: Server, channel: str) -> None:
    with OpenUpload(server) as upload:
        upload.line(channel=channel, data=1)
        upload.send(b'{"channel":"%s","data":"' % channel.encode())
        for _ in range(17):
            upload.send(b"x" * 65_536)
        answer = upload.answer()
    assert answer.status == 413
    assert answer.json["published"] == 1
    assert (answer.json["error"]["line"], answer.json["error"]["code"]) == (2, "too_large")


def test_lines_are_sent_to_connections_too(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        body = b'{"connection_id":"%s","data":1}\n{"data":2}\n' % socket.id.encode()
        answer = call(server, "POST", SEND, body, NDJSON)
        assert answer.status == 400
        assert answer.json["published"] == 1
        assert (answer.json["error"]["line"], answer.json["error"]["code"]) == (2, "invalid_event")
        assert socket.event()["data"] == 1


# What is refused.


def event(**fields: Any) -> bytes:
    return json.dumps({"data": 1, **fields}).encode()


BAD: list[tuple[str, bytes, int, str]] = [
    ("no JSON", b"hello", 400, "invalid_json"),
    ("half an object", b'{"data":1', 400, "invalid_json"),
    ("more behind it", b'{"data":1} x', 400, "invalid_json"),
    ("a comma too many", b'{"data":1,}', 400, "invalid_json"),
    ("no value", b'{"data":}', 400, "invalid_json"),
    ("not a number", b'{"data":NaN}', 400, "invalid_json"),
    ("a leading zero", b'{"data":01}', 400, "invalid_json"),
    ("an apostrophe", b"{'data':1}", 400, "invalid_json"),
    ("a byte order mark", b'\xef\xbb\xbf{"data":1}', 400, "invalid_json"),
    ("a NUL behind it", b'{"data":1}\x00', 400, "invalid_json"),
    ("a raw control character", b'{"data":"\x01"}', 400, "invalid_json"),
    ("an unknown escape", rb'{"data":"\q"}', 400, "invalid_json"),
    ("half a surrogate pair", rb'{"data":"\ud800"}', 400, "invalid_json"),
    ("no UTF-8 in data", b'{"data":"\xff"}', 400, "invalid_json"),
    ("no UTF-8 in a name", b'{"data":1,"\xc3\x28":1}', 400, "invalid_json"),
    ("an overlong NUL", b'{"data":"\xc0\x80"}', 400, "invalid_json"),
    ("a surrogate in UTF-8", b'{"data":"\xed\xa0\x80"}', 400, "invalid_json"),
    ("UTF-16", '{"data":1}'.encode("utf-16-le"), 400, "invalid_json"),
    ("deep nesting", b'{"data":' + b"[" * 64 + b"]" * 64 + b"}", 400, "invalid_json"),
    ("deep objects", b'{"data":' + b'{"a":' * 64 + b"1" + b"}" * 65, 400, "invalid_json"),
    ("very deep nesting", b'{"data":' + b"[" * 500_000, 400, "invalid_json"),
    ("a number of 10 000 digits", b'{"data":' + b"1" * 10_000 + b"}", 400, "invalid_json"),
    ("a text", b'"hello"', 400, "invalid_event"),
    ("a number", b"1", 400, "invalid_event"),
    ("null", b"null", 400, "invalid_event"),
    ("no data", b'{"type":"a"}', 400, "invalid_event"),
    ("an empty object", b"{}", 400, "invalid_event"),
    ("an unknown field", event(oops=1), 400, "invalid_event"),
    ("a timestamp", event(timestamp="2026-01-31T12:00:00.123Z"), 400, "invalid_event"),
    ("a user", event(user="alice"), 400, "invalid_event"),
    ("a type that is a number", event(type=1), 400, "invalid_event"),
    ("an empty type", event(type=""), 400, "invalid_event"),
    ("a long type", event(type="a" * 129), 400, "invalid_event"),
    ("a newline in the type", event(type="a\ndata: b"), 400, "invalid_event"),
    ("a return in the type", event(type="a\rb"), 400, "invalid_event"),
    ("a NUL in the type", event(type="a\0b"), 400, "invalid_event"),
    ("a line separator in the type", event(type="a\u2028b"), 400, "invalid_event"),
    ("half a surrogate pair in the type", event(type="\ud800"), 400, "invalid_json"),
    ("an empty key", event(key=""), 400, "invalid_event"),
    ("a key that is a number", event(key=1), 400, "invalid_event"),
    ("a key of two lines", event(key="a\nb"), 400, "invalid_event"),
    ("tags that are a text", event(tags="a"), 400, "invalid_event"),
    ("a tag that is a number", event(tags=[1]), 400, "invalid_event"),
    ("an empty tag", event(tags=[""]), 400, "invalid_event"),
    ("too many tags", event(tags=["a"] * 17), 400, "invalid_event"),
    ("a channel that is a number", event(channel=1), 400, "invalid_event"),
    ("an empty channel", event(channel=""), 400, "invalid_channel"),
    ("a blank in the channel", event(channel="a b"), 400, "invalid_channel"),
    ("a newline in the channel", event(channel="a\n"), 400, "invalid_channel"),
    ("a letter beyond ASCII in the channel", event(channel="ä"), 400, "invalid_channel"),
    ("a pattern", event(channel="room:*"), 400, "invalid_channel"),
    ("everybody by name", event(channel="$all"), 400, "invalid_channel"),
    ("a user's channel", event(channel="$user:alice"), 400, "invalid_channel"),
    ("an empty namespace", event(channel=":a"), 400, "invalid_channel"),
    ("an empty name", event(channel="a:"), 400, "invalid_channel"),
    ("the empty default channel", event(channel="default:"), 400, "invalid_channel"),
    ("the server's own by default", event(channel="default:$all"), 400, "invalid_channel"),
    ("a long namespace", event(channel="a" * 65 + ":b"), 400, "invalid_channel"),
    ("a long channel", event(channel="a" * 256), 400, "invalid_channel"),
    ("large data", event(data="x" * 65_535), 413, "too_large"),
]
BAD_SEND: list[tuple[str, bytes, int, str]] = [
    ("nobody", event(), 400, "invalid_event"),
    ("two targets", event(user_id="a", connection_id="b"), 400, "invalid_event"),
    ("three targets", event(user_id="a", connection_id="b", channel="c"), 400, "invalid_event"),
    ("an empty user", event(user_id=""), 400, "invalid_channel"),
    ("a user of two lines", event(user_id="a\nb"), 400, "invalid_channel"),
    ("a long user", event(user_id="a" * 201), 400, "invalid_channel"),
    ("a user that is a list", event(user_id=[]), 400, "invalid_event"),
    ("a user that is a truth value", event(user_id=True), 400, "invalid_event"),
    ("an empty connection", event(connection_id=""), 400, "invalid_channel"),
    ("a connection beyond the grammar", event(connection_id="a/b"), 400, "invalid_channel"),
    ("a connection that is a number", event(connection_id=1), 400, "invalid_event"),
    ("a bad channel", event(channel="a b"), 400, "invalid_channel"),
]
TABLE = [(BROADCAST, *row) for row in BAD] + [(SEND, *row) for row in BAD_SEND]

bad_events = pytest.mark.parametrize(
    ("target", "body", "status", "code"),
    [(target, *rest) for target, _, *rest in TABLE],
    ids=[f"{target.rpartition('/')[2]} {name}" for target, name, *_ in TABLE],
)


@pytest.mark.parametrize("around", ["alone", "in an array", "as a line"])
@bad_events
def test_a_bad_event_changes_nothing(
    server: Server, channel: str, target: str, body: bytes, status: int, code: str, around: str
) -> None:
    good = json.dumps({"channel": channel, "data": "good"}).encode()
    sent, content_type = {
        "alone": (body, JSON),
        "in an array": (b"[" + good + b"," + body + b"]", JSON),
        "as a line": (good + b"\n" + body.replace(b"\n", b" ") + b"\n" + good + b"\n", NDJSON),
    }[around]
    if around == "in an array" and code == "invalid_event" and body.startswith(b"["):
        pytest.skip("an array is not an event of an array")
    before = stats(server)
    answer = call(server, "POST", target, sent, content_type)
    after = stats(server)
    if around == "as a line":
        assert answer.json["published"] == 1
        refused = answer.json["error"]
        assert refused.pop("line") == 2
        assert after["seq"] == before["seq"] + 1
    else:
        refused = answer.json
        assert after["seq"] == before["seq"]
    assert (answer.status, refused["code"]) == (status, code), answer
    assert set(refused) == {"code", "message", "temporary"}
    assert refused["message"]
    assert refused["temporary"] is False


@pytest.mark.parametrize("target", [BROADCAST, SEND])
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", JSON, 400, "bad_request"),
        (b" \r\n\t", JSON, 400, "bad_request"),
        (b'{"data":1}', None, 415, "wrong_content_type"),
        (b'{"data":1}', "", 415, "wrong_content_type"),
        (b'{"data":1}', "text/plain", 415, "wrong_content_type"),
        (b'{"data":1}', "text/json", 415, "wrong_content_type"),
        (b"data=1", "application/x-www-form-urlencoded", 415, "wrong_content_type"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 415, "wrong_content_type"),
        (b'{"data":1}', "application/json, text/plain", 415, "wrong_content_type"),
        (b'{"data":1}', ";;;", 415, "wrong_content_type"),
        (b" " * 1_048_577, JSON, 413, "too_large"),
    ],
    ids=[
        "empty",
        "blank",
        "no content type",
        "an empty content type",
        "text",
        "text/json",
        "a form",
        "multipart",
        "two content types",
        "a broken content type",
        "too large",
    ],
)
def test_a_body_of_the_wrong_kind_is_refused(
    server: Server,
    target: str,
    body: bytes,
    content_type: str | None,
    status: int,
    code: str,
) -> None:
    before = stats(server)["seq"]
    answer = call(server, "POST", target, body, content_type)
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert answer.json["message"]
    assert answer.json["temporary"] is False
    assert stats(server)["seq"] == before


def test_the_server_goes_on_after_a_cut_body(server: Server, channel: str) -> None:
    before = stats(server)["seq"]
    with server.connect() as sock:
        head = f"POST {BROADCAST} HTTP/1.1\r\nHost: {server.authority}\r\nContent-Type: {JSON}\r\n"
        sock.sendall(head.encode() + b'Content-Length: 99\r\n\r\n{"data":1}')
    with Stream(server, channel=channel) as stream:
        stream.opened()
        assert publish(server, channel=channel, data=1)["seq"] == before + 1
        assert stream.event()["data"] == 1


# Addresses and methods.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "target", ["/", "/realtime", "/realtime/", "/realtime/none", "/realtime/broadcast/", "/%00"]
)
def test_an_address_that_is_not_there_is_a_404_in_json(
    server: Server, method: str, target: str
) -> None:
    answer = call(server, method, target, b"{}" if method in ("POST", "PUT") else None)
    assert answer.status == 404
    assert answer.json["code"] == "not_found"
    assert answer.json["message"]
    assert answer.json["temporary"] is False


def test_a_websocket_address_without_a_handshake_is_no_500(server: Server) -> None:
    answer = call(server, "GET", "/realtime/ws")
    assert 400 <= answer.status < 500
    assert answer.json["code"]


def test_one_event_is_answered_with_its_position(server: Server, channel: str) -> None:
    before = stats(server)
    with Stream(server, channel=channel) as one, Stream(server, channel="room:*") as two:
        one.opened()
        two.opened()
        answer = publish(server, channel=channel, data={"a": 1})
        assert set(answer) == {"id", "epoch", "seq", "channel", "subscribers"}
        assert (answer["epoch"], answer["seq"]) == (before["epoch"], before["seq"] + 1)
        assert split(answer["id"]) == (answer["epoch"], answer["seq"])
        assert (answer["channel"], answer["subscribers"]) == (channel, 2)
        assert one.event()["id"] == two.event()["id"] == answer["id"]


@pytest.mark.parametrize("target", [BROADCAST, SEND])
@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_a_channel_is_named_at_both_addresses(
    server: Server, channel: str, target: str, kind: str
) -> None:
    with Stream(server, channel=channel) as stream:
        stream.opened()
        body = json.dumps({"channel": channel, "data": 1}).encode()
        assert call(server, "POST", target, body, kind).status == 200
        assert stream.event()["channel"] == channel


@pytest.mark.parametrize(
    ("text", "told"),
    [(text, text) for text in ("null", "1e400", "12345678901234567890123", '"ä"', "-0.0")]
    + [('"\u2028"', r'"\u2028"')],
)
def test_data_is_passed_through(server: Server, channel: str, text: str, told: str) -> None:
    with Stream(server, channel=channel) as stream:
        stream.opened()
        body = f'{{"channel":"{channel}","data":{text}}}'.encode()
        assert call(server, "POST", BROADCAST, body, JSON).status == 200
        block = stream.block()
    assert block is not None and block.data is not None
    assert f'"data":{told},' in block.data


@pytest.mark.parametrize("count", [0, 1_001])
def test_an_array_has_bounds(server: Server, channel: str, count: int) -> None:
    before = stats(server)["seq"]
    answer = post(server, BROADCAST, [{"channel": channel, "data": 1}] * count)
    if count:
        assert (answer.status, answer.json["code"]) == (413, "too_large")
    else:
        assert (answer.status, answer.json) == (200, {"published": 0, "positions": []})
    assert stats(server)["seq"] == before


def test_a_cut_connection_leaves_what_was_published(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream, Upload(server) as upload:
        stream.opened()
        upload.line(channel=channel, data=1)
        # a whole event, but its line has not ended: maybe there is more to come
        upload.send(b'{"channel":"%s","data":2}' % channel.encode())
        first = stream.event()
        upload.cut()
        after = publish(server, channel=channel, data="after")
        assert stream.event()["data"] == "after"
        assert after["seq"] == split(first["id"])[1] + 1


def test_a_body_of_lines_may_be_larger_than_any_other(server: Server, channel: str) -> None:
    line = b'{"channel":"%s","data":"%s"}\n' % (channel.encode(), b"x" * 60_000)
    answer = call(server, "POST", BROADCAST, line * 40, NDJSON)
    assert (answer.status, answer.json["published"]) == (200, 40)


@pytest.mark.parametrize("body", [b"", b"\n \r\n"])
def test_empty_lines_publish_nothing(server: Server, body: bytes) -> None:
    answer = call(server, "POST", BROADCAST, body, NDJSON)
    assert answer.status == 200
    assert answer.json == {"published": 0, "pending": 0, "first": None, "last": None, "error": None}


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("GET", BROADCAST, "POST"),
        ("PUT", SEND, "POST"),
        ("POST", "/realtime/events", "GET"),
        ("DELETE", "/realtime/stats", "GET"),
    ],
)
def test_another_method_is_a_405_in_json(
    server: Server, method: str, target: str, allowed: str
) -> None:
    answer = call(server, method, target)
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.json["message"]
    assert allowed in answer.headers["allow"]
