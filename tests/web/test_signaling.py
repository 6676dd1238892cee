"""``WS /realtime/webrtc/signaling`` lets peers in; ``/realtime/webrtc/rooms`` moderates them."""

import pytest
import trio

from triocast.errors import Disabled
from triocast.transports.strangers import STRANGER_SECONDS
from triocast.web import signaling
from triocast.web.signaling import LONGEST_BAN, PATH, ROOMS_PATH, open_signaling

from .serving import KEY, bearer, make_call, serve, token

ROOM = {"rooms": ["stage"]}


@pytest.fixture
def server(nursery):
    return serve(nursery, max_json_depth=3)


@pytest.fixture
def join(server):
    async def join(room="stage", **options):
        """Return a client, and the answer to its join."""
        client = await server.connect(PATH, **options)
        return client, (await client.ask(type="join", room=room))[0]

    return join


@pytest.fixture
def moderate(server):
    async def moderate(**order):
        return await server.http.post(ROOMS_PATH, json={"room": "stage", **order})

    return moderate


@pytest.fixture
def view(server):
    async def view(room="stage"):
        return (await server.http.get(ROOMS_PATH, params={"room": room})).json()["peers"]

    return view


def outcome(reply):
    return reply.status_code, reply.json()["code"]


# Peers.


async def test_peers_join_and_are_told_of_each_other(join):
    ann, joined = await join(subprotocol="triocast.webrtc.v1")
    assert ann.subprotocol == "triocast.webrtc.v1"
    assert joined["peers"] == []
    bob, other = await join()
    assert bob.subprotocol is None
    assert [peer["peer"] for peer in other["peers"]] == [joined["peer"]]
    (told,) = await ann.take()
    assert (told["type"], told["peer"]) == ("peer-joined", other["peer"])


async def test_the_token_may_come_with_the_handshake_or_with_the_join(nursery):
    server = serve(nursery, token_key=KEY)
    early = await server.connect(PATH, headers=bearer("ann", rooms=[{"room": "stage"}]))
    (joined,) = await early.ask(type="join", room="stage")
    assert joined["type"] == "joined"
    late = await server.connect(PATH)
    (refused,) = await late.ask(type="join", room="stage")
    assert (refused["type"], refused["code"]) == ("error", "unauthorized")
    (refused,) = await late.ask(type="join", room="stage", token="forged")
    assert refused["code"] == "unauthorized"
    (joined,) = await late.ask(type="join", room="stage", token=token("bob", **ROOM))
    assert joined["type"] == "joined"


@pytest.mark.parametrize("scheme", ["Basic YTpi", "Negotiate YII=", "Digest username=a"])
async def test_a_proxys_credentials_are_no_token(nursery, scheme):
    server = serve(nursery, token_key=KEY)
    client = await server.connect(PATH, headers={"Authorization": scheme})
    (joined,) = await client.ask(type="join", room="stage", token=token("bob", **ROOM))
    assert joined["type"] == "joined"


async def test_without_a_key_no_token_is_looked_at(nursery):
    server = serve(nursery)
    for id, headers in enumerate(({}, {"Authorization": "Bearer x"})):
        client = await server.connect(f"{PATH}?token=x", headers=headers)
        (joined,) = await client.ask(type="join", room=f"r{id}", token="any")
        assert joined["type"] == "joined"


@pytest.mark.parametrize("query", ["", "?token=forged"])
async def test_a_bad_token_in_the_handshake_is_refused_at_once(nursery, query):
    server = serve(nursery, token_key=KEY, token_in_query=True)
    headers = {} if query else {"Authorization": "Bearer forged"}
    client = await server.connect(PATH + query, headers=headers)
    assert not client.accepted
    assert (client.status, client.refusal["code"]) == (401, "unauthorized")


async def test_a_token_covers_the_rooms_that_it_names(nursery):
    server = serve(nursery, token_key=KEY)
    client = await server.connect(PATH, headers=bearer("ann", rooms=["team:*"]))
    (refused,) = await client.ask(type="join", room="stage")
    assert refused["code"] == "forbidden"
    (joined,) = await client.ask(type="join", room="team:a")
    assert joined["type"] == "joined"


async def test_clients_without_a_token_do_not_take_all_places(nursery, autojump_clock):
    server = serve(nursery, token_key=KEY, max_connections=10)
    assert (await server.connect(PATH)).accepted
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (503, "too_many_connections")
    assert (await server.connect(PATH, headers=bearer("ann", **ROOM))).accepted
    await trio.sleep(STRANGER_SECONDS)
    assert (await server.connect(PATH)).accepted  # in the place of the first
    assert server.node.connections.ended == {"peer_lost": 1}


async def test_a_full_server_lets_nobody_in(nursery):
    server = serve(nursery, max_connections=1)
    assert (await server.connect(PATH)).accepted
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (503, "too_many_connections")


async def test_nobody_gives_way_to_one_who_is_refused(nursery, autojump_clock):
    server = serve(nursery, token_key=KEY, max_connections=2)
    stranger = await server.connect(PATH)
    assert stranger.accepted
    assert (await server.connect(PATH, headers=bearer("ann", **ROOM))).accepted
    await trio.sleep(STRANGER_SECONDS)
    for address in ("127.0.0.1", "192.0.2.1"):
        refused = await server.connect(PATH, address=address)
        assert (refused.status, refused.refusal["code"]) == (503, "too_many_connections")
    (joined,) = await stranger.ask(type="join", room="stage", token=token("bob", **ROOM))
    assert joined["type"] == "joined"
    assert server.node.connections.ended == {}


async def test_signaling_can_be_switched_off(nursery):
    server = serve(nursery, signaling_enabled=False)
    with pytest.raises(Disabled):
        open_signaling(server.node, make_call(PATH))
    refused = await server.connect(PATH)
    assert (refused.status, refused.refusal["code"]) == (404, "disabled")
    assert outcome(await server.http.get(ROOMS_PATH)) == (404, "disabled")
    assert outcome(await server.http.post(ROOMS_PATH, json={})) == (404, "disabled")


# Rooms.


async def test_rooms_are_listed(server, join, monkeypatch):
    assert (await server.http.get(ROOMS_PATH)).json() == {"rooms": [], "count": 0, "peers": 0}
    for room in ("stage", "stage", "team:a"):
        await join(room)
    found = (await server.http.get(ROOMS_PATH)).json()
    assert found == {"rooms": ["stage", "team:a"], "count": 2, "peers": 3}
    monkeypatch.setattr(signaling, "MOST_ROOMS", 1)
    found = (await server.http.get(ROOMS_PATH)).json()
    assert found == {"rooms": ["stage"], "count": 2, "peers": 3}


async def test_the_peers_of_a_room_are_shown(server, join):
    _, joined = await join(address="::1")
    reply = await server.http.get(ROOMS_PATH, params={"room": "stage"})
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json() == {
        "room": "stage",
        "peers": [
            {
                "id": joined["peer"],
                "role": "peer",
                "subject": "address:::1",
                "is_connected": True,
                "queued_messages": 0,
                "queued_bytes": 0,
            }
        ],
    }


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ("nowhere", (404, "room-not-found")),
        ("a b", (400, "bad_request")),
        ("", (400, "bad_request")),
    ],
)
async def test_an_unknown_or_malformed_room_is_not_shown(server, room, expected):
    assert outcome(await server.http.get(ROOMS_PATH, params={"room": room})) == expected


async def test_rooms_are_for_administrators(nursery):
    server = serve(nursery, token_key=KEY)
    order = {"action": "ban", "room": "stage", "user": "ann", "seconds": 60}
    for headers, expected in (
        ({}, (401, "unauthorized")),
        (bearer("ann", **ROOM), (403, "forbidden")),
    ):
        assert outcome(await server.http.get(ROOMS_PATH, headers=headers)) == expected
        reply = await server.http.post(ROOMS_PATH, json=order, headers=headers)
        assert outcome(reply) == expected
    assert server.node.signaling.rooms.is_empty
    admin = bearer("root", admin=True)
    assert (await server.http.post(ROOMS_PATH, json=order, headers=admin)).json() == {"done": True}
    assert not server.node.signaling.rooms.is_empty


# Moderation.


async def test_a_page_that_is_left_takes_its_peer_along(join):
    ann, _ = await join()
    bob, joined = await join()
    await ann.take()
    await bob.tell({"type": "websocket.disconnect", "code": 1001})
    (left,) = await ann.take()
    assert (left["type"], left["peer"], left["reason"]) == ("peer-left", joined["peer"], "left")


async def test_a_kicked_peer_may_come_back(join, moderate, view):
    ann, joined = await join()
    bob, _ = await join()
    assert (await moderate(action="kick", peer=joined["peer"])).json() == {"done": True}
    assert (await ann.take())[-1]["code"] == "kicked"
    assert ann.close_code == 4502
    assert (await bob.take())[-1]["type"] == "peer-left"
    assert len(await view()) == 1
    assert (await join())[1]["type"] == "joined"


async def test_a_kick_with_a_ban_keeps_the_user_out_for_a_while(autojump_clock, join, moderate):
    _, joined = await join()
    await moderate(action="kick", peer=joined["peer"], ban_seconds=60)
    assert (await join())[1]["code"] == "forbidden"
    await trio.sleep(61)
    assert (await join())[1]["type"] == "joined"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize(
    ("address", "is_banned"), [("127.0.0.1", False), ("10.0.0.7", False), ("8.8.8.8", True)]
)
async def test_nobody_is_banned_by_the_address_of_a_proxy(nursery, address, is_banned, header):
    server = serve(nursery, insecure_anonymous=True)

    async def join(hop):
        client = await server.connect(PATH, headers={header: hop}, address=address)
        return (await client.ask(type="join", room="stage"))[0]

    joined = await join("203.0.113.1")
    order = {"action": "kick", "room": "stage", "peer": joined["peer"], "ban_seconds": 60}
    reply = await server.http.post(ROOMS_PATH, json=order)
    assert reply.json() == {"done": True, "banned": is_banned}
    assert (await join("203.0.113.2")).get("code") == ("forbidden" if is_banned else None)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_an_address_can_be_banned_and_let_in_again(join, moderate, address):
    ann, _ = await join()
    await moderate(action="ban", address=address, seconds=LONGEST_BAN)
    await ann.settle()
    assert ann.close_code == 4502
    assert (await join())[1]["code"] == "forbidden"
    await moderate(action="unban", address=address)
    assert (await join())[1]["type"] == "joined"


async def test_a_user_can_be_banned_and_let_in_again(nursery):
    server = serve(nursery, token_key=KEY)

    async def order(**order):
        headers = bearer("root", admin=True)
        return await server.http.post(ROOMS_PATH, json={"room": "stage", **order}, headers=headers)

    async def join(user):
        client = await server.connect(PATH, headers=bearer(user, **ROOM))
        (answer,) = await client.ask(type="join", room="stage")
        return answer.get("code", answer["type"])

    await order(action="ban", user="ann", seconds=60)
    assert [await join(user) for user in ("ann", "bob")] == ["forbidden", "joined"]
    await order(action="unban", user="ann")
    assert await join("ann") == "joined"


async def test_an_encoded_order_is_refused(server, join):
    await join()
    order = {"action": "close", "room": "stage"}
    headers = {"Content-Encoding": "gzip"}
    reply = await server.http.post(ROOMS_PATH, json=order, headers=headers)
    assert outcome(reply) == (415, "wrong_content_encoding")
    assert reply.headers["accept-encoding"] == "identity"
    assert (await join())[1]["peers"]


async def test_a_locked_room_lets_nobody_new_in(join, moderate):
    await join()
    await moderate(action="lock")
    assert (await join())[1]["code"] == "room-locked"
    await moderate(action="unlock")
    assert (await join())[1]["type"] == "joined"


async def test_a_closed_room_ends_for_everybody(join, moderate):
    clients = [(await join())[0] for _ in range(2)]
    await moderate(action="close")
    for client in clients:
        await client.settle()
    assert [client.close_code for client in clients] == [4503, 4503]
    assert outcome(await moderate(action="close")) == (404, "room-not-found")


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"action": "dance"}, "invalid_event"),
        ({}, "invalid_event"),
        ({"action": "lock", "why": "noise"}, "invalid_event"),
        ({"action": "lock", "room": 1}, "invalid_event"),
        ({"action": "lock", "room": "a b"}, "bad_request"),
        ({"action": "kick"}, "invalid_event"),
        ({"action": "kick", "peer": "x", "ban_seconds": -1}, "bad_request"),
        ({"action": "kick", "peer": "x", "ban_seconds": LONGEST_BAN + 1}, "bad_request"),
        ({"action": "ban", "user": "x"}, "invalid_event"),
        ({"action": "ban", "seconds": 1}, "bad_request"),
        ({"action": "ban", "user": "x", "seconds": -0.1}, "bad_request"),
        ({"action": "ban", "user": "x" * 201, "seconds": 1}, "invalid_event"),
        ({"action": "ban", "user": "", "seconds": 1}, "invalid_event"),
        ({"action": "ban", "address": "ann", "seconds": 1}, "bad_request"),
        ({"action": "ban", "address": "10.0.0.0/8", "seconds": 1}, "bad_request"),
        ({"action": "unban"}, "bad_request"),
        ({"action": "unban", "user": "x", "address": "127.0.0.1"}, "bad_request"),
        ({"action": "lock", "room": [[[[]]]]}, "invalid_json"),
    ],
)
async def test_a_bad_order_is_refused_and_changes_nothing(server, join, moderate, order, code):
    await join()
    assert outcome(await moderate(**order)) == (400, code)
    assert server.node.signaling.rooms.peer_count == 1
    assert (await join())[1]["type"] == "joined"


@pytest.mark.parametrize("action", ["kick", "lock", "unlock", "close"])
async def test_an_order_for_an_unknown_room_or_peer_is_refused(join, moderate, action):
    more = {"peer": "nobody"} if action == "kick" else {}
    assert outcome(await moderate(action=action, **more)) == (404, "room-not-found")
    await join()
    assert outcome(await moderate(action="kick", peer="nobody")) == (404, "peer-not-found")


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"{}", "text/plain", (415, "wrong_content_type")),
        (b"", "application/json", (400, "bad_request")),
        (b"{", "application/json", (400, "invalid_json")),
    ],
)
async def test_an_order_is_json(server, content, kind, expected):
    reply = await server.http.post(ROOMS_PATH, content=content, headers={"Content-Type": kind})
    assert outcome(reply) == expected
