"""Quart's ASGI side: a head, and then a connection; nothing is read that nobody asked for."""

import json

import pytest
import trio
from quart import Response, request
from trio.testing import wait_all_tasks_blocked

from triocast.auth import EVERYTHING
from triocast.node import NodeState
from triocast.settings import Settings
from triocast.web import create_app, node_of
from triocast.web.asgi import SHUTDOWN_SECONDS

DISCONNECT = {"type": "http.disconnect"}


class Server:
    """An ASGI server's side of one request: what the application sends, and what it is given."""

    def __init__(self, app, type, path, *, method="GET", headers=(), **scope):
        self.app = app
        self.scope = {
            "type": type,
            "scheme": "http" if type == "http" else "ws",
            "http_version": "1.1",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", 5),
            **scope,
        }
        if type == "http":
            self.scope["method"] = method
        self.sent = []
        self.asked = 0
        self.ended = False
        self._give, self._given = trio.open_memory_channel(10)

    async def run(self):
        await self.app(self.scope, self.receive, self.send)
        self.ended = True

    async def receive(self):
        self.asked += 1
        return await self._given.receive()

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def give(self, *messages):
        """Give the application messages, and wait for what it makes of them."""
        for message in messages:
            await self._give.send(message)
        await wait_all_tasks_blocked()

    @property
    def types(self):
        return [message["type"] for message in self.sent]

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
async def serve(app, nursery):
    async def serve(*args, **kwargs):
        server = Server(app, *args, **kwargs)
        nursery.start_soon(server.run)
        await wait_all_tasks_blocked()
        return server

    return serve


@pytest.fixture
async def publish(app):
    async def publish(channel, data):
        publisher = node_of(app).publisher
        await publisher.publish([publisher.event(EVERYTHING, channel=channel, type="t", data=data)])
        await wait_all_tasks_blocked()

    return publish


def head_of(server):
    start = server.sent[0]
    return start["status"], {name.lower(): value for name, value in start["headers"]}


async def test_a_whole_response_is_sent_at_once_and_nothing_is_read_for_it(serve):
    server = await serve("http", "/healthz")
    assert server.ended
    assert server.types == ["http.response.start", "http.response.body"]
    assert head_of(server)[0] == 200
    assert head_of(server)[1][b"content-length"] == b"15"
    assert server.sent[1] == {
        "type": "http.response.body",
        "body": b'{"status":"ok"}',
        "more_body": False,
    }
    assert server.asked == 0


async def test_a_stream_is_a_head_and_then_its_connection(app, serve, publish):
    server = await serve("http", "/realtime/events", query_string=b"channel=news")
    status, headers = head_of(server)
    assert (status, headers[b"content-type"]) == (200, b"text/event-stream; charset=utf-8")
    assert b"content-length" not in headers
    assert len(node_of(app).connections.live) == 1
    await publish("news", b'"first"')
    await publish("other", b'"second"')
    assert b'"first"' in server.sent[-1]["body"]
    assert b'"second"' not in server.body
    assert server.sent[-1]["more_body"] is True

    await server.give(DISCONNECT)
    assert server.ended
    assert not node_of(app).connections.live
    assert node_of(app).connections.ended == {"client_closed": 1}


async def test_a_stream_lasts_longer_than_responses_may(app, serve, publish, autojump_clock):
    server = await serve("http", "/realtime/events", query_string=b"channel=news")
    await trio.sleep(2 * app.config["RESPONSE_TIMEOUT"])
    await publish("news", b'"late"')
    assert b'"late"' in server.body
    assert not server.ended


async def test_a_publish_is_answered_without_quart(app, serve):
    @app.before_request
    async def fail():
        raise AssertionError

    server = await serve(
        "http",
        "/realtime/broadcast",
        method="POST",
        headers=[(b"content-type", b"application/json")],
    )
    await server.give({"type": "http.request", "body": b'{"data":1}'})
    assert head_of(server)[0] == 200
    assert json.loads(server.body)["seq"] == 1


async def test_a_body_is_received_as_it_is_read(app, serve):
    chunks = []

    @app.post("/upload")
    async def upload() -> Response:
        chunks.append(await anext(aiter(request.body)))
        return Response(b"enough")

    server = await serve("http", "/upload", method="POST")
    assert server.asked == 1
    await server.give({"type": "http.request", "body": b"a", "more_body": True})
    assert server.ended
    assert (chunks, server.body, server.asked) == ([b"a"], b"enough", 1)


# WebSockets.


async def test_a_websocket_is_accepted_and_then_its_connection_reads(app, serve, publish):
    headers = [(b"sec-websocket-protocol", b"other, triocast.v1")]
    server = await serve("websocket", "/realtime/ws", headers=headers)
    assert server.types == []
    await server.give({"type": "websocket.connect"})
    assert server.sent[0] == {
        "type": "websocket.accept",
        "subprotocol": "triocast.v1",
        "headers": [],
    }
    assert json.loads(server.sent[1]["text"])["type"] == "connected"

    ask = {"type": "subscribe", "id": 1, "channel": "news"}
    await server.give({"type": "websocket.receive", "text": json.dumps(ask)})
    assert json.loads(server.sent[2]["text"])["type"] == "reply"
    await publish("news", b'"first"')
    assert json.loads(server.sent[3]["text"])["data"] == "first"

    await server.give({"type": "websocket.disconnect", "code": 1000})
    assert server.ended
    assert node_of(app).connections.ended == {"client_closed": 1}


async def test_without_an_offer_there_is_no_subprotocol(serve):
    server = await serve("websocket", "/realtime/ws")
    await server.give({"type": "websocket.connect"})
    assert server.sent[0]["subprotocol"] is None


async def test_a_websocket_is_refused_with_a_response_where_the_server_can(serve):
    server = await serve(
        "websocket",
        "/realtime/ws",
        query_string=b"channel=not%20a%20name",
        extensions={"websocket.http.response": {}},
    )
    await server.give({"type": "websocket.connect"})
    assert server.ended
    assert server.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert head_of(server)[0] == 400
    assert json.loads(server.body)["code"] == "invalid_channel"
    assert server.sent[-1]["more_body"] is False


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
async def test_other_servers_close_a_refused_websocket_before_it_opens(app, serve, extensions):
    server = await serve("websocket", "/nowhere", extensions=extensions)
    await server.give({"type": "websocket.connect"})
    assert server.ended
    assert server.sent == [{"type": "websocket.close", "code": 1008}]
    assert not node_of(app).connections.live


# The life of the application.


class Life:
    """An ASGI server's side of an application's life; as on most, messages take some time."""

    def __init__(self, app):
        self.app = app
        self.told = []
        self.ended = trio.Event()
        self._give, self._given = trio.open_memory_channel(10)

    async def run(self):
        try:
            await self.app({"type": "lifespan"}, self._given.receive, self._send)
        except* ZeroDivisionError:
            pass  # Servers log what comes out here.
        finally:
            self.ended.set()

    async def _send(self, message):
        await trio.sleep(0.01)
        self.told.append(message)

    async def say(self, type):
        await self._give.send({"type": f"lifespan.{type}"})
        await trio.sleep(1)
        return self.told[-1]


@pytest.fixture
async def life(nursery):
    life = Life(create_app(Settings()))
    nursery.start_soon(life.run)
    return life


async def test_the_node_runs_from_startup_to_shutdown(autojump_clock, life):
    node = node_of(life.app)
    assert await life.say("startup") == {"type": "lifespan.startup.complete"}
    assert node.state is NodeState.RUNNING
    assert await life.say("shutdown") == {"type": "lifespan.shutdown.complete"}
    assert node.state is NodeState.CLOSED
    await life.ended.wait()


async def test_what_users_do_at_the_end_may_take_its_time(autojump_clock, life):
    ends = []

    @life.app.after_serving
    async def clean_up():
        await trio.sleep(0.5)
        ends.append("cleaned up")

    await life.say("startup")
    assert await life.say("shutdown") == {"type": "lifespan.shutdown.complete"}
    assert ends == ["cleaned up"]


async def test_a_node_that_does_not_end_keeps_no_server_waiting(autojump_clock, life, monkeypatch):
    """A thread of its engine may hang in the disk."""

    works_again = trio.Event()

    async def hang(self):
        with trio.CancelScope(shield=True):
            await works_again.wait()

    monkeypatch.setattr(type(node_of(life.app).engine), "run", hang)
    await life.say("startup")
    await life.say("shutdown")
    await trio.sleep(SHUTDOWN_SECONDS)
    told = life.told[-1]
    works_again.set()
    assert told["type"] == "lifespan.shutdown.failed"
    assert f"within {SHUTDOWN_SECONDS:g} s" in told["message"]


async def test_an_application_does_not_start_twice(autojump_clock, life, nursery, caplog):
    await life.say("startup")
    await life.say("shutdown")
    again = Life(life.app)
    nursery.start_soon(again.run)
    assert (await again.say("startup"))["type"] == "lifespan.startup.failed"
    assert "an application runs once" in again.told[0]["message"]


async def test_when_the_node_fails_clients_are_sent_away_and_everybody_is_refused(
    autojump_clock, life, nursery, caplog
):
    await life.say("startup")
    node = node_of(life.app)
    server = Server(life.app, "http", "/realtime/events", query_string=b"channel=a")
    nursery.start_soon(server.run)
    await wait_all_tasks_blocked()
    node.hub._take_batch = lambda: 1 / 0
    await node.publisher.publish(
        [node.publisher.event(EVERYTHING, channel="a", type="t", data=b"1")]
    )
    await trio.sleep(0.1)
    assert server.ended
    assert b"\nretry: " in server.body
    assert server.sent[-1]["more_body"] is True, "a client need not come back after a whole body"
    assert node.connections.ended == {"server_error": 1}
    (record,) = [r for r in caplog.records if r.levelname == "CRITICAL"]
    assert record.getMessage().startswith("the hub failed (ZeroDivisionError")
    assert record.exc_info is not None
    probe = Server(life.app, "http", "/healthz")
    await probe.run()
    assert head_of(probe)[0] == 503
    assert json.loads(probe.body)["code"] == "node_failed"
    assert await life.say("shutdown") == {"type": "lifespan.shutdown.complete"}


async def test_a_task_of_the_user_that_fails_ends_the_node_and_its_clients(
    autojump_clock, life, nursery
):
    await life.say("startup")
    server = Server(life.app, "http", "/realtime/events")
    nursery.start_soon(server.run)
    await wait_all_tasks_blocked()

    async def fail():
        raise ZeroDivisionError

    life.app.nursery.start_soon(fail)
    await life.ended.wait()
    await wait_all_tasks_blocked()
    assert server.ended
    probe = Server(life.app, "http", "/readyz")
    await probe.run()
    assert json.loads(probe.body)["code"] == "node_closed"
