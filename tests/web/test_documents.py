"""Documents over REST: who may read and write them, and under which conditions."""

import time
from functools import partial

import attrs
import httpx
import jwt
import pytest
import trio

from triocast.settings import Namespace, Namespaces, Settings
from triocast.web import create_app, node_of
from triocast.web import documents as documents_module
from triocast.web.documents import PATH

KEY = "k" * 40
DEBOUNCED = "slow:news"


@pytest.fixture
async def app():
    """Anybody may do everything here, but a caller with a token only what that allows."""
    return create_app(
        Settings(
            token_key=KEY,
            insecure_anonymous=True,
            max_documents=5,
            namespaces=Namespaces({"slow": Namespace(debounce_ms=60_000)}),
        )
    )


@pytest.fixture
async def ask(client):
    async def ask(method, key=None, *, channel="news", headers=None, content=None, **query):
        query = {"channel": channel} | ({} if key is None else {"key": key}) | query
        headers = {} if headers is None else headers
        if content is not None:
            headers = {"Content-Type": "application/json"} | headers
        return await client.request(method, PATH, params=query, headers=headers, content=content)

    return ask


@pytest.fixture
async def put(ask):
    async def put(key="k", content=b"1", **rest):
        return await ask("PUT", key, content=content, **rest)

    return put


@pytest.fixture
async def events(client):
    async def events(channel="news"):
        reply = await client.get("/realtime/history", params={"channel": channel})
        return reply.json()["events"]

    return events


def holder(user="ann", **allowed):
    claims = {"sub": user, "exp": int(time.time()) + 86_400, "triocast": allowed}
    return {"Authorization": f"Bearer {jwt.encode(claims, KEY, 'HS256')}"}


def refused(reply):
    return reply.status_code, reply.json()["code"]


# Reading.


async def test_the_event_of_a_write_has_no_type_of_the_server_s_own(app, ask):
    reply = await ask("PUT", "k", content=b"1", type="gap")
    assert (reply.status_code, reply.json()["code"]) == (400, "reserved_type")
    assert (await ask("GET", "k")).status_code == 404
    assert node_of(app).engine.head.seq == 0


async def test_a_document_is_read_as_it_was_written(ask, put):
    written = await put("a/b?", b'{ "on": true }', headers={"Content-Type": "application/x+json"})
    assert written.status_code == 200
    reply = await ask("GET", "a/b?")
    assert (reply.status_code, reply.content) == (200, b'{ "on": true }')
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "private, no-cache"
    assert reply.headers["etag"] == written.headers["etag"]


@pytest.mark.parametrize("known", ["{tag}", "W/{tag}", '"else", {tag}', 'W/"else",W/{tag}'])
async def test_a_reader_who_has_a_document_is_told_that_it_is_unchanged(ask, put, known):
    tag = (await put()).headers["etag"]
    headers = {"If-None-Match": known.format(tag=tag)}
    reply = await ask("GET", "k", headers=headers)
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
    await put(content=b"2")
    assert (await ask("GET", "k", headers=headers)).content == b"2"


async def test_a_list_comes_page_by_page_in_the_order_of_keys(app, ask, put):
    await put("b", b'"B"', headers=holder(publish=["news"]))
    await put("a", b'"A"')
    await put("c", b'"C"')
    page = (await ask("GET", limit=2)).json()
    assert [(d["key"], d["data"], d["version"], d.get("user")) for d in page["documents"]] == [
        ("a", "A", 2, None),
        ("b", "B", 1, "ann"),
    ]
    assert (page["more"], page["version"]) == (True, 3)
    assert page["id"] == f"0.{node_of(app).engine.head.epoch}.3"
    rest = await ask("GET", limit=2, after="b")
    assert [document["key"] for document in rest.json()["documents"]] == ["c"]
    assert rest.json()["more"] is False
    assert rest.headers["cache-control"] == "no-store"
    assert (await ask("GET", channel="empty")).json()["documents"] == []


async def test_a_page_of_large_documents_has_fewer(ask, put, monkeypatch):
    monkeypatch.setattr(documents_module, "PAGE_BYTES", 2_000)
    for key in "abc":
        await put(key, b'"%s"' % (b"x" * 1_000))
    page = (await ask("GET")).json()
    assert ([document["key"] for document in page["documents"]], page["more"]) == (["a"], True)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"channel": ""}, "bad_request"),
        ({"channel": "$all"}, "invalid_channel"),
        ({"channel": "news:*"}, "invalid_channel"),
        ({"key": ""}, "invalid_event"),
        ({"limit": 0}, "bad_request"),
        ({"limit": 1_001}, "bad_request"),
        ({"limit": "many"}, "bad_request"),
    ],
)
async def test_a_query_that_is_wrong_is_refused(ask, query, code):
    assert refused(await ask("GET", **query)) == (400, code)


async def test_a_document_that_is_not_there_is_not_found(ask, put):
    await put()
    assert refused(await ask("GET", "other")) == (404, "not_found")
    assert refused(await ask("GET", "k", channel="other")) == (404, "not_found")
    assert refused(await ask("DELETE", "other")) == (404, "not_found")


# Writing.


async def test_a_write_and_its_event_are_one(app, ask, put, events):
    epoch = node_of(app).engine.head.epoch
    written = await put("k", b'{"a":\n1}', tag=["x", "y"], headers=holder(publish=["news"]))
    place = {"id": f"0.{epoch}.1", "epoch": epoch, "seq": 1, "channel": "news"}
    assert written.json() == place | {"key": "k", "version": 1}
    await put("k", b"2", type="renamed")
    removed = await ask("DELETE", "k", tag="z")
    assert (removed.status_code, removed.json()["version"]) == (200, 3)
    assert "etag" not in removed.headers
    assert (await ask("GET", "k")).status_code == 404
    first, second, third = await events()
    assert (first["type"], first["data"], first["tags"]) == (
        "document_changed",
        {"a": 1},
        ["x", "y"],
    )
    assert (first["key"], first["user"], first["version"]) == ("k", "ann", 1)
    assert (second["type"], second["data"], second["version"]) == ("renamed", 2, 2)
    assert (third["type"], third["data"], third["tags"]) == ("document_removed", None, ["z"])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"channel": ""}, 400, "bad_request"),
        ({"channel": "$user:ann"}, 400, "invalid_channel"),
        ({"key": None}, 400, "bad_request"),
        ({"key": "x" * 256}, 400, "invalid_event"),
        ({"type": "a\nb"}, 400, "invalid_event"),
        ({"tag": "x" * 65}, 400, "invalid_event"),
        ({"content": b" "}, 400, "bad_request"),
        ({"content": b"{"}, 400, "invalid_json"),
        ({"content": b"1 2"}, 400, "invalid_json"),
        ({"content": b'"\xff"'}, 400, "invalid_json"),
        ({"content": b"[" * 65 + b"]" * 65}, 400, "invalid_json"),
        ({"content": b'"%s"' % (b"x" * 70_000)}, 413, "too_large"),
        ({"content": b'"%s"' % (b"x" * 1_100_000)}, 413, "too_large"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "wrong_content_type"),
        ({"headers": {"Content-Encoding": "gzip"}}, 415, "wrong_content_encoding"),
        ({"headers": {"Idempotency-Key": ""}}, 400, "invalid_event"),
        ({"headers": {"If-Match": "abc"}}, 400, "bad_request"),
        ({"headers": {"If-None-Match": "abc"}}, 400, "bad_request"),
        ({"headers": {"If-Match": '"x.-1"'}}, 412, "version_conflict"),
        ({"headers": {"If-Match": '"x.1", "x.2"'}}, 412, "version_conflict"),
        ({"headers": {"If-Match": '"x.%s"' % ("9" * 19)}}, 412, "version_conflict"),
        ({"headers": {"If-None-Match": "*", "If-Match": "*"}}, 412, "version_conflict"),
    ],
)
async def test_a_write_that_is_wrong_changes_nothing(app, put, change, status, code):
    assert refused(await put(**change)) == (status, code)
    assert node_of(app).engine.head.seq == 0


async def test_a_body_that_does_not_come_is_not_waited_for(ask, autojump_clock):
    async def slow():
        yield b"[1,"
        await trio.sleep(60)
        yield b"2]"

    reply = await ask("PUT", "k", content=slow())
    assert refused(reply) == (408, "timeout")
    assert reply.headers["retry-after"]


async def test_there_may_be_no_more_documents_than_the_setting_says(put):
    for key in "abcde":
        assert (await put(key)).status_code == 200
    assert refused(await put("f")) == (507, "too_many_documents")
    assert (await put("a", b"2")).status_code == 200


async def test_a_document_is_written_even_while_its_event_is_held_back(ask, put):
    assert "seq" in (await put(channel=DEBOUNCED)).json()
    held = await put(content=b"2", channel=DEBOUNCED)
    assert held.json() == {"pending": True, "channel": DEBOUNCED, "key": "k", "version": 2}
    read = await ask("GET", "k", channel=DEBOUNCED)
    assert (read.content, read.headers["etag"]) == (b"2", held.headers["etag"])
    assert "seq" in (await put(content=b"3", channel=DEBOUNCED, urgent=1)).json()


# Conditions.


@pytest.mark.parametrize(
    ("headers", "holds"),
    [
        ({"If-Match": "{tag}"}, True),
        ({"If-Match": "*"}, True),
        ({"If-Match": "{old}"}, False),
        ({"If-Match": '"another-store.2"'}, False),
        ({"If-Match": "W/{tag}"}, True),
        ({"If-Match": '"x,y", {old}, {tag}'}, True),
        ({"If-None-Match": "*"}, False),
        ({"If-None-Match": "{tag}"}, False),
        ({"If-None-Match": "{old}"}, True),
        ({"If-Match": "{tag}", "If-None-Match": "{old}"}, True),
        ({"If-Match": "*", "If-None-Match": "{tag}"}, False),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_document_that_is_there_is_changed_if_the_condition_holds(
    ask, put, events, headers, holds, method
):
    old, tag = [(await put(content=data)).headers["etag"] for data in (b"1", b"2")]
    headers = {name: value.format(tag=tag, old=old) for name, value in headers.items()}
    content = b"3" if method == "PUT" else None
    reply = await ask(method, "k", headers=headers, content=content)
    if holds:
        assert reply.status_code == 200
    else:
        assert refused(reply) == (412, "version_conflict")
        assert (await ask("GET", "k")).content == b"2"
    assert len(await events()) == 2 + holds


@pytest.mark.parametrize(
    ("headers", "holds"),
    [
        ({"If-None-Match": "*"}, True),
        ({"If-Match": "*"}, False),
        ({"If-Match": "{tag}"}, False),
    ],
)
async def test_a_document_that_is_gone_is_made_anew_if_the_condition_holds(
    ask, put, events, headers, holds
):
    tag = (await put()).headers["etag"]
    await ask("DELETE", "k")
    headers = {name: value.format(tag=tag) for name, value in headers.items()}
    reply = await put(content=b"2", headers=headers)
    if holds:
        assert (reply.status_code, (await ask("GET", "k")).content) == (200, b"2")
    else:
        assert reply.json()["code"] == "version_conflict"
    assert len(await events()) == 2 + holds


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 304),
        ({"If-Match": "{tag}"}, 200),
        ({"If-Match": '"x.1"'}, 412),
        ({"If-Match": '"x.1"', "If-None-Match": "{tag}"}, 412),
    ],
)
async def test_a_read_keeps_to_its_conditions(ask, put, headers, status):
    tag = (await put()).headers["etag"]
    headers = {name: value.format(tag=tag) for name, value in headers.items()}
    assert (await ask("GET", "k", headers=headers)).status_code == status


async def test_a_refused_condition_says_what_is_there(ask, put):
    await put()
    message = (await put(headers={"If-Match": '"x.7"'})).json()["message"]
    assert "version 1" in message
    assert "there is none" in (await put("z", headers={"If-Match": "*"})).json()["message"]


@pytest.fixture(params=["memory", "sqlite"])
async def engine_app(request, tmp_path, nursery):
    """The application on each engine, with its node running."""
    engine = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'events.db'}"
    made = create_app(Settings(engine=engine))
    nursery.start_soon(node_of(made).run)
    return made


@pytest.fixture
async def on_engine(engine_app):
    """Send requests to the application on each engine."""
    transport = httpx.ASGITransport(app=engine_app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def ask(method, key="k", *, content=None, **headers):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            names |= {} if content is None else {"Content-Type": "application/json"}
            query = {"channel": "news", "key": key}
            return await client.request(method, PATH, params=query, headers=names, content=content)

        yield ask


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("condition", [{}, {"If_Match": "*"}, {"If_Match": "{tag}"}])
async def test_a_repeated_write_gets_the_first_answer_whatever_has_become_of_the_document(
    on_engine, method, condition
):
    tag = (await on_engine("PUT", content=b"1")).headers["etag"]
    headers = {name: value.format(tag=tag) for name, value in condition.items()}
    content = b"2" if method == "PUT" else None
    first = await on_engine(method, content=content, Idempotency_Key="once", **headers)
    assert first.status_code == 200
    await on_engine("PUT" if method == "DELETE" else "DELETE", content=b"3")
    again = await on_engine(method, content=content, Idempotency_Key="once", **headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers.get("etag") == first.headers.get("etag")


async def test_a_key_used_with_another_condition_is_refused(on_engine):
    await on_engine("PUT", content=b"1", Idempotency_Key="once")
    again = await on_engine("PUT", content=b"1", Idempotency_Key="once", If_Match="*")
    assert refused(again) == (422, "idempotency_conflict")


async def test_a_retry_after_a_restore_gets_the_first_answer(tmp_path, engine_app, on_engine):
    first = await on_engine("PUT", content=b"1", Idempotency_Key="once")
    engine = node_of(engine_app).engine
    assert first.headers["etag"] == f'"{engine.head.epoch}.1"'
    # A restored store has another epoch, and the records of what was published before.
    engine._head = attrs.evolve(engine.head, epoch="restored")
    again = await on_engine("PUT", content=b"1", Idempotency_Key="once")
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    stale = await on_engine("PUT", content=b"2", If_Match=first.headers["etag"])
    assert refused(stale) == (412, "version_conflict")


async def gather(asks):
    replies = []

    async def one(ask):
        replies.append((await ask()).status_code)

    async with trio.open_nursery() as nursery:
        for ask in asks:
            nursery.start_soon(one, ask)
    return replies


async def test_writers_that_only_want_the_document_to_be_there_never_fail(on_engine):
    await on_engine("PUT", content=b"0")
    writers = [partial(on_engine, "PUT", content=b"%d" % n, If_Match="*") for n in range(60)]
    assert await gather(writers) == [200] * 60


async def test_one_of_many_removals_removes_the_document(engine_app, on_engine):
    for _ in range(5):
        await on_engine("PUT", content=b"1")
        before = node_of(engine_app).engine.head.seq
        replies = await gather([partial(on_engine, "DELETE")] * 8)
        assert sorted(replies) == [200] + [404] * 7
        assert node_of(engine_app).engine.head.seq == before + 1


async def test_one_of_many_creations_makes_the_document(on_engine):
    writers = [partial(on_engine, "PUT", content=b"1", If_None_Match="*")] * 8
    assert sorted(await gather(writers)) == [200] + [412] * 7


async def test_a_write_that_is_sent_again_is_answered_as_the_first(put, events):
    headers = {"Idempotency-Key": "once", "If-None-Match": "*"}
    first = await put(headers=headers)
    again = await put(headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["etag"] == first.headers["etag"]
    assert refused(await put(content=b"2", headers=headers)) == (422, "idempotency_conflict")
    assert len(await events()) == 1


# Rights.


async def test_reading_is_for_those_who_may_listen(ask, put):
    await put()
    for key in ("k", "other", None):
        reader = await ask("GET", key, headers=holder(subscribe=["news"]))
        assert reader.status_code == (404 if key == "other" else 200)
        writer = await ask("GET", key, headers=holder(publish=["news"]))
        assert refused(writer) == (403, "forbidden")


async def test_writing_is_for_those_who_may_publish(app, ask, put):
    await put()
    reader, writer = holder(subscribe=["news"]), holder(publish=["news"])
    for key in ("k", "other"):  # Whoever may not write is not told what is there.
        assert refused(await ask("DELETE", key, headers=reader)) == (403, "forbidden")
        assert refused(await put(key, headers=reader)) == (403, "forbidden")
    assert node_of(app).engine.head.seq == 1
    assert (await put(content=b"2", headers=writer)).status_code == 200
    assert (await ask("DELETE", "k", headers=writer)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_token_that_is_not_valid_opens_nothing(ask, method):
    headers = {"Authorization": "Bearer nonsense"}
    assert refused(await ask(method, "k", headers=headers)) == (401, "unauthorized")
