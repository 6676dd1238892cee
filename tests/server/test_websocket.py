"""WebSockets that Hypercorn serves: whole and bounded messages, and none after the end."""

import pytest
import trio
from hypercorn.events import RawData
from hypercorn.protocol.ws_stream import FrameTooLargeError
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side
from wsproto.events import BytesMessage, TextMessage

from triocast.floods import MAX_UNITS
from triocast.server.http1 import SafeH11Protocol
from triocast.server.websocket import BoundedMessage, SafeWSStream
from triocast.settings import Settings

MOST = 2_000
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
def test_fragments_are_refused_before_they_are_kept(kind):
    message = BoundedMessage(10)
    part = "ä" * 3 if kind is TextMessage else bytes(6)
    message.extend(kind(data=part, message_finished=False))
    with pytest.raises(FrameTooLargeError):
        message.extend(kind(data=part, message_finished=False))
    assert message.size == 6
    message.clear()
    message.extend(kind(data=part, message_finished=True))


class Client:
    """A client whose WebSocket an application has accepted."""

    def __init__(self, protocol, sent):
        self.messages = []
        """What the application was told."""
        self._protocol = protocol
        self._sent = sent
        self._websocket = Protocol(Side.CLIENT, state=OPEN)

    async def send(self, *frames):
        """Send frames in one go; return those that come in answer."""
        data = b"".join(frame.serialize(mask=True) for frame in frames)
        await self._protocol.handle(RawData(data))
        await wait_all_tasks_blocked()
        self._websocket.receive_data(self._sent.take())
        return [(frame.opcode, bytes(frame.data)) for frame in self._websocket.events_received()]

    @property
    def is_closed(self):
        return self._sent.is_closed


@pytest.fixture
async def client(open_protocol):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while True:  # also behind the end, where nothing should come
            client.messages.append(await receive())

    settings = Settings(max_message_bytes=MOST, max_event_bytes=MOST)
    protocol, sent = await open_protocol(SafeH11Protocol, app, settings=settings)
    client = Client(protocol, sent)
    await protocol.handle(RawData(UPGRADE))
    await wait_all_tasks_blocked()
    protocol.let_through()
    assert b"101" in sent.take().partition(b"\r\n\r\n")[0]
    return client


def text(data, *, opcode=Opcode.TEXT, fin=True):
    return Frame(opcode, data, fin)


async def test_fragments_come_as_one_message(client):
    await client.send(
        text("a\u00e4".encode(), fin=False),
        text(b"b", opcode=Opcode.CONT, fin=False),
        text(b"c", opcode=Opcode.CONT),
        text(b"\0\1", opcode=Opcode.BINARY, fin=False),
        text(b"\2", opcode=Opcode.CONT),
    )
    assert [(message["text"], message["bytes"]) for message in client.messages] == [
        ("aäbc", None),
        (None, b"\0\1\2"),
    ]


async def test_a_ping_is_answered_even_between_fragments(client):
    answers = await client.send(
        text(b"a", fin=False), text(b"here?", opcode=Opcode.PING), text(b"b", opcode=Opcode.CONT)
    )
    assert (Opcode.PONG, b"here?") in answers
    assert [message["text"] for message in client.messages] == ["ab"]


async def test_a_message_of_the_largest_size_is_taken(client):
    await client.send(text(b"x" * MOST))
    assert client.messages[0]["text"] == "x" * MOST


@pytest.mark.parametrize(
    "frames",
    [
        [text(b"x" * (MOST + 1))],
        [text(b"x" * MOST, fin=False), text(b"x", opcode=Opcode.CONT, fin=False)],
        [text("ä".encode() * MOST)],  # counted in bytes
        [text(b"x" * (MOST + 1), opcode=Opcode.BINARY)],
    ],
)
async def test_a_message_beyond_the_bound_ends_it_and_nothing_behind_it_is_heard(client, frames):
    answers = await client.send(*frames, text(b"behind"))
    assert answers[-1] == (Opcode.CLOSE, (1009).to_bytes(2, "big"))
    assert client.is_closed
    assert [message["type"] for message in client.messages] == ["websocket.disconnect"]
    assert await client.send(text(b"later")) == []


async def test_a_client_that_closes_is_answered_with_its_code(client):
    close = (4_001).to_bytes(2, "big") + b"enough"
    answers = await client.send(text(b"last"), text(close, opcode=Opcode.CLOSE))
    assert answers[-1] == (Opcode.CLOSE, close)
    assert client.is_closed
    assert [message["type"] for message in client.messages] == [
        "websocket.receive",
        "websocket.disconnect",
    ]


@pytest.mark.parametrize(
    ("frame", "code"), [(text(b"\xff\xfe"), 1007), (text(b"x", opcode=Opcode.CONT), 1002)]
)
async def test_a_frame_that_is_wrong_ends_it_with_the_code_for_that(client, frame, code):
    answers = await client.send(frame)
    assert answers[-1][0] is Opcode.CLOSE
    assert answers[-1][1][:2] == code.to_bytes(2, "big")
    assert client.is_closed
    assert [message["type"] for message in client.messages] == ["websocket.disconnect"]


FLOODS = {
    "pings": [text(b"p", opcode=Opcode.PING)],
    "pongs": [text(b"", opcode=Opcode.PONG)],
    "empty fragments": [text(b"", opcode=Opcode.CONT, fin=False)],
    "fragments of a byte": [text(b"x", opcode=Opcode.CONT, fin=False)],
    "fragments and pings": [
        text(b"", opcode=Opcode.CONT, fin=False),
        text(b"", opcode=Opcode.PING),
    ],
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_frames_that_say_nothing_ends_it(client, autojump_clock, name):
    flood = FLOODS[name] * (MAX_UNITS + 10)
    if "fragments" in name:
        flood.insert(0, text(b"", fin=False))
    answers = await client.send(*flood, text(b"behind", opcode=Opcode.PING))
    assert answers[-1] == (Opcode.CLOSE, (1008).to_bytes(2, "big") + b"flood")
    assert client.is_closed
    assert client.messages[0] == {"type": "websocket.disconnect", "code": 1008, "reason": "flood"}


async def test_one_read_of_small_frames_is_done_in_turns(client, work, monkeypatch):
    units = SafeWSStream._units

    def count(self, event):
        work.did()
        return units(self, event)

    monkeypatch.setattr(SafeWSStream, "_units", count)
    await client.send(*[text(b"", opcode=Opcode.PONG)] * MAX_UNITS)
    assert work.done == MAX_UNITS > work.PER_TURN
    assert work.longest <= work.PER_TURN + 1


@pytest.mark.parametrize(
    "frames",
    [
        [text(b"x")],
        [text(b"x", opcode=Opcode.BINARY)],
        [text(b"x", fin=False), text(b"", opcode=Opcode.CONT)],
    ],
)
async def test_small_messages_are_no_flood(client, frames):
    for _ in range(4):
        await client.send(*frames * MAX_UNITS)
    assert not client.is_closed
    assert len(client.messages) == 4 * MAX_UNITS


async def test_a_silent_client_is_pinged_each_heartbeat(open_protocol, autojump_clock):
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await trio.sleep_forever()

    settings = Settings(heartbeat_seconds=5)
    protocol, sent = await open_protocol(SafeH11Protocol, app, settings=settings)
    await protocol.handle(RawData(UPGRADE))
    await trio.sleep(11)
    websocket = Protocol(Side.CLIENT, state=OPEN)
    websocket.receive_data(sent.take().partition(b"\r\n\r\n")[2])
    assert [frame.opcode for frame in websocket.events_received()] == [Opcode.PING] * 3
