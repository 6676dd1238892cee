"""What a query subscribes to is read alike for every transport, and a bad query is refused."""

import re
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.auth import EVERYTHING, Grant
from triocast.errors import (
    BadRequest,
    Disabled,
    Forbidden,
    InvalidChannel,
    InvalidCursor,
    InvalidEvent,
    TooManyChannels,
)
from triocast.events import Event, Position, Publication
from triocast.node import build_node
from triocast.settings import Namespace, Namespaces, Settings
from triocast.web.call import Fields
from triocast.web.subscribing import (
    read_channels,
    read_filter,
    read_limit,
    read_start,
)
from triocast.wire.start import MOST_LAST, After, Last, Latest

from .serving import make_call, serve

MOST = 1_000


@pytest.fixture
async def node():
    return build_node(
        Settings(
            max_channels_per_connection=3,
            namespaces=Namespaces({"room": Namespace(presence=True)}),
        )
    )


def query(**fields):
    """A query with these fields; a list is a field for each of its values."""
    pairs = []
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            pairs.append((name, value))
    return Fields(pairs)


def asking(**fields):
    """A call with these fields in its query."""
    return make_call(f"/?{urlencode(fields)}")


# Channels.


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        ([], ()),
        (["b", "n:*", "a"], ("b", "n:*", "a")),
        (["a", "default:a", "a"], ("a",)),
        (["a", "b", "c", "a", "b"], ("a", "b", "c")),
        (["$presence:room:lobby"], ("$presence:room:lobby",)),
    ],
)
async def test_channels_keep_their_order_and_count_once(node, names, channels):
    assert read_channels(node, query(channel=names), EVERYTHING) == channels


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["a b"], InvalidChannel),
        ([""], InvalidChannel),
        (["$all"], InvalidChannel),
        (["*a*"], InvalidChannel),
        (["a", "b", "c", "d"], TooManyChannels),
        (["$presence:other:lobby"], Disabled),
        (["a", "$presence:lobby"], Disabled),
    ],
)
async def test_channels_nobody_can_subscribe_to_are_refused(node, names, error):
    with pytest.raises(error):
        read_channels(node, query(channel=names), EVERYTHING)


async def test_the_grant_has_to_cover_each_channel(node):
    grant = Grant(subscribe=("news:*", "room:lobby"))
    names = ["news:sport", "room:lobby", "$presence:room:lobby"]
    assert read_channels(node, query(channel=names), grant) == tuple(names)
    for name in ("room:*", "room:other", "*", "$presence:room:other"):
        with pytest.raises(Forbidden, match=re.escape(name)):
            read_channels(node, query(channel=["news:sport", name]), grant)


# Filters.


@pytest.mark.parametrize(
    ("type", "tags", "passes"),
    [("A", ("red", "big"), True), ("B", ("red",), True), ("C", ("red",), False), ("A", (), False)],
)
def test_a_filter_passes_events_of_its_types_and_tags(type, tags, passes):
    event = Event(type, b"null", "a", "2026-01-01T00:00:00.000Z", tags=tags)
    filter = read_filter(query(type=["A", "B"], tag=["red"]))
    assert filter.passes(Publication(event, Position("e", 1), 0)) == passes


def test_without_types_and_tags_every_event_passes():
    event = Event("A", b"null", "a", "2026-01-01T00:00:00.000Z")
    assert read_filter(query()).passes(Publication(event, Position("e", 1), 0))


@pytest.mark.parametrize("fields", [{"type": ""}, {"type": "a\nb"}, {"tag": ""}, {"tag": "x" * 65}])
def test_a_malformed_filter_is_refused(fields):
    with pytest.raises(InvalidEvent):
        read_filter(query(**fields))


# Limits.


@pytest.mark.parametrize(("text", "limit"), [(None, 100), ("1", 1), ("007", 7), (str(MOST), MOST)])
def test_a_limit_is_read(text, limit):
    fields = {} if text is None else {"limit": text}
    assert read_limit(query(**fields), usual=100, most=MOST) == limit


@pytest.mark.parametrize("text", ["", "0", "1001", "-1", "+1", " 1", "1.0", "1_0", "٣", "all"])
def test_a_limit_that_is_no_number_or_out_of_bounds_is_refused(text):
    with pytest.raises(BadRequest, match="1 to 1000"):
        read_limit(query(limit=text), usual=100, most=MOST)


@given(st.text(max_size=12) | st.integers(0, 10**20).map(str) | st.text("0123456789", max_size=30))
@example("000000001999999")
@example("0" * 8 + "1" * 5_000)
def test_no_text_gets_beyond_the_bounds_of_a_limit(text):
    try:
        limit = read_limit(query(limit=text), usual=100, most=MOST)
    except BadRequest:
        return
    assert 1 <= limit <= MOST


# Where to begin.


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, None),
        ({"cursor": ""}, None),
        ({"cursor": "0.e.5"}, After(Position("e", 5))),
        ({"since": "latest"}, Latest()),
        ({"last": "1"}, Last(1)),
        ({"last": str(MOST_LAST)}, Last(MOST_LAST)),
        ({"cursor": "", "last": "3"}, Last(3)),
        # A browser comes back to the address that it began with.
        ({"cursor": "0.e.5", "since": "latest"}, After(Position("e", 5))),
    ],
)
def test_where_a_client_begins(fields, start):
    assert read_start(asking(**fields)) == start


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"cursor": "yesterday"}, InvalidCursor),
        ({"cursor": "0.e.-1"}, InvalidCursor),
        ({"since": "yesterday"}, BadRequest),
        ({"since": ""}, BadRequest),
        ({"last": ""}, BadRequest),
        ({"last": "0"}, BadRequest),
        ({"last": "-1"}, BadRequest),
        ({"last": "1.5"}, BadRequest),
        ({"last": "٣"}, BadRequest),
        ({"last": str(MOST_LAST + 1)}, BadRequest),
        ({"last": "9" * 5_000}, BadRequest),
        ({"since": "latest", "last": "1"}, BadRequest),
        ({"cursor": "0.e.5", "last": "0"}, BadRequest),
    ],
)
def test_a_malformed_start_is_refused(fields, error):
    with pytest.raises(error):
        read_start(asking(**fields))


@pytest.mark.parametrize(
    ("header", "target", "seq"),
    [
        ("0.e.8", "/?lastEventId=0.e.7&last_event_id=0.e.6&cursor=0.e.5&last=1", 8),
        (None, "/?cursor=0.e.5&last_event_id=0.e.6&lastEventId=0.e.7&last=1", 7),
        (None, "/?cursor=0.e.5&last_event_id=0.e.6&last=1", 6),
        (None, "/?cursor=0.e.5", 5),
        ("", "/?lastEventId=&last_event_id=&cursor=0.e.5", 5),
    ],
)
def test_what_a_client_sends_by_itself_outweighs_what_is_in_its_address(header, target, seq):
    headers = {} if header is None else {"Last-Event-ID": header}
    assert read_start(make_call(target, headers)) == After(Position("e", seq))


@pytest.mark.parametrize(
    ("target", "headers"), [("/", {"Last-Event-ID": "42"}), ("/?lastEventId=42", {})]
)
def test_what_a_client_sends_by_itself_may_be_no_cursor_and_asks_for_a_gap(target, headers):
    assert read_start(make_call(target, headers)) == After(None)


@pytest.mark.parametrize("name", ["last_event_id", "cursor"])
def test_what_a_page_has_written_and_is_no_cursor_is_refused(name):
    with pytest.raises(InvalidCursor):
        read_start(asking(**{name: "42"}))


@pytest.mark.parametrize("path", ["/realtime/events", "/realtime/ws", "/realtime/poll"])
async def test_all_clients_together_have_a_bounded_number_of_subscriptions(nursery, path):
    server = serve(nursery, max_subscriptions=4)
    client = await server.connect("/realtime/ws?channel=a&channel=b")
    await client.take()
    (refused,) = await client.ask(type="subscribe", id=1, channels=["c", "d"])
    assert (refused["code"], refused["temporary"]) == ("overloaded", True)
    (done,) = await client.ask(type="subscribe", id=2, channels=["a", "c"])
    assert done["type"] == "reply"
    if path.endswith("ws"):
        other = await server.connect(f"{path}?channel=a")
        status, body = other.status, other.refusal
    else:
        reply = await server.http.get(f"{path}?channel=a")
        status, body = reply.status_code, reply.json()
    assert (status, body["code"]) == (503, "overloaded")
    reply = await server.http.get("/realtime/history?channel=a")
    assert reply.status_code == 200
    await client.leave()
    assert (await server.connect("/realtime/ws?channel=a")).accepted
