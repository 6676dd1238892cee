"""`serve`: listen, accept, drain. `run_server`: the same as a process."""

from __future__ import annotations

import gc
import logging
import math
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from triocast.server.accepting import Acceptor, ListenerLost, SpareDescriptors
from triocast.server.client import Client
from triocast.server.config import hypercorn_config, open_listeners
from triocast.server.ending import EXIT_FAILURE, FAILURE_SECONDS, Ending
from triocast.server.http import Service
from triocast.server.refusing import Refusals
from triocast.server.shortcuts import Shortcuts
from triocast.server.turnstile import Turnstile
from triocast.settings import Settings, check_bind
from triocast.turns import in_turns
from triocast.web.app import create_app, node_of
from triocast.web.origins import Origins

log = logging.getLogger("triocast.server")

SPARE_SOCKETS: Final = 512
"""Open sockets beyond ``max_connections``: for requests, and for saying no."""

MAX_REFUSALS: Final = 256
"""Clients beyond these that are told at one time that the server is full."""

SPARE_DESCRIPTORS: Final = 16
"""Clients that are told so at one time when there is no descriptor left for them."""

FAREWELL_SECONDS: Final = 1.0
"""How long clients are told, and requests under way are answered, once the node has failed."""

OTHER_DESCRIPTORS: Final = 64
"""Descriptors for all that is no client: the store, listening sockets, logs, spare ones."""


GC_THRESHOLDS: Final = (2_000, 5, 10_000)
"""How often the collector runs, by generation. It stops everything for about 0.5 ms per 1 000
objects that are new, so a crowd that connects must not make many before it looks; and it goes
over all connections in the oldest generation, which must be rare."""


class ServerFailed(Exception):
    """The server cannot go on: its node or a listening socket failed. The cause says of what."""


@attrs.frozen
class _Bounds:
    """How many clients are served, and how many more are refused, at one time."""

    clients: int
    refusals: int

    @classmethod
    def within(cls, descriptors: float, max_connections: int) -> _Bounds:
        """Return the bounds of a process that may have so many descriptors."""
        refusals = int(min(MAX_REFUSALS, max(8, descriptors / 8)))
        left = max(8, descriptors - refusals - OTHER_DESCRIPTORS)
        return cls(int(min(max_connections + SPARE_SOCKETS, left)), refusals)

    @property
    def descriptors(self) -> int:
        """How many descriptors are needed for these."""
        return self.clients + self.refusals + OTHER_DESCRIPTORS


class Server:
    """The node and the clients of one process, and what becomes of them.

    ``on_failure`` is called, in the moment that the server fails, before its clients are told.
    """

    def __init__(
        self, settings: Settings, *, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._app = create_app(settings, own_server=True)
        self._node = node_of(self._app)
        self._config: Config = hypercorn_config(settings)
        origins = Origins(settings.allowed_origins)
        self._service = Service(
            app=self._app,
            config=self._config,
            context=WorkerContext(None),
            state={},
            ssl_context=self._config.create_ssl_context(),
            shortcuts=Shortcuts(self._node, origins, max_head_bytes=settings.max_header_bytes)
            if settings.takeover
            else None,
            arrivals=Turnstile(),
            requests=Turnstile(),
            send_seconds=settings.heartbeat_seconds,
            note_flood=self._node.connections.note_flood,
        )
        self._bounds = _Bounds.within(_descriptor_limit(), settings.max_connections)
        self._refusals = Refusals(
            self._node.connections,
            origins,
            most=self._bounds.refusals,
            max_head_bytes=settings.max_header_bytes,
            arrivals=self._service.arrivals,
            ssl_context=self._config.create_ssl_context(),
        )
        self._clients: set[Client] = set()
        self._empty = trio.Event()
        self._failure: ServerFailed | None = None

    async def serve(  # noqa: ASYNC128  # it passes its task status on
        self,
        listeners: Sequence[socket.socket],
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop``, then drain. Starts with the addresses of the listeners.

        Raises ServerFailed, after the clients were told, if the node or a listener fails.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail_with_node, nursery)
                await nursery.start(self._run_node)
                nursery.start_soon(self._service.arrivals.run)
                nursery.start_soon(self._service.requests.run)
                await self._serve_clients(listeners, stop, task_status)
                nursery.cancel_scope.cancel()
        except* Exception as errors:  # noqa: BLE001  # it is logged by _fail
            self._fail("this server failed", errors)
        finally:
            for listener in listeners:
                listener.close()
        if self._failure is not None:
            raise self._failure

    def forget_start(self) -> None:
        """Have statistics begin now: what it took to start is nothing that a client waited for."""
        self._node.steps.restart()

    async def _serve_clients(
        self,
        listeners: Sequence[socket.socket],
        stop: trio.Event,
        task_status: trio.TaskStatus[list[str]],
    ) -> None:
        spares = SpareDescriptors(SPARE_DESCRIPTORS)
        try:
            async with trio.open_nursery() as clients:

                async def take(accepted: socket.socket) -> None:
                    await self._take(accepted, clients)

                acceptor = Acceptor(take, self._refusals.refuse, spares)
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, acceptor, listener)
                    task_status.started([self._address(listener) for listener in listeners])
                    await stop.wait()
                    self._node.connections.draining = True
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.close()
                await self._drain()
                clients.cancel_scope.cancel()
        finally:
            spares.close()

    async def _run_node(  # noqa: ASYNC128  # it passes its task status on
        self, *, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            await self._node.run(task_status=task_status)
        except* Exception:
            if self._node.failure is None:
                raise
            # Else `_fail_with_node` does what there is to do.

    async def _fail_with_node(self, nursery: trio.Nursery) -> None:
        """End everything when the node fails, after its clients had some time to be told.

        The node itself may take long to end, as a thread of its engine may hang in the disk.
        """
        failure = await self._node.wait_for_failure()
        self._fail(str(failure), failure)
        with trio.move_on_after(FAREWELL_SECONDS):
            await self._end_requests()
            await self._wait_until_all_left()
        nursery.cancel_scope.cancel()

    async def _accept(self, acceptor: Acceptor, listener: socket.socket) -> None:
        try:
            await acceptor.run(listener)
        except* ListenerLost as errors:
            self._fail(str(errors.exceptions[0]), errors)
            raise

    def _fail(self, what: str, cause: BaseException) -> None:
        """Note and log that the server fails, once: what follows from it is of no interest."""
        if self._failure is not None:
            return
        self._failure = ServerFailed(what)
        self._failure.__cause__ = cause
        log.critical("%s: this server cannot go on", what, exc_info=cause)
        self._on_failure()

    async def _take(self, accepted: socket.socket, clients: trio.Nursery) -> None:
        """Serve a client, or refuse it; wait for room where neither is possible."""
        try:
            while len(self._clients) >= self._bounds.clients and not self._refusals.has_room:
                await self._refusals.wait_for_room()
            if len(self._clients) >= self._bounds.clients:
                clients.start_soon(self._refusals.refuse, accepted)
                return
            client = Client(self._service, accepted)
        except trio.Cancelled:
            accepted.close()
            raise
        except Exception as error:
            accepted.close()
            log.error("a client could not be served, by an error of ours", exc_info=error)
            return
        self._clients.add(client)
        clients.start_soon(self._serve_client, client)

    async def _serve_client(self, client: Client) -> None:
        try:
            await client.run()
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._empty.set()

    async def _drain(self) -> None:
        """Send everybody away; cut off who is still here when the time is up."""
        seconds = self._settings.drain_seconds
        log.info("draining %d connections in %g s", len(self._clients), seconds)
        await self._end_requests()
        with trio.move_on_after(seconds):
            await self._node.drain(seconds)
            await self._wait_until_all_left()
        async for client in in_turns(list(self._clients)):
            client.abort()

    async def _end_requests(self) -> None:
        """Have each client that has no stream end, behind a request that is under way."""
        await self._service.context.terminated.set()
        async for client in in_turns(list(self._clients)):
            client.drain()

    async def _wait_until_all_left(self) -> None:
        if self._clients:
            self._empty = trio.Event()
            await self._empty.wait()

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
    where the address cannot be bound, and ServerFailed if the server cannot go on.
    """
    check_bind(settings)
    listeners = open_listeners(settings)
    await Server(settings).serve(listeners, stop, task_status=task_status)


def run_server(settings: Settings) -> None:
    """Run the server as this process: until SIGTERM or SIGINT, a second one of which is final.

    The process ends within ``drain_seconds`` and `ending.GRACE_SECONDS` of the signal, by force if
    it has to. Raises SettingsError and CannotListen as `serve` does, and SystemExit with
    `EXIT_FAILURE` if the server fails, or was not done when a second signal came.
    """
    check_bind(settings)
    _raise_descriptor_limit(settings.max_connections)
    gc.set_threshold(*GC_THRESHOLDS)
    ending = Ending(drain_seconds=settings.drain_seconds)
    try:
        trio.run(_run_until_signalled, settings, ending)
    except ServerFailed:
        sys.exit(EXIT_FAILURE)  # It has been logged.
    if ending.was_hurried:
        sys.exit(EXIT_FAILURE)


async def _run_until_signalled(settings: Settings, ending: Ending) -> None:
    listeners = open_listeners(settings)
    server = Server(
        settings,
        on_failure=lambda: ending.end_within(
            FAILURE_SECONDS, f"it failed, and did not end within {FAILURE_SECONDS:g} s"
        ),
    )
    token = trio.lowlevel.current_trio_token()
    stop = trio.Event()
    with trio.CancelScope() as scope:

        def soon(function: Callable[[], None]) -> Callable[[], None]:
            return lambda: token.run_sync_soon(function)

        with ending.watch(drain=soon(stop.set), stop=soon(scope.cancel)):
            await server.serve(listeners, stop, task_status=_Announcement(server))


@attrs.frozen
class _Announcement:
    """Told that the server has started: says so on stdout."""

    server: Server

    def started(self, value: list[str] | None = None) -> None:
        # What has been loaded by now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _announce(value or [])
        self.server.forget_start()


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


def _raise_descriptor_limit(max_connections: int) -> None:
    wanted = _Bounds.within(math.inf, max_connections).descriptors
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
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


def _descriptor_limit() -> float:
    """Return how many descriptors this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
