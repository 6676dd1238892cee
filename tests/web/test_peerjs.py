"""What PeerJS's client asks for: an id, everybody's ids, and a WebSocket under an id that is its
own."""

import pytest

from triocast.web.peerjs import PATH

from .serving import KEY, bearer, serve, token

OPEN = {"type": "OPEN"}
PEER = {"rooms": ["peerjs"]}
CLAIMING = {"rooms": [{"room": "peerjs", "claim": True}]}


@pytest.fixture
def server(nursery):
    return serve(nursery)


@pytest.fixture
def secured(nursery):
    return serve(nursery, token_key=KEY, peerjs_discovery=True)


async def connect(server, id="ann", *, key="peerjs", secret="s", **options):
    return await server.connect(f"{PATH}?key={key}&id={id}&token={secret}&version=1.5", **options)


async def told(client):
    """What a client is told at its arrival: that it is let in, or why it is not."""
    (message,) = await client.take()
    return message if message == OPEN else (message["type"], message["payload"]["msg"])


def outcome(reply):
    return reply.status_code, reply.json()["code"]


# Ids.


async def test_an_id_is_given_once_as_plain_text(server):
    reply, other = [await server.http.get("/peerjs/id?ts=17&version=1.5") for _ in range(2)]
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text != other.text
    assert await told(await connect(server, reply.text)) == OPEN


@pytest.mark.parametrize("key", ["realtime", "a b", "a.b", "x" * 65, "a.b.c.d", "ä"])
@pytest.mark.parametrize("what", ["id", "peers"])
async def test_a_malformed_key_is_not_found(server, key, what):
    assert outcome(await server.http.get(f"/{key}/{what}")) == (404, "not_found")


async def test_a_token_has_to_cover_the_room_of_peerjs(secured):
    for what in ("id", "peers"):
        assert (await secured.http.get(f"/{token('ann', **PEER)}/{what}")).status_code == 200
        reply = await secured.http.get(f"/{token('ann', rooms=['stage'])}/{what}")
        assert outcome(reply) == (403, "forbidden")
        assert outcome(await secured.http.get(f"/peerjs/{what}")) == (401, "unauthorized")
        # The key is the grant: what comes in headers is somebody else's.
        reply = await secured.http.get(f"/peerjs/{what}", headers=bearer("ann", **PEER))
        assert outcome(reply) == (401, "unauthorized")


async def test_all_ids_are_listed_where_that_is_allowed(nursery, server):
    assert outcome(await server.http.get("/peerjs/peers")) == (401, "unauthorized")
    listing = serve(nursery, peerjs_discovery=True)
    assert (await listing.http.get("/peerjs/peers")).json() == []
    for id in ("bob", "ann"):
        await connect(listing, id)
    reply = await listing.http.get("/any-word/peers")
    assert (reply.json(), reply.headers["cache-control"]) == (["bob", "ann"], "no-store")


# Clients.


async def test_the_connection_belongs_to_the_caller(secured):
    await connect(secured, key=token("ann", **CLAIMING), address="192.0.2.1")
    (connection,) = secured.node.connections.live
    assert (connection.user, connection.address) == ("ann", "192.0.2.1")


async def test_an_id_belongs_to_the_client_with_its_secret(server):
    first = await connect(server)
    assert await told(first) == OPEN
    stranger = await connect(server, secret="other")
    assert await told(stranger) == ("ID-TAKEN", "ID is taken")
    again = await connect(server)
    assert await told(again) == OPEN
    await first.settle()
    assert first.close_code == 4501
    assert server.node.peerjs.peers.ids == ["ann"]


async def test_a_secret_may_be_as_long_as_a_token(server):
    secret = "s" * 8_191
    first = await connect(server, "ann", secret=secret + "1")
    assert await told(first) == OPEN
    assert (await told(await connect(server, "ann", secret=secret + "2")))[0] == "ID-TAKEN"
    assert await told(await connect(server, "ann", secret=secret + "1")) == OPEN
    await first.settle()
    assert first.close_code == 4501


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "No id, token, or key supplied to websocket server"),
        ("id=a&token=s", "No id, token, or key supplied to websocket server"),
        ("key=k&token=s", "No id, token, or key supplied to websocket server"),
        ("key=k&id=a&token=", "No id, token, or key supplied to websocket server"),
        ("key=realtime&id=a&token=s", "Invalid key provided"),
        ("key=a%20b&id=a&token=s", "Invalid key provided"),
        ("key=k&id=-a&token=s", "Invalid id or token provided"),
        (f"key=k&id={'a' * 129}&token=s", "Invalid id or token provided"),
        (f"key=k&id=a&token={'s' * 8_193}", "Invalid id or token provided"),
    ],
)
async def test_a_refused_client_is_let_in_to_be_told_why(server, query, why):
    client = await server.connect(f"{PATH}?{query}")
    assert client.accepted  # Browsers do not show why a handshake was refused.
    assert await told(client) == ("ERROR", why)
    await client.ask(type="HEARTBEAT")
    assert client.close_code == 1008
    assert server.node.peerjs.peers.ids == []


async def test_a_token_without_a_claim_takes_ids_that_its_user_was_given(secured):
    ann, bob = token("ann", **PEER), token("bob", **PEER)
    given = (await secured.http.get(f"/{ann}/id")).text
    refused = ("ERROR", "This key does not allow ids of one's own choice")
    assert await told(await connect(secured, "ann", key=ann)) == refused
    assert await told(await connect(secured, given, key=bob)) == refused
    assert await told(await connect(secured, given[:-1], key=ann)) == refused
    assert await told(await connect(secured, given, key=ann)) == OPEN
    assert await told(await connect(secured, "ann", key=token("ann", **CLAIMING))) == OPEN


@pytest.mark.parametrize(
    "key",
    ["peerjs", token("ann", rooms=["stage"]), token("ann", **PEER)[:-2]],
    ids=["no token", "for another room", "badly signed"],
)
async def test_a_key_that_is_no_good_token_is_called_invalid(secured, key):
    assert await told(await connect(secured, key=key)) == ("ERROR", "Invalid key provided")


async def test_a_client_from_elsewhere_is_not_told_that_its_key_is_wrong(server):
    kind, why = await told(await connect(server, address="192.0.2.1"))
    assert kind == "ERROR"
    assert "from this machine only" in why


async def test_the_field_token_is_the_clients_secret_and_no_token_of_ours(nursery):
    server = serve(nursery, token_key=KEY, token_in_query=True, insecure_anonymous=True)
    assert await told(await connect(server, secret="s1")) == OPEN


@pytest.mark.parametrize("scheme", ["Basic YTpi", "Negotiate YII=", "Digest username=a"])
async def test_a_proxys_credentials_do_not_matter(server, secured, scheme):
    headers = {"Authorization": scheme}
    assert await told(await connect(server, headers=headers)) == OPEN
    key = token("ann", **CLAIMING)
    assert await told(await connect(secured, key=key, headers=headers)) == OPEN
    assert (await server.http.get("/peerjs/id", headers=headers)).status_code == 200


async def test_a_full_server_lets_nobody_in(nursery):
    server = serve(nursery, max_connections=1)
    await connect(server)
    refused = await connect(server, "bob")
    assert (refused.status, refused.refusal["code"]) == (503, "too_many_connections")


async def test_every_address_begins_with_the_path_of_the_setting(nursery):
    server = serve(nursery, peerjs_path="/rtc/")
    assert (await server.http.get("/rtc/peerjs/id")).status_code == 200
    assert (await server.http.get("/peerjs/id")).status_code == 404
    client = await server.connect(f"/rtc{PATH}?key=peerjs&id=ann&token=s")
    assert await told(client) == OPEN


async def test_peerjs_can_be_switched_off(nursery):
    server = serve(nursery, peerjs_enabled=False, peerjs_discovery=True)
    refused = await connect(server)
    assert (refused.status, refused.refusal["code"]) == (404, "disabled")
    for what in ("id", "peers"):
        assert outcome(await server.http.get(f"/peerjs/{what}")) == (404, "disabled")
