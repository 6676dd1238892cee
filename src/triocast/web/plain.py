"""Endpoints without Quart: for requests that come so often that Quart's share would be felt.

They are served inside of the Quart app, before it makes a request of its own out of a scope; they
keep the rules that the app has for all others: origins, methods, and one form of refusals.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from triocast.errors import TriocastError, Unavailable
from triocast.node import Node
from triocast.transports.links import ASGIReceive, ASGISend, breaks_off
from triocast.web.answers import Answer, failure, refusal
from triocast.web.body import RequestBody
from triocast.web.call import Call
from triocast.web.origins import Origins

log = logging.getLogger("triocast.web")

Endpoint = Callable[[Node, Call, RequestBody], Awaitable[Answer]]
"""Answers a POST. Raises TriocastError for what is refused."""


async def serve(
    endpoint: Endpoint,
    node: Node,
    origins: Origins,
    scope: Any,
    receive: ASGIReceive,
    send: ASGISend,
) -> None:
    """Answer one ASGI request to the path of an endpoint."""
    found = await answer(endpoint, node, origins, Call.of_scope(scope), receive)
    await send_answer(scope, send, found)


async def send_answer(
    scope: Any, send: ASGISend, answer: Answer, kind: str = "http.response"
) -> None:
    """Send a whole answer over ASGI; ``kind`` is what its messages' types begin with."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.has_content:
        headers.append((b"content-length", b"%d" % answer.content_length))
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    more = answer.is_unfinished and breaks_off(scope)
    await send({"type": f"{kind}.body", "body": answer.body, "more_body": more})


async def refuse(
    answer: Answer, close: tuple[int, str], scope: Any, receive: ASGIReceive, send: ASGISend
) -> None:
    """Refuse what a server asks the application for; by a close code and reason if it must be."""
    if scope["type"] == "http":
        await send_answer(scope, send, answer)
        return
    await receive()  # websocket.connect
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_answer(scope, send, answer, "websocket.http.response")
    else:
        code, reason = close
        await send({"type": "websocket.close", "code": code, "reason": reason})


async def answer(
    endpoint: Endpoint, node: Node, origins: Origins, call: Call, receive: ASGIReceive
) -> Answer:
    """Answer one request to the path of an endpoint; its body comes from ASGI's ``receive``."""
    try:
        found = await _answer(endpoint, node, origins, call, receive)
    except TriocastError as error:
        if isinstance(error, Unavailable):
            node.connections.note_refusal(error, call.address)
        found = refusal(error)
    except Exception as error:
        log.error("a publish request failed", exc_info=error)
        found = failure()
    found.headers += origins.response_headers(call)
    return found


async def _answer(
    endpoint: Endpoint, node: Node, origins: Origins, call: Call, receive: ASGIReceive
) -> Answer:
    origins.check_http(call)
    if call.method == "POST":
        body = RequestBody(call.content_length, node.settings.max_body_bytes)
        body.attach(receive)
        return await endpoint(node, call, body)
    preflight = origins.preflight(call)
    if preflight is not None:
        return preflight
    allowed = ("allow", "OPTIONS, POST")
    if call.method == "OPTIONS":
        return Answer(200, [allowed])
    error = TriocastError("this address takes POST")
    refused = refusal(error, status=405, code="method_not_allowed")
    refused.headers.append(allowed)
    return refused
