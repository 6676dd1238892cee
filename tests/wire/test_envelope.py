"""The envelope that every transport carries."""

import json

from triocast.events import Event, Position, Publication
from triocast.wire import envelope
from triocast.wire.start import parse_cursor

WHEN = "2026-01-31T12:00:00.123Z"


def test_the_envelope_has_what_is_known_and_no_more():
    event = Event("STATUS_CHANGED", b'{"up":true}', "catalog", WHEN)
    assert envelope.encode_publication(Publication(event, Position("e", 3), prev=2)) == (
        b'{"type":"STATUS_CHANGED","timestamp":"2026-01-31T12:00:00.123Z","data":{"up":true},'
        b'"channel":"catalog","id":"0.e.3"}'
    )


def test_the_envelope_of_everything():
    event = Event(
        'a"b', b"[1]", "$user:J\u00fcrgen \u2028", WHEN, key="k\\", tags=("t", "u"), user='"x"'
    )
    assert json.loads(envelope.encode_publication(Publication(event, Position("e", 3), 0))) == {
        "type": 'a"b',
        "timestamp": WHEN,
        "data": [1],
        "channel": "$user:J\u00fcrgen \u2028",
        "key": "k\\",
        "tags": ["t", "u"],
        "user": '"x"',
        "id": "0.e.3",
    }


def test_who_does_not_want_it_is_nobodys_business():
    event = Event("T", b"1", "news", WHEN, exclude="secret-connection")
    assert b"secret" not in envelope.encode_publication(Publication(event, Position("e", 1), 0))


def test_an_event_for_one_connection_has_no_cursor():
    event = Event("T", b"1", "$conn:abc", WHEN)
    assert "id" not in json.loads(
        envelope.encode_publication(Publication(event, Position("e", 1), 0))
    )


def test_one_that_lies_behind_the_client_does_not_take_it_back():
    publication = Publication(Event("T", b"1", "x", WHEN), Position("e", 1), 0)
    here, behind = (
        json.loads(envelope.encode_publication(publication, behind=behind))
        for behind in (None, Position("e", 9))
    )
    assert here.pop("id") == behind.pop("position") == "0.e.1"
    assert parse_cursor(behind.pop("id")).position == Position("e", 9)
    assert here == behind


def test_heartbeats_and_errors():
    told = json.loads(envelope.encode_heartbeat(WHEN, Position("e", 7)))
    assert (told["type"], told["id"]) == ("HEARTBEAT", "0.e.7")
    assert json.loads(envelope.encode_heartbeat(WHEN)) == {
        "type": "HEARTBEAT",
        "timestamp": WHEN,
        "data": None,
    }
    assert json.loads(envelope.encode_error(WHEN, {"code": "x"})) == {
        "type": "ERROR",
        "timestamp": WHEN,
        "data": {"code": "x"},
    }
