"""One node's parts, what its clients do, and what becomes of them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

import trio
from hypothesis import note

from triocast.auth import EVERYTHING as EVERY_RIGHT
from triocast.connections import Connections
from triocast.engines.memory import MemoryEngine
from triocast.errors import EndReason
from triocast.events import Event, Publication
from triocast.publisher import Publisher
from triocast.wire.start import After, parse_cursor

from .clients import Client
from .observing import Accepted, ObservedHub
from .script import (
    NAMESPACES,
    Connect,
    Disturb,
    Pass,
    Publish,
    Say,
    Subscribe,
    ToPublish,
    Turns,
    Unsubscribe,
)

EVERY_CHANNEL = ("*", "$all", "$user:u")
HEARTBEAT_SECONDS = 30.0
PONG_SECONDS = 5.0
OUTBOX_BYTES = 8_000
INBOX_BYTES = 12_000


class Faults(logging.Handler):
    """Whatever is logged as a fault of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class World:
    """One node's parts, what its clients do, and what becomes of them."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(epoch="e", history_events=10, history_bytes=100_000)
        self.hub = ObservedHub(inbox_bytes=INBOX_BYTES, head=self.engine.head)
        self.accepted = Accepted()
        self.engine.attach(self.hub)
        self.engine.attach(self.accepted)
        self.publisher = Publisher(self.engine, max_event_bytes=10_000, wait_seconds=math.inf)
        self.connections = Connections(
            self.engine,
            self.hub,
            most=100,
            outbox_bytes=OUTBOX_BYTES,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            namespaces=NAMESPACES,
        )
        self.here: dict[int, Client] = {}
        self.all: list[Client] = []
        self.acknowledged: list[Publication] = []
        self.faults = Faults()
        self._numbers = iter(range(10**6))

    async def play(self, script: Sequence[object]) -> None:
        logging.getLogger("triocast").addHandler(self.faults)
        try:
            await self._play(script)
        finally:
            logging.getLogger("triocast").removeHandler(self.faults)

    async def _play(self, script: Sequence[object]) -> None:
        with trio.fail_after(10_000):
            async with trio.open_nursery() as around:
                around.start_soon(self.hub.run)
                around.start_soon(self._pongs)
                async with trio.open_nursery() as runs:
                    async with trio.open_nursery() as publishers:
                        for step in script:
                            await self._do(step, runs, publishers)
                        for client in self.all:
                            client.wire.stalled = False
                    await self._settle()
                around.cancel_scope.cancel()
            history = await self.engine.history(EVERY_CHANNEL, after=0, limit=10**6)
            self.kept = history.publications
        assert self.connections.live == set()
        assert self.hub.subscribers() == ()

    async def _settle(self) -> None:
        """Let everything arrive, then send everybody away."""
        waiting = True
        while waiting:
            await trio.sleep(1)
            waiting = self.hub.written != self.hub.accepted or any(
                client.connection.queued_bytes or client.is_catching_up
                for client in self.all
                if client.is_there
            )
        for client in self.all:
            client.survived = client.is_there
            client.connection.end(EndReason.SHUTDOWN)

    async def _pongs(self) -> None:
        while True:
            await trio.sleep(PONG_SECONDS)
            for client in self.all:
                client.pong()

    async def _do(self, step: object, runs: trio.Nursery, publishers: trio.Nursery) -> None:
        match step:
            case Connect(slot):
                if slot in self.here and self.here[slot].is_there:
                    return
                client = Client(self, f"c{len(self.all)}", step, self._start(step))
                self.all.append(client)
                self.here[slot] = client
                self.connections.admit(client.connection)
                runs.start_soon(client.run)
            case Publish(events):
                publishers.start_soon(self._publish, [self._event(event) for event in events])
            case Turns(count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case Pass(seconds):
                await trio.sleep(seconds)
            case _:
                client = self.here.get(step.client)
                if (
                    client is not None
                    and client.is_there
                    and client.connection in self.connections.live
                ):
                    self._do_to(client, step)

    def _start(self, step: Connect) -> After | None:
        """Return where a client's forerunner had come to."""
        if not step.resumes or step.client not in self.here:
            return None
        text = self.here[step.client].cursor(self.accepted.list)
        return None if text is None else parse_cursor(text)

    def _do_to(self, client: Client, step: object) -> None:
        match step:
            case Say(_, channel, echo) if client.way.transport == "websocket":
                data = {"n": next(self._numbers)}
                message = {"type": "publish", "channel": channel, "data": data, "echo": echo}
                client.say(message)
            case Subscribe(_, names, filter):
                client.subscribe(self.hub, names, filter)
            case Unsubscribe(_, names):
                client.unsubscribe(self.hub, names)
            case Disturb(_, "stall"):
                client.wire.stall()
            case Disturb(_, "go"):
                client.wire.stalled = False
            case Disturb(_, "break"):
                client.wire.broken = True
            case Disturb(_, "leave"):
                client.leave()
            case Disturb(_, "send away"):
                client.connection.end(EndReason.SHUTDOWN)
            case Disturb(_, "beat") if client.way.transport == "sse":
                client.connection._beat()  # now, where the clock would not strike by itself

    def _event(self, spec: ToPublish) -> Event:
        client = self.here.get(spec.of_client)
        known = client is not None and client.connection in self.connections.live
        id = client.id if known else "nobody"
        own = spec.channel == "$conn"
        data = {"n": next(self._numbers), "pad": "x" * spec.size}
        return self.publisher.event(
            EVERY_RIGHT,
            channel=f"$conn:{id}" if own else spec.channel,
            type=spec.type,
            data=json.dumps(data).encode(),
            key=spec.key,
            tags=tuple(spec.tags),
            exclude=id if spec.excludes and not own else None,
        )

    async def _publish(self, events: Sequence[Event]) -> None:
        publications = await self.publisher.publish(events)
        assert [each.event for each in publications] == events
        self.acknowledged += publications

    def check(self) -> None:
        assert self.faults.records == []
        accepted = self.accepted.list
        note(f"accepted {[(each.seq, each.event.channel) for each in accepted]}")
        assert [each.seq for each in accepted] == list(range(1, len(accepted) + 1))
        assert set(accepted).issuperset(self.acknowledged)
        for client in self.all:
            client.check(self.hub.changes.get(client.id, ()), accepted, set(self.kept))
