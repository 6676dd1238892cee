"""PeerJS messages are read or refused, and written anew; the server alone names the sender."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import BadRequest, InvalidEvent, InvalidJSON
from triocast.signaling.peerjs_messages import (
    ID_TAKEN,
    MAX_DEPTH,
    OPEN,
    Answer,
    Candidate,
    Heartbeat,
    Leave,
    Offer,
    Refused,
    encode,
    error,
    expire,
    is_id,
    parse,
    read_refused,
)


def payload(kind: str, **fields: Any) -> dict[str, Any]:
    """What PeerJS 1.5 has in a message of this kind."""
    common: dict[str, Any] = {"type": "data", "connectionId": "dc_1"}
    if kind == "CANDIDATE":
        return common | {"candidate": {"candidate": "c", "sdpMLineIndex": 0}} | fields
    return common | {"sdp": {"type": kind.lower(), "sdp": "v=0\r\n"}} | fields


def text(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, "dst": "bob", "payload": payload(kind), **fields})


# Ids.


@pytest.mark.parametrize("id", ["a", "A-b_c d", "x" * 128, "550e8400-e29b-41d4-a716-446655440000"])
def test_an_id_has_letters_and_digits_with_single_marks_between(id: str) -> None:
    assert is_id(id)
    assert isinstance(parse(json.dumps({"type": "LEAVE", "dst": id})), Leave)


@pytest.mark.parametrize("id", ["", "-", "a-", "a--b", "a- b", "a\n", "ü", "a/b", "x" * 129])
def test_what_is_no_id_is_no_destination(id: str) -> None:
    assert not is_id(id)
    with pytest.raises(InvalidEvent):
        parse(json.dumps({"type": "LEAVE", "dst": id}))


# From clients.


@pytest.mark.parametrize(
    ("kind", "expected"), [("OFFER", Offer), ("ANSWER", Answer), ("CANDIDATE", Candidate)]
)
@pytest.mark.parametrize("connection", ["data", "media"])
def test_a_message_for_another_client_is_read(kind: str, expected: type, connection: str) -> None:
    said = parse(text(kind, payload=payload(kind, type=connection)))
    assert isinstance(said, expected)
    assert said.dst == "bob"


def test_a_message_is_read_from_text_or_bytes() -> None:
    assert parse(text("OFFER").encode()) == parse(text("OFFER"))


def test_a_heartbeat_is_read_whatever_else_it_says() -> None:
    assert parse('{"type":"HEARTBEAT","x":1}') == Heartbeat()


@pytest.mark.parametrize("kind", ["HELLO", "heartbeat", "OPEN", "EXPIRE", "ID-TAKEN", ""])
def test_a_type_that_means_nothing_here_is_passed_over(kind: str) -> None:
    assert parse(json.dumps({"type": kind})) is None


def test_all_but_a_leave_wait_for_their_receiver() -> None:
    assert [kind.waits for kind in (Offer, Answer, Candidate, Leave)] == [True, True, True, False]


@pytest.mark.parametrize("said", ["", "{", b"\xff", b'{"type":"HEARTBEAT","x":"\xff"}', '"\ud800"'])
def test_what_is_no_json_is_refused(said: str | bytes) -> None:
    with pytest.raises(InvalidJSON):
        parse(said)


@pytest.mark.parametrize(
    "said",
    [
        "3",
        "[]",
        "{}",
        '{"type":1}',
        '{"type":"LEAVE"}',
        '{"type":"OFFER"}',
        '{"type":"OFFER","dst":"a"}',
        text("OFFER", dst=None),
        text("OFFER", payload=None),
        text("OFFER", payload={}),
        text("OFFER", payload=payload("ANSWER")),
        text("ANSWER", payload=payload("OFFER")),
        text("OFFER", payload=payload("OFFER", sdp={"type": "offer", "sdp": "o=0"})),
        text("OFFER", payload=payload("OFFER", sdp={"type": "offer"})),
        text("OFFER", payload=payload("OFFER", type="video")),
        text("OFFER", payload=payload("OFFER", connectionId="")),
        text("OFFER", payload=payload("OFFER", connectionId="x" * 257)),
        text("CANDIDATE", payload=payload("CANDIDATE", candidate="x")),
        text("CANDIDATE", payload=payload("CANDIDATE", candidate={})),
        text("CANDIDATE", payload=payload("CANDIDATE", connectionId=1)),
        text("CANDIDATE", payload={"candidate": {"candidate": "c"}}),
    ],
)
def test_a_message_of_another_shape_is_refused(said: str) -> None:
    with pytest.raises(InvalidEvent):
        parse(said)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_a_message_nests_only_so_deep(depth: int) -> None:
    said = '{"type":"HEARTBEAT","x":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
    if depth <= MAX_DEPTH:
        assert parse(said) == Heartbeat()
    else:
        with pytest.raises(InvalidJSON):
            parse(said)


@pytest.mark.parametrize("kind", ["OFFER", "ANSWER"])
@pytest.mark.parametrize(
    "dst", ["bob", "a@b", "", "a--b", "ü", "x" * 300, "\u2028"], ids=lambda dst: repr(dst)[:9]
)
def test_a_refused_message_names_the_other_end_of_its_call(kind: str, dst: str) -> None:
    assert read_refused(text(kind, dst=dst, payload=None)) == Refused(dst)


@pytest.mark.parametrize(
    "fields",
    [
        {"connectionId": "c" * 300},
        {"metadata": "half a \ud83d"},
        {"metadata": json.loads("[" * 31 + "]" * 31)},
        {"metadata": json.loads("[" * 900 + "]" * 900)},
        {"sdp": None},
    ],
    ids=["long id", "half a pair", "deep", "very deep", "no sdp"],
)
def test_whatever_is_wrong_with_a_payload_its_receiver_is_known(fields: Any) -> None:
    said = text("OFFER", payload=payload("OFFER", **fields))
    with pytest.raises(BadRequest):
        parse(said)
    assert read_refused(said) == Refused("bob")


def test_a_number_of_any_length_hides_nothing() -> None:
    said = '{"type":"OFFER","dst":"bob","payload":%s}' % ("1" * 5_000)
    assert read_refused(said) == Refused("bob")


@pytest.mark.parametrize(
    "said",
    [
        '{"type":"LEAVE","dst":"a@b"}',
        '{"type":"CANDIDATE","dst":"bob","payload":null}',
        '{"type":"OFFER"}',
        '{"type":"OFFER","dst":5}',
        '{"type":"OFFER","dst":"\\ud83d"}',
        '{"type":"HELLO","dst":"bob"}',
        '{"type":"OFFER","dst":"bob","x":' + "[" * 20_000 + "]" * 20_000 + "}",
    ],
    ids=["LEAVE", "CANDIDATE", "no dst", "a number", "half a pair", "unknown", "too deep"],
)
def test_a_refused_message_may_end_no_call(said: str) -> None:
    assert read_refused(said) == Refused(None)


@pytest.mark.parametrize("said", ["", "{", "3", "null", "[]", "{}", '{"type":1}', '{"dst":"bob"}'])
def test_what_has_no_type_is_no_message(said: str) -> None:
    assert read_refused(said) is None


# What is passed on.

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.sampled_from(["OFFER", "ANSWER", "CANDIDATE"]), values, st.booleans())
def test_a_payload_is_passed_on_as_it_was_and_the_source_is_the_servers_word(
    kind: str, metadata: Any, is_indented: bool
) -> None:
    sent = payload(kind, metadata=metadata, label=metadata)
    message = {"type": kind, "src": "mallory", "dst": "bob", "payload": sent, "x": 1}
    said = parse(json.dumps(message, indent=2 if is_indented else None))
    assert said is not None and not isinstance(said, Heartbeat)
    assert json.loads(said.relayed("ann")) == {
        "type": kind,
        "src": "ann",
        "dst": "bob",
        "payload": sent,
    }


def test_a_leave_is_passed_on_without_anything_else() -> None:
    said = parse('{"type":"LEAVE","dst":"a","src":"b","payload":{"x":1}}')
    assert isinstance(said, Leave)
    assert json.loads(said.relayed("c")) == {"type": "LEAVE", "src": "c", "dst": "a"}


@given(st.text() | st.binary() | values.map(json.dumps))
def test_whatever_a_client_says_is_read_or_refused(said: str | bytes) -> None:
    try:
        parse(said)
    except BadRequest:
        if isinstance(said, str):
            read_refused(said)


# From the server.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (OPEN, {"type": "OPEN"}),
        (ID_TAKEN, {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}),
        (error("Invalid"), {"type": "ERROR", "payload": {"msg": "Invalid"}}),
        (expire(src="bob", dst="ann"), {"type": "EXPIRE", "src": "bob", "dst": "ann"}),
        (encode("X", a=1), {"type": "X", "a": 1}),
    ],
)
def test_the_servers_messages_are_as_peerjs_clients_read_them(data: bytes, message: Any) -> None:
    assert json.loads(data) == message
