"""What an endpoint learns of its request: the node, the call, and the caller's rights."""

import time

import jwt
import pytest

from triocast.auth import EVERYTHING
from triocast.errors import Forbidden, Unauthorized
from triocast.events import connection_channel
from triocast.node import build_node
from triocast.settings import Settings
from triocast.web import create_app, node_of
from triocast.web.call import Call
from triocast.web.current import (
    admin_grant,
    current_call,
    current_node,
    grant_of,
    new_connection_id,
)

KEY = "k" * 40
EXPIRES = int(time.time()) + 86_400


def call(address="127.0.0.1", query=b"", **headers):
    headers = {"host": "localhost"} | headers
    return Call(
        method="GET",
        scheme="http",
        http_version="1.1",
        query_string=query,
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        address=address,
    )


def call_of(user, *, key=KEY, **allowed):
    token = jwt.encode({"sub": user, "exp": EXPIRES, "triocast": allowed}, key, "HS256")
    return call("192.0.2.1", authorization=f"Bearer {token}")


async def test_each_application_has_its_own_node():
    apps = create_app(Settings()), create_app(Settings())
    for app in apps:
        async with app.app_context():
            assert current_node() is node_of(app)
    assert node_of(apps[0]) is not node_of(apps[1])


async def test_a_request_has_one_call_that_says_how_it_came(app, client):
    calls = []

    @app.post("/here")
    async def here():
        calls.extend((current_call(), current_call()))
        return ""

    await client.post("/here?a=1", headers={"X-Number": "1"})
    await client.post("/here?a=2", headers={"X-Number": "2"})
    for made, number in zip(calls, "1122", strict=True):
        assert (made.method, made.scheme, made.address) == ("POST", "http", "127.0.0.1")
        assert (made.query.get("a"), made.headers.get("X-Number")) == (number, number)
    assert calls[0] is calls[1]
    assert calls[2] is calls[3]


async def test_a_websocket_has_a_call_too(app):
    calls = []

    @app.websocket("/here")
    async def here():
        calls.append(current_call())
        return "no", 403

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        pass

    scope = {
        "type": "websocket",
        "scheme": "wss",
        "http_version": "1.1",
        "path": "/here",
        "query_string": b"a=b",
        "headers": [(b"host", b"localhost")],
        "client": ("192.0.2.1", 5),
    }
    await app(scope, receive, send)
    (made,) = calls
    assert (made.scheme, made.address, made.query.get("a")) == ("wss", "192.0.2.1", "b")
    assert made.headers.get("Host") == "localhost"


def test_a_token_says_what_its_holder_may_do():
    node = build_node(Settings(token_key=KEY))
    grant = grant_of(node, call_of("ann", subscribe=["news:*"]))
    assert (grant.user, grant.subscribe, grant.admin) == ("ann", ("news:*",), False)


def test_without_a_key_callers_on_this_machine_may_do_everything():
    node = build_node(Settings())
    assert grant_of(node, call()) == EVERYTHING
    assert admin_grant(node, call()) == EVERYTHING
    for header in ("Basic eDp5", "Bearer eDp5"):
        assert admin_grant(node, call(authorization=header, query=b"token=x")) == EVERYTHING


@pytest.mark.parametrize(
    ("caller", "error"),
    [
        (call("192.0.2.1"), Unauthorized),
        (call(None), Unauthorized),
        (call(host="evil.example"), Forbidden),
        (call("192.0.2.1", authorization="Bearer eDp5"), Unauthorized),
        (call("192.0.2.1", authorization="Basic eDp5"), Unauthorized),
    ],
)
@pytest.mark.parametrize("ask", [grant_of, admin_grant])
def test_nobody_else_gets_a_grant(ask, caller, error):
    with pytest.raises(error):
        ask(build_node(Settings()), caller)


def test_where_tokens_are_needed_an_administrator_has_one_that_says_so():
    node = build_node(Settings(token_key=KEY))
    assert admin_grant(node, call_of("root", admin=True)).user == "root"
    with pytest.raises(Forbidden):
        admin_grant(node, call_of("ann", subscribe=["*"], publish=["*"]))
    with pytest.raises(Unauthorized):
        admin_grant(node, call_of("root", key="x" * 40, admin=True))
    with pytest.raises(Unauthorized):
        admin_grant(node, call())


def test_connection_ids_can_be_addressed_and_do_not_repeat():
    ids = {new_connection_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    for id in ids:
        assert connection_channel(id) == f"$conn:{id}"
        assert len(id) >= 16
