"""Hypercorn's configuration, as our settings and its faults want it."""

from __future__ import annotations

import logging
import socket
from typing import Final

import trio
from hypercorn.config import Config

from triocast.settings import Settings

BACKLOG: Final = 4096
"""Connections the kernel holds for us during a storm; it may cap this (net.core.somaxconn)."""

H2_STREAMS: Final = 250
"""Streams of one HTTP/2 connection: its tabs share one, and the 101st stream of 100 would wait."""

_NEVER: Final = 10**9


def hypercorn_config(settings: Settings) -> Config:
    """Return the configuration for Hypercorn's protocol classes."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("triocast.server")
    config.include_server_header = False
    config.backlog = BACKLOG
    config.h11_max_incomplete_size = settings.max_header_bytes
    config.h2_max_header_list_size = settings.max_header_bytes
    config.h2_max_concurrent_streams = H2_STREAMS
    # A GOAWAY after so many requests freezes every stream on that connection.
    config.keep_alive_max_requests = _NEVER
    config.keep_alive_timeout = settings.keep_alive_seconds
    # It would count a stream's silence from the client's side.
    config.read_timeout = None
    config.ssl_handshake_timeout = settings.handshake_seconds
    config.websocket_max_message_size = settings.max_message_bytes
    # HTTP/2 WebSockets: with unanswered pings the kernel's TCP_USER_TIMEOUT sees a dead peer.
    config.websocket_ping_interval = settings.heartbeat_seconds
    if settings.tls_certificate is not None:
        config.certfile = str(settings.tls_certificate)
        config.keyfile = str(settings.tls_key)
    return config


class CannotListen(Exception):
    """The address of the settings cannot be listened on; the message says which and why."""


async def open_listeners(settings: Settings) -> list[trio.SocketListener]:
    """Listen on the host and port of the settings. Raises CannotListen."""
    try:
        listeners = await trio.open_tcp_listeners(
            settings.port, host=settings.host, backlog=BACKLOG
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port}: {reason}"
        ) from error
    for listener in listeners:
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Inherited by each connection: bytes that nobody acknowledges end it, also where only
            # idle heartbeats are sent. A peer that vanished after one heartbeat is thus noticed
            # within a second one.
            listener.socket.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                max(1, int(settings.heartbeat_seconds * 900)),
            )
    return listeners
