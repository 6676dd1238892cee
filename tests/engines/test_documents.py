"""Documents, on each engine: their write and their event are one step."""

from contextlib import nullcontext

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triocast.documents import ABSENT, Document, Write, at
from triocast.engines.documents import DOCUMENT_OVERHEAD, Standing, check_writes
from triocast.engines.sqlite import SQLiteEngine
from triocast.engines.usage import Bounds, Usage
from triocast.errors import IdempotencyConflict, TooManyDocuments, VersionConflict
from triocast.events import Event, Once, Publication

TIME = "2026-01-31T12:00:00.123Z"


def put(data, key="k", *, channel="a", if_version=None, **fields):
    precondition = None if if_version is None else at(if_version) if if_version else ABSENT
    write = Write(None if data is None else b"%d" % data, precondition)
    return Event("T", b"null", channel, TIME, key=key, write=write, **fields)


async def keys_of(engine, channel="a", **how):
    how = {"limit": 1_000, "limit_bytes": 1_000_000} | how
    found = await engine.documents(channel, **how)
    return [document.key for document in found.documents], found.complete


async def test_a_write_and_its_event_are_one(engine):
    assert await engine.document("a", "k") is None
    (publication,) = await engine.publish([put(1, user="alice")])
    assert publication.event.version == 1
    assert publication.event.write is None
    assert await engine.document("a", "k") == Document("a", "k", 1, b"1", TIME, "alice")
    (kept,) = (await engine.history(["a"], after=0, limit=9)).publications
    assert kept == publication


async def test_versions_grow_over_all_documents(engine):
    published = await engine.publish([put(1), put(1, "l"), put(2), put(1, channel="b")])
    assert [p.event.version for p in published] == [1, 2, 3, 4]
    assert (await engine.document("a", "k")).version == 3
    assert (await engine.document("a", "l")).version == 2
    assert (await engine.document("b", "k")).version == 4


async def test_one_that_is_made_anew_has_no_version_it_had(engine):
    (first,) = await engine.publish([put(1)])
    (gone,) = await engine.publish([put(None)])
    assert await engine.document("a", "k") is None
    (second,) = await engine.publish([put(1, if_version=0)])
    versions = [p.event.version for p in (first, gone, second)]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("wrong", [0, 2, 99])
async def test_a_write_to_another_version_changes_nothing(engine, wrong):
    await engine.publish([put(1)])
    head = engine.head
    with pytest.raises(VersionConflict, match="it is at version 1"):
        await engine.publish([put(7, "other"), put(2, if_version=wrong)])
    assert engine.head == head
    assert (await engine.document("a", "k")).data == b"1"
    assert await engine.document("a", "other") is None
    (publication,) = await engine.publish([put(2, if_version=1)])
    assert publication.event.version == 2


async def test_one_that_is_not_there_is_at_version_0(engine):
    with pytest.raises(VersionConflict, match="there is none"):
        await engine.publish([put(1, if_version=1)])
    await engine.publish([put(1, if_version=0)])
    with pytest.raises(VersionConflict):
        await engine.publish([put(1, if_version=0)])


async def test_of_many_who_write_at_once_one_wins(engine):
    await engine.publish([put(0)])
    won = []

    async def write(number):
        try:
            await engine.publish([put(number, if_version=1)])
        except VersionConflict:
            return
        won.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 20):
            nursery.start_soon(write, number)
    assert (await engine.document("a", "k")).data == b"%d" % won[0]
    assert len(won) == 1


async def test_a_repeated_write_is_answered_as_the_first(engine):
    once = Once(scope="alice", key="x", index=0, digest=b"1")
    (first,) = await engine.publish([put(1, if_version=0, once=once)])
    (again,) = await engine.publish([put(1, if_version=0, once=once)])
    assert (again.position, again.event.version) == (first.position, 1)
    pair = [put(2, "m", if_version=0, once=attrs.evolve(once, key="y"))] * 2
    one, two = await engine.publish(pair)
    assert one.position == two.position
    with pytest.raises(IdempotencyConflict):
        await engine.publish([put(9, once=attrs.evolve(once, digest=b"2"))])
    assert (await engine.document("a", "k")).version == 1


async def test_a_list_is_in_the_order_of_keys(engine):
    keys = ["b", "B", "a", "\u00e9", "\U0001f600", "\uffee", "a/1", "a:1", "10", "9"]
    await engine.publish([put(1, key) for key in keys])
    await engine.publish([put(1, channel="b"), put(None, "B")])
    keys.remove("B")
    assert await keys_of(engine) == (sorted(keys), True)
    await engine.publish([put(1, "aa"), put(2, "a")])
    assert await keys_of(engine) == (sorted([*keys, "aa"]), True)
    assert await keys_of(engine, "nothing") == ([], True)


async def test_a_list_comes_in_pages(engine):
    await engine.publish([put(n, f"{n}") for n in range(5)])
    assert await keys_of(engine, limit=2) == (["0", "1"], False)
    assert await keys_of(engine, limit=2, after="1") == (["2", "3"], False)
    assert await keys_of(engine, limit=2, after="3") == (["4"], True)
    assert await keys_of(engine, limit=3, after="1") == (["2", "3", "4"], True)
    assert await keys_of(engine, limit=9, after="zzz") == ([], True)
    assert await keys_of(engine, limit_bytes=1) == (["0"], False)
    assert await keys_of(engine, limit_bytes=1_000) == (["0", "1"], False)


async def test_whoever_listens_behind_a_list_hears_of_all_that_came_later(engine):
    await engine.publish([put(1)])
    found = await engine.documents("a", limit=9, limit_bytes=9_999)
    assert found.head == engine.head
    (later,) = await engine.publish([put(2)])
    missed = await engine.history(["a"], after=found.head.seq, limit=9)
    assert missed.publications == (later,)


@pytest.mark.parametrize("after", ["", "1", "zzz"])
@pytest.mark.parametrize("limit", [1, 9])
async def test_a_list_can_say_how_many_there_are(engine, after, limit):
    how = {"after": after, "limit": limit, "limit_bytes": 9_999}
    await engine.publish([put(1, str(n)) for n in range(3)] + [put(1, channel="b")])
    assert (await engine.documents("a", **how)).count is None
    assert (await engine.documents("a", **how, counted=True)).count == 3
    assert (await engine.documents("none", **how, counted=True)).count == 0


async def test_a_list_has_its_version(engine):
    async def version():
        return (await engine.documents("a", limit=9, limit_bytes=9_999)).version

    assert await version() == 0
    await engine.publish([put(1), put(1, channel="b")])
    assert await version() == 2
    await engine.publish([put(None)])
    assert await version() == 3


async def test_channels_that_have_some_are_found(engine):
    channels = ("a", "ab", "b", "$presence:a", "$presence:b", "$presencf:a")
    await engine.publish([put(1, channel=channel) for channel in channels])
    await engine.publish([put(1, "l", channel="$presence:a"), put(None, channel="$presence:b")])
    assert await engine.document_channels("$presence:") == ("$presence:a",)
    assert await engine.document_channels("a") == ("a", "ab")
    assert await engine.document_channels("zzz") == ()


async def test_there_are_so_many_at_the_most(open_engine):
    async with open_engine(bounds=Bounds(documents=2)) as engine:
        await engine.publish([put(1), put(1, "l")])
        with pytest.raises(TooManyDocuments):
            await engine.publish([put(1, "m")])
        await engine.publish([put(2), put(None, "l"), put(1, "m")])
        # The server's own have other bounds.
        await engine.publish([put(n, f"{n}", channel="$x:a") for n in range(3)])
        with pytest.raises(TooManyDocuments):
            await engine.publish([put(None), put(1, "n"), put(1, "o")])
        assert await keys_of(engine) == (["k", "m"], True)
        await engine.publish([put(None), put(1, "n")])


async def test_they_have_so_many_bytes_at_the_most(open_engine):
    size = len("ak1") + DOCUMENT_OVERHEAD
    async with open_engine(bounds=Bounds(document_bytes=2 * size)) as engine:
        await engine.publish([put(1), put(1, "l")])
        for refused in (put(1, "m"), put(10)):
            with pytest.raises(TooManyDocuments):
                await engine.publish([refused])
        assert engine.usage.document_bytes == 2 * size
        await engine.publish([put(None, "l"), put(1, "m"), put(2)])
        assert (engine.usage.documents, engine.usage.document_bytes) == (2, 2 * size)


async def test_neither_documents_nor_records_cost_an_event_its_place(open_engine):
    async with open_engine(history_bytes=20_000) as engine:
        await engine.publish([Event("T", b"1", "a", TIME)])
        for number in range(100):
            once = Once("ann", f"{number}", 0, b"1")
            await engine.publish([put(10**200, f"{number}", channel="$conn:x", once=once)])
        await engine.trim()
        assert [p.seq for p in (await engine.history(["a"], after=0, limit=9)).publications] == [1]
        assert (engine.usage.events, engine.usage.records) == (1, 100)


@pytest.mark.parametrize(
    ("writes", "fit"),
    [
        ([(2, "k")], True),
        ([(None, "k")], True),
        ([(None, "k"), (None, "l"), (None, "m"), (1, "n")], True),
        ([(None, "k"), (None, "l"), (1, "n")], False),
        ([(1, "n")], False),
    ],
)
def test_where_there_are_too_many_they_can_still_be_changed_and_removed(writes, fit):
    """As there are after a restart with a lower bound."""
    known = {("a", key): Standing(version, 1) for version, key in enumerate("klm", 1)}
    usage, bounds = Usage(documents=3), Bounds(documents=1)
    with nullcontext() if fit else pytest.raises(TooManyDocuments):
        check_writes([put(*write) for write in writes], known, 3, usage, bounds)


async def test_they_stay_when_events_are_forgotten(engine):
    await engine.publish([put(1)])
    await engine.forget(["a"])
    assert (await engine.document("a", "k")).data == b"1"


async def test_they_are_there_after_a_restart(tmp_path):
    def make():
        bounds = {"history_events": 1, "history_bytes": 100_000, "bounds": Bounds(documents=2)}
        return SQLiteEngine(tmp_path / "events.db", durable=False, **bounds)

    async def use(function):
        engine = make()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await function(engine)
            nursery.cancel_scope.cancel()
        engine.close()

    async def before(engine):
        await engine.publish([put(1), put(1, "l"), put(None, "l"), put(5, channel="$x:a")])

    async def after(engine):
        assert (await engine.document("a", "k")).version == 1
        (publication,) = await engine.publish([put(2, "m")])
        assert publication.event.version == 5
        with pytest.raises(TooManyDocuments):
            await engine.publish([put(2, "n")])

    await use(before)
    await use(after)


writes = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from("klm"),
            st.sampled_from([1, 2, 3, None]),
            st.sampled_from([None, None, "now", "old", 0]),
        ),
        min_size=1,
        max_size=3,
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(writes)
async def test_it_is_like_a_table(open_engine, script):
    async with open_engine() as engine:
        table: dict[str, tuple[int, bytes]] = {}
        revision = 0
        for batch in script:
            events, will_be, number, fails = [], dict(table), revision, False
            for key, data, condition in batch:
                now = will_be.get(key, (0, b""))[0]
                if_version = {"now": now, "old": now + 50}.get(condition, condition)
                fails |= if_version not in (None, now)
                number += 1
                events.append(put(data, key, if_version=if_version))
                if data is None:
                    will_be.pop(key, None)
                else:
                    will_be[key] = (number, b"%d" % data)
            if fails:
                with pytest.raises(VersionConflict):
                    await engine.publish(events)
                continue
            published = await engine.publish(events)
            assert all(isinstance(each, Publication) for each in published)
            assert [p.event.version for p in published] == [*range(revision + 1, number + 1)]
            table, revision = will_be, number
        found = await engine.documents("a", limit=9, limit_bytes=99_999)
        assert {d.key: (d.version, d.data) for d in found.documents} == table
