"""``GET /healthz`` (the process lives) and ``GET /readyz`` (send clients here)."""

from __future__ import annotations

from quart import Blueprint, Response

from triocast.errors import ShuttingDown
from triocast.web.answers import json_answer
from triocast.web.current import current_node

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
async def healthz() -> Response:
    return json_answer({"status": "ok"}).as_response()


@blueprint.get("/readyz")
async def readyz() -> Response:
    """Answer 503 while the server drains or its engine cannot take events."""
    node = current_node()
    if not node.ready:
        raise ShuttingDown("this server is going away")
    await node.engine.check_health()
    return json_answer({"status": "ready"}).as_response()
