"""Which names a query may have: every route reads some, and refuses others with what was meant."""

import json

import pytest

from triocast.errors import UnknownParameter
from triocast.web import create_app
from triocast.web.parameters import QUERIES, check_query

from .serving import KEY, bearer, make_call, serve

OPEN = {"/healthz", "/readyz"}
"""What load balancers ask."""

STREAMS = ("/realtime/events", "/realtime/ws", "/realtime/poll")
POSITIONS = ("last_event_id", "lastEventId", "cursor")
PUBLISHING = {"POST /realtime/broadcast", "POST /realtime/send"}
"""Answered without Quart."""


def is_asset(path):
    return path.startswith(("/realtime/sdk/", "/realtime/webrtc/demo"))


def test_each_route_is_in_the_table():
    routes = set()
    for rule in create_app().url_map.iter_rules():
        methods = {"GET"} if rule.websocket else rule.methods - {"HEAD", "OPTIONS"}
        routes.update(f"{method} {rule.rule}" for method in methods)
    served = {route for route in routes if not is_asset(route.partition(" ")[2])}
    assert served - {f"GET {path}" for path in OPEN} == QUERIES.keys() - PUBLISHING


@pytest.mark.parametrize("route", sorted(QUERIES))
def test_a_name_that_nobody_reads_is_refused(route):
    for query in ("chanel=a", "channel[]=a", "x", "=", "%5B%5D=", f"{'n' * 5_000}=1", "%FF=1"):
        with pytest.raises(UnknownParameter) as caught:
            check_query(make_call(f"/?{query}"), route)
        assert len(caught.value.message) < 400
    for name in (*QUERIES[route], "_", "_=1", "_x", "utm_source"):
        check_query(make_call(f"/?{name}=1&{name}=2"), route)


@pytest.fixture
def server(nursery):
    return serve(nursery)


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("channel[]=news", "channel"),
        ("channel%5B%5D=news", "channel"),
        ("channels=news", "channel"),
        ("chanel=news", "channel"),
        ("tags=a", "tag"),
        ("types=a", "type"),
        ("Last-Event-ID=a", "last_event_id"),
        ("lasteventid=a", "lastEventId"),
        ("heart_beat=event", "heartbeat"),
    ],
)
@pytest.mark.parametrize("path", STREAMS)
async def test_a_misspelt_name_is_told_with_what_was_meant(server, path, query, meant):
    if path.endswith("ws"):
        client = await server.connect(f"{path}?{query}")
        status, body = client.status, client.refusal
    else:
        reply = await server.http.get(f"{path}?{query}")
        status, body = reply.status_code, reply.json()
    assert (status, body["code"], body["temporary"]) == (400, "unknown_parameter", False)
    assert f"did you mean {meant!r}?" in body["message"]


@pytest.mark.parametrize("path", STREAMS)
def test_a_position_has_the_same_names_on_every_stream(path):
    assert {*POSITIONS, "heartbeat", "since", "last"} <= QUERIES[f"GET {path}"]


@pytest.mark.parametrize(
    ("method", "path"),
    [route.split() for route in sorted(QUERIES) if route != "GET /realtime/events"],
)
async def test_every_endpoint_looks_at_its_query(server, method, path):
    if path in ("/realtime/ws", "/realtime/webrtc/signaling"):
        client = await server.connect(f"{path}?tokn=x")
        assert (client.status, client.refusal["code"]) == (400, "unknown_parameter")
    elif path == "/peerjs":
        client = await server.connect(f"{path}?key=k&id=a&token=t&versoin=1")
        (told,) = await client.take()
        assert told["type"] == "ERROR"
        assert "did you mean 'version'?" in json.dumps(told)
    else:
        reply = await server.http.request(method, path.replace("<key>", "k") + "?verson=1")
        assert (reply.status_code, reply.json()["code"]) == (400, "unknown_parameter")


async def test_what_the_client_of_peerjs_sends_is_read(server):
    reply = await server.http.get("/peerjs/id?ts=17643571012340.1234&version=1.5.5")
    assert reply.status_code == 200
    client = await server.connect("/peerjs?key=peerjs&id=ann&token=t&version=1.5.5")
    assert (await client.take()) == [{"type": "OPEN"}]


@pytest.mark.parametrize("path", [*sorted(OPEN), "/realtime/webrtc/demo", "/realtime/sdk/peer.js"])
async def test_pages_assets_and_probes_take_any_query(server, path):
    assert (await server.http.get(f"{path}?v=3&verbose")).status_code == 200


async def test_a_misspelt_credential_is_told_of_rather_than_missing(nursery):
    server = serve(nursery, token_key=KEY, token_in_query=True)
    reply = await server.http.get("/realtime/presence?channel=a&tokn=x")
    assert "did you mean 'token'?" in reply.json()["message"]
    reply = await server.http.get("/realtime/history?chanel=a", headers=bearer("ann"))
    assert reply.status_code == 400
