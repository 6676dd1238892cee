"""Triocast's own server: an accept loop around Hypercorn's protocol classes, made safe."""

from triocast.server.config import CannotListen
from triocast.server.run import ServerFailed, run_server, serve

__all__ = ["CannotListen", "ServerFailed", "run_server", "serve"]
