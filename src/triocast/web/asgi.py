"""Quart's ASGI side: requests come in here, and a response becomes a connection here.

An endpoint that has let a client in returns a `StreamResponse`, with the connection on it. Its
head is sent, and then the connection runs over ASGI's ``send`` and ``receive``: the portable way.
Quart's contexts have ended by then, so nothing an endpoint opened may be needed later.
"""

from __future__ import annotations

from typing import Any, Final

import trio
from quart import Response, Websocket
from quart.utils import encode_headers
from quart_trio.asgi import (
    TrioASGIHTTPConnection,
    TrioASGILifespan,
    TrioASGIWebsocketConnection,
)

from triocast.connection import Connection
from triocast.transports.links import ASGIReceive, ASGIResponseLink, ASGISend, breaks_off
from triocast.transports.websocket import ASGIWebSocketLink
from triocast.web import plain, publish
from triocast.web.answers import UnfinishedResponse
from triocast.web.body import RequestBody
from triocast.web.current import NODE_KEY, ORIGINS_KEY

SHUTDOWN_SECONDS: Final = 10.0
"""How long the application's tasks may take to end once the server stops."""


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


class Lifespan(TrioASGILifespan):
    """Quart's side of the life of the application.

    Upstream runs the background tasks in the nursery in which it talks to the server, and cancels
    it before it says ``lifespan.shutdown.complete``: a server that waits for that waits for ever.
    (quart-trio 0.12 and 0.13)
    """

    async def __call__(self, receive: Any, send: Any) -> None:
        await receive()  # lifespan.startup
        async with trio.open_nursery() as outer:
            ended = trio.Event()
            self.app.nursery = await outer.start(_hold_nursery, ended)
            try:
                await self.app.startup()
            except Exception as error:  # noqa: BLE001  # Quart logs it
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            else:
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
                await send(await self._shut_down(ended))
            outer.cancel_scope.cancel()

    async def _shut_down(self, ended: trio.Event) -> dict[str, str]:
        """End the application; return what the server is told."""
        try:
            await self.app.shutdown()  # cancels the nursery
        except Exception as error:  # noqa: BLE001  # Quart logs it
            return {"type": "lifespan.shutdown.failed", "message": str(error)}
        with trio.move_on_after(SHUTDOWN_SECONDS):
            await ended.wait()
            return {"type": "lifespan.shutdown.complete"}
        message = f"the application did not end within {SHUTDOWN_SECONDS:g} s"
        return {"type": "lifespan.shutdown.failed", "message": message}


async def _hold_nursery(ended: trio.Event, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Keep a nursery open for the application's tasks until it is cancelled."""
    try:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()
    finally:
        ended.set()


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
            await _send_whole(send, response, breaks_off=breaks_off(self.scope))
            return
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        link = ASGIResponseLink(self._receive, send, breaks_off=breaks_off(self.scope))
        await response.connection.run(link)


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


async def _send_whole(send: ASGISend, response: Any, *, breaks_off: bool) -> None:
    """Send a response whose body is in memory; all but streams are.

    An `UnfinishedResponse` ends without its last message, which the server makes a fault.
    """
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
    )
    body = await response.get_data(as_text=False)
    more = breaks_off and isinstance(response, UnfinishedResponse)
    await send({"type": "http.response.body", "body": body, "more_body": more})
