"""Endpoints without Quart: for requests that come so often that Quart's share would be felt.

They are served inside of the Quart app, before it makes a request of its own out of a scope; they
keep the rules that the app has for all others: origins, methods, and one form of refusals.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from triocast.errors import TriocastError
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
    """Answer one ASGI request to a path of an endpoint."""
    call = Call.of_scope(scope)
    try:
        answer = await _answer(endpoint, node, origins, call, receive)
    except TriocastError as error:
        answer = refusal(error)
    except Exception as error:
        log.error("%s failed", scope["path"], exc_info=error)
        answer = failure()
    headers = [*answer.headers, *origins.response_headers(call)]
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    raw.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def _answer(
    endpoint: Endpoint, node: Node, origins: Origins, call: Call, receive: ASGIReceive
) -> Answer:
    preflight = origins.preflight(call)
    if preflight is not None:
        return preflight
    origins.check_http(call)
    if call.method == "POST":
        body = RequestBody(call.content_length, node.settings.max_body_bytes)
        body.attach(receive)
        return await endpoint(node, call, body)
    allowed = ("allow", "OPTIONS, POST")
    if call.method == "OPTIONS":
        return Answer(200, [allowed])
    error = TriocastError("this address takes POST")
    answer = refusal(error, status=405, code="method_not_allowed")
    answer.headers.append(allowed)
    return answer
