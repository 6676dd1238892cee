"""Clients that do not share the server's code: HTTP/1.1 by h11, HTTP/2 by h2."""

import attrs
import h2.config
import h2.connection
import h2.events
import h11
import trio
from hypercorn.events import RawData
from trio.testing import wait_all_tasks_blocked


@attrs.frozen
class Response:
    status: int
    headers: dict
    body: bytes


@attrs.define
class HTTPClient:
    """A client's end of a connection. What it reads is parsed by h11."""

    stream: trio.abc.Stream
    ended: bool = False
    _unread: bytes = b""

    async def send(self, data):
        await self.stream.send_all(data)

    async def response(self):
        """Return the next response; fails if the connection ends within it."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if self._unread:
            parser.receive_data(self._unread)
        head, body = None, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._unread, _ = parser.trailing_data
                return Response(head.status_code, dict(head.headers), body)

    async def ask(self, data):
        """Send a request; return its response."""
        await self.send(data)
        return await self.response()

    async def read_until(self, end):
        """Return what comes up to ``end``."""
        while end not in self._unread:
            data = await self.stream.receive_some()
            assert data, f"ended after {self._unread!r}"
            self._unread += data
        found, _, self._unread = self._unread.partition(end)
        return found + end

    async def rest(self):
        """Return everything that comes until the server's end."""
        rest, self._unread = self._unread, b""
        return rest + b"".join([bytes(data) async for data in self.stream])

    def close(self):
        self.stream.socket.close()


class H2Client:
    """HTTP/2 of a client, without a network. What it heard is kept by the streams' numbers."""

    def __init__(self):
        # Requests that no sane client makes are made here, too.
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.events = []
        self.heads = {}
        self.bodies = {}

    def begin(self):
        self.connection.initiate_connection()

    def ask(self, headers, *, end=True):
        """Make a request with these headers; return its stream."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, headers, end_stream=end)
        return stream

    def request(self, path, *more, method=b"GET", end=True):
        head = [(b":method", method), (b":scheme", b"http"), (b":authority", b"x")]
        return self.ask([*head, (b":path", path), *more], end=end)

    def get(self, path):
        return self.request(path.encode())

    def receive(self, data):
        events = self.connection.receive_data(data)
        self.events += events
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data

    async def talk(self, protocol, sent):
        """Say what there is to be said, and hear the answers."""
        await protocol.handle(RawData(self.connection.data_to_send()))
        await wait_all_tasks_blocked()
        self.receive(sent.take())

    def heard(self, kind):
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ended(self):
        """The streams that ended as they should."""
        return [event.stream_id for event in self.heard(h2.events.StreamEnded)]

    @property
    def resets(self):
        """The streams that were broken off, with the codes of the errors."""
        return {event.stream_id: event.error_code for event in self.heard(h2.events.StreamReset)}

    @property
    def goodbye(self):
        """The code with which the connection was ended; None if it was not."""
        codes = [event.error_code for event in self.heard(h2.events.ConnectionTerminated)]
        return codes[0] if codes else None
