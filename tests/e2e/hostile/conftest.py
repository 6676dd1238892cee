"""The servers that the hostile inputs are sent to."""

from e2e.servers import certificate, serve, server, standing_server, standing_tls_server, tls_server

__all__ = ["certificate", "serve", "server", "standing_server", "standing_tls_server", "tls_server"]
