"""The body of an event: one parser, whatever way it comes."""

import msgspec
import pytest

from triocast.errors import InvalidChannel, InvalidEvent
from triocast.wire import json
from triocast.wire.new_event import AddressedBody, Body, NewEvent, read

decoders = {kind: msgspec.json.Decoder(kind) for kind in (Body, AddressedBody)}


def read_text(kind, text):
    return read(json.decode(decoders[kind], text))


@pytest.mark.parametrize("kind", [Body, AddressedBody])
@pytest.mark.parametrize(
    ("text", "event"),
    [
        ('{"data":null}', NewEvent("message", b"null")),
        ('{"data":[1,\n2],"type":"E"}', NewEvent("E", b"[1,2]")),
        ('{"data":1,"channel":"default:a"}', NewEvent("message", b"1", "a")),
        (
            '{"data":1,"key":"k","tags":["t"],"urgent":true,"idempotency_key":"once"}',
            NewEvent("message", b"1", None, "k", ("t",), True, "once"),
        ),
        (
            '{"data":1,"type":null,"channel":null,"key":null,"tags":null,"urgent":null,'
            '"idempotency_key":null}',
            NewEvent("message", b"1"),
        ),
    ],
)
def test_bodies(kind, text, event):
    assert read_text(kind, text) == event


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        ('{"data":1,"user_id":"ann"}', "$user:ann"),
        ('{"data":1,"user_id":7,"channel":null}', "$user:7"),
        ('{"data":1,"connection_id":"c"}', "$conn:c"),
        ('{"data":1,"channel":"a"}', "a"),
    ],
)
def test_addressees(text, channel):
    assert read_text(AddressedBody, text).channel == channel


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{}", InvalidEvent),
        ('{"data":1,"type":""}', InvalidEvent),
        ('{"data":1,"key":""}', InvalidEvent),
        ('{"data":1,"tags":[""]}', InvalidEvent),
        ('{"data":1,"idempotency_key":""}', InvalidEvent),
        ('{"data":1,"channel":"a*"}', InvalidChannel),
        ('{"data":1,"user_id":"ann","channel":"a"}', InvalidEvent),
        ('{"data":1,"user_id":"ann","connection_id":"c"}', InvalidEvent),
        ('{"data":1,"user_id":""}', InvalidChannel),
        ('{"data":1,"oops":1}', InvalidEvent),
    ],
)
def test_refusals(text, error):
    with pytest.raises(error):
        read_text(AddressedBody, text)


def test_a_broadcast_is_for_no_user():
    with pytest.raises(InvalidEvent):
        read_text(Body, '{"data":1,"user_id":"ann"}')
