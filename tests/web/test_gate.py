"""An application that cannot serve says so, to whoever asks for whatever, on any event loop."""

import asyncio
import json

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.auth import EVERYTHING
from triocast.settings import Settings
from triocast.web import create_app, node_of

from .serving import completing, make_scope

PAGE = "https://app.example"
PATHS = (
    "/healthz",
    "/readyz",
    "/nowhere",
    "/realtime/events",
    "/realtime/poll",
    "/realtime/stats",
    "/realtime/history",
    "/realtime/broadcast",
    "/realtime/send",
    "/peerjs",
)


def make_app():
    return create_app(Settings(allowed_origins=(PAGE,)))


async def failed_app(nursery):
    app = make_app()
    node_of(app).hub._take_batch = lambda: 1 / 0

    async def run():
        try:
            await node_of(app).run()
        except* ZeroDivisionError:
            pass

    nursery.start_soon(run)
    publisher = node_of(app).publisher
    await wait_all_tasks_blocked()
    event = publisher.event(EVERYTHING, channel="a", type="t", data=b"1")
    await publisher.publish([event])
    await node_of(app).wait_for_failure()
    return app


async def closed_app(nursery):
    app = make_app()
    async with trio.open_nursery() as inner:
        await inner.start(node_of(app).run)
        inner.cancel_scope.cancel()
    return app


async def app_without_lifespan(nursery):
    return make_app()


APPS = [
    (app_without_lifespan, "node_not_started"),
    (failed_app, "node_failed"),
    (closed_app, "node_closed"),
]


def connect(app):
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def check_refusal(reply, code):
    assert reply.status_code == 503
    assert reply.json()["code"] == code
    assert reply.json()["message"]
    assert int(reply.headers["retry-after"]) > 0
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("make", "code"), APPS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_every_request_is_refused_with_the_reason(nursery, make, code, path, method):
    app = await make(nursery)
    async with connect(app) as client:
        check_refusal(await client.request(method, path), code)
    assert node_of(app).connections.refused == {code: 1}


@pytest.mark.parametrize(("make", "code"), APPS)
async def test_listed_pages_may_read_the_reason(nursery, make, code):
    async with connect(await make(nursery)) as client:
        reply = await client.get("/readyz", headers={"Origin": PAGE})
    check_refusal(reply, code)
    assert reply.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(("make", "code"), APPS[1:])
async def test_an_event_source_comes_back_until_the_process_is_restarted(nursery, make, code):
    async with connect(completing(await make(nursery))) as client:
        reply = await client.get("/realtime/events", headers={"Accept": "text/event-stream"})
    assert (reply.status_code, reply.headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert int(reply.headers["content-length"]) > len(reply.content)
    assert reply.headers["connection"] == "close"
    assert reply.text.startswith("retry: ")
    assert f'"code":"{code}"' in reply.text


async def test_an_event_source_does_not_come_back_to_an_application_that_nobody_starts(nursery):
    async with connect(make_app()) as client:
        reply = await client.get("/realtime/events", headers={"Accept": "text/event-stream"})
    check_refusal(reply, "node_not_started")


@pytest.mark.parametrize(("make", "code"), APPS)
@pytest.mark.parametrize("path", ["/realtime/ws", "/realtime/webrtc/signaling", "/peerjs/peerjs"])
async def test_websockets_are_refused_in_the_way_that_the_server_can(nursery, make, code, path):
    app = await make(nursery)
    sent = await open_websocket(app, path, extensions={"websocket.http.response": {}})
    head, body = sent
    assert (head["type"], head["status"]) == ("websocket.http.response.start", 503)
    assert json.loads(body["body"])["code"] == code
    assert await open_websocket(app, path) == [
        {"type": "websocket.close", "code": 1013, "reason": code}
    ]


async def open_websocket(app, path, **scope):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await app(make_scope(path, type="websocket", scheme="ws", **scope), receive, send)
    return sent


async def test_a_node_that_is_started_in_this_moment_serves(nursery):
    app = make_app()
    nursery.start_soon(node_of(app).run)
    async with connect(app) as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_why_requests_are_refused_is_logged_now_and_then(nursery, caplog):
    async with connect(make_app()) as client:
        for _ in range(20):
            await client.get("/readyz")
    (record,) = [r for r in caplog.records if r.name == "triocast.web"]
    assert "lifespan" in record.getMessage()


# On asyncio.


def on_asyncio(scope, *messages):
    """Return what an application says to an ASGI server that runs on asyncio."""
    app, sent, given = make_app(), [], iter(messages)

    async def receive():
        return next(given)

    async def send(message):
        await asyncio.sleep(0)
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_on_asyncio_every_request_is_refused_with_what_to_do(path, accept):
    head, body = on_asyncio(make_scope(path, {"accept": accept}), {"type": "http.request"})
    assert (head["type"], head["status"]) == ("http.response.start", 503)
    assert (b"content-type", b"application/json") in head["headers"]
    told = json.loads(body["body"])
    assert told["code"] == "needs_trio"
    assert "hypercorn -k trio" in told["message"]
    assert body.get("more_body") is False


def test_on_asyncio_websockets_are_refused():
    scope = make_scope("/realtime/ws", type="websocket", scheme="ws")
    assert on_asyncio(scope, {"type": "websocket.connect"}) == [
        {"type": "websocket.close", "code": 1013, "reason": "needs_trio"}
    ]


def test_on_asyncio_the_application_does_not_start(caplog):
    (failed,) = on_asyncio({"type": "lifespan"}, {"type": "lifespan.startup"})
    assert failed["type"] == "lifespan.startup.failed"
    assert "Trio" in failed["message"]
    assert failed["message"] in caplog.text
