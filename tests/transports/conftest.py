"""A node's parts without a server, and clients over memory streams."""

import json
from contextlib import suppress

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines.debounce import Debounce
from triocast.engines.memory import MemoryEngine
from triocast.events import Event
from triocast.hub import Hub
from triocast.presence import Presence
from triocast.publisher import Publisher
from triocast.settings import Namespace, Namespaces
from triocast.transports.links import StreamLink
from triocast.transports.native import NativeConnection
from triocast.transports.sse import SSEConnection, StreamOptions

HEARTBEAT = 10.0
WINDOW = 2.0


@attrs.frozen
class Parts:
    engine: MemoryEngine
    hub: Hub
    connections: Connections
    publisher: Publisher

    async def publish(self, channel, type="t", data=b"null", **fields):
        event = Event(type, data, channel, "2026-01-01T00:00:00.000Z", **fields)
        (publication,) = await self.engine.publish([event])
        return publication

    async def assert_nothing_is_left(self, reason):
        assert self.connections.ended == {reason: 1}
        assert self.connections.live == set()
        assert await self.hub.channels() == {}
        assert self.hub.subscribers() == ()


@pytest.fixture
async def parts(nursery):
    """Parts that run. The namespace ``room`` has presence, ``fast`` a debounce window."""
    engine = MemoryEngine(
        epoch="e",
        history_events=10,
        history_bytes=1_000_000,
        debounce=Debounce(0, {"fast": WINDOW}),
    )
    hub = Hub(inbox_bytes=1_000_000, head=engine.head)
    engine.attach(hub)
    publisher = Publisher(engine, max_event_bytes=10_000, wait_seconds=1)
    presence = Presence(
        engine,
        publisher,
        namespaces=Namespaces({"room": Namespace(presence=True)}),
        grace_seconds=1,
    )
    hub.watcher = presence
    for run in (engine.run, hub.run, presence.run):
        nursery.start_soon(run)
    connections = Connections(
        engine,
        hub,
        most=100,
        outbox_bytes=200_000,
        heartbeat_seconds=HEARTBEAT,
        presence=presence,
    )
    return Parts(engine, hub, connections, publisher)


@attrs.frozen
class SSEClient:
    connection: SSEConnection
    stream: trio.abc.Stream

    async def read(self):
        """Return what has come, without waiting for more."""
        await wait_all_tasks_blocked()
        return bytes(await self.stream.receive_some(1_000_000))

    async def read_to_end(self):
        return b"".join([bytes(data) async for data in self.stream])


@pytest.fixture
async def open_sse(parts, nursery):
    def open_sse(*, chunked=False, grant=Grant(subscribe=("*",)), id="s1", **options):  # noqa: B008
        connection = SSEConnection(
            parts.connections, StreamOptions(**options), id=id, grant=grant, address=None
        )
        connection.use_framing(chunked=chunked)
        client, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        return SSEClient(connection, client)

    return open_sse


@attrs.define
class WebSocketClient:
    connection: NativeConnection
    stream: trio.abc.Stream
    protocol: Protocol
    pongs: bool = True
    texts: list[dict] = attrs.field(factory=list)
    others: list[Frame] = attrs.field(factory=list)
    opcodes: list[Opcode] = attrs.field(factory=list)
    """Of all frames, in their order."""

    async def send(self, message):
        self.protocol.send_text(
            message if isinstance(message, bytes) else json.dumps(message).encode()
        )
        await self.flush()

    async def flush(self):
        await self.send_bytes(b"".join(self.protocol.data_to_send()))

    async def send_bytes(self, data):
        await self.stream.send_all(data)
        await wait_all_tasks_blocked()

    async def read(self):
        """Take what comes until the stream ends or the task is cancelled."""
        async for data in self.stream:
            self.protocol.receive_data(bytes(data))
            for frame in self.protocol.events_received():
                self.opcodes.append(frame.opcode)
                if frame.opcode is Opcode.TEXT:
                    self.texts.append(json.loads(frame.data))
                else:
                    self.others.append(frame)
            answer = b"".join(self.protocol.data_to_send())
            if answer and self.pongs:
                with suppress(trio.BrokenResourceError):  # after its close frame
                    await self.stream.send_all(answer)

    def take(self):
        """Return the texts since the last call."""
        texts, self.texts = self.texts, []
        return texts

    async def ask(self, message):
        """Send a message; return all that came in answer."""
        self.take()
        await self.send(message)
        return self.take()

    @property
    def close(self):
        """The code and word of the close frame; None if there was none."""
        closes = [frame for frame in self.others if frame.opcode is Opcode.CLOSE]
        assert len(closes) <= 1
        if not closes:
            return None, ""
        return int.from_bytes(closes[0].data[:2], "big"), bytes(closes[0].data[2:]).decode()


EVERYTHING = Grant(user="ann", subscribe=("*",), publish=("*", "$all"))


def agree(deflate):
    """The extension of an independent client that has agreed with this server."""
    theirs = ClientPerMessageDeflateFactory()
    offer = build_extension([(theirs.name, theirs.get_request_params())])
    ((_, parameters),) = parse_extension(deflate.negotiate([offer]))
    return theirs.process_response_params(parameters, [])


@pytest.fixture
async def open_websocket(parts, nursery):
    async def open_websocket(
        *, grant=EVERYTHING, id="w1", leftover=b"", pongs=True, deflate=None, **options
    ):
        limits = {"most_channels": 100, "max_message_bytes": 10_000, "max_json_depth": 20}
        connection = NativeConnection(
            parts.connections,
            parts.publisher,
            id=id,
            grant=grant,
            address=None,
            **(limits | options),
        )
        connection.use_frames(leftover, deflate=deflate)
        stream, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        protocol = Protocol(Side.CLIENT, state=OPEN)
        if deflate is not None:
            protocol.extensions = [agree(deflate)]
        client = WebSocketClient(connection, stream, protocol, pongs)
        nursery.start_soon(client.read)
        await wait_all_tasks_blocked()
        return client

    return open_websocket
