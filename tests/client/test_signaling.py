"""The signaling client, with a server that is played."""

import json
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, serve_websocket

from triocast.client.signaling import SUBPROTOCOL, open_signaling

PEERS = 1_000
METADATA = "x" * 4_090


def joined():
    pair = {"session": 1, "initiator": True, "polite": False, "strict": False}
    about = {"role": "peer", "capabilities": [], "metadata": METADATA, "state": "connected"}
    return {
        "type": "joined",
        "peer": "me",
        "peers": [{"peer": f"p{n}", **about, **pair} for n in range(PEERS)],
        "iceServers": [],
        "iceServersTtl": None,
        "tokenTtl": None,
        "heartbeat": {"interval": 10, "timeout": 20},
        "resume": {"token": "t", "resumed": False, "gap": False, "seq": 0, "received": 0},
    }


async def test_a_large_room_whose_peers_say_much_of_themselves_can_be_joined(nursery):
    async def play(request):
        socket = await request.accept(subprotocol=SUBPROTOCOL)
        await socket.get_message()
        with suppress(ConnectionClosed):
            await socket.send_message(json.dumps(joined()))
            await socket.get_message()

    server = await nursery.start(serve_websocket, play, "127.0.0.1", 0, None)
    with trio.fail_after(30):
        async with open_signaling(f"ws://127.0.0.1:{server.port}/", "r") as client:
            message = await anext(client)
    assert message["type"] == "joined"
    assert len(client.peers) == PEERS
    nursery.cancel_scope.cancel()
