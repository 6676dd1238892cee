"""An application whose node runs, and clients for it, without a server or a socket between them.

HTTP requests go through httpx. A WebSocket is a bare ASGI scope with a memory channel each way.
"""

import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import attrs
import httpx
import jwt
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from triocast.node import Node
from triocast.settings import Settings
from triocast.web import create_app, node_of
from triocast.web.call import Call

KEY = "a key of these tests' own, thirty-two bytes and more"
LOCAL = "127.0.0.1"


def token(user: str | None = None, **allowed: Any) -> str:
    """A token that allows what is named, nothing else."""
    claims: dict[str, Any] = {"exp": time.time() + 600, "triocast": allowed}
    if user is not None:
        claims["sub"] = user
    return jwt.encode(claims, KEY, algorithm="HS256")


def bearer(user: str | None = None, **allowed: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user, **allowed)}"}


def make_call(target: str = "/", headers: dict[str, str] | None = None, **fields: Any) -> Call:
    """The head of a request as an endpoint gets it; `fields` replace those of the scope."""
    return Call.of_scope(make_scope(target, headers, **fields))


def make_scope(target: str, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    path, _, query = target.partition("?")
    lines = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
        "client": (LOCAL, 1),
        "server": ("localhost", 80),
    }
    return scope | fields


class _Body(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._chunks


class _Transport(httpx.ASGITransport):
    """Closes request bodies that the app did not read to their end.

    They are generators. If the garbage collector closed them, Trio would warn in some later test.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chunks = aiter(request.stream)
        request.stream = _Body(chunks)
        async with aclosing(chunks):
            return await super().handle_async_request(request)


class WebSocketClient:
    """One WebSocket, from the side of the ASGI server."""

    def __init__(self) -> None:
        self.accepted = False
        self.subprotocol: str | None = None
        self.status: int | None = None
        """Of the response, if the handshake was refused."""
        self.close_code: int | None = None
        self._refusal = b""
        self._texts: list[Any] = []
        self._to_app, self._from_client = trio.open_memory_channel[dict[str, Any]](math.inf)
        self._to_client, self._from_app = trio.open_memory_channel[dict[str, Any]](math.inf)

    async def run(self, app: QuartTrio, scope: dict[str, Any]) -> None:
        await app(scope, self._from_client.receive, self._to_client.send)

    async def tell(self, message: dict[str, Any]) -> None:
        """Send an ASGI message, and take what the app has to say until it waits again."""
        await self._to_app.send(message)
        await self.settle()

    async def settle(self) -> None:
        """Take what the app has sent once nobody has anything left to do."""
        await wait_all_tasks_blocked()
        while True:
            try:
                message = self._from_app.receive_nowait()
            except trio.WouldBlock:
                return
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "websocket.accept":
                self.accepted, self.subprotocol = True, message["subprotocol"]
            case "websocket.send":
                self._texts.append(json.loads(message["text"]))
            case "websocket.close":
                self.close_code = message["code"]
            case "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.http.response.body":
                self._refusal += message["body"]

    @property
    def refusal(self) -> Any:
        return json.loads(self._refusal)

    async def take(self) -> list[Any]:
        """Return the messages that came since the last call."""
        await self.settle()
        texts, self._texts = self._texts, []
        return texts

    async def ask(self, **message: Any) -> list[Any]:
        """Send a message; return all that came since the last call, its answer included."""
        await self.tell({"type": "websocket.receive", "text": json.dumps(message)})
        return await self.take()

    async def leave(self) -> None:
        await self.tell({"type": "websocket.disconnect", "code": 1005})


def completing(app: Any) -> Any:
    """Return an application that ends the responses which another one leaves without their end.

    httpx takes these for a mistake; servers break them off.
    """

    async def call(scope: Any, receive: Any, send: Any) -> None:
        is_open = False

        async def note(message: dict[str, Any]) -> None:
            nonlocal is_open
            is_open = message.get("more_body", True)
            await send(message)

        await app(scope, receive, note)
        if is_open:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return call


@attrs.frozen
class Server:
    app: QuartTrio
    node: Node
    http: httpx.AsyncClient
    nursery: trio.Nursery

    async def connect(
        self,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        address: str = LOCAL,
        subprotocol: str | None = None,
    ) -> WebSocketClient:
        """Open a WebSocket; return when it is accepted or refused, and has nothing to add."""
        headers = dict(headers or {})
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        scope = make_scope(
            target,
            headers,
            type="websocket",
            scheme="ws",
            subprotocols=[] if subprotocol is None else [subprotocol],
            client=(address, 1),
            extensions={"websocket.http.response": {}},
        )
        client = WebSocketClient()
        self.nursery.start_soon(client.run, self.app, scope)
        await client.tell({"type": "websocket.connect"})
        return client


def serve(nursery: trio.Nursery, **settings: Any) -> Server:
    """Return an application whose node runs until the nursery is cancelled."""
    app = create_app(Settings(**settings))
    node = node_of(app)
    nursery.start_soon(node.run)
    transport = _Transport(app=app, client=(LOCAL, 1))
    http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    return Server(app, node, http, nursery)
