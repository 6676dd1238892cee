"""Compressed frames: for whom, for which events, once for all, and in order with the others."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from triocast.events import Event, Position, Publication
from triocast.settings import Namespace, Namespaces
from triocast.subscriptions import Subscriber
from triocast.transports.deflate import SHORTEST_TEXT, DeflatedTextFrameEncoder, make_deflate
from triocast.transports.websocket import TEXT_FRAMES
from triocast.wire import deflate as wire
from triocast.wire import envelope

NAMESPACES = Namespaces({"big": Namespace(compress=True), "plain": Namespace()})
LONG = json.dumps(["repeated"] * 100).encode()
RSV1 = 0x40


def publication(channel="big:a", data=LONG, seq=1):
    event = Event("T", data, channel, "2026-01-01T00:00:00.000Z")
    return Publication(event, Position("e", seq), 0)


@pytest.fixture
def deflate():
    return make_deflate(NAMESPACES)


def texts(stream, *extensions):
    """What an independent client reads."""
    protocol = Protocol(Side.CLIENT, state=OPEN, max_size=None)
    protocol.extensions = list(extensions)
    protocol.receive_data(stream)
    frames = protocol.events_received()
    assert protocol.close_sent is None
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)
    return [bytes(frame.data) for frame in frames]


# Which events.


def test_an_event_of_a_compressing_namespace_is_compressed(deflate):
    frame = deflate.encode(publication())
    assert frame[0] & RSV1
    assert len(frame) < len(TEXT_FRAMES.encode(publication())) / 4


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("plain:a", LONG),
        ("other:a", LONG),
        ("a", LONG),
        ("$all", LONG),
        ("$user:big", LONG),
        ("$conn:big", LONG),
        ("big:a", b'"short"'),
    ],
)
def test_others_are_sent_as_to_everybody(deflate, channel, data):
    event = publication(channel, data)
    assert deflate.encode(event) == TEXT_FRAMES.encode(event)


def test_broadcasts_are_compressed_on_demand():
    deflate = DeflatedTextFrameEncoder(Namespaces({"$all": Namespace(compress=True)}))
    assert deflate.encode(publication("$all"))[0] & RSV1
    assert not deflate.encode(publication("$user:ann"))[0] & RSV1


def test_an_event_that_would_grow_is_sent_as_it_is(deflate):
    letters = random.Random(3).choices([chr(code) for code in range(0xA0, 0x800)], k=100)
    event = publication(data=json.dumps("".join(letters), ensure_ascii=False).encode())
    text = envelope.encode_publication(event)
    assert len(wire.deflate(text)) > len(text) >= SHORTEST_TEXT
    assert deflate.encode(event) == TEXT_FRAMES.encode(event)


long_texts = st.builds(
    lambda part, times: part * times, st.text(min_size=1, max_size=5), st.integers(1, 2_000)
)


@given(st.lists(st.tuples(st.sampled_from(["big:a", "plain:a", "$all"]), long_texts), max_size=8))
def test_clients_read_what_was_published(events):
    deflate = DeflatedTextFrameEncoder(NAMESPACES)
    publications = [
        publication(channel, json.dumps(data).encode(), seq)
        for seq, (channel, data) in enumerate(events, 1)
    ]
    stream = deflate.join([deflate.encode(each) for each in publications])
    assert len(stream) <= len(TEXT_FRAMES.join([TEXT_FRAMES.encode(p) for p in publications]))
    expected = [envelope.encode_publication(each) for each in publications]
    assert texts(stream, PerMessageDeflate(True, True, 12, 15)) == expected


# For whom.


class Recorder(Subscriber):
    """Listens to the hub and keeps the very objects that it was given."""

    user = None

    def __init__(self, id, encoder):
        self.id = id
        self.encoder = encoder
        self.joined = []

    def deliver(self, joined, frames, publications):
        self.joined.append(joined)


async def test_one_frame_is_compressed_for_all(parts, deflate):
    crowd = [Recorder(f"d{n}", deflate) for n in range(50)]
    for listener in crowd:
        parts.hub.add(listener)
        parts.hub.subscribe(listener, ["big:a"])
    await parts.publish("big:a", data=LONG)
    await wait_all_tasks_blocked()
    (frame,) = crowd[0].joined
    assert frame[0] & RSV1
    assert all(listener.joined[0] is frame for listener in crowd)


def test_nodes_do_not_mix_their_encoders(deflate):
    assert deflate != make_deflate(NAMESPACES)
    assert make_deflate(Namespaces({"a": Namespace()})) is None


async def test_compressed_or_not_all_get_the_same_in_one_order(parts, deflate, open_websocket):
    clients = [
        await open_websocket(id="c1", deflate=deflate),
        await open_websocket(id="c2"),
        await open_websocket(id="c3", deflate=deflate),
    ]
    for client in clients:
        await client.ask({"type": "subscribe", "channels": ["big:*", "plain:a", "a"]})
    for number in range(12):
        channel = ["big:a", "plain:a", "a", "$all", "big:b"][number % 5]
        await parts.publish(channel, data=LONG if number % 3 else b"%d" % number)
    await wait_all_tasks_blocked()
    first, second, third = (client.take() for client in clients)
    assert first == second == third
    assert [message["id"] for message in first] == [f"0.e.{seq}" for seq in range(1, 13)]
    # and it was worth it
    assert clients[0].connection.bytes < 0.7 * clients[1].connection.bytes


async def test_only_events_are_compressed(open_websocket, deflate):
    client = await open_websocket(deflate=deflate, heartbeat_events=True)
    seen = []
    their = client.protocol.extensions[0]
    decode = their.decode

    def look(frame, **options):
        seen.append((frame.opcode, frame.rsv1))
        return decode(frame, **options)

    their.decode = look
    many = [f"channel-{number}" for number in range(50)]
    (reply,) = await client.ask({"type": "subscribe", "channels": ["big:a", *many]})
    assert len(reply["data"]["channels"]) == 51
    assert seen == [(Opcode.TEXT, False)]
    await client.ask({"type": "publish", "event": {"channel": "big:a", "data": ["x"] * 200}})
    assert seen[1:] == [(Opcode.TEXT, True)]


async def test_a_client_may_compress_what_it_sends(parts, open_websocket, deflate):
    client = await open_websocket(deflate=deflate)
    await client.ask({"type": "subscribe", "channel": "plain:a"})
    before = len(LONG)
    client.protocol.send_text(
        b'{"type":"publish","event":{"channel":"plain:a","data":%s}}' % LONG,
    )
    sent = b"".join(client.protocol.data_to_send())
    assert len(sent) < before / 4
    await client.send_bytes(sent)
    (event,) = client.take()
    assert event["data"] == json.loads(LONG)


async def test_a_bomb_ends_its_connection_alone(parts, open_websocket, deflate):
    client = await open_websocket(deflate=deflate, max_message_bytes=10_000)
    other = await open_websocket(id="w2", deflate=deflate)
    await client.ask(b" " * 1_000_000)
    assert client.close[0] == 1009
    assert parts.connections.ended == {"message_too_big": 1}
    assert parts.engine.head.seq == 0
    assert await other.ask({"type": "ping"})


async def test_who_has_not_agreed_may_not_compress(parts, open_websocket):
    client = await open_websocket()
    client.protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    await client.ask({"type": "ping"})
    assert client.close[0] == 1002
    await parts.assert_nothing_is_left("protocol_error")
