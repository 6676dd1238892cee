"""``GET /realtime/stats``: the numbers of this process, for administrators alone."""

import pytest

from triocast.steps import StepStats
from triocast.web import stats

from .serving import KEY, bearer, serve

PATH = "/realtime/stats"
ZERO = {
    "websocket_count": 0,
    "sse_count": 0,
    "signaling_count": 0,
    "peerjs_count": 0,
    "poll_count": 0,
    "taken_over": 0,
    "portable": 0,
    "queue_bytes": 0,
    "max_connections": 10_000,
    "published": 0,
    "delivered": 0,
    "batches": 0,
    "inbox_bytes": 0,
    "merged": 0,
    "rooms": 0,
    "peers": 0,
    "store": {
        "events": 0,
        "event_bytes": 0,
        "documents": 0,
        "document_bytes": 0,
        "records": 0,
        "record_bytes": 0,
        "damaged": 0,
    },
    "seq": 0,
    "encode_failures": 0,
    "delivery_failures": 0,
    "ended": {},
    "refused": {},
    "overflow": {"disconnected": 0, "merged": 0, "dropped": 0},
    "channel_count": 0,
    "channels": {},
}


@pytest.fixture
def server(nursery):
    return serve(nursery)


async def read(server):
    reply = await server.http.get(PATH)
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
    return reply.json()


async def test_a_server_begins_at_zero(server):
    numbers = await read(server)
    assert numbers.pop("epoch") == server.node.engine.head.epoch
    assert set(numbers.pop("peerjs").values()) == {0}
    assert 0 < numbers.pop("longest_step_ms_last_minute") <= numbers.pop("longest_step_ms")
    assert numbers == ZERO


async def test_the_longest_step_of_the_loop_is_told(server, monkeypatch):
    monkeypatch.setattr(
        type(server.node.steps), "statistics", lambda _: StepStats(0.0123456, 0.004)
    )
    numbers = await read(server)
    assert (numbers["longest_step_ms"], numbers["longest_step_ms_last_minute"]) == (12.35, 4)


async def test_numbers_over_many_channels_are_found_in_steps(server, work, monkeypatch):
    names = [f"c{number}" for number in range(5_000)]

    class Counted(dict):
        def __len__(self) -> int:
            work.did()
            return 1

    audience = {None: Counted()}
    monkeypatch.setattr(server.node.hub._subscriptions, "_channels", dict.fromkeys(names, audience))
    work.longest = 0
    numbers = await read(server)
    assert numbers["channel_count"] == 5_000
    assert len(numbers["channels"]) == stats.MOST_CHANNELS
    assert 0 < work.longest <= work.PER_TURN + 1


async def test_what_is_switched_off_has_no_numbers(nursery):
    numbers = await read(serve(nursery, signaling_enabled=False, peerjs_enabled=False))
    assert (numbers["rooms"], numbers["peers"], numbers["peerjs"]) == (0, 0, None)


async def test_clients_and_events_are_counted(server):
    one = await server.connect("/realtime/ws?channel=a")
    await server.connect("/realtime/ws?channel=a&channel=n:*")
    peer = await server.connect("/realtime/webrtc/signaling")
    await peer.ask(type="join", room="r")
    await server.connect("/peerjs?key=peerjs&id=ann&token=s")
    await server.http.post("/realtime/broadcast", json={"channel": "a", "data": 1})
    numbers = await read(server)
    assert (numbers["websocket_count"], numbers["signaling_count"]) == (2, 1)
    assert (numbers["peerjs_count"], numbers["peerjs"]["peers"]) == (1, 1)
    assert (numbers["portable"], numbers["taken_over"]) == (4, 0)
    assert (numbers["rooms"], numbers["peers"]) == (1, 1)
    assert (numbers["published"], numbers["delivered"], numbers["seq"]) == (1, 2, 1)
    assert (numbers["channels"], numbers["channel_count"]) == ({"$all": 2, "a": 2, "n:*": 1}, 3)
    await one.leave()
    numbers = await read(server)
    assert (numbers["websocket_count"], numbers["ended"]) == (1, {"client_closed": 1})
    assert numbers["channels"]["a"] == 1


async def test_only_the_largest_of_many_channels_are_listed(server, monkeypatch):
    monkeypatch.setattr(stats, "MOST_CHANNELS", 3)
    for channels in ("channel=d&channel=c", "channel=d&channel=b", "channel=a"):
        await server.connect(f"/realtime/ws?{channels}")
    numbers = await read(server)
    assert list(numbers["channels"].items()) == [("$all", 3), ("d", 2), ("a", 1)]
    assert numbers["channel_count"] == 5


async def test_numbers_are_for_administrators(nursery):
    server = serve(nursery, token_key=KEY)
    assert (await server.http.get(PATH)).status_code == 401
    reply = await server.http.get(PATH, headers=bearer("ann", subscribe=["*"], publish=["*"]))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert (await server.http.get(PATH, headers=bearer("ann", admin=True))).status_code == 200
