"""PeerJS clients over memory streams: what comes at once, what is refused, and who is sent away."""

import json
import logging

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import Grant
from triocast.floods import MAX_UNITS
from triocast.signaling.peerjs import Owner, PeerLimits
from triocast.transports.links import StreamLink
from triocast.transports.peerjs import PARTING_SECONDS, PeerJS, PeerJSConnection

from .conftest import WebSocketClient

TAKEN = {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}
REFUSED = {"type": "ERROR", "payload": {"msg": "not today"}}
POLICY = (1008, "policy")


def offer(dst, **fields):
    sdp = {"type": "offer", "sdp": "v=0"}
    payload = {"sdp": sdp, "type": "data", "connectionId": "dc", **fields}
    return {"type": "OFFER", "dst": dst, "payload": payload}


def expired(src):
    return {"type": "EXPIRE", "src": src, "dst": "ann"}


@pytest.fixture
def peerjs():
    return PeerJS(PeerLimits())


@pytest.fixture
def arrive(parts, nursery, peerjs):
    async def arrive(secret, *, id="ann", refusal=""):
        connection = PeerJSConnection(
            parts.connections,
            peerjs,
            id=secret,
            grant=Grant(),
            address=None,
            owner=None if refusal else Owner(id, secret),
            refusal=refusal,
        )
        connection.use_frames(b"")
        stream, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        protocol = Protocol(Side.CLIENT, state=OPEN)
        client = WebSocketClient(connection, stream, protocol)
        nursery.start_soon(client.read)
        await wait_all_tasks_blocked()
        return client

    return arrive


@pytest.fixture(params=["taken", "refused"])
async def turned_away(request, arrive):
    """A client that has been told why it may not stay."""
    if request.param == "refused":
        client = await arrive("s1", refusal="not today")
        assert client.take() == [REFUSED]
    else:
        ann = await arrive("s1")
        assert ann.take() == [{"type": "OPEN"}]
        client = await arrive("s2")
        assert client.take() == [TAKEN]
        assert ann.connection.reason is None
    return client


async def test_who_is_sent_away_may_read_why_and_close(turned_away):
    """Firefox would pass over it if the stream ended at once."""
    assert turned_away.close == (None, "")
    turned_away.protocol.send_close(1000)
    await turned_away.flush()
    assert turned_away.close == POLICY


async def test_who_is_sent_away_and_stays_is_closed(turned_away, autojump_clock):
    assert turned_away.close == (None, "")
    await trio.sleep(PARTING_SECONDS + 0.1)
    assert turned_away.close == POLICY


async def test_who_is_sent_away_is_not_heard(turned_away):
    await turned_away.send({"type": "LEAVE", "dst": "ann"})
    assert turned_away.close == POLICY


async def test_what_has_waited_has_room_whatever_is_bound_for_events(autojump_clock, parts, arrive):
    parts.connections.outbox_bytes = 10_000
    ann = await arrive("s1")
    description = {"type": "offer", "sdp": "v=0" + "x" * 5_000}
    payload = {"sdp": description, "type": "data", "connectionId": "dc"}
    for _ in range(5):
        await ann.send({"type": "OFFER", "dst": "bob", "payload": payload})
    bob = await arrive("s2", id="bob")
    assert [text["type"] for text in bob.take()] == ["OPEN"] + ["OFFER"] * 5
    assert bob.connection.reason is None


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (offer("a@b"), [expired("a@b")]),
        (offer("bob "), [expired("bob ")]),
        (offer("x" * 129), [expired("x" * 129)]),
        (offer("bob", connectionId="c" * 300), [expired("bob")]),
        (offer("bob", metadata="half a \ud83d"), [expired("bob")]),
        ({"type": "CANDIDATE", "dst": "bob", "payload": {}}, []),
        ({"type": "ANSWER", "dst": "bob", "payload": None}, [expired("bob")]),
        ({"type": "LEAVE", "dst": "a@b"}, []),
        ({"type": "OFFER"}, []),
    ],
    ids=lambda value: "",
)
async def test_a_message_that_is_refused_fails_alone(
    autojump_clock, caplog, arrive, peerjs, message, told
):
    """A client that reads ERROR closes its line, and with it all its calls lose their signaling."""
    caplog.set_level(logging.INFO, logger="triocast.signaling")
    ann, bob = await arrive("s1"), await arrive("s2", id="bob")
    assert (ann.take(), bob.take()) == ([{"type": "OPEN"}], [{"type": "OPEN"}])
    await ann.send(message)
    assert ann.take() == told
    await ann.send(offer("bob"))
    assert [message["src"] for message in bob.take()] == ["ann"]
    assert (ann.take(), ann.connection.reason) == ([], None)
    assert peerjs.counts()["refused"] == 1
    said = [record.getMessage() for record in caplog.records]
    assert sum("refused" in line for line in said) == 1


async def test_what_waits_for_a_peer_outlasts_a_refused_message(autojump_clock, arrive):
    ann = await arrive("s1")
    await ann.send(offer("bob"))
    await ann.send(offer("bob", connectionId=""))
    assert ann.take() == [{"type": "OPEN"}, expired("bob")]
    bob = await arrive("s2", id="bob")
    assert [message["type"] for message in bob.take()] == ["OPEN", "OFFER"]


async def test_refused_messages_slow_their_sender_down(autojump_clock, arrive):
    ann = await arrive("s1")
    assert ann.take() == [{"type": "OPEN"}]
    for _ in range(200):
        ann.protocol.send_text(json.dumps(offer("a@b")).encode())
    await ann.flush()
    await trio.sleep(3)
    told = len(ann.take())
    assert 50 < told < 150
    await trio.sleep(10)
    assert len(ann.take()) == 200 - told


@pytest.mark.parametrize("message", ["hello", "{", "[]", '{"type":1}', b"{}"])
async def test_who_does_not_speak_peerjs_is_sent_away(autojump_clock, caplog, arrive, message):
    caplog.set_level(logging.INFO, logger="triocast.signaling")
    ann = await arrive("s1")
    assert ann.take() == [{"type": "OPEN"}]
    if isinstance(message, bytes):
        ann.protocol.send_binary(message)
    else:
        ann.protocol.send_text(message.encode())
    await ann.flush()
    assert [message["type"] for message in ann.take()] == ["ERROR"]
    assert ann.close == POLICY
    assert "sent away" in caplog.text


@pytest.mark.parametrize("message", ["hello", "{", "[]", '{"type":1}', b"{}"])
async def test_who_has_spoken_peerjs_may_send_one_bad_message(caplog, arrive, message):
    caplog.set_level(logging.INFO, logger="triocast.signaling")
    ann = await arrive("s1")
    await ann.send({"type": "HEARTBEAT"})
    if isinstance(message, bytes):
        ann.protocol.send_binary(message)
    else:
        ann.protocol.send_text(message.encode())
    await ann.flush()
    await ann.send(offer("a@b"))
    assert [message["type"] for message in ann.take()] == ["OPEN", "EXPIRE"]
    assert "a message is refused" in caplog.text


async def test_a_flood_of_pings_ends_its_sender(parts, arrive, autojump_clock):
    client = await arrive("s1")
    ping = bytes((0x89, 0x80)) + bytes(4)
    for _ in range(3):
        if client.connection.reason is None:
            await client.send_bytes(ping * (MAX_UNITS // 2))
    assert client.close == (1008, "flood")
    assert parts.connections.ended == {"flood": 1}
