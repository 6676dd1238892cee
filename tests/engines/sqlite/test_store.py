"""A commit is kept as a whole or not at all, and everything in it can be loaded again."""

import sqlite3

import attrs
import pytest

from triocast.documents import Document
from triocast.engines.debounce import Change
from triocast.engines.documents import DOCUMENT_OVERHEAD, Standing
from triocast.engines.idempotency import Record
from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite.reading import read_document
from triocast.engines.sqlite.removing import forget_channels
from triocast.engines.sqlite.rows import ROW_OVERHEAD, Channel, row_of
from triocast.engines.sqlite.store import (
    Changes,
    Known,
    append,
    find_known,
    load_channels,
    load_held,
    load_namespace_floors,
    load_revision,
    load_usage,
    record_of,
)
from triocast.engines.usage import Usage
from triocast.events import Event, Once, Position, Publication

TIME = "2026-01-31T12:00:00.123Z"


def event(data=b"1", channel="a", **fields):
    return Event("T", data, channel, TIME, **fields)


def row(seq, data=b"1", channel=1):
    return row_of(Publication(event(data), Position("e", seq), 0), channel, 1)


def channel(id, name, floor=0):
    return Channel(id, name, floor, floor, Keep(1), namespace=2)


def document(key, version=1, data=b"1", channel="d"):
    return Document(channel, key, version, data, TIME, "ann")


def documents(*found):
    return {(each.channel, each.key): each for each in found}


def known_of(db, onces=(), places=(), *, oldest=0.0):
    known = Known(0, Usage())
    asked = [(once.scope, once.key, once.index) for once in onces]
    find_known(db, known, asked, places, oldest=oldest)
    return known


ONCE = Once("ann", "k", 0, b"1")

EVERYTHING = Changes(
    seq=2,
    rows=[row(1), row(2)],
    channels=[channel(1, "a")],
    records=[record_of(ONCE, Record(b"1", 2, 7), 100)],
    revision=7,
    usage=Usage(2, 20, 1, 10, 1, 5),
    documents=documents(document("k", 7)),
    held=[Change(None, 1, event(key="k"))],
)


def contents(db):
    tables = ("meta", "channels", "events", "published", "documents", "held", "usage")
    return {name: db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables}


def test_one_commit_keeps_everything_in_it(db):
    append(db, EVERYTHING)
    found = contents(db)
    assert [row[0] for row in found["events"]] == [1, 2]
    assert dict(found["meta"])["head"] == 2
    assert found["channels"] == [(1, "a", 0, 2)]
    assert known_of(db, [ONCE], [("d", "k")]) == Known(
        0,
        Usage(),
        {("ann", "k", 0): Record(b"1", 2, 7)},
        documents={("d", "k"): Standing(7, 3 + DOCUMENT_OVERHEAD)},
    )
    assert load_revision(db) == 7
    append(db, Changes(2, usage=Usage(1, 1, 1, 1, 1, 1)))
    assert load_usage(db) == Usage(3, 21, 2, 11, 2, 6)
    assert load_held(db) == [(1, event(key="k"))]


@pytest.mark.parametrize("table", ["events", "published", "documents", "held"])
def test_nothing_is_kept_if_one_part_fails(db, table):
    db.execute(
        f"CREATE TRIGGER fail BEFORE INSERT ON {table} BEGIN SELECT raise(ABORT, 'broken'); END"
    )
    before = contents(db)
    with pytest.raises(sqlite3.IntegrityError, match="broken"):
        append(db, EVERYTHING)
    assert contents(db) == before


class TestChannels:
    def test_they_are_loaded_with_the_number_and_size_of_their_events(self, db):
        rows = [row(1, b"12"), row(2, b"3", 2), row(3, b"4"), row(4, b"5", 3)]
        channels = [channel(1, "n:a"), channel(2, "b", 7), channel(3, "n:b"), channel(4, "c", 5)]
        append(db, Changes(4, rows, channels))
        found = load_channels(db, Retention(Keep(9), {"n": Keep(8, size=1_000)}))
        assert [attrs.astuple(each, recurse=False) for each in found] == [
            (1, "n:a", 0, 3, Keep(8, size=1_000), 2, 3 + 2 * ROW_OVERHEAD, 2, ()),
            (2, "b", 7, 2, Keep(9), 1, 0, 2, ()),
            (3, "n:b", 0, 4, Keep(8, size=1_000), 1, 1 + ROW_OVERHEAD, 2, ()),
            (4, "c", 5, 5, Keep(9), 0, 0, 2, ()),
        ]

    def test_a_new_one_replaces_a_leftover_row_of_the_same_name(self, db):
        append(db, Changes(1, channels=[channel(1, "a", 3), channel(2, "b")]))
        append(db, Changes(1, channels=[channel(3, "a", 5)]))
        assert contents(db)["channels"] == [(2, "b", 0, 2), (3, "a", 5, 2)]

    def test_the_floors_of_namespaces_are_loaded(self, db):
        assert load_namespace_floors(db) == {}
        forget_channels(db, [(1, "n", 7), (2, "$all", 3)])
        assert load_namespace_floors(db) == {"n": 7, "$all": 3}


class TestDocuments:
    def test_a_write_replaces_a_document_and_none_removes_it(self, db):
        append(db, Changes(0, revision=2, documents=documents(document("k"), document("l", 2))))
        append(db, Changes(0, revision=4, documents={("d", "l"): None, ("d", "x"): None}))
        append(db, Changes(0, revision=5, documents=documents(document("k", 5, b"2"))))
        assert read_document(db, "d", "k") == document("k", 5, b"2")
        assert known_of(db, places=[("d", "k"), ("d", "l")]).documents == {
            ("d", "k"): Standing(5, 3 + DOCUMENT_OVERHEAD)
        }


class TestHeld:
    def test_they_are_loaded_in_their_order(self, db):
        full = event(b"2", "$all", key="k", tags=("x", "y"), user="ann", exclude="c", version=5)
        append(db, Changes(0, held=[Change(None, 9, event(b"9")), Change(None, 2, full)]))
        assert load_held(db) == [(2, full), (9, event(b"9"))]

    def test_a_number_can_be_reused_in_the_same_commit(self, db):
        append(db, Changes(0, held=[Change(None, n, event(b"%d" % n)) for n in (1, 2, 3)]))
        held = [Change(1, 2, event(b"12")), Change(2, None, None), Change(3, 4, event(b"34"))]
        append(db, Changes(0, held=held))
        assert load_held(db) == [(2, event(b"12")), (4, event(b"34"))]


class TestRecords:
    def test_a_record_belongs_to_one_publisher_key_and_index(self, db):
        append(db, Changes(0, records=[record_of(ONCE, Record(b"1", 3), 100)]))
        others = [
            attrs.evolve(ONCE, **other) for other in ({"scope": "bob"}, {"key": "l"}, {"index": 1})
        ]
        assert known_of(db, [ONCE, *others]).records == {("ann", "k", 0): Record(b"1", 3)}

    def test_all_that_the_first_answer_said_is_kept(self, db):
        record = Record(b"1", 3, 4, "e", 12, "news")
        append(db, Changes(0, records=[record_of(ONCE, record, 100)]))
        assert known_of(db, [ONCE]).records == {("ann", "k", 0): record}

    def test_a_newer_one_takes_the_place_of_one_that_is_too_old(self, db):
        for seq in (3, 4):
            append(db, Changes(0, records=[record_of(ONCE, Record(b"%d" % seq, seq), 100)]))
        assert known_of(db, [ONCE]).records == {("ann", "k", 0): Record(b"4", 4)}

    @pytest.mark.parametrize(
        ("later", "is_known"), [(0, True), (59.9, True), (60, True), (61.1, False)]
    )
    def test_a_record_lives_for_its_whole_time(self, db, later, is_known):
        now = 1_000_000.9
        append(db, Changes(0, records=[record_of(ONCE, Record(b"1", 3), now)]))
        known = known_of(db, [ONCE], oldest=now + later - 60)
        assert bool(known.records) is is_known
        assert bool(known.expired) is not is_known
