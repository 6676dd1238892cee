"""`serve`: listen, accept, drain. `run_server`: the same as a process."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import Sequence
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from triocast.server.client import Client
from triocast.server.config import hypercorn_config, open_listeners
from triocast.server.http import Service
from triocast.server.shortcuts import Shortcuts
from triocast.server.turnstile import Turnstile
from triocast.settings import Settings, check_bind
from triocast.web.app import create_app, node_of
from triocast.web.origins import Origins

log = logging.getLogger("triocast.server")

SPARE_SOCKETS: Final = 512
"""Open sockets beyond ``max_connections``: for requests, and for saying no."""

OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
OUT_OF_RESOURCES_PAUSE: Final = 0.1
"""Seconds until another try to accept; others may have gone by then."""

ACCEPTS_PER_PASS: Final = 16
"""New clients between two looks at the sockets of the others."""

_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\n\r\n"
    b'{"code":"too_many_connections","message":"this server is full","temporary":true}'
)


class Server:
    """The clients of one process and what becomes of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = create_app(settings, own_server=True)
        self._node = node_of(self._app)
        self._config: Config = hypercorn_config(settings)
        self._service = Service(
            app=self._app,
            config=self._config,
            context=WorkerContext(None),
            state={},
            ssl_context=self._config.create_ssl_context(),
            shortcuts=Shortcuts(
                self._node,
                Origins(settings.allowed_origins),
                max_head_bytes=settings.max_header_bytes,
            )
            if settings.takeover
            else None,
            arrivals=Turnstile(),
            requests=Turnstile(),
            send_seconds=settings.heartbeat_seconds,
        )
        self._clients: set[Client] = set()
        self._empty = trio.Event()

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop``, then drain. Starts with the addresses of the listeners."""
        lifespan = Lifespan(
            wrap_app(self._app, self._config.wsgi_max_body_size, "asgi"),
            self._config,
            self._service.state,
        )
        async with trio.open_nursery() as lifespan_nursery:
            await lifespan_nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            async with trio.open_nursery() as client_nursery:
                client_nursery.start_soon(self._service.arrivals.run)
                client_nursery.start_soon(self._service.requests.run)
                async with trio.open_nursery() as accept_nursery:
                    for listener in listeners:
                        accept_nursery.start_soon(self._accept, listener, client_nursery)
                    task_status.started([self._address(listener) for listener in listeners])
                    await stop.wait()
                    self._node.connections.draining = True
                    accept_nursery.cancel_scope.cancel()
                for listener in listeners:
                    listener.close()
                await self._drain()
                client_nursery.cancel_scope.cancel()
            await lifespan.wait_for_shutdown()
            lifespan_nursery.cancel_scope.cancel()

    async def _accept(self, listening: socket.socket, client_nursery: trio.Nursery) -> None:
        """Accept for ever. What fails here is one client's, or passes."""
        count = 0
        while True:
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listening)
                continue
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    log.warning("cannot accept for now: %s", error)
                    await trio.sleep(OUT_OF_RESOURCES_PAUSE)
                continue
            accepted.setblocking(False)
            client_nursery.start_soon(self._serve_client, accepted)
            count += 1
            if count % ACCEPTS_PER_PASS == 0:
                await trio.lowlevel.checkpoint()

    async def _serve_client(self, accepted: socket.socket) -> None:
        if len(self._clients) >= self._settings.max_connections + SPARE_SOCKETS:
            await self._refuse(accepted)
            return
        client = Client(self._service, accepted)
        self._clients.add(client)
        try:
            await client.run()
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._empty.set()

    async def _refuse(self, accepted: socket.socket) -> None:
        """Answer that there is no room, at the least cost; under TLS that is to hang up."""
        with accepted, contextlib.suppress(OSError):
            await trio.lowlevel.checkpoint()
            if self._service.ssl_context is None:
                accepted.send(_REFUSAL)
                accepted.shutdown(socket.SHUT_WR)

    async def _drain(self) -> None:
        """Send everybody away; cut off who is still here when the time is up."""
        seconds = self._settings.drain_seconds
        log.info("draining %d connections in %g s", len(self._clients), seconds)
        await self._service.context.terminated.set()
        for client in self._clients:
            client.drain()
        with trio.move_on_after(seconds):
            await self._node.drain(seconds)
            if self._clients:
                self._empty = trio.Event()
                await self._empty.wait()
        for client in list(self._clients):
            client.abort()

    def _address(self, listener: socket.socket) -> str:
        host, port, *_ = listener.getsockname()
        scheme = "http" if self._settings.tls_certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def serve(  # noqa: ASYNC128  # it passes its task status on
    settings: Settings,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then drain; starts with the addresses it listens on.

    Raises SettingsError where anonymous clients would be let in from elsewhere, CannotListen
    where the address cannot be bound.
    """
    check_bind(settings)
    listeners = open_listeners(settings)
    await Server(settings).serve(listeners, stop, task_status=task_status)


def run_server(settings: Settings) -> None:
    """Run the server as this process: until SIGTERM or SIGINT, a second one of which is final.

    Raises SettingsError and CannotListen as `serve` does.
    """
    check_bind(settings)
    _raise_descriptor_limit(settings.max_connections + SPARE_SOCKETS)
    gc.set_threshold(50_000, 20, 100)
    trio.run(_run_until_signalled, settings)


async def _run_until_signalled(settings: Settings) -> None:
    # Outside of the nursery, so that its error comes out as it is.
    listeners = open_listeners(settings)
    server = Server(settings)
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def serve_then_leave(  # noqa: ASYNC128  # it passes its task status on
                *, task_status: trio.TaskStatus[list[str]]
            ) -> None:
                await server.serve(listeners, stop, task_status=task_status)
                nursery.cancel_scope.cancel()

            addresses = await nursery.start(serve_then_leave)
            # What has been loaded by now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            _announce(addresses)
            async for _ in signals:
                if stop.is_set():
                    nursery.cancel_scope.cancel()
                stop.set()


def _announce(addresses: list[str]) -> None:
    for address in addresses:
        print(f"Triocast listens on {address}", flush=True)  # noqa: T201
    address = addresses[0]
    print(  # noqa: T201
        f"  listen:  curl -N {address}/realtime/events\n"
        f"  publish: curl {address}/realtime/broadcast -H 'Content-Type: application/json'"
        ' -d \'{"type": "hello", "data": "world"}\'',
        flush=True,
    )


def _raise_descriptor_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + 64
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning(
            "max_connections needs %d file descriptors, the hard limit is %d: raise it (ulimit -Hn,"
            " LimitNOFILE=) or lower max_connections",
            wanted,
            hard,
        )
