"""History over REST: pages that join without a gap, both ways, and the removal of events."""

import time

import jwt
import pytest

from triocast.auth import EVERYTHING
from triocast.settings import Namespace, Namespaces, Settings
from triocast.web import create_app, node_of
from triocast.web import history as history_module
from triocast.web.history import PATH
from triocast.wire import envelope

KEY = "k" * 40


@pytest.fixture
async def app():
    """Anybody may do everything here, but a caller with a token only what that allows."""
    return create_app(
        Settings(
            token_key=KEY,
            insecure_anonymous=True,
            namespaces=Namespaces({"short": Namespace(history_events=2)}),
        )
    )


@pytest.fixture
async def publish(app):
    async def publish(*channels, type="t", data=b"null", tags=()):
        publisher = node_of(app).publisher
        for channel in channels:
            fields = {"channel": channel, "type": type, "data": data, "tags": tags}
            await publisher.publish([publisher.event(EVERYTHING, **fields)])

    return publish


@pytest.fixture
def at(app):
    """Return the cursor of a ``seq``."""
    return lambda seq: f"0.{node_of(app).engine.head.epoch}.{seq}"


@pytest.fixture
async def get(client):
    async def get(channel="news", **query):
        query = {"channel": channel} | query
        reply = await client.get(PATH, params={k: v for k, v in query.items() if v is not None})
        assert reply.status_code == 200, reply.text
        return reply.json()

    return get


@pytest.fixture
def read_in_parts(monkeypatch):
    """Let a page be read two events at a time."""
    monkeypatch.setattr(history_module, "READ_EVENTS", 2)


@pytest.fixture
def after_first_part(app, monkeypatch, read_in_parts):
    """Let something happen between the first part of a page and the second."""

    def arrange(happen):
        engine = node_of(app).engine
        read = engine.history

        async def read_and_let_happen(*names, **bounds):
            found = await read(*names, **bounds)
            monkeypatch.setattr(engine, "history", read)
            await happen()
            return found

        monkeypatch.setattr(engine, "history", read_and_let_happen)

    return arrange


def seqs(page):
    return [int(event["id"].rpartition(".")[2]) for event in page["events"]]


def holder(**allowed):
    claims = {"sub": "ann", "exp": int(time.time()) + 86_400, "triocast": allowed}
    return {"Authorization": f"Bearer {jwt.encode(claims, KEY, 'HS256')}"}


def refused(reply):
    return reply.status_code, reply.json()["code"]


# Reading.


async def test_an_event_is_answered_as_it_was_sent(client, publish, at):
    await publish("news", type="T", data=b'{"a": "\xc3\xa9"}', tags=("x",))
    reply = await client.get(PATH, params={"channel": "news"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    (event,) = reply.json()["events"]
    assert event.pop("timestamp")
    assert event == {
        "type": "T",
        "data": {"a": "é"},
        "channel": "news",
        "tags": ["x"],
        "id": at(1),
    }


async def test_a_server_without_events_answers_an_empty_page(get, at):
    page = await get()
    assert page == {"events": [], "before": at(1), "after": at(0), "more": False, "lost": []}


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (["news"], [1, 4]),
        (["chat:*"], [2, 3]),
        (["news", "chat:b", "news"], [1, 3, 4]),
        (["*"], [1, 2, 3, 4]),
        ([], [5]),
    ],
)
async def test_channels_and_patterns_and_without_them_what_was_for_all(
    client, publish, channels, expected
):
    await publish("news", "chat:a", "chat:b", "news", "$all", "$user:ann")
    reply = await client.get(PATH, params={"channel": channels})
    assert seqs(reply.json()) == expected


@pytest.mark.usefixtures("read_in_parts")
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7])
async def test_pages_join_without_a_gap_in_both_directions(get, publish, at, limit):
    await publish(*["news", "other"] * 3, "news")
    backward, page = [], await get(limit=limit)
    assert page["after"] == at(7)
    while page["more"]:
        assert len(page["events"]) == limit
        backward = seqs(page) + backward
        assert len(backward) <= 4
        page = await get(limit=limit, before=page["before"])
    assert seqs(page) + backward == [1, 3, 5, 7]
    assert page["before"] == at(1)

    forward, page = [], await get(limit=limit, after=at(0))
    assert page["before"] == at(1)
    while page["more"]:
        assert len(page["events"]) == limit
        forward += seqs(page)
        assert len(forward) <= 4
        page = await get(limit=limit, after=page["after"])
    assert forward + seqs(page) == [1, 3, 5, 7]
    assert page["after"] == at(7)


async def test_a_cursor_is_a_bound_of_its_page(get, publish, at):
    await publish(*["news"] * 5)
    page = await get(after=at(3))
    assert (seqs(page), page["before"], page["after"]) == ([4, 5], at(4), at(5))
    page = await get(before=at(3))
    assert (seqs(page), page["before"], page["after"]) == ([1, 2], at(1), at(2))
    page = await get(after=at(5))
    assert (seqs(page), page["before"], page["after"]) == ([], at(6), at(5))
    assert seqs(await get(after="", before="")) == [1, 2, 3, 4, 5]


async def test_a_filter_leaves_events_out_and_moves_no_cursor(get, publish, at):
    await publish("news", type="a", tags=("x",))
    await publish("news", type="b", tags=("x",))
    await publish("news", type="a", tags=("y",))
    assert seqs(await get(type="a")) == [1, 3]
    assert seqs(await get(type=["a", "b"], tag="x")) == [1, 2]
    page = await get(type="b", limit=2, after=at(0))
    assert (seqs(page), page["after"], page["more"]) == ([2], at(2), True)
    page = await get(type="b", limit=2)
    assert (seqs(page), page["before"], page["more"]) == ([2], at(2), True)


@pytest.mark.usefixtures("read_in_parts")
@pytest.mark.parametrize(("direction", "expected"), [("newest", [5, 6]), ("oldest", [1, 2])])
async def test_a_page_ends_when_its_events_are_large(
    get, publish, at, monkeypatch, direction, expected
):
    monkeypatch.setattr(history_module, "PAGE_BYTES", 200)
    await publish(*["news"] * 6, data=b'"%s"' % (b"x" * 100))
    page = await get(after=at(0) if direction == "oldest" else None)
    assert (seqs(page), page["more"]) == (expected, True)


async def test_what_retention_removed_is_told_by_the_page_that_misses_it(get, publish, at):
    await publish("news", "short:a", "short:a", "short:a", "short:b", "short:a")
    names = ["news", "short:a", "short:b"]
    page = await get(names)
    assert (seqs(page), page["lost"]) == ([1, 4, 5, 6], ["short:a"])
    assert (await get("short:*"))["lost"] == ["short:*"]
    assert (await get(names, after=at(2)))["lost"] == ["short:a"]
    assert (await get(names, after=at(3)))["lost"] == []
    assert (await get(names, limit=3))["lost"] == []


async def test_what_is_removed_while_a_page_is_read_is_told_too(
    app, get, publish, at, after_first_part
):
    await publish("a", "b", "a", "b")
    after_first_part(lambda: node_of(app).engine.forget(["b"]))
    page = await get(["a", "b"], after=at(0))
    assert (seqs(page), page["lost"]) == ([1, 2, 3], ["b"])


@pytest.mark.parametrize("before", [0, 1])
async def test_the_cursors_of_a_page_before_all_events_can_be_sent_back(get, publish, at, before):
    await publish("news")
    page = await get(before=at(before))
    assert (seqs(page), page["after"]) == ([], at(0))
    assert seqs(await get(after=page["after"])) == [1]


async def test_what_comes_while_the_newest_page_is_read_is_on_the_next(
    get, publish, at, after_first_part
):
    await publish(*["news"] * 4)
    after_first_part(lambda: publish("news"))
    page = await get()
    assert (seqs(page), page["after"]) == ([1, 2, 3, 4], at(4))
    assert seqs(await get(after=page["after"])) == [5]


async def test_what_comes_while_a_later_page_is_read_is_on_that_page(
    get, publish, at, after_first_part
):
    await publish(*["news"] * 4)
    after_first_part(lambda: publish("news"))
    page = await get(after=at(0))
    assert (seqs(page), page["after"]) == ([1, 2, 3, 4, 5], at(5))


@pytest.mark.usefixtures("read_in_parts")
async def test_a_loss_elsewhere_is_no_loss_of_a_pattern(get, publish, at):
    await publish("news:a", "short:a", "short:a", "short:a", "news:a", "news:b", "news:a")
    page = await get("news:*", after=at(0))
    assert (seqs(page), page["lost"]) == ([1, 5, 6, 7], [])


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"limit": 0}, "bad_request"),
        ({"limit": 1_001}, "bad_request"),
        ({"limit": "x"}, "bad_request"),
        ({"channel": "$all"}, "invalid_channel"),
        ({"channel": "a*b"}, "invalid_channel"),
        ({"type": "a\nb"}, "invalid_event"),
        ({"tag": ""}, "invalid_event"),
        ({"after": "x"}, "invalid_cursor"),
        ({"before": "0.another-store.1"}, "invalid_cursor"),
        ({"after": "0.another-store.1"}, "invalid_cursor"),
        ({"after": "1.other-shard.1"}, "invalid_cursor"),
        ({"after": "{head}", "before": "{head}"}, "bad_request"),
    ],
)
async def test_a_query_that_is_wrong_is_refused(client, at, query, code):
    query = {name: str(value).format(head=at(0)) for name, value in query.items()}
    assert refused(await client.get(PATH, params=query)) == (400, code)


async def test_reading_is_for_those_who_may_listen(client, publish):
    await publish("news", "$all")
    for channel, status in (("news", 200), ("news:*", 403), ("chat", 403), (None, 200)):
        query = {} if channel is None else {"channel": channel}
        reply = await client.get(PATH, params=query, headers=holder(subscribe=["news"]))
        assert reply.status_code == status
    reply = await client.get(PATH, headers={"Authorization": "Bearer nonsense"})
    assert refused(reply) == (401, "unauthorized")


# Removal.


async def test_an_administrator_removes_what_channels_and_users_have(client, get, publish, at):
    await publish("news", "chat:a", "news", "$user:ann", "chat:b")
    query = {"channel": ["news", "chat:a", "empty"], "user": "ann"}
    reply = await client.delete(PATH, params=query, headers=holder(admin=True))
    assert (reply.status_code, reply.json()) == (200, {"removed": 4})
    assert seqs(await get("*")) == [5]
    assert (await get("news", after=at(0)))["lost"] == ["news"]
    assert (await get("news", after=at(3)))["lost"] == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "bad_request"),
        ({"channel": "chat:*"}, "invalid_channel"),
        ({"channel": "$all"}, "invalid_channel"),
        ({"user": ""}, "invalid_channel"),
        ({"channel": ["news", "a b"]}, "invalid_channel"),
    ],
)
async def test_a_removal_that_is_wrong_removes_nothing(client, get, publish, query, code):
    await publish("news")
    assert refused(await client.delete(PATH, params=query)) == (400, code)
    assert seqs(await get("news")) == [1]


async def test_nobody_else_removes_anything(client, get, publish):
    await publish("news")
    everything_else = holder(subscribe=["*"], publish=["*"])
    reply = await client.delete(PATH, params={"channel": "news"}, headers=everything_else)
    assert refused(reply) == (403, "forbidden")
    assert seqs(await get("news")) == [1]


async def test_an_event_that_cannot_be_encoded_is_a_gap_on_its_page(get, publish, monkeypatch):
    encode = envelope.encode_publication

    def fail(publication, **_):
        if publication.event.type == "poison":
            raise RuntimeError("injected")
        return encode(publication)

    monkeypatch.setattr(envelope, "encode_publication", fail)
    for type in ("a", "poison", "b"):
        await publish("news", type=type)
    events = (await get())["events"]
    assert [event["type"] for event in events] == ["a", "gap", "b"]
    assert events[1]["data"]["reason"] == "internal"
