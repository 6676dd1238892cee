"""``GET /realtime/poll``: one answer per request, and none to a client that has it already."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.web.poll import PATH, USUAL_WAIT_SECONDS

from .serving import KEY, bearer, serve


@pytest.fixture
def server(nursery):
    return serve(nursery)


@pytest.fixture
def poll(server):
    async def poll(headers=None, **query):
        return await server.http.get(PATH, params={"channel": "a", **query}, headers=headers)

    return poll


@pytest.fixture
def publish(server):
    async def publish(data, **fields):
        event = {"channel": "a", "data": data, **fields}
        return (await server.http.post("/realtime/broadcast", json=event)).json()["id"]

    return publish


def told(reply):
    """The data of an answer's events, and the cursor."""
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "private, no-cache"
    answer = reply.json()
    assert reply.headers["etag"] == f'"{answer["cursor"]}"'
    return [event["data"] for event in answer["events"]], answer["cursor"]


async def test_a_newcomer_is_told_at_once_where_it_stands(autojump_clock, poll, publish):
    at = await publish(1)
    began = trio.current_time()
    assert told(await poll()) == ([], at)
    assert trio.current_time() == began


async def test_what_was_missed_is_answered_at_once(poll, publish):
    before, after = await publish(1), await publish(2)
    assert told(await poll(cursor=before)) == ([2], after)


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId", "cursor"])
async def test_the_cursor_may_have_any_of_its_names(poll, publish, name):
    before, after = await publish(1), await publish(2)
    assert told(await poll(**{name: before})) == ([2], after)
    assert told(await poll({"Last-Event-ID": before}, **{name: after})) == ([2], after)


async def test_a_client_that_missed_nothing_waits_for_what_is_new(nursery, poll, publish):
    at = await publish(1)
    replies = []

    async def ask():
        replies.append(await poll(cursor=at))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert replies == []
    new = await publish(2)
    await wait_all_tasks_blocked()
    assert told(replies[0]) == ([2], new)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [({}, USUAL_WAIT_SECONDS), ({"wait": "0"}, 0), ({"wait": "1.5"}, 1.5), ({"wait": "60"}, 60)],
)
async def test_the_wait_ends_without_an_event(autojump_clock, poll, publish, query, seconds):
    at = await publish(1)
    began = trio.current_time()
    assert told(await poll(cursor=at, **query)) == ([], at)
    assert trio.current_time() - began == pytest.approx(seconds)


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x,y", W/"{}"', '"{}", "0.other.9"'])
async def test_the_tag_says_where_the_client_stands_and_saves_an_empty_answer(
    autojump_clock, poll, publish, form
):
    at = await publish(1)
    headers = {"If-None-Match": form.format(at)}
    reply = await poll(headers, wait=1)
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["etag"] == f'"{at}"'
    assert "content-type" not in reply.headers
    new = await publish(2)
    assert told(await poll(headers, wait=1)) == ([2], new)


async def test_the_cursor_moves_past_what_is_for_others_and_is_answered_then(
    autojump_clock, poll, publish
):
    at = await publish(1)
    new = await publish(2, channel="other")
    assert told(await poll({"If-None-Match": f'"{at}"'}, wait=1)) == ([], new)


async def test_a_cursor_outweighs_the_tag(poll, publish):
    before, after = await publish(1), await publish(2)
    assert told(await poll({"If-None-Match": f'"{after}"'}, cursor=before)) == ([2], after)


async def test_of_several_tags_the_furthest_of_this_store_counts(autojump_clock, poll, publish):
    first, second = await publish(1), await publish(2)
    tags = f'"{first}", "0.other.99", "{second}"'
    new = await publish(3)
    assert told(await poll({"If-None-Match": tags})) == ([3], new)


async def test_any_tag_tells_a_client_where_it_stands_at_once(autojump_clock, poll, publish):
    at = await publish(1)
    began = trio.current_time()
    reply = await poll({"If-None-Match": "*"})
    assert (reply.status_code, reply.headers["etag"]) == (304, f'"{at}"')
    assert trio.current_time() == began


@pytest.mark.parametrize("tag", ["a", '"a', "*, *", '"a" "b"', ""])
async def test_a_tag_that_cannot_be_read_is_refused(poll, tag):
    reply = await poll({"If-None-Match": tag})
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("tag", ['"0.other.1"', '"somebody-elses"', '""', '"0.other.1", "x"'])
async def test_a_tag_that_is_not_of_this_store_is_answered_with_the_gap(poll, publish, tag):
    at = await publish(1)
    reply = await poll({"If-None-Match": tag})
    answer = reply.json()
    assert ([event["type"] for event in answer["events"]], answer["cursor"]) == (["gap"], at)


async def test_the_state_and_a_filter_can_be_asked_for(poll, publish):
    for data in (1, 2, 3):
        await publish(data, key="k", type="A" if data < 3 else "B")
    assert told(await poll(since="latest"))[0] == [3]
    assert told(await poll(last=2))[0] == [2, 3]
    assert told(await poll(last=3, type="A"))[0] == [1, 2]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"wait": "-1"}, "bad_request"),
        ({"wait": "60.1"}, "bad_request"),
        ({"wait": "nan"}, "bad_request"),
        ({"wait": "inf"}, "bad_request"),
        ({"wait": ""}, "bad_request"),
        ({"wait": "soon"}, "bad_request"),
        ({"cursor": "yesterday"}, "invalid_cursor"),
        ({"channel": "a b"}, "invalid_channel"),
        ({"tag": ""}, "invalid_event"),
    ],
)
async def test_a_bad_query_is_refused(server, poll, query, code):
    reply = await poll(**query)
    assert (reply.status_code, reply.json()["code"]) == (400, code)
    assert server.node.hub.subscribers() == ()


async def test_a_token_is_needed_and_has_to_cover_the_channel(nursery):
    server = serve(nursery, token_key=KEY)
    assert (await server.http.get(PATH)).status_code == 401
    reply = await server.http.get(PATH, params={"channel": "b"}, headers=bearer(subscribe=["a"]))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


async def test_polls_count_as_connections(nursery):
    server = serve(nursery, max_connections=1)
    at = (await server.http.get(PATH)).json()["cursor"]
    nursery.start_soon(lambda: server.http.get(PATH, params={"cursor": at}))
    await wait_all_tasks_blocked()
    reply = await server.http.get(PATH)
    assert (reply.status_code, reply.json()["code"]) == (503, "too_many_connections")
    assert int(reply.headers["retry-after"]) > 0
    assert reply.headers["connection"] == "close"
    assert server.node.connections.refused == {"too_many_connections": 1}


async def test_a_draining_server_answers_waiting_clients_and_refuses_new_ones(
    autojump_clock, server, nursery, poll, publish
):
    at = await publish(1)
    replies = []

    async def ask():
        replies.append(await poll(cursor=at))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await server.node.drain(1)
    await wait_all_tasks_blocked()
    assert told(replies[0]) == ([], at)
    assert trio.current_time() - began < USUAL_WAIT_SECONDS
    assert (await poll(cursor=at)).json()["code"] == "shutting_down"
