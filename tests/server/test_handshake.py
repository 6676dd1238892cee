"""A handshake admits a connection with the head of its response, or leaves nothing behind."""

import jwt
import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from triocast.errors import (
    BadRequest,
    Disabled,
    Forbidden,
    OriginRefused,
    ShuttingDown,
    TooManyConnections,
    Unauthorized,
)
from triocast.node import build_node
from triocast.server.handshake import open_peerjs, open_signaling, open_stream, open_websocket
from triocast.server.messages import read_request
from triocast.settings import Namespace, Namespaces, Settings
from triocast.transports import native, signaling
from triocast.transports.native import NativeConnection
from triocast.transports.peerjs import PeerJSConnection
from triocast.transports.signaling import SignalingConnection
from triocast.transports.sse import SSEConnection
from triocast.web.origins import Origins

PAGE = "https://app.example"
KEY = "k" * 48
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
SOCKETS = {
    open_websocket: "/realtime/ws",
    open_signaling: "/realtime/webrtc/signaling",
    open_peerjs: "/peerjs?key=peerjs&id=a&token=t",
}
OPENERS = [open_stream, *SOCKETS]


def request(path, *lines, version="1.1", behind=b""):
    head = [f"GET {path} HTTP/{version}", "Host: 127.0.0.1:8000", *lines, "", ""]
    data = "\r\n".join(head).encode() + behind
    found = read_request(data, address="127.0.0.1", secure=False, max_head_bytes=8_192)
    assert found is not None
    return found


def wanted_by(open_it, *lines, **options):
    """A request that this opener takes."""
    if open_it is open_stream:
        return request("/realtime/events", *lines, **options)
    return request(SOCKETS[open_it], *UPGRADE, *lines, **options)


def node_of(**settings):
    return build_node(Settings(allowed_origins=(PAGE,), **settings))


def opened(open_it, asked, node=None):
    return open_it(node or node_of(), Origins((PAGE,)), asked)


def head_of(connection):
    """Return the status line and the headers of a connection's preface."""
    head, end, rest = connection.preface.partition(b"\r\n\r\n")
    assert end and not rest
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines)


def has_room(node):
    """Whether one more client is let in."""
    try:
        opened(open_stream, wanted_by(open_stream), node)
    except TooManyConnections:
        return False
    return True


@pytest.mark.parametrize(
    ("open_it", "kind"),
    [
        (open_stream, SSEConnection),
        (open_websocket, NativeConnection),
        (open_signaling, SignalingConnection),
        (open_peerjs, PeerJSConnection),
    ],
)
def test_each_path_opens_its_kind_of_connection_and_keeps_a_place_for_it(open_it, kind):
    node = node_of(max_connections=1)
    connection = opened(open_it, wanted_by(open_it), node)
    assert type(connection) is kind
    assert connection.address == "127.0.0.1"
    assert not has_room(node)
    with pytest.raises(TooManyConnections):
        opened(open_it, wanted_by(open_it), node)
    del connection  # its client did not stay for it
    assert has_room(node)


def test_a_stream_is_chunked_and_stays_open():
    status, headers = head_of(opened(open_stream, wanted_by(open_stream)))
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["connection"], headers["transfer-encoding"]) == ("keep-alive", "chunked")


def test_a_stream_over_http_1_0_ends_with_its_connection():
    status, headers = head_of(opened(open_stream, wanted_by(open_stream, version="1.0")))
    assert status == "HTTP/1.1 200 OK"
    assert headers["connection"] == "close"
    assert "transfer-encoding" not in headers


def test_a_page_that_may_read_a_stream_is_told_so():
    _, headers = head_of(opened(open_stream, wanted_by(open_stream, f"Origin: {PAGE}")))
    assert headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("open_it", SOCKETS)
def test_an_upgrade_is_answered_as_in_the_example_of_rfc_6455(open_it):
    status, headers = head_of(opened(open_it, wanted_by(open_it)))
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "Upgrade"
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert "sec-websocket-protocol" not in headers
    assert "sec-websocket-extensions" not in headers


@pytest.mark.parametrize(
    ("open_it", "offered", "chosen"),
    [
        (open_websocket, f"x, {native.SUBPROTOCOL}", native.SUBPROTOCOL),
        (open_websocket, signaling.SUBPROTOCOL, None),
        (open_signaling, signaling.SUBPROTOCOL, signaling.SUBPROTOCOL),
        (open_signaling, native.SUBPROTOCOL, None),
        (open_peerjs, native.SUBPROTOCOL, None),
    ],
)
def test_a_subprotocol_is_chosen_if_it_is_the_paths_own(open_it, offered, chosen):
    line = f"Sec-WebSocket-Protocol: {offered}"
    _, headers = head_of(opened(open_it, wanted_by(open_it, line)))
    assert headers.get("sec-websocket-protocol") == chosen


COMPRESSING = Namespaces({"logs": Namespace(compress=True)})


@pytest.mark.parametrize(
    ("open_it", "namespaces", "agreed"),
    [
        (open_websocket, COMPRESSING, True),
        (open_websocket, Namespaces(), False),
        (open_signaling, COMPRESSING, False),
        (open_peerjs, COMPRESSING, False),
    ],
)
def test_compression_is_agreed_on_where_a_namespace_asks_for_it(open_it, namespaces, agreed):
    node = node_of(namespaces=namespaces)
    client = ClientPerMessageDeflateFactory()
    offer = build_extension([(client.name, client.get_request_params())])
    line = f"Sec-WebSocket-Extensions: {offer}"
    connection = opened(open_it, wanted_by(open_it, line), node)
    told = head_of(connection)[1].get("sec-websocket-extensions")
    assert (told is not None) is agreed
    assert (connection.encoder is node.deflate) is agreed
    if told is not None:
        ((_, parameters),) = parse_extension(told)
        client.process_response_params(parameters, [])  # raises if this was not offered


def test_a_client_that_cannot_inflate_is_not_sent_compressed_frames():
    node = node_of(namespaces=COMPRESSING)
    connection = opened(open_websocket, wanted_by(open_websocket), node)
    assert connection.encoder is not node.deflate


@pytest.mark.parametrize(
    ("open_it", "lines", "options"),
    [
        (open_stream, ["Content-Length: 2"], {"behind": b"hi"}),
        (open_stream, ["Connection: Upgrade", "Upgrade: h2c"], {}),
        (open_websocket, ["Content-Length: 2"], {"behind": b"hi"}),
        (open_websocket, ["Upgrade: h2c"], {}),
        (open_websocket, [], {"version": "1.0"}),
    ],
)
def test_any_other_request_is_left_to_hypercorn(open_it, lines, options):
    node = node_of(max_connections=1)
    assert opened(open_it, wanted_by(open_it, *lines, **options), node) is None
    assert has_room(node)


@pytest.mark.parametrize(
    "key",
    [
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZTEy",
        "dGhlIHNhbXBsZSBub25jZQ=!",
        "é",
        "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ],
)
def test_a_key_that_is_not_of_sixteen_bytes_opens_nothing(key):
    lines = [line for line in UPGRADE if "Key" not in line]
    asked = request("/realtime/ws", *lines, f"Sec-WebSocket-Key: {key}")
    with pytest.raises(BadRequest):
        opened(open_websocket, asked)


@pytest.mark.parametrize("open_it", OPENERS)
def test_a_server_that_drains_refuses(open_it):
    node = node_of()
    node.connections.draining = True
    with pytest.raises(ShuttingDown):
        opened(open_it, wanted_by(open_it), node)


@pytest.mark.parametrize("open_it", SOCKETS)
def test_a_page_of_another_site_opens_no_websocket(open_it):
    node = node_of(max_connections=1)
    with pytest.raises(OriginRefused):
        opened(open_it, wanted_by(open_it, "Origin: https://evil.example"), node)
    assert has_room(node)


@pytest.mark.parametrize(
    ("open_it", "setting"),
    [
        (open_stream, "sse_enabled"),
        (open_websocket, "websocket_enabled"),
        (open_signaling, "signaling_enabled"),
        (open_peerjs, "peerjs_enabled"),
    ],
)
def test_what_is_switched_off_is_refused(open_it, setting):
    with pytest.raises(Disabled):
        opened(open_it, wanted_by(open_it), node_of(**{setting: False}))


@pytest.mark.parametrize("open_it", [open_stream, open_websocket])
def test_a_token_decides_who_comes_in_and_what_is_heard(open_it):
    node = node_of(token_key=KEY)
    claims = {"sub": "ann", "exp": 4e9, "triocast": {"subscribe": ["news:*"]}}
    token = f"Authorization: Bearer {jwt.encode(claims, KEY, algorithm='HS256')}"
    with pytest.raises(Unauthorized):
        opened(open_it, wanted_by(open_it), node)
    connection = opened(open_it, wanted_by(open_it, token), node)
    assert connection.user == "ann"
    path = wanted_by(open_it).path.decode() + "?channel=chat:a"
    lines = () if open_it is open_stream else UPGRADE
    with pytest.raises(Forbidden):
        opened(open_it, request(path, *lines, token), node)
