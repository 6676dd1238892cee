"""Odd but legal requests, and those that must be refused: over the wire, on each way."""

from __future__ import annotations

import json

import pytest

from e2e.raw import Wire, head_of
from e2e.servers import Server

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
EVENT = b'{"data":1}'
JSON = ("Content-Type: application/json", f"Content-Length: {len(EVENT)}")
CHUNKED = ("Content-Type: application/json", "Transfer-Encoding: chunked")
CHUNKS = b"a\r\n%b\r\n0\r\n\r\n" % EVENT


def ask(server: Server, line: str, *lines: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
    with Wire(server.connect()) as wire:
        wire.send(line, f"Host: {server.authority}", *lines, body=body)
        return head_of(wire.until(b"\r\n\r\n"))


def refusal(server: Server, data: bytes) -> tuple[int, dict[str, str], str]:
    """Send bytes; return status, headers and code of the one answer, behind which all ends."""
    with Wire(server.connect()) as wire:
        wire.sock.sendall(data)
        answer = wire.end()
    status, headers = head_of(answer)
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["message"]
    return status, headers, body["code"]


@pytest.mark.parametrize(
    ("method", "path", "lines", "body", "status"),
    [
        ("POST", "/realtime/broadcast", JSON, EVENT, 200),
        ("GET", "/realtime/history", (), b"", 200),
        ("GET", "/realtime/events?channel=a", (), b"", 200),
        ("GET", "/realtime/ws", UPGRADE, b"", 101),
        ("GET", "/nothing", (), b"", 404),
    ],
)
def test_an_absolute_target_is_answered_as_its_path_is(
    server: Server, method: str, path: str, lines: tuple[str, ...], body: bytes, status: int
) -> None:
    for target in (path, f"http://{server.authority}{path}", f"/{path}"):
        assert ask(server, f"{method} {target} HTTP/1.1", *lines, body=body)[0] == status, target


@pytest.mark.parametrize("path", ["/realtime/history", "/realtime/events", "/realtime/ws"])
def test_the_authority_of_a_target_says_who_is_local(server: Server, path: str) -> None:
    lines = UPGRADE if path.endswith("ws") else ()
    assert ask(server, f"GET http://evil.example{path} HTTP/1.1", *lines)[0] == 403


@pytest.mark.parametrize(
    ("version", "lines"), [("1.1", (*JSON, CHUNKED[1])), ("1.0", CHUNKED)], ids=["both", "1.0"]
)
def test_a_body_whose_end_is_in_doubt_is_refused_and_ends_the_connection(
    server: Server, version: str, lines: tuple[str, ...]
) -> None:
    head = f"POST /realtime/broadcast HTTP/{version}\r\nHost: {server.authority}\r\n"
    data = (head + "\r\n".join([*lines, "", ""])).encode() + CHUNKS
    assert refusal(server, data)[::2] == (400, "bad_request")


def test_a_plain_request_for_a_websocket_is_told_how_to_ask(server: Server) -> None:
    status, headers = ask(server, "GET /realtime/ws HTTP/1.1")
    assert (status, headers["upgrade"], headers["sec-websocket-version"]) == (
        426,
        "websocket",
        "13",
    )
    status, headers = ask(server, "POST /realtime/ws HTTP/1.1", "Content-Length: 0")
    assert (status, "GET" in headers["allow"]) == (405, True)
    status, headers = ask(server, "OPTIONS /realtime/ws HTTP/1.1")
    assert (status, "GET" in headers["allow"]) == (204, True)


def test_every_refusal_of_our_server_is_json(server: Server, way: str) -> None:
    if way == "stock hypercorn":
        pytest.skip("what another server refuses is said by it")
    host = f"Host: {server.authority}\r\n"
    eight = "\r\n".join([*UPGRADE, "", ""]).replace("13", "8")
    for data, status, code in (
        (f"GET /realtime/ws HTTP/1.1\r\n{host}{eight}", 426, "upgrade_required"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("nonsense\r\n\r\n", 400, "bad_request"),
        (f"get / HTTP/1.1\r\n{host}\r\n", 501, "not_supported"),
        (f"GET / HTTP/1.1\r\n{host}X: {'x' * 17_000}\r\n\r\n", 431, "head_too_large"),
        (f"GET / HTTP/1.1\r\n{host}X: {'x' * 17_000}", 431, "head_too_large"),
    ):
        assert refusal(server, data.encode())[::2] == (status, code)
    with Wire(server.connect()) as wire:
        wire.send("\r\nGET /healthz HTTP/1.1", f"Host: {server.authority}")
        assert head_of(wire.until(b"\r\n\r\n"))[0] == 200
