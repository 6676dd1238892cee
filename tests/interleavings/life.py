"""The life of one process: a node's parts on a store, until they end or are made to end."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import Enum, auto
from functools import partial

import attrs
import trio

from triocast.auth import Authenticator
from triocast.connections import Connections
from triocast.events import Event
from triocast.node import Node
from triocast.presence import Presence
from triocast.publisher import Publisher
from triocast.settings import Settings

from .attendance import GRACE_SECONDS
from .observing import Move, ObservedDebounce, ObservedHub
from .steps import NAMESPACES, OUTLET, PARTS
from .stores import Store

HEARTBEAT_SECONDS = 30.0
OUTBOX_BYTES = 8_000
INBOX_BYTES = 12_000
PUBLISH_WAIT_SECONDS = 60.0


class End(Enum):
    ORDERLY = auto()
    KILLED = auto()
    FAILED = auto()


class Fault(Exception):
    """What a part of a node fails of."""


@attrs.frozen
class FragileNode(Node):
    """A node whose parts can be made to fail, wherever they are in their work."""

    scopes: dict[str, trio.CancelScope] = attrs.field(
        factory=lambda: {name: trio.CancelScope() for name in PARTS}, init=False
    )

    def _parts(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        for name, run in super()._parts():
            yield name, partial(self._run_until_it_fails, name, run)

    async def _run_until_it_fails(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        with self.scopes[name]:
            await run()
        raise Fault(name)


class Life:
    """One process."""

    def __init__(self, store: Store) -> None:
        self.born, self.died = trio.current_time(), math.inf
        self.ended: End | None = None
        self.taken: Sequence[tuple[Event, float]] = ()
        """In the end: the events that the engine took, and when."""
        self.merged = 0
        self.moves: Sequence[Move] = ()
        self._store = store
        self._debounce = ObservedDebounce()
        self.engine = store.open(self._debounce)
        self.epoch = self.engine.head.epoch
        self.hub = ObservedHub(inbox_bytes=INBOX_BYTES, head=self.engine.head)
        self.engine.attach(self.hub)
        self.publisher = Publisher(
            self.engine, max_event_bytes=10_000, wait_seconds=PUBLISH_WAIT_SECONDS
        )
        self.presence = Presence(
            self.engine, self.publisher, namespaces=NAMESPACES, grace_seconds=GRACE_SECONDS
        )
        self.hub.watcher = self.presence
        self.connections = Connections(
            self.engine,
            self.hub,
            most=100,
            outbox_bytes=OUTBOX_BYTES,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            namespaces=NAMESPACES,
            presence=self.presence,
        )
        self._node = FragileNode(
            settings=Settings(),
            engine=self.engine,
            hub=self.hub,
            publisher=self.publisher,
            connections=self.connections,
            presence=self.presence,
            signaling=None,
            peerjs=None,
            authenticator=Authenticator(
                token_key=None, token_audience=None, token_in_query=False, insecure_anonymous=False
            ),
            deflate=None,
        )

    async def run(self) -> None:
        try:
            await self._node.run()
        except* Fault:
            assert self.ended is End.FAILED

    def fail(self, part: str) -> None:
        self._end(End.FAILED)
        if part == OUTLET:
            self.hub.fault = Fault(part)
        else:
            self._node.scopes[part].cancel()

    def kill(self) -> Callable[[], None]:
        """End here and now; to be cancelled next.

        Returns what is to be called then, as a killed process does nothing any more.
        """
        self._end(End.KILLED)
        self.note_what_was_taken()
        return self._store.freeze()

    def send_away(self) -> None:
        """Be at the end of its life, in good order."""
        self._end(End.ORDERLY)
        self.presence.pause()

    def _end(self, how: End) -> None:
        self.ended, self.died = how, trio.current_time()
        self.moves = tuple(self.hub.moves)

    def note_what_was_taken(self) -> None:
        self.taken, self.merged = self._debounce.taken()
        if self.ended is not End.KILLED:
            assert self.engine.merged == self.merged
        if self.ended is End.FAILED:
            # Also what was done in the moment of the failure, by who did not know of it yet.
            self.moves = tuple(move for move in self.hub.moves if move.at <= self.died)
