"""Which web pages may call: our own, those on the list, and what a browser is told about it."""

import pytest

from triocast.errors import OriginRefused
from triocast.settings import Settings
from triocast.web import create_app, node_of
from triocast.web.call import Call
from triocast.web.origins import Origins

LISTED = "https://app.example"
OTHER = "https://evil.example"


@pytest.fixture
async def app(run_node):
    """An application with one page on its list."""
    return await run_node(create_app(Settings(allowed_origins=(LISTED,))))


def call(
    *origins, method="POST", scheme="http", host="Shop.example:8000", asks=None, asks_headers=()
):
    headers = [(b"origin", origin.encode()) for origin in origins]
    if host is not None:
        headers.append((b"host", host.encode()))
    if asks is not None:
        headers.append((b"access-control-request-method", asks.encode()))
    headers += [(b"access-control-request-headers", names.encode()) for names in asks_headers]
    return Call(
        method=method,
        scheme=scheme,
        http_version="1.1",
        query_string=b"",
        headers=headers,
        address="127.0.0.1",
    )


@pytest.mark.parametrize(
    "allowed",
    [
        call(),
        call(LISTED),
        call("http://shop.example:8000"),
        call("http://SHOP.example:8000"),
        call("http://shop.example:8000", scheme="ws"),
        call("https://shop.example:8000", scheme="https"),
        call("https://shop.example:8000", scheme="wss"),
        call(host=None),
        call("HTTPS://App.Example:443"),
        call("http://shop.example", host="shop.example:80"),
        call("https://shop.example:443", host="shop.example", scheme="wss"),
        call("http://[::1]:8000", host="[0:0:0:0:0:0:0:1]:8000"),
        call("http://localhost:8000", host="localhost.:8000"),
    ],
)
def test_our_own_page_listed_pages_and_other_clients_may_call(allowed):
    Origins([LISTED]).check(allowed)


@pytest.mark.parametrize(
    "refused",
    [
        call(OTHER),
        call("null"),
        call(""),
        call(f"{LISTED}/"),
        call(f"{LISTED}:8443"),
        call("http://app.example"),
        call("https://shop.example:8000"),
        call("http://shop.example:8000", scheme="wss"),
        call("http://shop.example"),
        call("http://shop.example:8001"),
        call("http://evil.example@shop.example:8000"),
        call("http://["),
        call("http://shop.example:8000", host="shop.example:8000/"),
        call("http://shop.example:8000", host=None),
        call("http://", host=""),
        call(LISTED, LISTED),
        call(LISTED, OTHER),
    ],
)
def test_every_other_page_is_refused(refused):
    with pytest.raises(OriginRefused):
        Origins([LISTED]).check(refused)


@pytest.mark.parametrize("origin", [OTHER, "null", LISTED])
def test_a_star_lists_every_page(origin):
    Origins(["*"]).check(call(origin))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_any_page_may_send_a_request_that_only_reads(method):
    """Its browser keeps the answer from it, by the headers that are not there."""
    origins = Origins([LISTED])
    origins.check_http(call(OTHER, method=method))
    assert origins.response_headers(call(OTHER, method=method)) == [("vary", "Origin")]
    with pytest.raises(OriginRefused):
        origins.check_http(call(OTHER, LISTED, method=method))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_a_page_that_may_call_sends_anything_else(method):
    Origins([LISTED]).check_http(call(LISTED, method=method))
    with pytest.raises(OriginRefused):
        Origins([LISTED]).check_http(call(OTHER, method=method))


@pytest.mark.parametrize(
    "other",
    [
        call(LISTED, method="GET", asks="PUT"),
        call(LISTED, method="OPTIONS"),
        call(method="OPTIONS", asks="PUT"),
    ],
)
def test_what_is_no_preflight_is_left_to_its_endpoint(other):
    assert Origins([LISTED]).preflight(other) is None


@pytest.mark.parametrize("origin", [LISTED, "http://shop.example:8000"])
def test_a_preflight_names_what_a_page_may_send(origin):
    answer = Origins([LISTED]).preflight(call(origin, method="OPTIONS", asks="PUT"))
    headers = dict(answer.headers)
    assert (answer.status, answer.body) == (204, b"")
    assert headers["access-control-allow-methods"] == "DELETE, GET, POST, PUT"
    allowed = headers["access-control-allow-headers"].split(", ")
    assert {"Authorization", "Content-Type", "If-Match", "Last-Event-ID"} <= set(allowed)
    assert headers["access-control-max-age"] == "600"


def test_a_preflight_allows_whatever_header_is_asked_for():
    """Polyfills and tracing agents add headers that the page knows nothing of."""
    wanted = ["cache-control,traceparent, Sentry-Trace", "x-requested-with,content-type,bad name,"]
    asked = call(LISTED, method="OPTIONS", asks="GET", asks_headers=wanted)
    headers = dict(Origins([LISTED]).preflight(asked).headers)
    allowed = headers["access-control-allow-headers"].split(", ")
    assert allowed[-4:] == ["cache-control", "traceparent", "sentry-trace", "x-requested-with"]
    assert allowed.count("Content-Type") == 1


@pytest.mark.parametrize("origin", ["null", "file://", "app://.", "capacitor://localhost"])
def test_the_pages_of_apps_can_be_listed_and_are_not_listed_by_anything_else(origin):
    Origins([origin]).check(call(origin))
    for others in ([], [LISTED], ["http://."]):
        with pytest.raises(OriginRefused):
            Origins(others).check(call(origin))


def test_a_page_without_an_origin_reads_nothing_that_needs_credentials():
    """Anybody's page becomes one in a sandbox."""
    headers = dict(Origins(["null"]).response_headers(call("null")))
    assert headers["access-control-allow-origin"] == "null"
    assert "access-control-allow-credentials" not in headers


def test_a_preflight_of_another_page_is_refused():
    with pytest.raises(OriginRefused):
        Origins([LISTED]).preflight(call(OTHER, method="OPTIONS", asks="PUT"))


READABLE = {
    "vary": "Origin",
    "access-control-allow-origin": LISTED,
    "access-control-expose-headers": "ETag, Retry-After",
}


@pytest.mark.parametrize(
    ("listed", "origins", "headers"),
    [
        ([LISTED], [], {"vary": "Origin"}),
        ([LISTED], [LISTED, LISTED], {"vary": "Origin"}),
        ([LISTED], [OTHER], {"vary": "Origin"}),
        ([LISTED], ["http://shop.example:8000"], {"vary": "Origin"}),
        ([LISTED], [LISTED], {**READABLE, "access-control-allow-credentials": "true"}),
        (["*"], [LISTED], READABLE),
    ],
)
def test_a_listed_page_may_read_and_with_credentials_if_it_is_named(listed, origins, headers):
    assert dict(Origins(listed).response_headers(call(*origins))) == headers


# Over the application.


async def test_a_listed_page_reads_answers_and_refusals(client):
    for path, status in (("/healthz", 200), ("/nowhere", 404), ("/realtime/history?limit=0", 400)):
        reply = await client.get(path, headers={"Origin": LISTED})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == LISTED
        assert reply.headers["access-control-allow-credentials"] == "true"
        reply = await client.get(path, headers={"Origin": OTHER})
        assert (reply.status_code, reply.headers["vary"]) == (status, "Origin")
        assert "access-control-allow-origin" not in reply.headers
        reply = await client.get(path)
        assert (reply.status_code, reply.headers["vary"]) == (status, "Origin")


async def test_another_page_changes_nothing(app, client):
    target = "/realtime/documents?channel=a&key=k"
    for _ in range(2):
        reply = await client.put(target, json=1, headers={"Origin": OTHER})
        assert (reply.status_code, reply.json()["code"]) == (403, "origin_refused")
        assert "access-control-allow-origin" not in reply.headers
    assert node_of(app).engine.head.seq == 0
    assert (await client.put(target, json=1, headers={"Origin": LISTED})).status_code == 200
    assert (await client.put(target, json=1)).status_code == 200


async def test_a_preflight_needs_no_token_and_reaches_no_endpoint(client):
    asks = {"Access-Control-Request-Method": "PUT"}
    target = "/realtime/documents?channel=a&key=k"
    reply = await client.options(target, headers={"Origin": LISTED, **asks})
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == LISTED
    reply = await client.options(target, headers={"Origin": OTHER, **asks})
    assert (reply.status_code, reply.json()["code"]) == (403, "origin_refused")
    assert not [name for name in reply.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("origin", "sent"),
    [(OTHER, "websocket.close"), (LISTED, "websocket.accept"), (None, "websocket.accept")],
)
async def test_a_websocket_is_for_pages_that_may_call(app, origin, sent):
    messages = []

    async def receive():
        return {"type": "websocket.disconnect" if messages else "websocket.connect"}

    async def send(message):
        messages.append(message)

    headers = [(b"host", b"localhost")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    scope = {
        "type": "websocket",
        "scheme": "ws",
        "http_version": "1.1",
        "path": "/realtime/ws",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 5),
    }
    await app(scope, receive, send)
    assert messages[0]["type"] == sent
