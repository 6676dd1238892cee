"""Tokens of a key that servers under test are given."""

from __future__ import annotations

import time
from typing import Any

import jwt

from triocast.auth import LEEWAY_SECONDS

KEY = "a key of these tests' own, thirty-two bytes and more"

EVERYTHING = {"subscribe": ["*"], "publish": ["*", "$all", "$user:*", "$conn:*"], "admin": True}


def token(user: str | None = None, *, seconds: float = 600, key: str = KEY, **allowed: Any) -> str:
    """A token that is taken for `seconds` and allows everything, unless it is said what."""
    expires = time.time() + seconds - LEEWAY_SECONDS
    claims: dict[str, Any] = {"exp": expires, "triocast": allowed or EVERYTHING}
    if user is not None:
        claims["sub"] = user
    return jwt.encode(claims, key, algorithm="HS256")


def bearer(user: str | None = None, **options: Any) -> dict[str, str]:
    """The header with a token as of `token`."""
    return {"Authorization": f"Bearer {token(user, **options)}"}
