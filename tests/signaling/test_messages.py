"""What clients may say: each message, each way to get it wrong, and nothing else."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling import messages
from triocast.signaling.messages import MessageError, Sizes, parse
from triocast.signaling.notices import encode, refusal, relayed

SIZES = Sizes(message_bytes=2_000, metadata_bytes=100, max_depth=8)

OFFER = {"type": "offer", "to": "b", "session": 1, "description": {"type": "offer", "sdp": "v=0"}}
ANSWER = {
    "type": "answer",
    "to": "b",
    "session": 1,
    "description": {"type": "answer", "sdp": "v=0"},
}
CANDIDATE = {"type": "candidate", "to": "b", "session": 1, "candidate": {"candidate": "c"}}
VALID = [
    {"type": "join", "room": "r"},
    {
        "type": "join",
        "room": "r:1/a",
        "peer": "alice@x",
        "token": "t",
        "version": 1,
        "metadata": [1, None],
        "capabilities": ["rollback", "unheard-of"],
        "resume": {"token": "t", "lastSeq": 0},
    },
    {"type": "leave", "reason": "tired"},
    {"type": "get-ice-servers"},
    {"type": "pong", "t": 1.5, "seq": 3},
    OFFER,
    {**OFFER, "offerId": 0, "seq": 1},
    ANSWER,
    CANDIDATE,
    {"type": "end-of-candidates", "to": "b", "session": 1, "usernameFragment": None},
    {"type": "renegotiate", "to": "b", "session": 1, "iceRestart": True, "reason": "gap"},
    {"type": "data", "payload": {"a": [1]}},
]


def refused(message):
    text = message if isinstance(message, str | bytes) else json.dumps(message)
    with pytest.raises(MessageError) as caught:
        parse(text, SIZES)
    return json.loads(encode(refusal(caught.value)))


@pytest.mark.parametrize("message", VALID)
def test_a_message_is_read(message):
    read = parse(json.dumps({**message, "id": "q", "unknown": 1}), SIZES)
    assert read.id == "q"
    assert read.__struct_config__.tag == message["type"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-json"),
        ("{", "bad-json"),
        ("{'type':'leave'}", "bad-json"),
        (b'{"type":"leave","reason":"\xff"}', "bad-json"),
        ('{"type":"data","payload":"\ud800"}', "bad-json"),
        ('{"type":"data","payload":' + "[" * 20 + "]" * 20 + "}", "bad-json"),
        ("[]", "bad-message"),
        ("1", "bad-message"),
        ('"join"', "bad-message"),
        ("null", "bad-message"),
        ("{}", "unknown-type"),
        ('{"type":null}', "unknown-type"),
        ('{"type":["join"]}', "unknown-type"),
        ('{"type":"joined"}', "unknown-type"),
        ('{"type":"peer-left","peer":"b"}', "unknown-type"),
        ('{"type":"leave","reason":"' + "x" * 2_000 + '"}', "message-too-large"),
    ],
)
def test_what_is_no_message_is_refused(text, code):
    assert refused(text)["code"] == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "join"}, "bad-message"),
        ({"type": "join", "room": ""}, "bad-message"),
        ({"type": "join", "room": "a b"}, "bad-message"),
        ({"type": "join", "room": "a\n"}, "bad-message"),
        ({"type": "join", "room": "x" * 129}, "bad-message"),
        ({"type": "join", "room": "r", "peer": "a/b"}, "bad-message"),
        ({"type": "join", "room": "r", "peer": "x" * 65}, "bad-message"),
        ({"type": "join", "room": "r", "version": "1"}, "bad-message"),
        ({"type": "join", "room": "r", "metadata": "x" * 101}, "message-too-large"),
        ({"type": "join", "room": "r", "capabilities": ["x"] * 33}, "bad-message"),
        ({"type": "join", "room": "r", "capabilities": "rollback"}, "bad-message"),
        ({"type": "join", "room": "r", "resume": {"token": "t"}}, "bad-message"),
        ({"type": "join", "room": "r", "resume": {"token": "", "lastSeq": 0}}, "bad-message"),
        ({"type": "join", "room": "r", "resume": {"token": "t", "lastSeq": -1}}, "bad-message"),
        ({"type": "join", "room": "r", "resume": {"token": "t", "lastSeq": 2**60}}, "bad-message"),
        ({"type": "pong", "seq": -1}, "bad-message"),
        ({"type": "leave", "reason": 1}, "bad-message"),
        ({**OFFER, "to": None}, "bad-message"),
        ({**OFFER, "to": "a b"}, "bad-message"),
        ({**OFFER, "session": 0}, "bad-message"),
        ({**OFFER, "session": "1"}, "bad-message"),
        ({**OFFER, "seq": 0}, "bad-message"),
        ({**OFFER, "offerId": -1}, "bad-message"),
        ({**OFFER, "description": None}, "bad-description"),
        ({**OFFER, "description": "v=0"}, "bad-description"),
        ({**OFFER, "description": {"type": "offer"}}, "bad-description"),
        ({**OFFER, "description": {"type": "answer", "sdp": "v=0"}}, "bad-description"),
        ({**OFFER, "description": {"type": "pranswer", "sdp": "v=0"}}, "bad-description"),
        ({**OFFER, "description": {"type": "offer", "sdp": ""}}, "bad-description"),
        ({**OFFER, "description": {"type": "offer", "sdp": "o=0"}}, "bad-description"),
        ({**ANSWER, "description": {"type": "offer", "sdp": "v=0"}}, "bad-description"),
        ({**CANDIDATE, "candidate": None}, "bad-message"),
        ({**CANDIDATE, "candidate": {}}, "bad-message"),
        ({**CANDIDATE, "candidate": {"candidate": "x" * 1_900, "sdpMid": 1}}, "bad-message"),
        ({**CANDIDATE, "candidate": {"candidate": "c", "sdpMLineIndex": -1}}, "bad-message"),
        ({"type": "renegotiate", "to": "b", "session": 1, "iceRestart": "yes"}, "bad-message"),
        ({"type": "data", "to": "b"}, "bad-message"),
    ],
)
def test_a_wrong_field_is_refused_under_the_messages_id(message, code):
    told = refused({**message, "id": 7})
    assert told["type"] == "error"
    assert told["code"] == code
    assert told["re"] == 7
    assert told["message"]
    assert told["temporary"] is told["fatal"] is False
    assert told.get("to") == (message.get("to") if message.get("to") == "b" else None)


@pytest.mark.parametrize("number", ["1e999", "[-1e400]"])
def test_metadata_are_what_any_parser_takes(number):
    text = '{"type":"join","room":"r","id":7,"metadata":' + number + "}"
    told = refused(text)
    assert (told["code"], told["re"]) == ("bad-message", 7)


def test_metadata_are_passed_on_as_they_are():
    metadata = '{"__proto__":{"admin":true},"constructor":1,"a":1}'
    read = parse('{"type":"join","room":"__proto__","metadata":' + metadata + "}", SIZES)
    assert (read.room, read.metadata_text) == ("__proto__", metadata.encode())


@pytest.mark.parametrize("id", [1.5, True, [], {}, "x" * 65, 2**53])
def test_an_id_is_short(id):
    told = refused({"type": "leave", "id": id})
    assert told["code"] == "bad-message"
    assert "re" not in told


def test_the_sender_is_the_servers_word_and_unknown_fields_are_dropped():
    message = {**OFFER, "from": "mallory", "x": 1, "id": 3, "seq": 9, "offerId": 2}
    message["description"] = {**OFFER["description"], "evil": 1}
    told = json.loads(encode(relayed(parse(json.dumps(message), SIZES), "alice")))
    assert told == {
        "type": "offer",
        "from": "alice",
        "session": 1,
        "description": {"type": "offer", "sdp": "v=0"},
        "offerId": 2,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "candidate", "candidate": {"candidate": "c", "sdpMid": None}},
        {
            "type": "candidate",
            "candidate": {
                "candidate": "",
                "sdpMid": "0",
                "sdpMLineIndex": 0,
                "usernameFragment": "u",
            },
        },
        {"type": "end-of-candidates"},
        {"type": "end-of-candidates", "usernameFragment": "u"},
        {"type": "renegotiate", "iceRestart": False},
        {"type": "renegotiate", "iceRestart": True, "reason": "gap"},
        {"type": "answer", "description": {"type": "answer", "sdp": "v=0\r\n"}},
    ],
)
def test_what_is_passed_on_is_what_was_said(fields):
    read = parse(json.dumps({**fields, "to": "b", "session": 5}), SIZES)
    assert json.loads(encode(relayed(read, "a"))) == {**fields, "from": "a", "session": 5}


def test_secrets_are_not_shown():
    join = {
        "type": "join",
        "room": "r",
        "token": "s3cret",
        "resume": {"token": "s3cret", "lastSeq": 1},
    }
    assert "s3cret" not in repr(parse(json.dumps(join), SIZES))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = sorted({field for message in VALID for field in message})


@given(st.sampled_from(VALID), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_whatever_comes_is_read_or_refused(message, changes):
    text = json.dumps({**message, **changes})
    try:
        read = parse(text, SIZES)
    except MessageError as error:
        told = json.loads(encode(refusal(error)))
    else:
        told = {"code": "none"}
        if isinstance(read, messages.Signal):
            told |= msgspec.json.decode(encode(relayed(read, "a")))
            assert told["from"] == "a"
    assert told["code"]


# Hypothesis also tries texts from this file, some of which are messages.
@given((st.binary(max_size=60) | st.text(max_size=60)).filter(lambda it: '"type"' not in str(it)))
def test_noise_is_refused(noise):
    with pytest.raises(MessageError):
        parse(noise, SIZES)
