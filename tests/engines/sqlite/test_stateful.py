"""A store over any sequence of publishes, retention, restarts, crashes and restored copies.

Hypothesis writes the script. The model is the plain list of what was accepted: what is read must be
all of it above the floors, once, in order; a position that was given never stands for another
event; and what was published under a key is known again, whatever happened in between.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triocast.engines.retention import Keep
from triocast.engines.sqlite import SQLiteEngine
from triocast.engines.sqlite.backup import back_up, restore
from triocast.errors import IdempotencyConflict
from triocast.events import (
    Event,
    Once,
    Position,
    Publication,
    is_connection_channel,
    namespace_of,
    pattern_matches,
)

CHANNELS = ("a", "b", "n:a", "n:ab", "m:a", "$all", "$user:u", "$conn:x")
PATTERNS = ("*", "n:*", "n:a*", "m:*", "none:*")
TIMESTAMP = "2026-01-31T12:00:00.123Z"
WRITES = ("", "-wal", "-shm", ".head")
"""What a store has in files, by the ends of their names."""

Place = tuple[str, str, int]
Fact = tuple[str, int, int, bytes, str | None]
"""An accepted event: channel, seq, prev, data, key."""


# The script.


@attrs.frozen
class Batch:
    """Events to publish together: a channel, a key, and an idempotency key and digest, or none."""

    events: tuple[tuple[str, str | None, tuple[str, bytes] | None], ...]


@attrs.frozen
class Publish:
    batches: tuple[Batch, ...]


@attrs.frozen
class Read:
    names: tuple[str, ...]
    after: float
    before: float | None
    limit: int
    newest: bool


@attrs.frozen
class Latest:
    names: tuple[str, ...]
    limit: int
    limit_bytes: int


@attrs.frozen
class Trim:
    pass


@attrs.frozen
class Forget:
    channels: tuple[str, ...]


@attrs.frozen
class Reopen:
    pass


@attrs.frozen
class Crash:
    """The process dies. ``elsewhere`` opens what it left in another place."""

    elsewhere: bool
    torn: bool


@attrs.frozen
class Copy:
    """Somebody copies the files by hand; `Replace` puts the copy back."""


@attrs.frozen
class Replace:
    pass


@attrs.frozen
class BackUp:
    pass


@attrs.frozen
class Restore:
    pass


channels = st.sampled_from(CHANNELS)
names = st.lists(st.sampled_from(CHANNELS + PATTERNS), min_size=1, max_size=4, unique=True).map(
    tuple
)
shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.5])
onces = st.none() | st.tuples(st.sampled_from("xyz"), st.sampled_from([b"1", b"1", b"2"]))
batches = st.lists(
    st.tuples(channels, st.sampled_from([None, None, "k", "l"]), onces), min_size=1, max_size=12
).map(lambda events: Batch(tuple(events)))
steps = st.one_of(
    st.builds(Publish, st.tuples(batches)),
    st.builds(Publish, st.lists(batches, min_size=2, max_size=4).map(tuple)),
    st.builds(Publish, st.tuples(channels.map(lambda name: Batch(((name, None, None),) * 40)))),
    st.builds(
        Read, names, shares, st.none() | shares, st.sampled_from([0, 1, 5, 999]), st.booleans()
    ),
    st.builds(Latest, names, st.sampled_from([1, 3, 999]), st.sampled_from([20, 10**6])),
    st.builds(Trim),
    st.builds(Forget, st.lists(channels, min_size=1, max_size=3).map(tuple)),
    st.builds(Reopen),
    st.builds(Crash, st.booleans(), st.booleans()),
    st.builds(Copy),
    st.builds(Replace),
    st.builds(BackUp),
    st.builds(Restore),
)
bounds = st.fixed_dictionaries(
    {
        "history_events": st.sampled_from([0, 1, 5, 10_000]),
        "history_bytes": st.sampled_from([100_000, 10**9, 10**9]),
        "namespaces": st.sampled_from([{}, {"n": Keep(2)}, {"m": Keep(0), "default": Keep(3)}]),
    }
)


# The model.


@attrs.define
class Model:
    """What a store was told, and the highest floors that it told of."""

    epoch: str
    head: int = 0
    facts: list[Fact] = attrs.Factory(list)
    lasts: dict[str, int] = attrs.Factory(dict)
    forgotten: dict[str, int] = attrs.Factory(dict)
    resumed: dict[str, int] = attrs.Factory(dict)
    floors: dict[str, int] = attrs.Factory(lambda: dict.fromkeys(CHANNELS, 0))
    records: dict[Place, tuple[bytes, int]] = attrs.Factory(dict)
    epochs: dict[Place, str] = attrs.Factory(dict)
    """Of what is recorded: a restored store has records of the one before it."""

    def accept(self, publication: Publication) -> None:
        event = publication.event
        self.head += 1
        assert publication.position == Position(self.epoch, self.head)
        if is_connection_channel(event.channel):
            return
        last = self.lasts.get(event.channel, 0)
        assert last <= publication.prev < self.head
        if publication.prev != last:  # A channel forgotten altogether goes on from a floor.
            self.resumed[event.channel] = publication.prev
        self.lasts[event.channel] = self.head
        self.facts.append(fact_of(publication))

    def kept(self, channel: str, floor: int) -> list[Fact]:
        return [fact for fact in self.facts if fact[0] == channel and fact[1] > floor]


def fact_of(publication: Publication) -> Fact:
    event = publication.event
    return (event.channel, publication.seq, publication.prev, event.data, event.key)


class Outlet:
    has_room = True

    def __init__(self) -> None:
        self.got: list[Publication] = []

    async def wait_for_room(self) -> None:
        raise AssertionError("there is room")

    def put(self, publications: Sequence[Publication]) -> None:
        self.got += publications


@attrs.frozen
class Snapshot:
    inode: int
    files: dict[str, bytes]
    model: Model


# The play.


class World:
    def __init__(self, folder: Path, bounds: dict) -> None:
        self._folder = folder
        self._bounds = bounds
        self._bounded = bounds["history_bytes"] < 10**9
        self._path = folder / "0" / "events.db"
        self._places = 1
        self._numbers = 0
        self._given: dict[Position, bytes] = {}
        self._epochs: set[str] = set()
        self._copy: Snapshot | None = None
        self._backup: tuple[Path, Model] | None = None
        self._model = Model("")

    async def play(self, script: Sequence[object]) -> None:
        remaining = iter(script)
        more = True
        change: object = None
        while more:
            clean = change is None or isinstance(change, Reopen)
            change = None
            async with self._open(clean=clean):
                await self._check()
                for step in remaining:
                    change = await self._do(step)
                    if change is not None:
                        break
                else:
                    more = False
                await self._check()
                copy = self._read_files() if isinstance(change, Crash) else None
            if isinstance(change, Crash):
                assert copy is not None
                self._crash(change, copy)
            elif isinstance(change, Replace) and self._copy is not None:
                self._replace(self._copy)
            elif isinstance(change, Restore) and self._backup is not None:
                restore(self._backup[0], self._path, force=True)
                self._model = deepcopy(self._backup[1])
                self._model.epoch = ""

    @contextlib.asynccontextmanager
    async def _open(self, *, clean: bool):
        engine = SQLiteEngine(self._path, durable=False, **self._bounds)
        self._engine = engine
        self._outlet = Outlet()
        engine.attach(self._outlet)
        if not clean:
            # A channel that never had anything has its namespace's floor, which may be told
            # before it is written down.
            self._model.floors = dict.fromkeys(CHANNELS, 0)
        if self._model.epoch:
            assert engine.head == Position(self._model.epoch, self._model.head)
        else:  # Its past was lost.
            assert engine.head.seq == self._model.head
            assert engine.head.epoch not in self._epochs
            self._model.epoch = engine.head.epoch
            self._epochs.add(engine.head.epoch)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            engine.close()

    async def _do(self, step: object) -> object:
        """Do a step; return it if it needs the store closed."""
        match step:
            case Publish(batches):
                await self._publish(batches)
            case Read():
                await self._read(step)
            case Latest():
                await self._latest(step)
            case Trim():
                await self._engine.trim()
                await self._check(trimmed=True)
            case Forget(channels):
                before = await self._floors()
                kept = sum(len(self._model.kept(c, before[c])) for c in set(channels))
                assert await self._engine.forget(channels) <= kept
                for name in channels:
                    self._model.forgotten[name] = self._model.lasts.get(name, 0)
            case Copy():
                self._copy = Snapshot(self._inode, self._read_files(), deepcopy(self._model))
            case BackUp():
                self._numbers += 1
                target = self._folder / f"backup{self._numbers}.db"
                contents = back_up(self._path, target)
                assert (contents.epoch, contents.seq) == (self._model.epoch, self._model.head)
                self._backup = (target, deepcopy(self._model))
            case _:
                return step
        return None

    # Publishing.

    async def _publish(self, batches: Sequence[Batch]) -> None:
        already = len(self._outlet.got)
        together = len(batches) > 1
        results: list[tuple[Sequence[Event], tuple[Publication, ...] | None]] = []

        async def publish(events: Sequence[Event]) -> None:
            try:
                results.append((events, await self._engine.publish(events)))
            except IdempotencyConflict:
                results.append((events, None))

        async with trio.open_nursery() as nursery:
            for batch in batches:
                nursery.start_soon(publish, self._events(batch, alike=together))
        spread = self._outlet.got[already:]
        known = {place: seq for place, (_, seq) in self._model.records.items()}
        for publication in spread:
            self._model.accept(publication)
            self._give(publication)
            once = publication.event.once
            if once is not None:
                place = (once.scope, once.key, once.index)
                assert place not in known, "accepted twice under one key"
                known[place] = publication.seq
                self._model.records[place] = (once.digest, publication.seq)
                self._model.epochs[place] = publication.epoch
        by_seq = {publication.seq: publication for publication in spread}
        answered = set()
        for events, publications in results:
            if publications is None:
                assert not together
                assert not spread
                assert self._conflicts(events)
                continue
            assert not (not together and self._conflicts(events))
            assert [p.event for p in publications] == list(events)
            repeats = [p for p in publications if p not in spread]
            assert {p.epoch for p in publications if p not in repeats} <= {self._model.epoch}
            for repeat in repeats:  # It gets the first answer, which may be of an older epoch.
                once = repeat.event.once
                assert repeat.epoch == self._model.epochs[(once.scope, once.key, once.index)]
            for publication in publications:
                once = publication.event.once
                if once is not None:
                    assert publication.seq == known[once.scope, once.key, once.index]
                else:
                    assert by_seq[publication.seq] == publication
                    assert publication.seq not in answered, "two publishers got one position"
                answered.add(publication.seq)
            seqs = [p.seq for p in publications if p.event.once is None]
            if all(event.once is None for event in events):
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
            assert seqs == sorted(seqs)
        assert set(by_seq) <= answered, "accepted what nobody published"

    def _events(self, batch: Batch, *, alike: bool) -> list[Event]:
        """Return a batch's events; what has the same idempotency key is the same event."""
        events = []
        for index, (channel, key, idempotency) in enumerate(batch.events):
            self._numbers += 1
            data = b"%d" % self._numbers
            once = None
            if idempotency is not None:
                name, digest = idempotency
                place = ("ann", name, index)
                if alike:
                    digest, _ = self._model.records.get(place, (b"1", 0))
                once = Once(*place, digest)
                channel = CHANNELS[(index + ord(name)) % len(CHANNELS)]
                data, key = b'"%s%d"' % (name.encode(), index), None
            if self._bounded:
                data = b'{"n": %s, "x": "%s"}' % (data, b"x" * 500)
            events.append(Event("T", data, channel, TIMESTAMP, key=key, once=once))
        return events

    def _conflicts(self, events: Sequence[Event]) -> bool:
        found = {place: digest for place, (digest, _) in self._before.items()}
        for event in events:
            if event.once is not None:
                place = (event.once.scope, event.once.key, event.once.index)
                if found.setdefault(place, event.once.digest) != event.once.digest:
                    return True
        return False

    @property
    def _before(self) -> dict[Place, tuple[bytes, int]]:
        return self._model.records

    def _give(self, publication: Publication) -> None:
        data = publication.event.channel.encode() + publication.event.data
        assert self._given.setdefault(publication.position, data) == data, "a position given twice"

    # Reading.

    async def _floors(self) -> dict[str, int]:
        history = await self._engine.history(CHANNELS, after=0, limit=0)
        return dict(history.floors)

    async def _check(self, *, trimmed: bool = False) -> None:
        """Compare all that the store has, and what it says of what it has not, with the model."""
        model = self._model
        history = await self._engine.history(CHANNELS, after=0, limit=10**6)
        assert history.complete
        assert history.head == self._engine.head == Position(model.epoch, model.head)
        assert [fact_of(p) for p in history.publications] == [
            fact for fact in model.facts if fact[1] > history.floors[fact[0]]
        ]
        assert {p.position.epoch for p in history.publications} <= {model.epoch}
        for channel in CHANNELS:
            floor = history.floors[channel]
            assert model.floors[channel] <= floor <= model.head
            kept = len(model.kept(channel, floor))
            own = len(model.kept(channel, model.forgotten.get(channel, 0)))
            keep = self._keep(channel)
            assert floor >= model.forgotten.get(channel, 0)
            assert floor >= model.resumed.get(channel, 0)
            if not self._bounded:
                assert kept >= min(own, keep), "removed too early"
            if trimmed:
                assert kept <= keep
        model.floors = dict(history.floors)

    async def _read(self, step: Read) -> None:
        model = self._model
        after = int(step.after * model.head)
        before = None if step.before is None else int(step.before * model.head)
        while True:  # until retention did nothing meanwhile
            floors = await self._floors()
            history = await self._engine.history(
                step.names, after=after, limit=step.limit, before=before, newest=step.newest
            )
            if floors == await self._floors():
                break
        below = model.head + 1 if before is None else before
        found = [
            fact
            for fact in model.facts
            if covered(step.names, fact[0]) and max(after, floors[fact[0]]) < fact[1] < below
        ]
        cut = found[max(0, len(found) - step.limit) :] if step.newest else found[: step.limit]
        assert [fact_of(p) for p in history.publications] == cut
        assert history.complete is (len(found) <= step.limit)
        assert history.head == self._engine.head
        assert set(history.floors) == set(step.names)
        for name, floor in history.floors.items():
            if name in floors:
                assert floor == floors[name]
                continue
            true = max((floors[c] for c in CHANNELS if pattern_matches(name, c)), default=0)
            spaces = [
                floors[c]
                for c in CHANNELS
                if name == "*" or namespace_of(c) == name[:-1].partition(":")[0]
            ]
            assert min(true, after) <= floor or floor >= true
            if true > after:
                assert true <= floor
            assert floor <= max([after, true, *spaces])

    async def _latest(self, step: Latest) -> None:
        model = self._model
        while True:
            floors = await self._floors()
            found = await self._engine.latest(
                step.names, limit=step.limit, limit_bytes=step.limit_bytes
            )
            if floors == await self._floors():
                break
        newest: dict[tuple[str, str | None], Fact] = {}
        for fact in model.facts:
            if covered(step.names, fact[0]) and fact[1] > floors[fact[0]]:
                newest[fact[0], fact[4]] = fact
        due = sorted(newest.values(), key=lambda fact: fact[1])
        if len(due) > step.limit or sum(len(fact[3]) for fact in due) > step.limit_bytes:
            assert found is None
        else:
            assert found is not None
            assert [fact_of(p) for p in found] == due

    def _keep(self, channel: str) -> int:
        keep = self._bounds["namespaces"].get(namespace_of(channel))
        return self._bounds["history_events"] if keep is None else keep.events

    # The files.

    def _read_files(self) -> dict[str, bytes]:
        """Return what is in the store's files, between two of its transactions."""
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            return {
                end: Path(f"{self._path}{end}").read_bytes()
                for end in WRITES
                if Path(f"{self._path}{end}").exists()
            }

    def _write_files(self, files: dict[str, bytes], *, torn: bool = False) -> None:
        """Put files in their places; those that are there stay the same files to the system."""
        for end in ("-wal", "-shm"):
            Path(f"{self._path}{end}").unlink(missing_ok=True)
        for end, content in files.items():
            with open(
                f"{self._path}{end}",
                "r+b" if end in ("", ".head") and Path(f"{self._path}{end}").exists() else "wb",
            ) as file:
                file.truncate()
                file.write(content)
                if torn and end == "-wal":
                    file.write(b"a commit that did not come to its end")

    @property
    def _inode(self) -> int:
        return self._path.stat().st_ino

    def _crash(self, step: Crash, files: dict[str, bytes]) -> None:
        if step.elsewhere:
            self._path = self._folder / str(self._places) / "events.db"
            self._path.parent.mkdir()
            self._places += 1
            self._model.epoch = ""  # Which of the two goes on is not known.
        self._write_files(files, torn=step.torn)

    def _replace(self, copy: Snapshot) -> None:
        model = deepcopy(copy.model)
        lost = any(p.epoch == model.epoch and p.seq > model.head for p in self._given)
        self._write_files({end: content for end, content in copy.files.items() if end != ".head"})
        self._model = model
        if lost or copy.inode != self._inode:  # It is another file to the system.
            model.epoch = ""


def covered(names: Sequence[str], channel: str) -> bool:
    return any(name == channel or pattern_matches(name, channel) for name in names)


@settings(
    max_examples=settings.default.max_examples * 2,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(bounds, st.lists(steps, min_size=1, max_size=30))
def test_a_store_keeps_what_it_promised_over_everything(new_folder, bounds, script):
    with new_folder() as folder:
        trio.run(World(Path(folder), bounds).play, script)


PUBLISH = Publish((Batch((("a", None, None),)),))


@pytest.mark.parametrize(
    "script",
    [
        [Copy(), PUBLISH, Replace(), PUBLISH, Replace(), PUBLISH],
        [Copy(), PUBLISH, Replace(), Replace(), PUBLISH],
        [Copy(), PUBLISH, Replace(), Reopen(), Reopen(), PUBLISH],
        [Copy(), PUBLISH, Replace(), Crash(elsewhere=False, torn=False), PUBLISH],
        [Copy(), BackUp(), PUBLISH, Restore(), Replace(), PUBLISH, Reopen()],
    ],
)
def test_an_older_copy_that_is_put_back_begins_a_new_epoch_each_time_and_once(new_folder, script):
    bounds = {"history_events": 100, "history_bytes": 10**9, "namespaces": {}}
    with new_folder() as folder:
        trio.run(World(Path(folder), bounds).play, [PUBLISH, *script])
