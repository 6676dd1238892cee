"""Events survive the way through a table unchanged, and transactions are all or nothing."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triocast.engines.retention import Keep
from triocast.engines.sqlite.rows import (
    COLUMNS,
    Channel,
    Transaction,
    event_of,
    fields_of,
    publication_of,
    row_of,
)
from triocast.events import Event, Position, Publication

text = st.text(max_size=5)
maybe = st.none() | text
events = st.builds(
    Event,
    type=text,
    data=st.binary(max_size=9),
    channel=st.just("n:a"),
    timestamp=text,
    key=maybe,
    tags=st.lists(text, max_size=3).map(tuple),
    user=maybe,
    exclude=maybe,
    version=st.none() | st.integers(1, 2**62),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.integers(1, 2**62), st.integers(0, 2**62))
def test_an_event_is_read_back_as_it_was_written(db, event, seq, prev):
    publication = Publication(event, Position("e", seq), prev)
    row = row_of(publication, 7, 3)
    db.execute("BEGIN")
    try:
        db.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(row))})", row)
        (found,) = db.execute(f"SELECT {COLUMNS} FROM events e WHERE channel = 7")
    finally:
        db.execute("ROLLBACK")
    assert publication_of(found, "n:a", "e") == publication


@given(events)
def test_fields_and_channel_make_the_same_event_again(event):
    assert event_of("n:a", fields_of(event)) == event


@pytest.mark.parametrize(
    ("keep", "count", "size", "full"),
    [
        (Keep(3), 3, 10**6, False),
        (Keep(3), 4, 0, True),
        (Keep(3, size=100), 3, 100, False),
        (Keep(3, size=100), 1, 101, True),
        (Keep(0), 0, 0, False),
        (Keep(0), 1, 0, True),
    ],
)
def test_a_channel_is_full_above_its_number_or_its_bytes(keep, count, size, full):
    assert Channel(1, "a", 0, 0, keep, count, size).is_full is full


class TestTransaction:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "any.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
            # SQLite checks the references of this table at the commit.
            db.execute("CREATE TABLE later (n REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
        return path

    @pytest.fixture
    def connections(self, path):
        options = {"isolation_level": None, "timeout": 0}
        with (
            closing(sqlite3.connect(path, **options)) as one,
            closing(sqlite3.connect(path, **options)) as other,
        ):
            one.execute("PRAGMA foreign_keys = ON")
            yield one, other

    @staticmethod
    def rows(db):
        return [n for (n,) in db.execute("SELECT n FROM t")]

    def test_others_see_the_changes_when_the_block_ends(self, connections):
        one, other = connections
        with Transaction(one):
            one.execute("INSERT INTO t VALUES (1)")
            assert self.rows(other) == []
        assert self.rows(other) == [1]

    @pytest.mark.parametrize(
        "last",
        [
            "INSERT INTO t VALUES (1)",
            "INSERT INTO later VALUES (2)",
            "INSERT OR ROLLBACK INTO t VALUES (1)",
        ],
        ids=["the block fails", "the commit fails", "SQLite rolls back by itself"],
    )
    def test_a_failure_leaves_nothing_behind(self, connections, last):
        one, _ = connections

        def insert():
            with Transaction(one):
                one.execute("INSERT INTO t VALUES (1)")
                one.execute(last)

        with pytest.raises(sqlite3.IntegrityError):
            insert()
        assert not one.in_transaction
        assert self.rows(one) == []

    def test_a_writer_locks_out_other_writers_from_the_beginning(self, connections):
        one, other = connections
        with Transaction(one):
            with pytest.raises(sqlite3.OperationalError, match="locked"), Transaction(other):
                pass
            with Transaction(other, "DEFERRED"):
                assert self.rows(other) == []

    def test_a_reader_sees_one_moment(self, connections):
        one, other = connections
        with Transaction(other, "DEFERRED"):
            assert self.rows(other) == []
            one.execute("INSERT INTO t VALUES (1)")
            assert self.rows(other) == []
        assert self.rows(other) == [1]
