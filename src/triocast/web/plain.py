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
from triocast.transports.links import ASGIReceive, ASGISend
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
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found.headers]
    if found.has_content:
        headers.append((b"content-length", b"%d" % len(found.body)))
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body, "more_body": False})


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
