"""PeerJS clients over memory streams: what comes at once, and how some are sent away."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import Grant
from triocast.signaling.peerjs import Owner, PeerLimits
from triocast.transports.links import StreamLink
from triocast.transports.peerjs import PARTING_SECONDS, PeerJS, PeerJSConnection

from .conftest import WebSocketClient

TAKEN = {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}
REFUSED = {"type": "ERROR", "payload": {"msg": "not today"}}
POLICY = (1008, "policy")


@pytest.fixture
def arrive(parts, nursery):
    peerjs = PeerJS(PeerLimits())

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
