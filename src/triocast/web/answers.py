"""Answers in JSON, and refusals in one form: ``{"code", "message", "temporary"}``."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response

from triocast.errors import TriocastError


def json_response(value: Any, status: int = 200) -> Response:
    """Return a value as a JSON response that no cache keeps."""
    return Response(
        msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def error_response(
    error: TriocastError, *, status: int | None = None, code: str | None = None
) -> Response:
    """Return the refusal that an error stands for, with ``Retry-After`` where that makes sense."""
    body = error.as_dict()
    if code is not None:
        body["code"] = code
    response = json_response(body, error.status if status is None else status)
    if error.temporary:
        response.headers["Retry-After"] = str(error.retry_after)
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
