"""The handshakes of streams, answered without Hypercorn and Quart: for a third of their cost.

After a restart all clients return at once, and what a handshake costs decides how long they wait.
So a plain request for a stream is answered right here, and the stream belongs to its connection
from the first byte on: it is *taken over*. Who may come in and what it subscribes to is decided by
the very functions behind Quart's endpoints.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.utils import accept_key

from triocast.connection import Connection
from triocast.node import Node
from triocast.server.messages import Request, write_head
from triocast.server.opening import check_key, check_version, is_upgrade
from triocast.transports.deflate import DeflatedTextFrameEncoder
from triocast.transports.websocket import WebSocketConnection
from triocast.web import events, peerjs, signaling, websocket
from triocast.web.call import Call
from triocast.web.origins import Origins


def open_stream(node: Node, origins: Origins, request: Request) -> Connection | None:
    """Return the connection of ``GET /realtime/events``, with the response's head as preface.

    None if it is no plain request for a stream. Raises TriocastError if it is refused.
    """
    call = request.call
    if request.body or "Upgrade" in call.headers:
        return None  # The latter to HTTP/2, perhaps.
    origins.check_http(call)
    connection = events.open_stream(node, call)
    node.connections.admit(connection)
    chunked = call.http_version == "1.1"
    connection.use_framing(chunked=chunked)
    headers = [*events.HEADERS.items(), *origins.response_headers(call)]
    if chunked:
        headers += [("connection", "keep-alive"), ("transfer-encoding", "chunked")]
    else:
        headers += [("connection", "close")]
    connection.preface = write_head("200 OK", headers)
    return connection


def open_websocket(node: Node, origins: Origins, request: Request) -> Connection | None:
    """Return the connection of ``WS /realtime/ws``; see `_upgrade`."""
    return _upgrade(
        node,
        origins,
        request,
        websocket.open_websocket,
        websocket.choose_subprotocol,
        node.deflate,
    )


def open_signaling(node: Node, origins: Origins, request: Request) -> Connection | None:
    """Return the connection of ``WS /realtime/webrtc/signaling``; see `_upgrade`."""
    return _upgrade(
        node, origins, request, signaling.open_signaling, signaling.choose_subprotocol, None
    )


def open_peerjs(node: Node, origins: Origins, request: Request) -> Connection | None:
    """Return the connection of ``WS /peerjs``; see `_upgrade`."""
    return _upgrade(node, origins, request, peerjs.open_peerjs, _no_subprotocol, None)


def _no_subprotocol(call: Call) -> None:
    """PeerJS has none."""


def _upgrade(
    node: Node,
    origins: Origins,
    request: Request,
    open_connection: Callable[[Node, Call], WebSocketConnection],
    choose_subprotocol: Callable[[Call], str | None],
    deflate: DeflatedTextFrameEncoder | None,
) -> Connection | None:
    """Return the connection of a WebSocket, with the response's head as preface.

    None if it is no opening handshake. Raises TriocastError if it is refused.
    """
    call = request.call
    if request.body or not is_upgrade(call):
        return None
    check_version(call)
    key = check_key(call)
    origins.check(call)
    connection = open_connection(node, call)
    node.connections.admit(connection)
    headers = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", accept_key(key)),
    ]
    subprotocol = choose_subprotocol(call)
    if subprotocol is not None:
        headers.append(("sec-websocket-protocol", subprotocol))
    agreed = deflate and deflate.negotiate(call.headers.all("Sec-WebSocket-Extensions"))
    if agreed:
        headers.append(("sec-websocket-extensions", agreed))
    connection.use_frames(request.behind, deflate=deflate if agreed else None)
    connection.preface = write_head("101 Switching Protocols", headers)
    return connection
