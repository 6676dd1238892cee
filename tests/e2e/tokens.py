"""Tokens of a key that servers under test are given."""

from __future__ import annotations

import time
from typing import Any

import jwt

KEY = "a key of these tests' own, thirty-two bytes and more"

EVERYTHING = {"subscribe": ["*"], "publish": ["*", "$all", "$user:*", "$conn:*"], "admin": True}


def token(user: str | None = None, *, seconds: float = 600, key: str = KEY, **allowed: Any) -> str:
    """A token that lasts for `seconds` and allows everything, unless it is said what."""
    claims: dict[str, Any] = {"exp": time.time() + seconds, "triocast": allowed or EVERYTHING}
    if user is not None:
        claims["sub"] = user
    return jwt.encode(claims, key, algorithm="HS256")


def bearer(user: str | None = None, **options: Any) -> dict[str, str]:
    """The header with a token as of `token`."""
    return {"Authorization": f"Bearer {token(user, **options)}"}
