"""Signaling's connections: how fast they are read, and what becomes of mistakes."""

import json
import logging

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import Grant, RoomRight
from triocast.errors import EndReason, TooManyConnections, Unauthorized
from triocast.signaling.ice import IceServers
from triocast.signaling.limits import Limits
from triocast.signaling.rooms import Rooms
from triocast.transports.links import StreamLink
from triocast.transports.signaling import Signaling, SignalingConnection
from triocast.transports.strangers import STRANGER_SECONDS

from .conftest import HEARTBEAT, WebSocketClient

RATE = 10.0
ALLOWED = Grant(user="ann", rooms=(RoomRight("*", claim=True, data=True),))


class Faulty:
    """ICE servers that fail in a way nobody thought of, when told to."""

    def __init__(self):
        self.fails = False

    def __call__(self, peer, seconds):
        if self.fails:
            raise ZeroDivisionError("turn-secret")
        return IceServers()


@pytest.fixture
def faulty():
    return Faulty()


@pytest.fixture
def signaling(nursery, faulty):
    limits = Limits(rate=RATE, heartbeat_seconds=HEARTBEAT, relay_data=True)
    signaling = Signaling(Rooms(limits, faulty))
    nursery.start_soon(signaling.run)
    return signaling


def grant_of(token):
    if token != "good":
        raise Unauthorized("the token is not valid")
    return ALLOWED


@attrs.define
class Peer(WebSocketClient):
    joined: dict = attrs.field(factory=dict)


@pytest.fixture
def open_peer(parts, nursery, signaling):
    names = iter(range(1_000))

    async def open_peer(room=None, *, grant=ALLOWED, metadata=None, address="192.0.2.1"):
        connection = SignalingConnection(
            parts.connections,
            signaling,
            id=f"c{next(names)}",
            grant=grant,
            grant_of=grant_of,
            address=address,
        )
        connection.use_frames(b"")
        stream, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        client = Peer(connection, stream, Protocol(Side.CLIENT, state=OPEN))
        nursery.start_soon(client.read)
        await wait_all_tasks_blocked()
        if room is not None:
            join = {"type": "join", "room": room, "capabilities": ["data-relay"]}
            join["metadata"] = metadata
            client.joined = (await client.ask(join))[0]
            assert client.joined["type"] == "joined"
        return client

    return open_peer


async def send_all(client, messages):
    """Send messages in one go, as a flood comes."""
    for message in messages:
        client.protocol.send_text(json.dumps(message).encode())
    await client.flush()


def count(client, kind="ice-servers"):
    return sum(message["type"] == kind for message in client.texts)


async def test_a_peer_is_read_no_faster_than_it_is_told(autojump_clock, open_peer):
    peer = await open_peer("r")
    assert peer.joined["limits"]["rate"] == RATE
    await send_all(peer, [{"type": "get-ice-servers"}] * 100)
    burst = count(peer)
    assert 15 <= burst <= 21
    await trio.sleep(5)
    assert burst + 49 <= count(peer) <= burst + 51
    await trio.sleep(5)
    assert count(peer) == 100


@pytest.mark.parametrize(
    ("code", "told"), [(1001, ["peer-left"]), (1000, []), (None, []), (4000, [])]
)
async def test_a_page_that_is_left_takes_its_peer_along(open_peer, code, told):
    ann, bob = await open_peer("r"), await open_peer("r", address="192.0.2.2")
    ann.take()
    bob.protocol.send_close(code)
    await bob.flush()
    assert [message["type"] for message in ann.take()] == told
    carl = await open_peer("r", address="192.0.2.3")
    others = [peer["peer"] for peer in carl.joined["peers"]]
    assert (bob.joined["peer"] in others) is (not told)


async def test_what_cannot_be_read_counts_as_well(autojump_clock, open_peer):
    peer = await open_peer()
    await send_all(peer, [{"type": "dance"}] * 100)
    assert 15 <= count(peer, "error") <= 21


async def test_who_is_made_to_wait_is_not_taken_for_lost(autojump_clock, open_peer):
    peer = await open_peer("r")
    peer.pongs = False
    await send_all(peer, [{"type": "pong"}] * 600)
    await trio.sleep(4 * HEARTBEAT)
    assert peer.connection.reason is None
    await trio.sleep(5 * HEARTBEAT)
    assert peer.connection.reason is EndReason.PEER_LOST


async def test_bytes_cost_as_well_as_messages(autojump_clock, open_peer):
    peers = [await open_peer("r") for _ in range(4)]
    sender, receivers = peers[0], peers[1:]
    await trio.sleep(2)
    await send_all(sender, [{"type": "data", "payload": "x" * 40_960}] * 20)
    # One to three others is 30 times 4 KiB; the burst is of 20 messages.
    assert [count(peer, "data") for peer in receivers] == [1, 1, 1]
    await trio.sleep(9)
    assert [count(peer, "data") for peer in receivers] == [4, 4, 4]


async def test_what_waits_for_a_suspended_peer_costs_too(autojump_clock, open_peer):
    elder, peer = await open_peer("r"), await open_peer("r")
    elder.connection.end(EndReason.PEER_LOST)
    await wait_all_tasks_blocked()
    await trio.sleep(2.5)
    (info,) = peer.joined["peers"]
    about = {"to": info["peer"], "session": info["session"]}
    description = {"type": "offer", "sdp": "v=0" + "x" * 40_960}
    offer = {"type": "offer", **about, "description": description}
    # Three of them, 30 times 4 KiB, wait; the burst is of 20 messages.
    await send_all(peer, [offer] * 3 + [{"type": "get-ice-servers"}])
    assert count(peer) == 0
    await trio.sleep(3)
    assert count(peer) == 1


async def test_a_large_room_lets_clients_in_whatever_is_bound_for_events(
    autojump_clock, parts, open_peer
):
    parts.connections.outbox_bytes = 10_000
    for _ in range(5):
        peer = await open_peer("r", metadata="x" * 4_000)
        await trio.sleep(10)
    assert sum(len(info["metadata"]) for info in peer.joined["peers"]) == 16_000
    assert peer.connection.reason is None


async def test_wrong_tokens_are_tried_slowly(autojump_clock, open_peer):
    stranger = await open_peer(grant=None)
    wrong = {"type": "join", "room": "r", "token": "wrong"}
    await send_all(stranger, [wrong] * 40)
    assert [message["code"] for message in stranger.texts] == ["unauthorized"] * 2
    await trio.sleep(3)
    assert len(stranger.texts) <= 4


async def test_a_ban_holds_in_the_whole_network_of_an_address(autojump_clock, open_peer, signaling):
    nobody = Grant(rooms=(RoomRight("*"),))
    first = await open_peer("r", grant=nobody, address="2001:db8:1:2::a")
    rooms = signaling.rooms
    signaling.carry_out(rooms.kick("r", first.joined["peer"], trio.current_time(), ban_seconds=60))
    again = await open_peer(grant=nobody, address="2001:db8:1:2:abcd::b")
    (error,) = await again.ask({"type": "join", "room": "r"})
    assert error["code"] == "forbidden"
    for address in ("2001:db8:1:3::a", None):
        await open_peer("r", grant=nobody, address=address)


async def test_who_shows_no_token_gives_way_to_who_may(autojump_clock, open_peer, signaling):
    signaling.strangers.most = 2
    idle = [await open_peer(grant=None) for _ in range(2)]
    with pytest.raises(TooManyConnections):
        signaling.strangers.make_room("192.0.2.1")
    await trio.sleep(STRANGER_SECONDS)
    signaling.strangers.make_room("192.0.2.1")
    newcomer = await open_peer(grant=None)
    reasons = [peer.connection.reason for peer in (*idle, newcomer)]
    assert reasons == [EndReason.PEER_LOST, None, None]
    assert EndReason.PEER_LOST.close_code.reconnect
    for peer in (idle[1], newcomer):  # Who has shown its token is no stranger, and stays.
        (joined,) = [
            message
            for message in await peer.ask({"type": "join", "room": "r", "token": "good"})
            if message["type"] == "joined"
        ]
        assert joined["room"] == "r"
    await trio.sleep(2 * STRANGER_SECONDS)
    for _ in range(2):
        signaling.strangers.make_room("192.0.2.1")
        await open_peer(grant=None)
    assert idle[1].connection.reason is newcomer.connection.reason is None


async def test_who_comes_alone_takes_the_place_of_one_of_many(autojump_clock, open_peer, signaling):
    signaling.strangers.most = 4
    many = [await open_peer(grant=None, address=f"2001:db8::{n}") for n in range(3)]
    few = [await open_peer(grant=None, address="192.0.2.1")]
    signaling.strangers.make_room("192.0.2.2")
    few.append(await open_peer(grant=None, address="192.0.2.2"))
    assert many[0].connection.reason is EndReason.PEER_LOST
    # Now none of them is one of a crowd, compared with who comes.
    for address in ("2001:db8::9", "192.0.2.1"):
        with pytest.raises(TooManyConnections):
            signaling.strangers.make_room(address)
    signaling.strangers.make_room("192.0.2.3")
    reasons = [peer.connection.reason for peer in (*many[1:], *few)]
    assert reasons == [EndReason.PEER_LOST, None, None, None]
    await few[0].ask({"type": "join", "room": "r", "token": "good"})
    many[2].connection.end(EndReason.CLIENT_CLOSED)
    assert len(signaling.strangers) == 1


async def test_a_mistake_of_ours_is_told_and_ends_one_connection(
    autojump_clock, open_peer, faulty, caplog
):
    peer, other = await open_peer("r"), await open_peer("r")
    faulty.fails = True
    (error,) = await peer.ask({"type": "get-ice-servers"})
    assert (error["code"], error["fatal"], error["temporary"]) == ("internal", True, False)
    assert "turn-secret" not in error["message"]
    await trio.sleep(3)
    assert peer.close[0] == 1011
    errors = [record.name for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["triocast.signaling"]
    faulty.fails = False
    assert [item["type"] for item in other.take()][-1] == "peer-state"
    (answer,) = await other.ask({"type": "get-ice-servers"})
    assert answer["type"] == "ice-servers"


async def test_what_is_secret_is_in_no_log(autojump_clock, open_peer, faulty, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "websockets.client")
    peer = await open_peer(grant=None)
    resume = {"token": "resume-secret", "lastSeq": 0}
    for message in (
        {"type": "join", "room": "r", "token": "token-secret", "resume": resume},
        {"type": "join", "room": "r", "token": "good", "resume": resume},
        {"type": "join", "room": "r", "token": ["token-secret"]},
    ):
        (error,) = await peer.ask(message)
        assert "secret" not in error["message"]
    (joined,) = await peer.ask({"type": "join", "room": "r", "token": "good"})
    faulty.fails = True
    await peer.ask({"type": "get-ice-servers", "token": "token-secret"})
    await trio.sleep(3)
    assert "token-secret" not in caplog.text
    assert "resume-secret" not in caplog.text
    assert joined["resume"]["token"] not in caplog.text
    assert "address=192.0.2.1" in caplog.text


@pytest.mark.parametrize("payload", [b"", b"{}", b"\x00\xff" * 100])
async def test_binary_is_refused_and_the_connection_goes_on(autojump_clock, open_peer, payload):
    peer = await open_peer("r")
    peer.protocol.send_binary(payload)
    await peer.flush()
    assert [message["code"] for message in peer.take()] == ["bad-message"]
    peer.protocol.send_text(b"")
    await peer.flush()
    assert [message["code"] for message in peer.take()] == ["bad-json"]
    assert peer.connection.reason is None


async def test_text_that_is_none_ends_the_connection(autojump_clock, open_peer):
    peer, other = await open_peer("r"), await open_peer("r")
    peer.protocol.send_text(b'{"type":"data","payload":"\xff"}')
    await peer.flush()
    await trio.sleep(3)
    assert peer.connection.reason is EndReason.INVALID_TEXT
    assert [frame.opcode for frame in peer.others] == [Opcode.CLOSE]
    assert other.connection.reason is None
