"""The native protocol's parser: every text is a request or a MessageError, and nothing else."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.errors import (
    InvalidChannel,
    InvalidEvent,
    InvalidJSON,
    Overloaded,
    UnknownCommand,
)
from triocast.events import Event, Position, Publication
from triocast.wire import envelope
from triocast.wire.messages import (
    TYPES,
    MessageError,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
    encode_error,
    encode_reply,
    parse,
)
from triocast.wire.new_event import NewEvent

WORDS = ["subscribe", "unsubscribe", "publish", "ping", "command", "channel_message"]
FIELDS = [
    "id",
    "channel",
    "channels",
    "types",
    "tags",
    "event",
    "data",
    "user_id",
    "key",
    "echo",
    "message",
    "command",
    "else",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=70)
    | st.sampled_from(["news", "news:*", "$all", "*", "join_channel", "leave_channel", "ping"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(WORDS) | values,
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=6),
)
object_texts = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    objects,
    st.sampled_from([None, 1]),
    st.booleans(),
)


@st.composite
def damaged(draw):
    """An object's text with a few characters cut out or put in."""
    text = draw(object_texts)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 4))
        put = draw(st.text('{}[]",:\\\n\r\x00\x1f0eé', max_size=3))
        text = text[:at] + put + text[at + cut :]
    return text


def check_refusal(refused: MessageError) -> None:
    answer = json.loads(encode_error(refused.id, refused.error))
    assert answer["type"] == "error"
    assert answer["id"] == refused.id
    assert answer["code"] == refused.error.code


def check(text: str) -> None:
    try:
        request = parse(text, max_depth=16)
    except MessageError as refused:
        check_refusal(refused)
        return
    reply = json.loads(encode_reply(request.id, {"x": 1}))
    assert reply == {"type": "reply", "id": request.id, "data": {"x": 1}}
    if isinstance(request, Publish):
        publication = Publication(
            Event(
                request.event.type,
                request.event.data,
                "news",
                "2026-01-31T12:00:00.123Z",
                key=request.event.key,
                tags=request.event.tags,
            ),
            Position("e", 1),
            prev=0,
        )
        line = envelope.encode_publication(publication)
        assert b"\n" not in line and b"\r" not in line
        written = json.loads(line)
        said = request.event
        assert written["type"] == said.type
        assert written["data"] == json.loads(said.data) or "nan" in text.lower()
        assert written.get("tags", []) == list(said.tags)


@given(st.text())
def test_any_text_is_a_request_or_refused(text):
    check(text)


@given(object_texts)
def test_any_object_is_a_request_or_refused(text):
    check(text)


@given(damaged())
@example('{"type":"publish","event":{"data":"\n"}}')
@example('{"type":"publish","event":{"data":"a\nb"}}')
@example('{"type":"publish","event":{"data":"\\x"}}')
@example('{"type":"publish","event":{"data":"\\ud800"}}')
@example('{"type":"publish","event":{"data":"\x00"}}')
@example('{"type":"publish","event":{"data":01}}')
@example('{"type":"publish","event":{"data":1.}}')
@example('{"type":"publish","event":{"data":tru\n}}')
@example('{"type":"publish","event":{"data":[1,\n]}}')
@example('{"type":"channel_message","message":-}')
@example('{"type":"publish","event":{"data":{"a":1,}}}')
@example('{"type":"publish","event":{"data":1e999}}')
@example('{"type":"publish","event":{"data":[NaN]}}')
@example('{"id":1e400,"type":"ping"}')
@example('{"id":' + "9" * 400 + ',"type":"ping"}')
@example('{"type":"ping"')
@example('{"type":"ping"}}')
def test_damaged_objects_are_requests_or_refused(text):
    check(text)


@given(st.text().filter(lambda text: "{" not in text))
def test_text_that_is_no_object_is_published_as_it_is(text):
    request = parse(text, max_depth=16)
    assert isinstance(request, Publish)
    assert (request.id, request.event.channel, request.event.type) == (None, None, "text")
    assert json.loads(request.event.data) == text


@given(objects.filter(lambda value: value["type"] not in TYPES), st.sampled_from(["", "\ufeff"]))
def test_an_object_of_another_type_is_refused_alone_and_in_arrays(value, mark):
    texts = [json.dumps(value), json.dumps([value])]
    if not re.search("NaN|Infinity", texts[0]):  # Those are no JSON, so the whole is none.
        texts.append(json.dumps([1, [], value]))
    for text in texts:
        with pytest.raises(MessageError):
            parse(mark + text, max_depth=16)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (
            '{"type":"subscribe","id":1,"channel":"a","channels":["b:*","a"],"types":["T"],"tags":["x"]}',
            Subscribe(1, ("a", "b:*"), ("T",), ("x",)),
        ),
        ('{"type":"subscribe","channel":"default:a"}', Subscribe(None, ("a",))),
        ('{"type":"unsubscribe","id":"u","channels":["a"]}', Unsubscribe("u", ("a",))),
        (
            '{"type":"publish","id":"p","event":{"channel":"default:a","type":"E","data":[1, 2],'
            '"key":"k","tags":["t"]},"echo":false}',
            Publish("p", NewEvent("E", b"[1, 2]", "a", "k", ("t",)), echo=False),
        ),
        ('{"type":"publish","event":{"data":null}}', Publish(None, NewEvent("message", b"null"))),
        (
            '{"type":"channel_message","channel":"a","message":"hi"}',
            Publish(None, NewEvent("channel_message", b'"hi"', "a")),
        ),
        (
            '{"type":"command","command":"join_channel","data":{"channel":"general"}}',
            Subscribe(None, ("general",), join=True),
        ),
        (
            '{"type":"command","command":"leave_channel","data":{"channel":"general"},"id":3}',
            Unsubscribe(3, ("general",)),
        ),
        ('{"type":"command","command":"ping","id":4}', Ping(4)),
        (' \n{"type":"ping","id":"x"}', Ping("x")),
        ("hello", Publish(None, NewEvent("text", b'"hello"'))),
        ("", Publish(None, NewEvent("text", b'""'))),
        ("[1]", Publish(None, NewEvent("text", b'"[1]"'))),
    ],
)
def test_requests(text, request_):
    assert parse(text, max_depth=16) == request_


@pytest.mark.parametrize(
    ("text", "id", "error"),
    [
        ('{"type":"subscribe","id":7}', 7, InvalidEvent),
        ('{"type":"subscribe","id":7,"channel":"$all"}', 7, InvalidChannel),
        ('{"type":"subscribe","id":7,"channel":"a","extra":1}', 7, InvalidEvent),
        ('{"type":"publish","id":7}', 7, InvalidEvent),
        ('{"type":"publish","id":7,"event":{"data":1,"type":"a\\nb"}}', 7, InvalidEvent),
        ('{"type":"publish","id":7,"event":{"data":1,"key":""}}', 7, InvalidEvent),
        ('{"type":"publish","id":7,"event":{"data":1,"tags":[""]}}', 7, InvalidEvent),
        ('{"type":"publish","id":7,"channel":"a","event":"E","data":1}', 7, InvalidEvent),
        ('{"type":"MOVED","id":7,"data":1}', 7, UnknownCommand),
        ('{"id":7,"data":1}', 7, InvalidEvent),
        ('{"type":"ping","id":7,"oops":1}', 7, InvalidEvent),
        ('{"type":"command","id":7,"command":"dance"}', 7, UnknownCommand),
        ('{"type":"command","id":7,"command":"join_channel"}', 7, InvalidEvent),
        ('{"type":5,"id":7}', 7, InvalidEvent),
        ('{"type":"ping","id":7', None, InvalidJSON),
        ("{", None, InvalidJSON),
        ('{"a":' * 17 + "1" + "}" * 17, None, InvalidJSON),
        ('{"id":true}', None, InvalidEvent),
        ('{"id":1.5}', None, InvalidEvent),
        ('{"id":{}}', None, InvalidEvent),
        ('{"id":9007199254740992}', None, InvalidEvent),
        ('{"id":"' + "x" * 65 + '"}', None, InvalidEvent),
    ],
)
def test_refusals_carry_the_id_of_their_request(text, id, error):
    with pytest.raises(MessageError) as caught:
        parse(text, max_depth=16)
    assert caught.value.id == id
    assert type(caught.value.error) is error


def test_a_pattern_is_no_channel_to_publish_to():
    """Joining makes the default for publishing, and an event goes to one channel."""
    with pytest.raises(MessageError) as caught:
        parse('{"type":"command","command":"join_channel","data":{"channel":"a:*"}}', max_depth=9)
    assert isinstance(caught.value.error, InvalidChannel)


def test_an_error_says_whether_to_try_again():
    assert json.loads(encode_error(5, Overloaded("slower"))) == {
        "type": "error",
        "id": 5,
        "code": "overloaded",
        "message": "slower",
        "temporary": True,
    }
