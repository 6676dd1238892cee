"""``GET /realtime/presence``: the members of a channel, to those who may know them."""

import pytest

from triocast.settings import Namespace, Namespaces
from triocast.web.presence import PATH

from .serving import KEY, bearer, serve

CHANNEL = "room:lobby"


@pytest.fixture
def server(nursery):
    return serve(nursery, token_key=KEY, namespaces=Namespaces({"room": Namespace(presence=True)}))


@pytest.fixture
def come(server):
    async def come(user):
        headers = bearer(user, subscribe=["*"])
        return await server.connect(f"/realtime/ws?channel={CHANNEL}", headers=headers)

    return come


@pytest.fixture
def ask(server):
    async def ask(grant=("*",), **query):
        headers = bearer("looker", subscribe=list(grant))
        return await server.http.get(PATH, params=query, headers=headers)

    return ask


async def test_an_empty_channel_has_no_members(server, ask):
    reply = await ask(channel=CHANNEL)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json() == {
        "channel": CHANNEL,
        "members": [],
        "count": 0,
        "connections": 0,
        "more": False,
        "version": 0,
        "id": f"0.{server.node.engine.head.epoch}.0",
    }


async def test_a_user_is_one_member_however_many_connections_it_has(come, ask):
    for user in ("ann", "bob", "ann", None):
        await come(user)
    answer = (await ask(channel=CHANNEL)).json()
    anonymous, ann, bob = answer["members"]
    assert (anonymous["user"], ann["user"], bob["user"]) == (None, "ann", "bob")
    assert (ann["key"], bob["key"]) == ("user:ann", "user:bob")
    assert anonymous["key"].startswith("anonymous:")
    assert (answer["count"], answer["connections"], answer["more"]) == (3, 4, False)
    assert answer["version"] == max(member["version"] for member in answer["members"])


async def test_members_come_in_pages(come, ask):
    for user in ("ann", "bob", "carl"):
        await come(user)
    first = (await ask(channel=CHANNEL, limit=2)).json()
    assert ([m["user"] for m in first["members"]], first["more"]) == (["ann", "bob"], True)
    rest = (await ask(channel=CHANNEL, limit=2, after=first["members"][-1]["key"])).json()
    assert ([m["user"] for m in rest["members"]], rest["more"]) == (["carl"], False)
    assert first["count"] == rest["count"] == 3


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "bad_request"),
        ({"channel": ""}, 400, "bad_request"),
        ({"channel": "room:*"}, 400, "invalid_channel"),
        ({"channel": "$all"}, 400, "invalid_channel"),
        ({"channel": CHANNEL, "limit": "0"}, 400, "bad_request"),
        ({"channel": CHANNEL, "limit": "1001"}, 400, "bad_request"),
        ({"channel": "lobby"}, 404, "disabled"),
        ({"channel": "other:lobby"}, 404, "disabled"),
    ],
)
async def test_a_bad_question_is_refused(ask, query, status, code):
    reply = await ask(**query)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


async def test_who_may_listen_to_a_channel_may_know_who_is_there(server, ask):
    assert (await ask([CHANNEL], channel=CHANNEL)).status_code == 200
    reply = await ask(["room:other"], channel=CHANNEL)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert CHANNEL in reply.json()["message"]
    assert (await server.http.get(PATH, params={"channel": CHANNEL})).status_code == 401
