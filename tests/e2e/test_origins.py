"""Which web pages may connect, publish and read: over the wire, on each way to the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.raw import Wire
from e2e.rest import Answer, call, post, stats
from e2e.servers import Server

LISTED = "https://app.example"
LISTED_WITH_PORT = "http://dev.example:3000"
CORS = ("access-control-allow-origin", "access-control-allow-credentials")


@pytest.fixture
def listing(servers: Servers, way: str) -> Server:
    """A server with two pages on its list."""
    return servers.get(way, allowed_origins=f"{LISTED},{LISTED_WITH_PORT}")


EVIL = [
    "https://evil.example",
    "null",
    "",
    "file://",
    "http://app.example",  # another scheme
    "https://app.example:8443",  # another port
    "https://app.example.evil.example",
    "https://sub.app.example",
    "https://evil.example/https://app.example",
    "https://app.example/",
    "https://app.example, https://evil.example",
]


def not_ours(server: Server) -> list[str]:
    """Origins that only look like the server's own."""
    return [
        f"https://{server.authority}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{server.port + 1}",
        f"http://localhost:{server.port}",
        f"http://{server.authority}.evil.example",
        f"http://evil.example@{server.authority}",
        f"ftp://{server.authority}",
    ]


def refused_socket(server: Server, origin: str) -> Answer:
    with pytest.raises(InvalidStatus) as refused, Socket(server, headers={"Origin": origin}):
        pass
    response = refused.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return Answer(response.status_code, headers, bytes(response.body or b""))


def check_refused(answer: Answer) -> None:
    assert answer.status == 403, answer
    assert answer.json["code"] == "origin_refused"
    assert answer.json["temporary"] is False
    assert not set(CORS) & answer.headers.keys()


def broadcast(server: Server, origin: str | None, **headers: str) -> Answer:
    sent = headers if origin is None else {"Origin": origin, **headers}
    return post(server, "/realtime/broadcast", {"data": 1}, headers=sent)


def test_other_pages_open_no_websocket(listing: Server) -> None:
    for origin in [*EVIL, *not_ours(listing)]:
        check_refused(refused_socket(listing, origin))


def test_other_pages_publish_nothing(listing: Server) -> None:
    before = stats(listing)["seq"]
    for origin in [*EVIL, *not_ours(listing)]:
        check_refused(broadcast(listing, origin))
        answer = post(
            listing, "/realtime/send", {"channel": "a", "data": 1}, headers={"Origin": origin}
        )
        check_refused(answer)
    # A form of another page needs no preflight; its origin gives it away all the same.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = call(
            listing,
            "POST",
            "/realtime/broadcast",
            json.dumps({"data": 1}).encode(),
            kind,
            headers={"Origin": "https://evil.example"},
        )
        check_refused(answer)
    assert stats(listing)["seq"] == before


def test_a_websocket_of_our_own_page(listing: Server) -> None:
    for origin in (f"http://{listing.authority}", None):
        headers = {} if origin is None else {"Origin": origin}
        with Socket(listing, headers=headers) as socket:
            socket.ask(type="ping")


@pytest.mark.parametrize("origin", [LISTED, LISTED_WITH_PORT])
def test_a_websocket_of_a_listed_page(listing: Server, origin: str) -> None:
    with Socket(listing, headers={"Origin": origin}) as socket:
        socket.ask(type="ping")


def test_publishing_from_our_own_page_and_from_none(listing: Server) -> None:
    for origin in (f"http://{listing.authority}", None):
        answer = broadcast(listing, origin)
        assert answer.status == 200
        assert not set(CORS) & answer.headers.keys()
    # Browsers write the host in lower case, whatever was typed.
    port = listing.port
    answer = broadcast(listing, f"http://localhost:{port}", Host=f"LocalHost:{port}")
    assert answer.status == 200


def check_readable(headers: Any, origin: str) -> None:
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"
    assert "origin" in headers["vary"].lower()


@pytest.mark.parametrize("origin", [LISTED, LISTED_WITH_PORT])
def test_a_listed_page_may_read(listing: Server, origin: str, channel: str) -> None:
    answer = broadcast(listing, origin)
    assert answer.status == 200
    check_readable(answer.headers, origin)
    check_readable(call(listing, "GET", "/healthz", headers={"Origin": origin}).headers, origin)
    with Stream(listing, channel=channel, headers={"Origin": origin}) as stream:
        stream.opened()
        check_readable({k.lower(): v for k, v in stream.headers.items()}, origin)
    # Errors too: a script has to see why.
    refused = call(listing, "GET", "/realtime/events?channel=a%20b", headers={"Origin": origin})
    assert refused.status == 400
    check_readable(refused.headers, origin)


def test_other_pages_read_nothing(listing: Server, channel: str) -> None:
    for origin in EVIL:
        for target in ("/realtime/stats", "/healthz", "/nothing"):
            answer = call(listing, "GET", target, headers={"Origin": origin})
            assert not set(CORS) & answer.headers.keys(), (origin, target)
            assert "origin" in answer.headers["vary"].lower()
        with Stream(listing, channel=channel, headers={"Origin": origin}) as stream:
            assert not set(CORS) & {name.lower() for name in stream.headers}


def preflight(server: Server, origin: str, target: str = "/realtime/broadcast") -> Answer:
    return call(
        server,
        "OPTIONS",
        target,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )


@pytest.mark.parametrize("target", ["/realtime/broadcast", "/realtime/send", "/realtime/events"])
def test_preflights(listing: Server, target: str) -> None:
    for origin in (LISTED, LISTED_WITH_PORT):
        answer = preflight(listing, origin, target)
        assert answer.status in (200, 204)
        check_readable(answer.headers, origin)
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].lower()
        for name in ("authorization", "content-type", "last-event-id"):
            assert name in allowed
        assert int(answer.headers["access-control-max-age"]) > 0
        assert answer.body == b""
    for origin in EVIL:
        answer = preflight(listing, origin, target)
        check_refused(answer)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_preflight_needs_no_token(servers: Servers, way: str) -> None:
    """Browsers send none with it; what follows needs one."""
    server = servers.get(way, allowed_origins=LISTED, token_key="k" * 40)
    check_readable(preflight(server, LISTED).headers, LISTED)
    check_refused(preflight(server, "https://evil.example"))
    answer = broadcast(server, LISTED)
    assert answer.status == 401
    check_readable(answer.headers, LISTED)


def test_without_a_list_only_our_own_page_may(server: Server) -> None:
    check_refused(broadcast(server, LISTED))
    check_refused(preflight(server, LISTED))
    check_refused(refused_socket(server, LISTED))
    assert broadcast(server, f"http://{server.authority}").status == 200
    with Socket(server, headers={"Origin": f"http://{server.authority}"}):
        pass


def test_everybodys_pages_with_tokens(servers: Servers, way: str) -> None:
    """With `*` a page may read, but the browser does not send what it remembers of us."""
    server = servers.get(way, allowed_origins="*", token_key="k" * 40)
    answer = preflight(server, "https://anything.example")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] in ("*", "https://anything.example")
    assert "access-control-allow-credentials" not in answer.headers
    refused = refused_socket(server, "https://anything.example")
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")


def test_a_second_origin_does_not_hide_the_first(listing: Server) -> None:
    body = b'{"data":1}'
    before = stats(listing)["seq"]
    for origins in (["https://evil.example", LISTED], [LISTED, "https://evil.example"]):
        with Wire(listing.connect()) as wire:
            wire.send(
                "POST /realtime/broadcast HTTP/1.1",
                f"Host: {listing.authority}",
                *(f"Origin: {origin}" for origin in origins),
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                body=body,
            )
            assert wire.until(b"}").split(b" ", 2)[1] in (b"400", b"403")
    assert stats(listing)["seq"] == before


def test_an_origin_that_is_no_address_is_refused(listing: Server) -> None:
    for origin in ("http://[", "http://[::1", "//", "http://[v1.a]:x"):
        check_refused(broadcast(listing, origin))
        check_refused(refused_socket(listing, origin))
