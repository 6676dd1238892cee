"""Lets requests into the application only while its node runs, and on Trio.

Otherwise each is refused with 503 and the reason, in plain ASGI, so that this works on any server
and event loop: where the application was mounted below another one and never started, where its
node has failed, and on asyncio.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import trio

from triocast.clock import Seldom
from triocast.errors import NeedsTrio, NodeNotStarted, TriocastError
from triocast.node import Node, NodeState
from triocast.transports.links import ASGIReceive, ASGISend
from triocast.web.answers import refusal
from triocast.web.call import Call
from triocast.web.events import refusal_for_now
from triocast.web.origins import Origins
from triocast.web.plain import refuse

log = logging.getLogger("triocast.web")

LOG_SECONDS: Final = 10.0
"""How often it is logged at the most why requests are refused."""

TRY_AGAIN_LATER: Final = 1013
"""The close code for WebSockets on servers that can refuse in no other way."""


class Gate:
    """Decides whether an application can serve at all, and refuses for it if it cannot."""

    def __init__(self, node: Node, origins: Origins) -> None:
        self._node = node
        self._origins = origins
        self._log = Seldom(LOG_SECONDS)

    async def obstacle(self) -> TriocastError | None:
        """Return why nothing can be served now; None if everything can."""
        if not trio.lowlevel.in_trio_task():
            return NeedsTrio(
                "Triocast runs on Trio, and this ASGI server uses another event loop: serve it with"
                " 'triocast serve', or with 'hypercorn -k trio'"
            )
        if self._node.state is NodeState.NOT_STARTED:
            # One that is started in this pass of the run loop has its turn first. Twice, as Trio
            # runs the tasks of one pass in any order.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        try:
            self._node.check_running()
        except TriocastError as error:
            return error
        return None

    async def refuse(
        self, error: TriocastError, scope: Any, receive: ASGIReceive, send: ASGISend
    ) -> None:
        """Refuse whatever a server asks the application for."""
        if scope["type"] == "lifespan":
            await receive()  # lifespan.startup
            log.critical("the application cannot start: %s", error.message)
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        call = Call.of_scope(scope)
        self._node.connections.note_refusal(error, call.address)
        if count := self._log.count(time.monotonic()):
            log.error("%d requests were refused: %s", count, error.message)
        # Where the fault is in how the application is run, coming back is of no use.
        is_permanent = isinstance(error, NeedsTrio | NodeNotStarted)
        answer = refusal(error) if is_permanent else refusal_for_now(error, call)
        answer.headers += self._origins.response_headers(call)
        if scope["type"] == "websocket":
            answer = refusal(error)
        await refuse(answer, (TRY_AGAIN_LATER, error.code), scope, receive, send)
