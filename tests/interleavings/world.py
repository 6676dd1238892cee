"""What clients, publishers and readers do, to one process after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from triocast.auth import EVERYTHING as EVERY_RIGHT
from triocast.documents import ABSENT, at
from triocast.documents import Write as DocumentWrite
from triocast.errors import EndReason, TriocastError
from triocast.events import Accepted, Event, pattern_matches, presence_target
from triocast.publisher import Idempotency
from triocast.wire.start import After, parse_cursor

from .attendance import GRACE_SECONDS, RETURN_SECONDS, key_of
from .clients import Client, read_members
from .era import Era
from .life import End, Life
from .steps import (
    ANYTHING,
    NOTHING,
    OLD_VERSION,
    Ask,
    Cancel,
    Connect,
    Disk,
    Disturb,
    Fail,
    Kill,
    Look,
    Pass,
    Publish,
    Repeat,
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
from .table import CHANGED, REMOVED, Entry, Listing
from .windows import WINDOW_SECONDS

LISTS = ("a", "n:a", "l:a", "w:a", "$presence:p:a", "$presence:p:b")
EVERY_CHANNEL = ("*", "$all", "$user:u", *LISTS)
PONG_SECONDS = 5.0


class Faults(logging.Handler):
    """Whatever is logged as a fault of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.are_heard = True

    def emit(self, record: logging.LogRecord) -> None:
        if self.are_heard:
            self.records.append(record)

    @property
    def texts(self) -> str:
        return "\n".join(map(logging.Formatter().format, self.records))


class World:
    """What clients, publishers and readers do, to one process after the other."""

    def __init__(self, store: Store) -> None:
        self.faults = Faults()
        self._store = store
        self._disk = store.disk
        self._eras: list[Era] = []
        self._life: Life
        self._era: Era
        self._here: dict[int, Client] = {}
        self._all: list[Client] = []
        self._clients: trio.Nursery
        self._callers: trio.Nursery
        self._calls: dict[trio.CancelScope, None] = {}
        """Those under way, the latest last."""
        self._have_failed = False
        """Whether the node of any process has."""
        self._sent: list[list[Event]] = []
        """What was published under keys."""
        self._unanswered: list[list[Event]] = []
        """Which of these had no answer when a process ended."""
        self._numbers = iter(range(10**6))

    async def play(self, script: Sequence[Step]) -> None:
        logging.getLogger("triocast").addHandler(self.faults)
        try:
            with trio.fail_after(10_000):
                steps = iter(script)
                while await self._live(steps) is not End.ORDERLY:
                    pass
        finally:
            logging.getLogger("triocast").removeHandler(self.faults)

    # One process.

    def _begin(self) -> Life:
        life = self._life = Life(self._store)
        if not self._eras or not self._store.outlives_processes:
            self._era = Era(self._store, life.engine.head.epoch)
            self._eras.append(self._era)
        self._era.enter(life)
        return life

    async def _live(self, steps: Iterator[Step]) -> End | None:
        """Play a process until it ends; say how it did."""
        life = self._begin()
        thaw = None
        async with trio.open_nursery() as around:
            around.start_soon(life.run)
            pongs = await around.start(self._pongs)
            async with trio.open_nursery() as self._clients:
                async with trio.open_nursery() as self._callers:
                    self._send_again()
                    match await self._do_some(steps):
                        case Kill():
                            thaw = life.kill()
                            self._cut_off()
                            around.cancel_scope.cancel()
                        case Fail(part):
                            self._have_failed = True
                            life.fail(part)
                            self._publish_somehow()
                        case None:
                            self._disk.is_full = False
                            for client in self._all:
                                client.wire.stalled = False
                if life.ended is None:
                    await self._settle()
            if life.ended is End.ORDERLY:
                await self._note_kept()
                around.cancel_scope.cancel()
            pongs.cancel()  # A failed node ends by itself, as does whoever waits for it.
        assert life.connections.live == set()
        assert life.hub.subscribers() == ()
        if thaw is not None:
            assert trio.current_time() == life.died, "a killed process takes no time"
            thaw()
            self.faults.are_heard = True
        else:
            life.note_what_was_taken()
            self._era.leave(life)
            self._sent_in_vain()
        if not self._store.outlives_processes:
            await self._note_kept()
        return life.ended

    def _cut_off(self) -> None:
        """Hear no more of a process: nobody else does."""
        self.faults.are_heard = False
        self._era.leave(self._life)
        self._sent_in_vain()
        for client in self._all:
            if client.life is self._life:
                client.cut_off()

    def _sent_in_vain(self) -> None:
        """Note what its publishers will send again: they had no answer, or the node failed."""
        self._unanswered = self._era.ledger.to_send_again()

    def _send_again(self) -> None:
        for events in self._unanswered:
            self._start_call(self._publish, events)

    async def _note_kept(self) -> None:
        history = await self._life.engine.history(EVERY_CHANNEL, after=0, limit=10**6)
        self._era.kept = set(history.publications)

    async def _settle(self) -> None:
        """Let everything arrive, look at all lists, and send everybody away."""
        await trio.sleep(max(GRACE_SECONDS, RETURN_SECONDS, WINDOW_SECONDS) + 2)
        hub, waiting = self._life.hub, True
        while waiting:
            await trio.sleep(1)
            waiting = hub.written != hub.accepted or any(
                client.connection.queued_bytes or client.is_catching_up
                for client in self._all
                if client.is_there
            )
        self._life.send_away()
        self._era.last_lists = [await self._read_list(name) for name in LISTS]
        for client in self._all:
            if client.life is self._life:
                client.survived = client.is_there
                client.connection.end(EndReason.SHUTDOWN)

    async def _pongs(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await trio.sleep(PONG_SECONDS)
                for client in self._all:
                    client.pong()

    # What is done to it.

    async def _do_some(self, steps: Iterator[Step]) -> Kill | Fail | None:
        """Do what comes until something ends the process; None if nothing does."""
        for step in steps:
            if isinstance(step, Kill | Fail):
                return step
            await self._do(step)
        return None

    async def _do(self, step: Step) -> None:
        match step:
            case Connect(slot):
                if slot not in self._here or not self._here[slot].is_there:
                    await self._connect(step)
            case Publish(specs, once):
                keys = self._keys(once, len(specs))
                events = [self._event(*each) for each in zip(specs, keys, strict=True)]
                self._start_call(self._publish_first, events)
            case Write(documents, writers, once):
                for _ in range(writers):
                    keys = self._keys(once, len(documents))
                    self._start_call(self._write, documents, keys)
            case Repeat(which):
                if which < len(self._sent):
                    self._start_call(self._publish, self._sent[-1 - which])
            case Look(names):
                self._start_call(self._look, names)
            case Cancel(which):
                if which < len(self._calls):
                    list(self._calls)[-1 - which].cancel()
            case Disk(turns, is_full):
                self._disk.turns, self._disk.is_full = turns, is_full
            case Turns(count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case Pass(seconds):
                await trio.sleep(seconds)
            case Say() | Ask() | Subscribe() | Unsubscribe() | Disturb():
                client = self._here.get(step.client)
                if (
                    client is not None
                    and client.is_there
                    and client.connection in self._life.connections.live
                ):
                    self._do_to(client, step)

    async def _connect(self, step: Connect) -> None:
        start, listing = self._start(step), None
        if step.reads is not None:
            listing = await self._read_list(step.reads)
            start = After(listing.position)
        client = Client(self._life, f"c{len(self._all)}", step, start, listing)
        self._all.append(client)
        self._era.clients.append(client)
        self._here[step.client] = client
        self._life.connections.admit(client.connection)
        self._clients.start_soon(client.run)

    def _start(self, step: Connect) -> After | None:
        """Return where a client's forerunner had come to."""
        if not step.resumes or step.client not in self._here:
            return None
        before = self._here[step.client]
        (era,) = (era for era in self._eras if before in era.clients)
        text = before.cursor(era.accepted.list)
        return None if text is None else parse_cursor(text)

    def _do_to(self, client: Client, step: Say | Ask | Subscribe | Unsubscribe | Disturb) -> None:
        hub = self._life.hub
        match step:
            case Say(_, channel, echo) if client.way.transport == "websocket":
                number = next(self._numbers)
                self._era.ledger.said.add(number)
                data = {"n": number}
                message = {
                    "type": "publish",
                    "event": {"channel": channel, "data": data},
                    "echo": echo,
                }
                client.say(message)
            case Ask(_, channel):
                client.ask(channel)
            case Subscribe(_, names, filter):
                client.subscribe(hub, names, filter)
            case Unsubscribe(_, names):
                client.unsubscribe(hub, names)
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
            case Disturb(_, "cancel"):
                client.scope.cancel()
            case Disturb(_, "beat") if client.way.transport == "sse":
                client.connection._beat()  # now, where the clock would not strike by itself

    # What callers do.

    def _start_call(self, call: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self._callers.start_soon(self._call, call, *arguments)

    async def _call(self, call: Callable[..., Awaitable[None]], *arguments: object) -> None:
        with trio.CancelScope() as scope:
            self._calls[scope] = None
            try:
                await call(*arguments)
            finally:
                del self._calls[scope]

    def _keys(self, once: bool, count: int) -> list[Idempotency | None]:
        if not once:
            return [None] * count
        key = f"k{next(self._numbers)}"
        return [Idempotency(key, index) for index in range(count)]

    def _event(self, spec: ToPublish, once: Idempotency | None) -> Event:
        client = self._here.get(spec.of_client)
        known = client is not None and client.connection in self._life.connections.live
        id = client.id if known else "nobody"
        own = spec.channel == "$conn"
        return self._life.publisher.event(
            EVERY_RIGHT,
            channel=f"$conn:{id}" if own else spec.channel,
            type=spec.type,
            data=self._data(spec.size),
            key=spec.key,
            tags=tuple(spec.tags),
            exclude=id if spec.excludes and not own else None,
            once=once,
            urgent=spec.urgent,
        )

    def _data(self, size: int) -> bytes:
        return json.dumps({"n": next(self._numbers), "pad": "x" * size}).encode()

    async def _publish_first(self, events: Sequence[Event]) -> None:
        if events[0].once is not None:
            self._sent.append(events)
        await self._publish(events)

    async def _publish(self, events: Sequence[Event]) -> None:
        life, ledger = self._life, self._era.ledger
        attempt = ledger.attempt(events)
        accepted: Sequence[Accepted] = ()
        refusal: TriocastError | None = None
        try:
            accepted = await life.publisher.publish(events)
        except trio.Cancelled:
            if life.ended is not End.KILLED:
                ledger.cancelled(attempt)
            raise
        except TriocastError as error:
            refusal = error
        if life.ended is not End.KILLED:  # Else nobody hears of it.
            ledger.answered(attempt, accepted, refusal)

    def _publish_somehow(self) -> None:
        """Have something be published, whatever becomes of it."""
        self._disk.is_full = False
        self._start_call(self._publish, [self._event(ToPublish("a"), None)])

    async def _write(
        self, documents: Sequence[ToWrite], keys: Sequence[Idempotency | None]
    ) -> None:
        life = self._life
        try:
            events = [
                await self._writing_event(*each) for each in zip(documents, keys, strict=True)
            ]
        except TriocastError:
            assert life.ended in (End.KILLED, End.FAILED)
        else:
            await self._publish_first(events)

    async def _writing_event(self, document: ToWrite, once: Idempotency | None) -> Event:
        data = self._data(document.size)
        expected = await self._expected_version(document)
        return self._life.publisher.event(
            EVERY_RIGHT,
            channel=document.channel,
            type=REMOVED if document.removes else CHANGED,
            data=data,
            key=document.key,
            once=once,
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
        life, ledger = self._life, self._era.ledger
        span = ledger.begin()
        found = await life.engine.document(document.channel, document.key)
        version = 0 if found is None else found.version
        if life.ended is not End.KILLED:
            ledger.read((document.channel, document.key), version, span)
        return max(version - 1, 0) if document.expects == OLD_VERSION else version

    async def _look(self, names: Sequence[str]) -> None:
        """Read history, and check that nothing is missing but what retention removed."""
        life, accepted = self._life, self._era.accepted.list
        least = len(accepted)
        try:
            history = await life.engine.history(names, after=0, limit=10**6)
        except TriocastError:
            assert life.ended in (End.KILLED, End.FAILED)
            return
        if life.ended is End.KILLED:
            return
        assert least <= history.head.seq <= len(accepted)
        assert history.complete
        assert [publication.seq for publication in history.publications] == sorted(
            {publication.seq for publication in history.publications}
        )
        floor = max(history.floors.values())
        asked_for = [
            publication
            for publication in accepted[: history.head.seq]
            if any(pattern_matches(name, publication.event.channel) for name in names)
        ]
        assert all(publication in asked_for for publication in history.publications)
        assert all(
            publication in history.publications
            for publication in asked_for
            if publication.seq > floor
        )

    async def _read_list(self, channel: str) -> Listing:
        life, ledger = self._life, self._era.ledger
        span = ledger.begin()
        target = presence_target(channel)
        if target is None:
            found = await life.engine.documents(channel, limit=1_000, limit_bytes=10**6)
            assert found.complete
            entries = {
                each.key: Entry(each.version, json.loads(each.data)) for each in found.documents
            }
            listing = Listing(channel, entries, found.version, found.head)
        else:
            answer = await life.presence.members(target)
            listing = read_members(answer)
            self._check_counts(target, answer, listing)
        ledger.listed(listing, span)
        return listing

    def _check_counts(self, channel: str, answer: dict[str, object], listing: Listing) -> None:
        """Check that those listed are counted, and their connections of this moment."""
        hub = self._life.hub
        connections = sum(
            hub.is_subscribed(subscriber, channel)
            and key_of(subscriber.id, subscriber.user) in listing.entries
            for subscriber in hub.subscribers()
        )
        assert (answer["count"], answer["connections"]) == (len(listing.entries), connections)

    # What became of it.

    def check(self) -> None:
        expected = set()
        if self._disk.failures:
            expected.add("triocast.sqlite")
        if self._have_failed:
            expected |= {"triocast.connection", "triocast.presence"}
        assert {record.name for record in self.faults.records} <= expected, self.faults.texts
        for era in self._eras:
            era.check()
