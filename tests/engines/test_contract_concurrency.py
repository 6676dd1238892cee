"""What every engine promises to tasks that publish, write documents, forget and read concurrently.

Hypothesis writes a script for each of several tasks and decides how long each call in a thread
takes, so that a failure can be repeated. The tasks only record what they asked and what the engine
answered. Afterwards, the events in the order in which the engine spread them are the truth: every
answer has to be right for some moment between its question and the answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, cycle

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from triocast.documents import ABSENT, Document, Write, at
from triocast.engines.usage import Bounds
from triocast.errors import IdempotencyConflict, TooManyDocuments, TriocastError, VersionConflict
from triocast.events import Event, Once, Publication, pattern_matches

TIME = "2026-01-31T12:00:00.123Z"
CHANNELS = ("a", "n:b", "$all", "$conn:x")
EVERY = 10**6

KEYS = ("k", "l", "m")

Place = tuple[str, str]
PLACES = [(channel, key) for channel in ("a", "n:b") for key in KEYS]


# The script.


@attrs.frozen
class Item:
    """An event to publish. ``removes`` is None if it does not write its document.

    ``expects`` is the precondition of the write: the version that the task saw last (``seen``), no
    document (``none``), or none at all (``any``).
    """

    channel: str
    key: str | None = None
    removes: bool | None = None
    expects: str = "any"


@attrs.frozen
class Publish:
    """Publish items, or the ``request`` of `REQUESTS` under its idempotency key.

    ``patience`` is after how many checkpoints the publisher is cancelled, if it has not returned.
    """

    items: tuple[Item, ...] = ()
    request: tuple[str, bytes] | None = None
    patience: int | None = None


REQUESTS = {
    ("x", b"1"): (Item("a"), Item("n:b")),
    ("x", b"2"): (Item("a"),),
    ("y", b"1"): (Item("a", "k", removes=False, expects="none"), Item("$all")),
    ("y", b"2"): (Item("n:b", "k", removes=False),),
    ("z", b"1"): (Item("a", "k", removes=True), Item("a", "l", removes=False, expects="none")),
}


@attrs.frozen
class Read:
    """Read a page of history; without ``after``, from where the last such page ended."""

    names: tuple[str, ...]
    after: int | None = None
    limit: int = EVERY
    newest: bool = False


@attrs.frozen
class Latest:
    names: tuple[str, ...]


@attrs.frozen
class ReadDocument:
    place: Place


@attrs.frozen
class ListDocuments:
    channel: str
    after: str
    limit: int


@attrs.frozen
class Forget:
    channels: tuple[str, ...]


@attrs.frozen
class Trim:
    pass


@attrs.frozen
class Pause:
    checkpoints: int


def write(place: Place, removes: bool, expects: str) -> Item:
    return Item(*place, removes, expects)


channels = st.sampled_from(CHANNELS)
places = st.sampled_from([("a", "k"), ("a", "k"), *PLACES])
expected = st.sampled_from(["seen", "seen", "none", "any"])
writes = st.builds(write, places, st.sampled_from([False, False, False, True]), expected)
items = st.builds(Item, channels, st.sampled_from([None, *KEYS])) | writes | writes
patience = st.sampled_from([None, None, None, 0, 1, 3, 9])
publishes = st.builds(
    Publish, st.lists(items, min_size=1, max_size=4).map(tuple), patience=patience
)
requests = st.builds(Publish, request=st.sampled_from(sorted(REQUESTS)), patience=patience)
names = st.lists(channels, min_size=1, unique=True).map(tuple)
positions = st.sampled_from([None, None, 0, 1, 5, 20])
limits = st.sampled_from([1, 3, EVERY])
reads = st.builds(Read, names, positions, limits, st.booleans())
documents = st.builds(ReadDocument, places) | st.builds(
    ListDocuments, st.sampled_from(["a", "n:b"]), st.sampled_from(["", "k"]), st.integers(1, 3)
)
pauses = st.builds(Pause, st.integers(1, 5))
patterns = st.sampled_from([("*",), ("n:*", "$all")]) | names
state = documents | st.builds(Latest, patterns) | st.builds(Read, patterns, positions, limits)
complete = publishes | publishes | publishes | requests | reads | state | pauses
removals = st.builds(Trim) | st.builds(Forget, names)
trimmed = publishes | publishes | publishes | requests | reads | reads | removals | pauses


def scripts(steps):
    return st.lists(st.lists(steps, min_size=4, max_size=12), min_size=3, max_size=5)


class Threads:
    """Stands in for `trio.to_thread`, without threads.

    A call waits some checkpoints before it is made and some after it, so that others can come in
    between.
    """

    def __init__(self, delays: Sequence[int]) -> None:
        self._delays = cycle(delays)

    async def run_sync(self, function, *arguments, limiter):
        await trio.lowlevel.checkpoint_if_cancelled()
        async with limiter:
            with trio.CancelScope(shield=True):
                await pause(next(self._delays))
                try:
                    return function(*arguments)
                finally:
                    await pause(next(self._delays))  # noqa: ASYNC102  # the shield is around it


async def pause(checkpoints: int) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()


# The play.


@attrs.define
class Call:
    """What a task asked for and what the engine answered.

    ``begun`` and ``ended`` are the numbers of events that had been spread before the question and
    before the answer; ``asked`` and ``told`` order questions and answers of all tasks.
    """

    step: object
    begun: int
    asked: int
    events: tuple[Event, ...] = ()
    after: int = 0
    answer: object = None
    ended: int = -1
    told: int = -1


@attrs.define
class Task:
    """What a task knows: the versions of documents that it saw, and how far it has read."""

    seen: dict[Place, int] = attrs.Factory(dict)
    at: int = 0

    def note(self, call: Call) -> None:
        match call.step, call.answer:
            case Publish(), tuple(publications):
                for publication in publications:
                    if publication.event.version is not None:
                        self.seen[place_of(publication.event)] = publication.event.version
            case ReadDocument(place), document:
                self.seen[place] = 0 if document is None else document.version
            case Read(after=None, newest=False), history:
                complete = history.complete
                self.at = history.head.seq if complete else history.publications[-1].seq


class Outlet:
    has_room = True

    def __init__(self) -> None:
        self.got: list[Publication] = []

    async def wait_for_room(self) -> None:
        raise AssertionError("there is room")

    def put(self, publications: Sequence[Publication]) -> None:
        self.got += publications


class Play:
    """Performs scripts on an engine and records all calls."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self._outlet = Outlet()
        self._moments = count()
        self._numbers = count()
        self.calls: list[Call] = []
        engine.attach(self._outlet)

    @property
    def spread(self) -> list[Publication]:
        return self._outlet.got

    async def perform(self, scripts: Sequence[Sequence[object]]) -> None:
        async with trio.open_nursery() as tasks:
            for script in scripts:
                tasks.start_soon(self._perform, script)

    async def _perform(self, script: Sequence[object]) -> None:
        task = Task()
        for step in script:
            await trio.lowlevel.checkpoint()
            if isinstance(step, Pause):
                await pause(step.checkpoints)
            else:
                call = await self._do(step, task)
                if isinstance(call.answer, VersionConflict):
                    for event in call.events:
                        if event.write is not None:
                            await self._do(ReadDocument(place_of(event)), task)

    async def _do(self, step: object, task: Task) -> Call:
        call = Call(step, len(self.spread), next(self._moments))
        self.calls.append(call)
        if isinstance(step, Publish):
            call.events = self._events(step, task.seen)
            await self._publish(call, step.patience)
        elif isinstance(step, Read):
            call.after = task.at if step.after is None else step.after
            call.answer = await self._engine.history(
                step.names, after=call.after, limit=step.limit, newest=step.newest
            )
        else:
            call.answer = await self._ask(step)
        call.ended, call.told = len(self.spread), next(self._moments)
        task.note(call)
        return call

    def _events(self, step: Publish, seen: Mapping[Place, int]) -> tuple[Event, ...]:
        if step.request is None:
            return tuple(event_of(item, b"%d" % next(self._numbers), seen) for item in step.items)
        key, digest = step.request
        return tuple(
            event_of(item, b'"%s%s%d"' % (key.encode(), digest, n), {}, Once("ann", key, n, digest))
            for n, item in enumerate(REQUESTS[step.request])
        )

    async def _publish(self, call: Call, patience: int | None) -> None:
        async def leave() -> None:
            if patience is not None:
                await pause(patience)
                publishing.cancel_scope.cancel()

        async with trio.open_nursery() as publishing:
            publishing.start_soon(leave)
            try:
                call.answer = await self._engine.publish(call.events)
            except TriocastError as refusal:
                call.answer = refusal
            publishing.cancel_scope.cancel()

    async def _ask(self, step: object) -> object:
        engine = self._engine
        match step:
            case Latest(names):
                return await engine.latest(names, limit=EVERY, limit_bytes=EVERY)
            case ReadDocument(place):
                return await engine.document(*place)
            case ListDocuments(channel, key, limit):
                return await engine.documents(channel, after=key, limit=limit, limit_bytes=EVERY)
            case Forget(channels):
                return await engine.forget(channels)
            case Trim():
                return await engine.trim()
        raise AssertionError(step)


def event_of(item: Item, data: bytes, seen: Mapping[Place, int], once: Once | None = None) -> Event:
    write = None
    if item.removes is not None:
        assert item.key is not None
        version = seen.get((item.channel, item.key), 0)
        expected = {"any": None, "none": ABSENT, "seen": at(version) if version else ABSENT}
        write = Write(None if item.removes else data, expected[item.expects])
    return Event("T", data, item.channel, TIME, key=item.key, once=once, write=write)


def place_of(event: Event) -> Place:
    assert event.key is not None
    return (event.channel, event.key)


# The truth.


@attrs.define
class State:
    """All documents, and the digest that was accepted under each idempotency key."""

    revision: int = 0
    documents: dict[Place, Document] = attrs.Factory(dict)
    accepted: dict[str, bytes] = attrs.Factory(dict)

    def after(self, source: Event) -> State:
        """Return the state after this event is accepted."""
        revision, documents, accepted = self.revision, dict(self.documents), dict(self.accepted)
        if source.write is not None:
            revision += 1
            place = place_of(source)
            if source.write.data is None:
                documents.pop(place, None)
            else:
                documents[place] = Document(*place, revision, source.write.data, TIME)
        if source.once is not None:
            accepted[source.once.key] = source.once.digest
        return State(revision, documents, accepted)

    def refusal(self, events: Sequence[Event], max_documents: int) -> type[TriocastError] | None:
        """Return the error that publishing these events has to raise in this state."""
        once = events[0].once
        if once is not None and once.key in self.accepted:
            return None if self.accepted[once.key] == once.digest else IdempotencyConflict
        state = self
        for event in events:
            if event.write is not None:
                document = state.documents.get(place_of(event))
                version = 0 if document is None else document.version
                expected = event.write.precondition
                if expected is not None and expected.mismatch(version) is not None:
                    return VersionConflict
                size = len(state.documents)
                state = state.after(event)
                if len(state.documents) > max(size, max_documents):
                    return TooManyDocuments
        return None


class Truth:
    """What happened, according to the events in the order in which they were spread."""

    def __init__(self, play: Play, max_documents: int) -> None:
        self.calls, self.spread = play.calls, play.spread
        self.max_documents = max_documents
        self.published = [call for call in self.calls if isinstance(call.step, Publish)]
        self.places: dict[bytes, int] = {}
        sources = {event.data: event for call in self.published for event in call.events}
        self.states = [State()]
        for publication in self.spread:
            source = sources[publication.event.data]  # A KeyError: nobody published it.
            assert source.data not in self.places, "accepted twice"
            self.places[source.data] = publication.seq
            self.states.append(self.states[-1].after(source))
            version = self.states[-1].revision if source.write is not None else None
            assert publication.event == attrs.evolve(source, version=version)
        # Moments are between publishes, never within one.
        inner = {seq for call in self.published for seq in self._seqs(call)[:-1]}
        self.moments = set(range(len(self.states))) - inner

    def _seqs(self, call: Call) -> list[int]:
        return [self.places[event.data] for event in call.events if event.data in self.places]

    def _states(self, begun: int, ended: int = EVERY) -> Iterator[State]:
        moments = range(begun, min(ended + 1, len(self.states)))
        return (self.states[seq] for seq in moments if seq in self.moments)

    def check_order(self, *, removes: bool) -> None:
        """Positions have no holes, and ``prev`` is the event before in the same channel."""
        assert [p.seq for p in self.spread] == list(range(1, len(self.spread) + 1))
        assert len({p.position.epoch for p in self.spread}) <= 1
        lasts: dict[str, int] = defaultdict(int)
        for publication in self.spread:
            channel = publication.event.channel
            if removes:  # An empty channel is forgotten and continues from a floor.
                assert lasts[channel] <= publication.prev < publication.seq
            else:
                assert publication.prev == lasts[channel]
            if is_kept(channel):
                lasts[channel] = publication.seq

    def check_publishes(self) -> None:
        """An acknowledged publish happened, a refused one did not, and each as a whole."""
        for call in self.published:
            seqs = self._seqs(call)
            once = call.events[0].once
            if seqs:
                assert seqs == list(range(seqs[0], seqs[0] + len(call.events))), "accepted in part"
            if isinstance(call.answer, TriocastError):
                assert once is not None or not seqs
                during = self._states(call.begun, call.ended)
                refusals = {state.refusal(call.events, self.max_documents) for state in during}
                assert type(call.answer) in refusals, "refused without a reason"
            elif call.answer is not None:
                assert [p.seq for p in call.answer] == seqs
                answered = [p.event for p in call.answer]
                assert answered == [self.spread[seq - 1].event for seq in seqs]
                assert once is not None or seqs[0] > call.begun
                assert seqs[-1] <= call.ended
                before = self.states[seqs[0] - 1]
                assert before.refusal(call.events, self.max_documents) is None

    def check_winners(self) -> None:
        """At most one writer succeeds for each version of a document."""
        won = [
            (place_of(event), event.write.precondition)
            for call in self.published
            if isinstance(call.answer, tuple)
            for event in call.events
            if event.write is not None and event.write.precondition not in (None, ABSENT)
        ]
        assert len(set(won)) == len(won)

    def check_reads(self, *, removes: bool) -> None:
        """Every answer is right for some moment since its question."""
        for call in self.calls:
            match call.step:
                case Read():
                    self._check_history(call, removes=removes)
                case Latest(names):
                    assert call.answer in self._latest(call.begun, names)
                case ReadDocument(place):
                    found = [state.documents.get(place) for state in self._states(call.begun)]
                    assert call.answer in found
                case ListDocuments():
                    self._check_list(call)

    def _check_history(self, call: Call, *, removes: bool) -> None:
        step, history = call.step, call.answer
        head, floors = history.head.seq, history.floors
        assert head in self.moments and call.begun <= head <= call.ended
        assert set(floors) == set(step.names)
        assert all(0 <= floor <= (head if removes else 0) for floor in floors.values())
        due = [
            publication
            for publication in self.spread[call.after : head]
            if covers(step.names, publication.event.channel)
            and publication.seq > floors.get(publication.event.channel, 0)
        ]
        size = len(history.publications)
        assert [*history.publications] == (due[len(due) - size :] if step.newest else due[:size])
        if history.complete:
            assert size == len(due) <= step.limit
        elif removes:  # Events may have been removed since the page was cut.
            assert 1 <= size <= step.limit
        else:
            assert size == step.limit < len(due)

    def _latest(self, begun: int, names: Sequence[str]) -> Iterator[tuple[Publication, ...]]:
        newest: dict[tuple[str, str | None], Publication] = {}
        for head in range(len(self.states)):
            if head:
                publication = self.spread[head - 1]
                channel = publication.event.channel
                if covers(names, channel):
                    newest[channel, publication.event.key] = publication
            if head >= begun and head in self.moments:
                yield tuple(sorted(newest.values(), key=lambda publication: publication.seq))

    def _check_list(self, call: Call) -> None:
        step, found = call.step, call.answer
        head = found.head.seq
        assert head in self.moments and call.begun <= head <= call.ended
        assert found.version == self.states[head].revision
        pages = []
        for state in self._states(head):
            behind = [
                document
                for (channel, key), document in sorted(state.documents.items())
                if channel == step.channel and key > step.after
            ]
            pages.append((tuple(behind[: step.limit]), len(behind) <= step.limit))
        assert (found.documents, found.complete) in pages

    def check_forgotten(self) -> None:
        """Forgotten events are below the floor of every later read."""
        for forget in self.calls:
            if isinstance(forget.step, Forget):
                gone = self._lasts(forget.begun)
                for read in self.calls:
                    if isinstance(read.step, Read) and read.asked > forget.told:
                        for name in {*forget.step.channels} & {*read.step.names}:
                            assert read.answer.floors[name] >= gone[name]

    def _lasts(self, seq: int) -> dict[str, int]:
        """Return each channel's last event up to ``seq``; 0 if it has none."""
        lasts: dict[str, int] = defaultdict(int)
        kept = (p for p in self.spread[:seq] if is_kept(p.event.channel))
        lasts.update((publication.event.channel, publication.seq) for publication in kept)
        return lasts


def is_kept(channel: str) -> bool:
    return not channel.startswith("$conn:")


def covers(names: Sequence[str], channel: str) -> bool:
    return is_kept(channel) and any(pattern_matches(name, channel) for name in names)


# The tests.


async def perform(open_engine, scripts, *, removes=False, max_documents=EVERY, **bounds):
    """Perform scripts and check all answers; return the truth and the history at the end."""
    async with open_engine(bounds=Bounds(documents=max_documents), **bounds) as engine:
        play = Play(engine)
        await play.perform(scripts)
        await engine.trim()
        kept = await engine.history(CHANNELS, after=0, limit=EVERY)
        found = [await engine.document(*place) for place in PLACES]
    truth = Truth(play, max_documents)
    truth.check_order(removes=removes)
    truth.check_publishes()
    truth.check_winners()
    truth.check_reads(removes=removes)
    truth.check_forgotten()
    assert kept.head.seq == len(truth.spread)
    assert found == [truth.states[-1].documents.get(place) for place in PLACES]
    return truth, kept


def run(open_engine, scripts, delays, **bounds):
    """Perform scripts with calls in threads that take this many checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", Threads(delays).run_sync)
        return trio.run(lambda: perform(open_engine, scripts, **bounds))


BUSY = [
    Publish((Item("a"), Item("n:b", "k"), Item("a", "l"))),
    ReadDocument(("a", "k")),
    Publish((Item("a", "k", removes=False, expects="seen"),)),
    Publish((Item("a", "k", removes=False, expects="seen"), Item("$all"))),
    Read(("a", "n:b"), limit=3),
    Publish(request=("x", b"1")),
    Publish((Item("a", "k", removes=True, expects="seen"),)),
    Publish(request=("x", b"2")),
    ListDocuments("a", "", 3),
    Publish((Item("a", "l", removes=False, expects="none"), Item("$conn:x"))),
    Read(("n:b", "$all"), after=0, limit=3, newest=True),
    Publish((Item("n:b"),), patience=2),
    Publish((Item("a", "l", removes=True), Item("n:b", "m", removes=False))),
    Publish(request=("y", b"1")),
]
"""Steps that collide when many tasks repeat them, each beginning at another one."""


DELAYS = [0, 3, 1, 7, 2, 0, 5]


def rotated(steps: Sequence[object]) -> list[list[object]]:
    return [[*steps[first:], *steps[:first]] * 3 for first in range(len(steps))]


delays = st.lists(st.integers(0, 9), min_size=1, max_size=12)
common_settings = settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@common_settings
@given(scripts(complete), delays, st.sampled_from([2, EVERY, EVERY]))
@example(rotated([*BUSY, Latest(("*",))]), DELAYS, EVERY)
@example(rotated(BUSY), DELAYS, 2)
def test_all_answers_agree_with_one_order_of_events(open_engine, scripts, delays, max_documents):
    truth, kept = run(
        open_engine, scripts, delays, max_documents=max_documents, history_events=EVERY
    )
    assert [*kept.publications] == [p for p in truth.spread if is_kept(p.event.channel)]
    assert set(kept.floors.values()) == {0}


@common_settings
@given(scripts(trimmed), delays)
@example(rotated([*BUSY, Trim(), Forget(("a", "n:b"))]), DELAYS)
def test_floors_tell_every_reader_what_was_removed_meanwhile(open_engine, scripts, delays):
    truth, kept = run(open_engine, scripts, delays, removes=True, history_events=2)
    for channel in filter(is_kept, CHANNELS):
        forgotten = [
            call.ended
            for call in truth.calls
            if isinstance(call.step, Forget) and channel in call.step.channels
        ]
        all_of_it = [p for p in truth.spread if p.event.channel == channel]
        newest = [p for p in all_of_it if p.seq > max(forgotten, default=0)][-2:]
        left = [p for p in kept.publications if p.event.channel == channel]
        assert left == [p for p in all_of_it if p.seq > kept.floors[channel]]
        assert len(newest) <= len(left) <= 2


async def test_real_threads_keep_the_same_promises(open_engine):
    """Their timing differs from run to run, unlike that of the tests above."""
    scripts = rotated([*BUSY, Latest(("*",))])
    truth, kept = await perform(open_engine, scripts, history_events=EVERY)
    assert [*kept.publications] == [p for p in truth.spread if is_kept(p.event.channel)]
    answers = [call.answer for call in truth.published]
    assert {VersionConflict, IdempotencyConflict, tuple} <= set(map(type, answers))
