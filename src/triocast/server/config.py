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

FREE_PORT_ATTEMPTS: Final = 8
"""How often a free port is looked for that is free on every address."""

H2_HEAD_FACTOR: Final = 4
"""Heads of HTTP/2 up to so many times the bound are read, to refuse them. Beyond, the connection
ends with all its streams: a head that is not read whole leaves the decoder without its state."""

_NEVER: Final = 10**9


def hypercorn_config(settings: Settings) -> Config:
    """Return the configuration for Hypercorn's protocol classes."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("triocast.server")
    config.include_server_header = False
    config.backlog = BACKLOG
    config.h11_max_incomplete_size = settings.max_header_bytes
    config.h2_max_header_list_size = H2_HEAD_FACTOR * settings.max_header_bytes
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
    """Listen on the hosts and the port of the settings. Raises CannotListen.

    With ``::`` it is on every address, of IPv4 too, by a socket for each family: over one for both,
    clients of IPv4 would have addresses of IPv6. Port 0 is the same free port on all of them.
    """
    for attempt in range(FREE_PORT_ATTEMPTS):
        listeners: list[socket.socket] = []
        host = ""
        try:
            for host in settings.hosts:
                _listen_on(host, settings, listeners)
        except OSError as error:
            for listener in listeners:
                listener.close()
            # A port that is free on one address may be in use on another.
            may_retry = settings.port == 0 and listeners and error.errno == errno.EADDRINUSE
            if may_retry and attempt + 1 < FREE_PORT_ATTEMPTS:
                continue
            reason = error.strerror or str(error)
            raise CannotListen(f"cannot listen on {host} port {settings.port}: {reason}") from error
        return listeners
    raise AssertionError("unreachable")


def _listen_on(host: str, settings: Settings, listeners: list[socket.socket]) -> None:
    """Listen on each address of a host, unless that is done already. Raises OSError."""
    missing: OSError | None = None
    found = False
    for name in (host, "0.0.0.0") if host == "::" else (host,):  # noqa: S104  # as asked for
        for family, _, _, _, address in socket.getaddrinfo(
            name, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            port = settings.port or (listeners[0].getsockname()[1] if listeners else 0)
            if any(address[0] == other.getsockname()[0] for other in listeners):
                found = True
                continue
            try:
                where = (address[0], port, *address[2:])
                listeners.append(_listen(family, where, settings.heartbeat_seconds))
                found = True
            except OSError as error:
                # A name can have an address of a family that this machine does without.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error
    if not found and missing is not None:
        raise missing


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
