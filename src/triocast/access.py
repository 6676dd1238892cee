"""The access log: a line when a connection opens and one when it closes, or when it is refused.

Never the query: it may hold a token.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triocast.connection import Connection

log = logging.getLogger("triocast.access")


def opened(connection: Connection) -> None:
    """Note who has come, and on which way."""
    log.info(
        "open id=%s transport=%s way=%s user=%r address=%s",
        connection.id,
        connection.transport,
        "taken_over" if connection.taken_over else "portable",
        connection.user,
        connection.address,
    )


def closed(connection: Connection, seconds: float) -> None:
    """Note why one has ended, and what it got."""
    log.info(
        "close id=%s transport=%s user=%r address=%s reason=%s seconds=%.3f bytes=%d events=%d",
        connection.id,
        connection.transport,
        connection.user,
        connection.address,
        connection.reason.word if connection.reason else "-",
        seconds,
        connection.bytes,
        connection.events,
    )


def refused(code: str, address: str | None) -> None:
    """Note that a client was refused for what this server is or has now, and why."""
    log.info("refuse code=%s address=%s", code, address)
