"""Hypercorn's configuration, as our settings and its faults want it."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, Final

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


def open_listeners(settings: Settings) -> list[socket.socket]:
    """Listen on the host and port of the settings. Raises CannotListen."""
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                listeners.append(_listen(family, address, settings.heartbeat_seconds))
            except OSError as error:
                # A name can have an address of a family that this machine does without.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error
        if not listeners and missing is not None:
            raise missing
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = error.strerror or str(error)
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port}: {reason}"
        ) from error
    return listeners


def _listen(family: int, address: Any, heartbeat_seconds: float) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Inherited by each connection: bytes that nobody acknowledges end it, also where only
            # idle heartbeats are sent. A peer that vanished after one heartbeat is thus noticed
            # within a second one.
            listener.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                max(1, int(heartbeat_seconds * 900)),
            )
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
