"""Links: whole frames in order, also when sending is cancelled in between."""

import socket

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from triocast.transports.links import (
    BREAKS_OFF,
    ASGIResponseLink,
    SocketLink,
    StreamLink,
    breaks_off,
)


@pytest.fixture
async def sockets():
    theirs, ours = socket.socketpair()
    for end in (theirs, ours):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    server = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    yield client, SocketLink(server, ours)
    client.socket.close()
    server.socket.close()


async def read_all(stream, got):
    async for data in stream:
        got += data


async def test_a_socket_finishes_what_a_cancelled_send_left(sockets, nursery):
    client, link = sockets
    frames = [b"a" * 40_000, b"b" * 40_000]
    with trio.move_on_after(0.01) as scope:
        await link.send(frames)
    assert scope.cancelled_caught
    got = bytearray()
    nursery.start_soon(read_all, client, got)

    async def close_after_us():
        while not got.endswith(b"bye"):  # noqa: ASYNC110  # nobody tells
            await trio.lowlevel.checkpoint()
        await client.send_all(b"what nobody waits for")
        await client.send_eof()

    nursery.start_soon(close_after_us)
    with trio.fail_after(10):
        await link.finish([b"good", memoryview(b"bye")])
    await wait_all_tasks_blocked()
    assert bytes(got) == b"".join(frames) + b"goodbye"


async def test_a_socket_is_reset_behind_all_that_was_to_be_sent(nursery):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    for end in (theirs, ours):
        end.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    link = SocketLink(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), ours)

    async def finish():
        await link.finish([b"a" * 3_000_000], abruptly=True)  # more than the kernel keeps
        link.close()

    nursery.start_soon(finish)
    got = bytearray()
    with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
        await read_all(client, got)
    await client.aclose()
    assert len(got) == 3_000_000


async def test_a_socket_that_takes_nothing_writes_no_farewell(sockets, autojump_clock):
    client, link = sockets
    for farewell in (None, [b"bye"]):
        with trio.move_on_after(1) as scope:
            await (link.send([b"a" * 80_000]) if farewell is None else link.finish(farewell))
        assert scope.cancelled_caught
    link.close()
    got = bytearray()
    await read_all(client, got)
    assert set(got) == set(b"a")


async def test_a_closed_socket_link_raises_rather_than_write_elsewhere(sockets):
    _, link = sockets
    link.close()
    stranger, other = socket.socketpair()  # these take the free number
    with stranger, other, pytest.raises(OSError, match="descriptor"):
        link.write_now(b"secret")


async def test_a_stream_sends_receives_and_finishes():
    client, server = memory_stream_pair()
    link = StreamLink(server)
    await client.send_all(b"question")
    assert await link.receive() == b"question"
    await link.send([b"a", memoryview(b"b")])
    await link.finish([b"c"])
    got = bytearray()
    await read_all(client, got)
    assert bytes(got) == b"abc"


async def test_a_stream_with_a_broken_frame_writes_no_farewell(nursery, autojump_clock):
    client, server = lockstep_stream_pair()
    link = StreamLink(server)
    with trio.move_on_after(1) as scope:
        await link.send([b"a" * 10])
    assert scope.cancelled_caught
    got = bytearray()
    nursery.start_soon(read_all, client, got)
    await link.finish([b"bye"])
    await wait_all_tasks_blocked()
    assert b"bye" not in got
    nursery.cancel_scope.cancel()


class ASGI:
    def __init__(self, *incoming):
        self.incoming = list(incoming)
        self.sent = []

    async def receive(self):
        await trio.lowlevel.checkpoint()
        return self.incoming.pop(0)

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)


async def test_an_asgi_response_carries_frames_in_its_body():
    asgi = ASGI(
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"body"},
        {"type": "http.disconnect"},
    )
    link = ASGIResponseLink(asgi.receive, asgi.send)
    assert link.write_now is None
    assert not link.taken_over
    assert await link.receive() == b"body"
    assert not await link.receive()
    await link.send([b"a", memoryview(b"b")])
    await link.finish([b"c"])
    assert b"".join(message["body"] for message in asgi.sent) == b"abc"
    assert [message["more_body"] for message in asgi.sent][-2:] == [True, False]


async def test_an_asgi_response_that_is_broken_off_has_no_end():
    asgi = ASGI()
    await ASGIResponseLink(asgi.receive, asgi.send).finish([b"bye"], abruptly=True)
    assert [(message["body"], message["more_body"]) for message in asgi.sent] == [(b"bye", True)]


@pytest.mark.parametrize(
    ("version", "extensions", "does"),
    [
        ("1.0", None, True),
        ("1.1", {}, True),
        ("2", None, False),
        ("2", {"http.response.push": {}}, False),
        ("2", {BREAKS_OFF: {}}, True),
    ],
)
async def test_where_the_server_would_leave_a_response_open_it_is_ended(version, extensions, does):
    scope = {"type": "http", "http_version": version, "extensions": extensions}
    assert breaks_off(scope) is does
    asgi = ASGI()
    link = ASGIResponseLink(asgi.receive, asgi.send, breaks_off=breaks_off(scope))
    await link.finish([b"bye"], abruptly=True)
    assert asgi.sent[-1]["more_body"] is does


async def test_an_asgi_response_cut_in_a_frame_gets_no_farewell(autojump_clock):
    class Stuck(ASGI):
        async def send(self, message):
            self.sent.append(message)
            await trio.sleep_forever()

    asgi = Stuck()
    link = ASGIResponseLink(asgi.receive, asgi.send)
    with trio.move_on_after(1):
        await link.send([b"a"])
    await link.finish([b"bye"])
    assert [message["body"] for message in asgi.sent] == [b"a"]
