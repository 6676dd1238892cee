"""Quart's ASGI side: requests come in here, and a response becomes a connection here.

An endpoint that has let a client in returns a `StreamResponse`, with the connection on it. Its
head is sent, and then the connection runs over ASGI's ``send`` and ``receive``: the portable way.
Quart's contexts have ended by then, so nothing an endpoint opened may be needed later.
"""

from __future__ import annotations

from typing import Any

from quart import Response, Websocket
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from triocast.connection import Connection
from triocast.transports.links import ASGIReceive, ASGIResponseLink, ASGISend
from triocast.transports.websocket import ASGIWebSocketLink
from triocast.web import plain, publish
from triocast.web.body import RequestBody
from triocast.web.current import NODE_KEY, ORIGINS_KEY


class StreamResponse(Response):
    """The head of a stream; the connection on it is its body."""

    def __init__(
        self,
        connection: Connection,
        *,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        subprotocol: str | None = None,
    ) -> None:
        super().__init__(b"", headers=headers, content_type=content_type)
        del self.headers["Content-Length"]
        self.connection = connection
        self.subprotocol = subprotocol
        self.timeout = None  # Quart's response timeout would cut the stream.


class HTTPConnection(TrioASGIHTTPConnection):
    """Quart's side of one HTTP request.

    One task: bodies are pulled by who reads them, and a connection's link notices by itself when
    its client goes. (Quart's own way, a second task that reads ahead, cancels the first.)
    """

    async def __call__(self, receive: Any, send: Any) -> None:
        endpoint = publish.ENDPOINTS.get(self.scope["path"])
        if endpoint is not None:
            node, origins = self.app.config[NODE_KEY], self.app.config[ORIGINS_KEY]
            await plain.serve(endpoint, node, origins, self.scope, receive, send)
            return
        request = self._create_request_from_scope(send)
        assert isinstance(request.body, RequestBody)
        request.body.attach(receive)
        self._receive: ASGIReceive = receive
        response = await self.app.handle_request(request)
        await self._send_response(send, response)

    async def _send_response(self, send: Any, response: Any) -> None:
        if not isinstance(response, StreamResponse):
            await _send_whole(send, response)
            return
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        await response.connection.run(ASGIResponseLink(self._receive, send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WebSocketConnection(TrioASGIWebsocketConnection):
    """Quart's side of one WebSocket, up to its acceptance.

    An endpoint here answers at once: with a `StreamResponse` to accept, with any other response to
    refuse. What the client sends is read by the connection, never by Quart, whose queue for it is
    unbounded in some versions.
    """

    async def __call__(self, receive: Any, send: Any) -> None:
        await receive()  # websocket.connect
        websocket: Websocket = self._create_websocket_from_scope(send)
        response = await self.app.handle_websocket(websocket)
        if not isinstance(response, StreamResponse):
            await self._refuse(send, response)
            return
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": response.subprotocol,
                "headers": [],
            }
        )
        await response.connection.run(ASGIWebSocketLink(receive, send))

    async def _refuse(self, send: ASGISend, response: Any) -> None:
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        body = await response.get_data(as_text=False)
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


async def _send_whole(send: ASGISend, response: Any) -> None:
    """Send a response whose body is in memory; all but streams are."""
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
    )
    body = await response.get_data(as_text=False)
    await send({"type": "http.response.body", "body": body, "more_body": False})
