"""The contract of `Link`, for every way to a client: whole frames in order, and a clear end."""

import socket

import pytest
import trio

from triocast.transports.links import ASGIResponseLink, SocketLink, StreamLink
from triocast.transports.websocket import ASGIWebSocketLink


class StreamClient:
    """A client at the other end of a byte stream."""

    def __init__(self, stream):
        self.stream = stream

    async def say(self, data):
        await self.stream.send_all(data)

    async def leave(self):
        await self.stream.send_eof()

    async def heard(self):
        """Return all that came; our side has ended."""
        return b"".join([bytes(data) async for data in self.stream])


class ASGIClient:
    """A client behind an ASGI server, of which it is known what the server was told."""

    def __init__(self, kind):
        self.kind = kind
        self.to_app, incoming = trio.open_memory_channel(10)
        self.receive = incoming.receive
        self.sent = []

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def say(self, data):
        if self.kind == "http":
            await self.to_app.send({"type": "http.request", "body": data, "more_body": True})
        else:
            await self.to_app.send({"type": "websocket.receive", "bytes": data})

    async def leave(self):
        await self.to_app.send({"type": f"{self.kind}.disconnect"})

    async def heard(self):
        if self.kind == "http":
            return b"".join(message["body"] for message in self.sent)
        *messages, close = self.sent
        assert close["type"] == "websocket.close"
        return "".join(message["text"] for message in messages).encode()


@pytest.fixture(params=["socket", "stream", "asgi response", "asgi websocket"])
async def ends(request):
    """A link and its client."""
    if request.param == "asgi response":
        client = ASGIClient("http")
        yield ASGIResponseLink(client.receive, client.send), client
    elif request.param == "asgi websocket":
        client = ASGIClient("websocket")
        yield ASGIWebSocketLink(client.receive, client.send), client
    else:
        theirs, ours = socket.socketpair()
        for end in (theirs, ours):
            end.setblocking(False)
        client, server = (
            trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (theirs, ours)
        )
        link = SocketLink(server, ours) if request.param == "socket" else StreamLink(server)
        yield link, StreamClient(client)
        client.socket.close()
        server.socket.close()


async def test_frames_arrive_whole_and_in_order_and_the_farewell_comes_last(ends):
    link, client = ends
    await link.send([b"one "])
    await link.send([b"two ", memoryview(b"three ")])
    await client.leave()
    await link.finish([b"bye"])
    assert await client.heard() == b"one two three bye"


async def test_frames_that_a_cancelled_send_left_come_before_the_farewell(ends):
    link, client = ends
    with trio.CancelScope() as scope:
        scope.cancel()
        await link.send([b"left ", b"over "])
    assert scope.cancelled_caught
    await client.leave()
    await link.finish([b"bye"])
    assert await client.heard() == b"left over bye"


async def test_what_the_client_says_is_received_until_its_end(ends):
    link, client = ends
    await client.say(b"hello")
    assert await link.receive() == b"hello"
    await client.leave()
    assert await link.receive() is None


async def test_only_a_socket_is_written_to_without_waiting(ends):
    link, _ = ends
    assert (link.write_now is not None) == isinstance(link, SocketLink)


async def test_a_closed_link_can_be_closed_again(ends):
    link, _ = ends
    link.close()
    link.close()


@pytest.mark.parametrize("ends", ["socket", "stream"], indirect=True)
async def test_a_closed_stream_of_our_own_is_an_error_that_the_connection_expects(ends):
    link, _ = ends
    link.close()
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            await link.send([b"late"])
        with pytest.raises(trio.ClosedResourceError):
            await link.receive()


@pytest.mark.parametrize("ends", ["socket", "stream"], indirect=True)
async def test_a_client_that_reset_the_connection_is_an_error_that_the_connection_expects(ends):
    link, client = ends
    client.stream.socket.close()
    with pytest.raises((OSError, trio.BrokenResourceError)):
        await link.send([b"late"])
