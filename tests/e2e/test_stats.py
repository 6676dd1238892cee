"""What publishers and administrators are told in numbers, over each way."""

from __future__ import annotations

import http.client
from contextlib import ExitStack

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.rest import PATIENCE, publish, stats, until
from e2e.servers import Server


def test_subscribers_are_counted_once_each(server: Server, channel: str) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, channel=channel)) for _ in range(3)]
        streams += [
            stack.enter_context(Stream(server, channel=[channel, "room:*", "*"])),
            stack.enter_context(Stream(server, channel=channel + "/other")),
        ]
        for stream in streams:
            stream.opened()
        with Socket(server) as socket:
            socket.ask(type="subscribe", channels=[channel, "*"])
            assert publish(server, channel=channel, data=1)["subscribers"] == 5
            assert publish(server, data=1)["subscribers"] >= 6


def test_many_requests_use_one_connection(server: Server, channel: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        sockets = set()
        for number in range(20):
            body = b'{"channel":"%b","data":%d}' % (channel.encode(), number)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/realtime/broadcast", body, headers)
            response = connection.getresponse()
            assert response.status == 200
            response.read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
    finally:
        connection.close()


def test_stats_tell_which_way_clients_are_reached(server: Server, way: str, channel: str) -> None:
    before = stats(server)
    with (
        Stream(server, channel=channel) as one,
        Stream(server, channel=channel) as two,
        Socket(server) as socket,
    ):
        one.opened()
        two.opened()
        socket.ask(type="subscribe", channel=channel)
        publish(server, channel=channel, data=1)
        for client in (one, two, socket):
            client.event()
        now = stats(server)
    assert now["sse_count"] >= 2
    assert now["websocket_count"] >= 1
    reached, other = (
        ("taken_over", "portable") if way == "taken over" else ("portable", "taken_over")
    )
    assert now[reached] == now["sse_count"] + now["websocket_count"]
    assert now[other] == 0
    assert now["channels"][channel] == 3
    assert now["published"] == before["published"] + 1
    assert now["delivered"] == before["delivered"] + 3
    assert now["seq"] == before["seq"] + 1
    assert now["max_connections"] == 10_000


def test_numbers_go_back_when_clients_go(fresh_server: Server, way: str) -> None:
    with Stream(fresh_server, channel=["a", "n:*"]) as stream, Socket(fresh_server) as socket:
        stream.opened()
        socket.ask(type="subscribe", channels=["a", "b"])
        now = stats(fresh_server)
        assert (now["sse_count"], now["websocket_count"], now["ended"]) == (1, 1, {})
        assert (now["taken_over"], now["portable"]) == ((2, 0) if way == "taken over" else (0, 2))
        assert now["channels"] == {"$all": 2, "a": 2, "b": 1, "n:*": 1}
        socket.ask(type="unsubscribe", channel="b")
        assert "b" not in stats(fresh_server)["channels"]
    until(lambda: stats(fresh_server)["ended"] == {"client_closed": 2}, "end of both clients")
    now = stats(fresh_server)
    assert (now["sse_count"], now["websocket_count"], now["channels"]) == (0, 0, {})
    assert (now["taken_over"], now["portable"]) == (0, 0)


def test_each_end_is_counted_under_its_reason(servers: Servers) -> None:
    server = servers.fresh("taken over")  # the others end these by themselves, without a reason

    def reached(reason: str) -> None:
        until(lambda: stats(server)["ended"].get(reason) == 1, f"end by {reason}")

    with Socket(server) as socket:
        socket.send("x" * 131_073)
        reached("message_too_big")
    with Socket(server) as socket:
        socket.ws.send(b"\xff", text=True)
        reached("invalid_text")
    with Socket(server) as socket:
        socket.ws.socket.sendall(b"\xf0\x80\x00\x00\x00\x00")  # reserved bits
        reached("protocol_error")
    server.stop()
