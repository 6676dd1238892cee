"""PeerJS's connections, over memory streams."""

import pytest
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import Grant
from triocast.signaling.peerjs import Owner, PeerLimits
from triocast.transports.links import StreamLink
from triocast.transports.peerjs import PeerJS, PeerJSConnection

from .conftest import WebSocketClient


@pytest.fixture
def come(parts, nursery):
    peerjs = PeerJS(PeerLimits())

    async def come(id):
        connection = PeerJSConnection(
            parts.connections, peerjs, id=id, grant=Grant(), address=None, owner=Owner(id, "s")
        )
        connection.use_frames(b"")
        stream, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        client = WebSocketClient(connection, stream, Protocol(Side.CLIENT, state=OPEN))
        nursery.start_soon(client.read)
        await wait_all_tasks_blocked()
        return client

    return come


async def test_what_has_waited_has_room_whatever_is_bound_for_events(autojump_clock, parts, come):
    parts.connections.outbox_bytes = 10_000
    ann = await come("a")
    description = {"type": "offer", "sdp": "v=0" + "x" * 5_000}
    payload = {"sdp": description, "type": "data", "connectionId": "dc"}
    for _ in range(5):
        await ann.ask({"type": "OFFER", "dst": "b", "payload": payload})
    bob = await come("b")
    assert [text["type"] for text in bob.texts] == ["OPEN"] + ["OFFER"] * 5
    assert bob.connection.reason is None
