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
from triocast.documents import ABSENT, at
from triocast.documents import Write as DocumentWrite
from triocast.errors import EndReason, TriocastError
from triocast.events import Event, presence_target
from triocast.presence import Presence
from triocast.publisher import Publisher
from triocast.wire.start import After, parse_cursor

from .attendance import GRACE_SECONDS, check_told, stays
from .clients import Client, read_members
from .ledger import Ledger, number_of
from .observing import Accepted, ObservedHub
from .steps import (
    ANYTHING,
    NAMESPACES,
    NOTHING,
    OLD_VERSION,
    Ask,
    Connect,
    Disk,
    Disturb,
    Pass,
    Publish,
    Say,
    Step,
    Subscribe,
    ToPublish,
    ToWrite,
    Turns,
    Unsubscribe,
    Write,
)
from .stores import Store
from .table import CHANGED, REMOVED, Entry, Listing, is_written_by_presence
from .windows import WINDOW_SECONDS, check_windows

LISTS = ("a", "n:a", "l:a", "w:a", "$presence:p:a", "$presence:p:b")
EVERY_CHANNEL = ("*", "$all", "$user:u", *LISTS)
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

    @property
    def texts(self) -> str:
        return "\n".join(map(logging.Formatter().format, self.records))


class World:
    """One node's parts, what its clients do, and what becomes of them."""

    def __init__(self, store: Store) -> None:
        self.engine = store.engine
        self.debounce = store.debounce
        self.disk = store.disk
        self.hub = ObservedHub(inbox_bytes=INBOX_BYTES, head=self.engine.head)
        self.accepted = Accepted()
        self.engine.attach(self.hub)
        self.engine.attach(self.accepted)
        self.publisher = Publisher(self.engine, max_event_bytes=10_000, wait_seconds=math.inf)
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
        self.here: dict[int, Client] = {}
        self.all: list[Client] = []
        self.ledger = Ledger(self.accepted, self.disk)
        self.faults = Faults()
        self._numbers = iter(range(10**6))

    async def play(self, script: Sequence[Step]) -> None:
        logging.getLogger("triocast").addHandler(self.faults)
        try:
            await self._play(script)
        finally:
            logging.getLogger("triocast").removeHandler(self.faults)

    async def _play(self, script: Sequence[Step]) -> None:
        with trio.fail_after(10_000):
            async with trio.open_nursery() as around:
                for task in (self.engine.run, self.hub.run, self.presence.run, self._pongs):
                    around.start_soon(task)
                async with trio.open_nursery() as runs:
                    async with trio.open_nursery() as publishers:
                        for step in script:
                            await self._do(step, runs, publishers)
                        self.disk.is_full = False
                        for client in self.all:
                            client.wire.stalled = False
                    await self._settle()
                history = await self.engine.history(EVERY_CHANNEL, after=0, limit=10**6)
                self.kept = set(history.publications)
                around.cancel_scope.cancel()
        assert self.connections.live == set()
        assert self.hub.subscribers() == ()

    async def _settle(self) -> None:
        """Let everything arrive, look at all lists, and send everybody away."""
        await trio.sleep(max(GRACE_SECONDS, WINDOW_SECONDS) + 2)
        waiting = True
        while waiting:
            await trio.sleep(1)
            waiting = self.hub.written != self.hub.accepted or any(
                client.connection.queued_bytes or client.is_catching_up
                for client in self.all
                if client.is_there
            )
        self.end, self.moves = trio.current_time(), tuple(self.hub.moves)
        self.last_lists = [await self._read_list(name) for name in LISTS]
        self.presence.pause()
        for client in self.all:
            client.survived = client.is_there
            client.connection.end(EndReason.SHUTDOWN)

    async def _pongs(self) -> None:
        while True:
            await trio.sleep(PONG_SECONDS)
            for client in self.all:
                client.pong()

    async def _do(self, step: Step, runs: trio.Nursery, publishers: trio.Nursery) -> None:
        match step:
            case Connect(slot):
                if slot not in self.here or not self.here[slot].is_there:
                    await self._connect(step, runs)
            case Publish(events):
                publishers.start_soon(self._publish, [self._event(event) for event in events])
            case Write(documents, writers):
                for _ in range(writers):
                    publishers.start_soon(self._write, documents)
            case Disk(turns, is_full):
                self.disk.turns, self.disk.is_full = turns, is_full
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

    async def _connect(self, step: Connect, runs: trio.Nursery) -> None:
        start, listing = self._start(step), None
        if step.reads is not None:
            listing = await self._read_list(step.reads)
            start = After(listing.position)
        client = Client(self, f"c{len(self.all)}", step, start, listing)
        self.all.append(client)
        self.here[step.client] = client
        self.connections.admit(client.connection)
        runs.start_soon(client.run)

    def _start(self, step: Connect) -> After | None:
        """Return where a client's forerunner had come to."""
        if not step.resumes or step.client not in self.here:
            return None
        text = self.here[step.client].cursor(self.accepted.list)
        return None if text is None else parse_cursor(text)

    async def _read_list(self, channel: str) -> Listing:
        span = self.ledger.begin()
        target = presence_target(channel)
        if target is None:
            found = await self.engine.documents(channel, limit=1_000, limit_bytes=10**6)
            assert found.complete
            entries = {
                each.key: Entry(each.version, json.loads(each.data)) for each in found.documents
            }
            listing = Listing(channel, entries, found.version, found.head)
        else:
            answer = await self.presence.members(target)
            self._check_counts(target, answer)
            listing = read_members(answer)
        self.ledger.listed(listing, span)
        return listing

    def _check_counts(self, channel: str, answer: dict[str, object]) -> None:
        """Check that members and connections are counted as they are at this moment."""
        listening = [s for s in self.hub.subscribers() if self.hub.is_subscribed(s, channel)]
        members = {subscriber.user or (subscriber.id,) for subscriber in listening}
        assert (answer["count"], answer["connections"]) == (len(members), len(listening))

    def _do_to(self, client: Client, step: Step) -> None:
        match step:
            case Say(_, channel, echo) if client.way.transport == "websocket":
                number = next(self._numbers)
                self.ledger.said.add(number)
                data = {"n": number}
                message = {"type": "publish", "channel": channel, "data": data, "echo": echo}
                client.say(message)
            case Ask(_, channel):
                client.ask(channel)
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
        return self.publisher.event(
            EVERY_RIGHT,
            channel=f"$conn:{id}" if own else spec.channel,
            type=spec.type,
            data=self._data(spec.size),
            key=spec.key,
            tags=tuple(spec.tags),
            exclude=id if spec.excludes and not own else None,
            urgent=spec.urgent,
        )

    def _data(self, size: int) -> bytes:
        return json.dumps({"n": next(self._numbers), "pad": "x" * size}).encode()

    async def _publish(self, events: Sequence[Event]) -> None:
        span = self.ledger.begin()
        try:
            accepted = await self.publisher.publish(events)
        except TriocastError as refusal:
            self.ledger.attempted(events, span, refusal=refusal)
        else:
            self.ledger.attempted(events, span, accepted)

    async def _write(self, documents: Sequence[ToWrite]) -> None:
        await self._publish([await self._writing_event(document) for document in documents])

    async def _writing_event(self, document: ToWrite) -> Event:
        data = self._data(document.size)
        expected = await self._expected_version(document)
        return self.publisher.event(
            EVERY_RIGHT,
            channel=document.channel,
            type=REMOVED if document.removes else CHANGED,
            data=data,
            key=document.key,
            write=DocumentWrite(
                None if document.removes else data,
                None if expected is None else at(expected) if expected else ABSENT,
            ),
            urgent=document.urgent,
        )

    async def _expected_version(self, document: ToWrite) -> int | None:
        if document.expects == ANYTHING:
            return None
        if document.expects == NOTHING:
            return 0
        span = self.ledger.begin()
        found = await self.engine.document(document.channel, document.key)
        version = 0 if found is None else found.version
        self.ledger.read((document.channel, document.key), version, span)
        return max(version - 1, 0) if document.expects == OLD_VERSION else version

    # What became of it.

    def check(self) -> None:
        store_failed = self.disk.failures > 0
        assert {record.name for record in self.faults.records} <= (
            {"triocast.sqlite"} if store_failed else set()
        ), self.faults.texts
        accepted = self.accepted.list
        note(f"accepted {[(each.seq, each.event.channel) for each in accepted]}")
        assert [each.seq for each in accepted] == list(range(1, len(accepted) + 1))
        table = self.ledger.check()
        self._check_windows(punctual=not store_failed)
        self._check_presence()
        for listing in self.last_lists:
            assert listing.entries == table.channel(listing.channel)
        for client in self.all:
            changes = self.hub.changes.get(client.id, ())
            client.check(changes, accepted, self.kept, table, store_failed=store_failed)

    def _check_windows(self, *, punctual: bool) -> None:
        windowed = [
            (each, at)
            for each, at in zip(self.accepted.list, self.accepted.times, strict=True)
            if NAMESPACES.of_channel(each.event.channel).debounce_ms
        ]
        dropped = check_windows(
            [
                (event, at)
                for event, at in self.debounce.added
                if NAMESPACES.of_channel(event.channel).debounce_ms
            ],
            {number_of(each.event): (each, at) for each, at in windowed},
            punctual=punctual,
        )
        assert self.engine.merged == dropped

    def _check_presence(self) -> None:
        """Check what was told of who is there until everybody was sent away."""
        told = [
            (each.event, at)
            for each, at in zip(self.accepted.list, self.accepted.times, strict=True)
            if is_written_by_presence(each.event)
        ]
        check_told(self.moves, told, self.end)
        there = {
            member
            for member, its in stays(self.moves).items()
            if its[-1].until + GRACE_SECONDS > self.end
        }
        for listing in self.last_lists:
            if presence_target(listing.channel) is not None:
                assert listing.entries.keys() == {
                    key for channel, key in there if channel == listing.channel
                }
