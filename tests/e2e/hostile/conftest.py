"""The servers that the hostile inputs are sent to."""

from e2e.servers import (
    certificate,
    hasty_server,
    serve,
    server,
    standing_hasty_server,
    standing_server,
    standing_tls_server,
    tls_server,
)

__all__ = [
    "certificate",
    "hasty_server",
    "serve",
    "server",
    "standing_hasty_server",
    "standing_server",
    "standing_tls_server",
    "tls_server",
]
