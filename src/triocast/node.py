"""One process's parts, put together: engine, hub, publisher, connections.

Plain Trio and no web framework, so that an application can hold one of its own::

    async with open_node(settings) as node:
        broadcaster = EventBroadcaster(node)
"""

from __future__ import annotations

import contextlib
import enum
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import attrs
import trio

from triocast.auth import Authenticator
from triocast.connections import Connections
from triocast.engines import Engine, open_engine
from triocast.errors import EndReason, NodeClosed, NodeFailed, NodeNotStarted
from triocast.hub import Hub
from triocast.presence import Presence
from triocast.publisher import Publisher
from triocast.settings import Settings
from triocast.signaling.ice import IceSettings, ice_servers
from triocast.signaling.peerjs import PeerLimits
from triocast.signaling.rooms import Limits, Rooms
from triocast.steps import StepMeter
from triocast.transports.deflate import DeflatedTextFrameEncoder, make_deflate
from triocast.transports.peerjs import PeerJS
from triocast.transports.signaling import Signaling

SIGNALING_RATE: Final = 200.0
"""Messages per second that a peer may send; it is read no faster than that."""

SIGNALING_STRANGERS: Final = 10
"""One in so many connections may be of somebody whose token is still to come."""

SIGNALING_QUEUE_BYTES: Final = 131_072
"""What is kept for each peer of signaling, for its return."""


PEERJS_SILENT_HEARTBEATS: Final = 4
"""A client of PeerJS that gives no sign for so many heartbeats is dropped."""

log = logging.getLogger("triocast.node")


class NodeState(enum.Enum):
    """How far a node has come. It runs once: after a failure or its end it is of no use."""

    NOT_STARTED = "not_started"
    RUNNING = "running"
    FAILED = "failed"
    CLOSED = "closed"


class PartFailed(Exception):
    """A part of a node failed, and the node with it; the cause is the part's error."""

    def __init__(self, part: str, cause: BaseException) -> None:
        super().__init__(f"the {part} failed ({type(cause).__name__}: {cause})")
        self.__cause__ = cause


@attrs.define(eq=False)
class _Life:
    """What changes in the life of a node."""

    state: NodeState = NodeState.NOT_STARTED
    failure: PartFailed | None = None
    failed: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class Node:
    """The parts that serve one process's clients."""

    settings: Settings
    engine: Engine
    hub: Hub
    publisher: Publisher
    connections: Connections
    presence: Presence
    signaling: Signaling | None
    """The rooms of WebRTC signaling; None where that is switched off."""
    peerjs: PeerJS | None
    """The clients of PeerJS; None where that is switched off."""
    authenticator: Authenticator
    deflate: DeflatedTextFrameEncoder | None
    """Agrees on compression with WebSocket clients, and encodes for them; None while no namespace
    asks for it.
    """
    steps: StepMeter = attrs.field(factory=StepMeter)
    """Measures the run loop that the node runs in."""
    _life: _Life = attrs.field(factory=_Life, init=False, eq=False)

    @property
    def state(self) -> NodeState:
        """Whether the node runs, or why not."""
        return self._life.state

    @property
    def failure(self) -> PartFailed | None:
        """What the node failed of, if it did."""
        return self._life.failure

    async def wait_for_failure(self) -> PartFailed:
        """Return what the node failed of, in the moment that it does."""
        await self._life.failed.wait()
        assert self._life.failure is not None
        return self._life.failure

    def check_running(self) -> None:
        """Return if the node runs. Raises NodeNotStarted, NodeFailed or NodeClosed."""
        match self.state:
            case NodeState.NOT_STARTED:
                raise NodeNotStarted(
                    "this server's node does not run: its application was not sent"
                    " 'lifespan.startup'. If it is mounted below another application, pass the"
                    " lifespan events on to it, or run it by itself"
                )
            case NodeState.FAILED:
                raise NodeFailed(
                    "this server's node failed, which has been logged: its process has to be"
                    " restarted"
                )
            case NodeState.CLOSED:
                raise NodeClosed("this server's node has ended: its process has to be restarted")

    @property
    def ready(self) -> bool:
        """Whether new clients should be sent here."""
        return self.state is NodeState.RUNNING and not self.connections.draining

    async def drain(self, seconds: float) -> None:
        """Send all clients away within ``seconds``; publishers are refused from then on.

        What was acknowledged before is written to them before they are told to go.
        """
        self.connections.draining = True
        self.presence.pause()
        began = trio.current_time()
        with trio.move_on_after(seconds / 2):
            await self.hub.wait_until_written()
        await self.connections.drain(max(0.0, seconds - (trio.current_time() - began)))
        self.publisher.closed = True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all parts until cancelled; once in the node's life.

        If one of them fails, or ends by itself, the node has failed: all clients are told, nobody
        is let in any more, and the error is raised when the other parts have ended.
        """
        life = self._life
        if life.state is not NodeState.NOT_STARTED:
            raise RuntimeError("a node runs once")
        life.state = NodeState.RUNNING
        self.steps.restart()
        trio.lowlevel.add_instrument(self.steps)
        try:
            async with trio.open_nursery() as nursery:
                for name, run in self._parts():
                    nursery.start_soon(self._run_part, name, run)
                task_status.started()
        finally:
            with contextlib.suppress(KeyError):  # Trio removes one that fails.
                trio.lowlevel.remove_instrument(self.steps)
            if life.failure is None:
                life.state = NodeState.CLOSED
                self.connections.end_all(EndReason.SHUTDOWN)
            self.engine.detach(self.hub)
            self.engine.close()

    def _parts(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        yield "engine", self.engine.run
        yield "hub", self.hub.run
        if self.signaling is not None:
            yield "signaling", self.signaling.run
        if self.peerjs is not None:
            yield "peerjs", self.peerjs.run
        if self.presence.is_on:
            yield "presence", self.presence.run

    async def _run_part(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
            raise RuntimeError("it ended by itself")
        except BaseException as error:
            fault = _without_cancellation(error)
            if fault is not None:
                self._fail(PartFailed(name, fault))
            raise

    def _fail(self, failure: PartFailed) -> None:
        """Have clients go elsewhere. The first failure counts; others mostly follow from it."""
        if self._life.failure is not None:
            return
        self._life.failure, self._life.state = failure, NodeState.FAILED
        self._life.failed.set()
        self.publisher.closed = True
        self.connections.end_all(EndReason.SERVER_ERROR)
        for subscriber in self.hub.subscribers():  # those in the process
            subscriber.fail()


def build_node(settings: Settings) -> Node:
    """Return a node that does not run yet."""
    engine = open_engine(settings, epoch=secrets.token_hex(4))
    hub = Hub(
        inbox_bytes=settings.inbox_bytes,
        head=engine.head,
        max_subscriptions=settings.max_subscriptions,
    )
    # From now on, so that nothing published before the first turn of `run` passes the hub by.
    engine.attach(hub)
    publisher = Publisher(
        engine,
        max_event_bytes=settings.max_event_bytes,
        wait_seconds=settings.publish_wait_seconds,
    )
    presence = Presence(
        engine,
        publisher,
        namespaces=settings.namespaces,
        grace_seconds=settings.presence_grace_seconds,
    )
    if presence.is_on:
        hub.watcher = presence
    return Node(
        settings=settings,
        engine=engine,
        hub=hub,
        publisher=publisher,
        presence=presence,
        signaling=_open_signaling(settings) if settings.signaling_enabled else None,
        peerjs=_open_peerjs(settings) if settings.peerjs_enabled else None,
        connections=Connections(
            engine,
            hub,
            most=settings.max_connections,
            outbox_bytes=settings.outbox_bytes,
            heartbeat_seconds=settings.heartbeat_seconds,
            namespaces=settings.namespaces,
            presence=presence,
        ),
        authenticator=Authenticator(
            token_key=settings.token_key,
            token_audience=settings.token_audience,
            token_in_query=settings.token_in_query,
            insecure_anonymous=settings.insecure_anonymous,
        ),
        deflate=make_deflate(settings.namespaces),
    )


def _open_signaling(settings: Settings) -> Signaling:
    limits = Limits(
        # A room has one peer at least, and at the bound of peers those that are away give way.
        rooms=settings.max_connections + 1,
        peers=settings.max_connections,
        peers_per_room=settings.signaling_peers_per_room,
        queue_bytes=SIGNALING_QUEUE_BYTES,
        grace_seconds=settings.signaling_grace_seconds,
        blip_seconds=min(Limits().blip_seconds, settings.signaling_grace_seconds),
        heartbeat_seconds=settings.heartbeat_seconds,
        heartbeat_timeout=2 * settings.heartbeat_seconds,
        rate=SIGNALING_RATE,
        relay_data=settings.signaling_relay_data,
    )
    ice = IceSettings(
        stun=settings.stun_servers,
        turn=settings.turn_servers,
        secret=settings.turn_secret,
        lifetime=int(settings.turn_seconds),
    )
    return Signaling(
        Rooms(
            limits,
            lambda peer, seconds: ice_servers(ice, peer, now=time.time(), seconds=seconds),
        ),
        most_strangers=max(1, settings.max_connections // SIGNALING_STRANGERS),
    )


def _open_peerjs(settings: Settings) -> PeerJS:
    # Clients whose pages are hidden speak once a minute, by the browsers' throttling.
    return PeerJS(PeerLimits(alive_seconds=PEERJS_SILENT_HEARTBEATS * settings.heartbeat_seconds))


def _without_cancellation(error: BaseException) -> BaseException | None:
    """Return an error without what is only the end of a cancelled task; None if nothing is left."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error


@contextlib.asynccontextmanager
async def open_node(settings: Settings) -> AsyncIterator[Node]:
    """Run a node for the time of the block."""
    node = build_node(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        yield node
        nursery.cancel_scope.cancel()
