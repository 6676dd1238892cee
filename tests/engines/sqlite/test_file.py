"""The file of a store: locked, checked and migrated; a lost past begins a new epoch."""

import errno
import os
import shutil
import sqlite3
import stat
from contextlib import closing, contextmanager

import pytest

from triocast.engines.documents import DOCUMENT_OVERHEAD
from triocast.engines.idempotency import RECORD_OVERHEAD
from triocast.engines.sqlite import file, store
from triocast.engines.sqlite.file import APPLICATION_ID, MIGRATIONS, CannotOpen, open_file
from triocast.engines.sqlite.rows import ROW_OVERHEAD, row_of
from triocast.engines.sqlite.store import Changes, load_usage
from triocast.engines.usage import Usage
from triocast.events import Event, Position, Publication


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@contextmanager
def opened(path, *, durable=False):
    found = open_file(path, durable=durable)
    try:
        yield found
    finally:
        found.close()


def accept(path):
    """Accept one more event; return its position."""
    with opened(path) as found:
        store.append(found.writer, Changes(found.seq + 1))
        found.note_head(found.seq + 1)
        return Position(found.epoch, found.seq + 1)


def crash(path, *, durable=False):
    """Leave a store as a killed process does; return its epoch."""
    found = open_file(path, durable=durable)
    [reader.close() for reader in found.readers]
    found.writer.close()  # without the word that it was closed
    os.close(found._head)
    os.close(found._lock)
    return found.epoch


def pragma(db, name):
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def refused(path, match):
    with pytest.raises(CannotOpen, match=match) as failure:
        open_file(path, durable=False)
    assert failure.value.fix in str(failure.value)
    # The lock is free again.
    lock = os.open(f"{path}.lock", os.O_RDWR)
    file.claim(lock, path)
    os.close(lock)


class TestOpening:
    def test_a_new_store_is_private_to_this_user(self, tmp_path):
        path = tmp_path / "new" / "folder" / "events.db"
        with opened(path) as found:
            assert (found.path, found.seq) == (path, 0)
            assert pragma(found.writer, "application_id") == APPLICATION_ID
            assert pragma(found.writer, "user_version") == len(MIGRATIONS)
            names = {entry.name for entry in path.parent.iterdir()}
            assert {"events.db", "events.db.lock", "events.db.head"} <= names
            modes = {stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
    def test_only_a_durable_store_waits_for_the_disk(self, path, durable, synchronous):
        with opened(path, durable=durable) as found:
            assert pragma(found.writer, "synchronous") == synchronous
            assert pragma(found.writer, "journal_mode") == "wal"

    def test_the_reader_cannot_write(self, path):
        with opened(path) as found, pytest.raises(sqlite3.OperationalError, match="readonly"):
            found.readers[0].execute("DELETE FROM events")

    def test_only_one_process_can_open_it(self, path):
        with opened(path), pytest.raises(CannotOpen, match=rf"process {os.getpid()}\) has"):
            open_file(path, durable=False)
        with opened(path) as found:
            path.with_name("events.db.lock").write_bytes(b"")
            with pytest.raises(CannotOpen, match=r"process unknown\) has"):
                open_file(path, durable=False)
            assert found.seq == 0

    def test_it_is_unlocked_even_if_it_cannot_be_marked_as_closed(self, path):
        found = open_file(path, durable=False)
        found.writer.close()
        found.close()
        with opened(path) as again:
            assert again.epoch == found.epoch


class TestRefusals:
    def test_a_file_that_is_not_a_database(self, path):
        path.write_bytes(b"hello world " * 100)
        refused(path, "damaged")
        assert path.read_bytes() == b"hello world " * 100

    def test_a_database_of_another_program(self, path):
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE t (n)")
        refused(path, "another program")

    def test_a_newer_version(self, path):
        with opened(path) as found:
            found.writer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        refused(path, rf"newer version \(its schema is {len(MIGRATIONS) + 1}\)")

    def test_a_folder_that_cannot_be_created(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(CannotOpen, match="cannot be made or written"):
            open_file(tmp_path / "file" / "events.db", durable=False)

    def test_a_folder_in_its_place(self, path):
        path.mkdir()
        with pytest.raises(CannotOpen, match="Is a directory"):
            open_file(path, durable=False)

    def test_a_store_that_another_program_has_locked(self, path, monkeypatch):
        monkeypatch.setattr(file, "BUSY_SECONDS", 0)
        accept(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            refused(path, "another program has .* locked")

    @pytest.mark.parametrize(
        ("code", "match"),
        [
            ("SQLITE_CORRUPT_INDEX", "is damaged"),
            ("SQLITE_READONLY_DIRECTORY", "cannot be written"),
            ("SQLITE_CANTOPEN", "cannot be written"),
            ("SQLITE_FULL", "the disk of .* is full"),
            ("SQLITE_IOERR_READ", "cannot be used .* look at the disk"),
        ],
    )
    def test_an_error_of_sqlite_is_explained(self, path, monkeypatch, code, match):
        def connect(path):
            error = sqlite3.OperationalError("what SQLite says")
            error.sqlite_errorname = code
            raise error

        monkeypatch.setattr(file, "_connect", connect)
        refused(path, match)

    @pytest.mark.parametrize("clean", [True, False])
    def test_damage_is_looked_for_after_an_unclean_end_only(self, path, clean):
        with opened(path) as found:
            event = Event("T", b"x" * 3_000, "a", "2026-01-31T12:00:00.123Z")
            rows = [row_of(Publication(event, Position("e", n), 0), 1, 1) for n in range(1, 50)]
            store.append(found.writer, Changes(49, rows))
        if not clean:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
        content = bytearray(path.read_bytes())
        middle = len(content) // 2 // 4_096 * 4_096
        content[middle : middle + 4_096] = b"\xff" * 4_096
        path.write_bytes(content)
        if clean:
            with opened(path) as found:
                assert found.seq == 49
        else:
            refused(path, "damaged")
            assert path.read_bytes() == content


class TestMigrations:
    @pytest.fixture
    def old(self, path, monkeypatch):
        """Leave a store with the first schema and one event; return its position."""
        with monkeypatch.context() as patch:
            patch.setattr(file, "MIGRATIONS", MIGRATIONS[:1])
            with opened(path) as found:
                values = (1, 1, 0, "T", "2026-01-31T12:00:00.123Z", None, None, None, None, b"1")
                found.writer.execute(
                    f"INSERT INTO events VALUES ({', '.join('?' * len(values))})", values
                )
                found.writer.execute("UPDATE meta SET value = 1 WHERE name = 'head'")
                return Position(found.epoch, 1)

    @staticmethod
    def check_migrated(path, position):
        with opened(path) as found:
            assert Position(found.epoch, found.seq) == position
            assert pragma(found.writer, "user_version") == len(MIGRATIONS)
            query = "SELECT seq, data, version FROM events"
            assert found.writer.execute(query).fetchall() == [(1, b"1", None)]

    def test_an_old_store_keeps_its_events(self, path, old):
        self.check_migrated(path, old)

    def test_what_each_kind_takes_is_counted(self, path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(file, "MIGRATIONS", MIGRATIONS[:2])
            with opened(path) as found:
                db, epoch = found.writer, found.epoch
                events = (
                    "INSERT INTO events VALUES (?, 1, 0, 'T', '', NULL, NULL, NULL, NULL, ?, NULL)"
                )
                db.executemany(events, [(1, b"1"), (2, b"12345")])
                documents = "INSERT INTO documents VALUES (?, ?, 1, '', NULL, ?)"
                db.executemany(documents, [("d", "kü", b"123"), ("$presence:d", "k", b"1")])
                db.execute("INSERT INTO published VALUES ('ann', 'k', 0, x'00', 1, 100, NULL)")
        with opened(path) as found:
            assert load_usage(found.writer) == Usage(
                events=2,
                event_bytes=6 + 2 * ROW_OVERHEAD,
                documents=1,
                document_bytes=6 + DOCUMENT_OVERHEAD,
                records=1,
                record_bytes=4 + RECORD_OVERHEAD,
            )
            query = "SELECT epoch, subscribers, channel FROM published"
            assert found.writer.execute(query).fetchall() == [(epoch, 0, None)]

    def test_the_events_of_each_namespace_are_put_in_order(self, path, monkeypatch):
        names = ("n:a", "a", "n:b", "$all", "b")
        with monkeypatch.context() as patch:
            patch.setattr(file, "MIGRATIONS", MIGRATIONS[:4])
            with opened(path) as found:
                channels = [(id, name, 0) for id, name in enumerate(names, 1)]
                found.writer.executemany("INSERT INTO channels VALUES (?, ?, ?)", channels)
                events = (
                    "INSERT INTO events VALUES"
                    " (?, ?, 0, 'T', '', NULL, NULL, NULL, NULL, x'', NULL)"
                )
                ids = [1, 2, 3, 4, 5, 3, 2, 1, 99]
                found.writer.executemany(events, list(enumerate(ids, 1)))
        with opened(path) as found:
            spaces = dict(found.writer.execute("SELECT name, namespace FROM channels"))
            assert 0 not in spaces.values()
            assert spaces["n:a"] == spaces["n:b"] != spaces["a"] == spaces["b"] != spaces["$all"]
            query = "SELECT seq FROM events WHERE namespace = ? ORDER BY seq"
            of = {
                name: [seq for (seq,) in found.writer.execute(query, (number,))]
                for name, number in [*spaces.items(), (None, 0)]
            }
            assert (of["n:a"], of["a"], of["$all"], of[None]) == ([1, 3, 6, 8], [2, 5, 7], [4], [9])

    def test_a_failed_migration_leaves_the_store_as_it_was(self, path, old, monkeypatch):
        def migrate(db):
            db.execute("DROP TABLE events")
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(file, "MIGRATIONS", (MIGRATIONS[0], migrate))
            refused(path, "disk I/O error")
        self.check_migrated(path, old)


class TestEpochs:
    """A new one begins whenever a position may have been given to another event."""

    def test_a_restart_keeps_the_epoch(self, path):
        one, two = accept(path), accept(path)
        assert (two.epoch, two.seq) == (one.epoch, 2)

    def test_a_copy_begins_a_new_epoch(self, path, tmp_path):
        one = accept(path)
        shutil.copy(path, tmp_path / "copy.db")
        two = accept(tmp_path / "copy.db")
        assert two.epoch != one.epoch
        assert two.seq == 2

    def test_an_older_file_put_in_place_begins_a_new_epoch(self, path):
        one = accept(path)
        before = path.read_bytes()
        accept(path)
        path.write_bytes(before)
        two = accept(path)
        assert two.epoch != one.epoch
        assert two.seq == 2

    def test_a_note_of_another_epoch_begins_a_new_epoch(self, path):
        one = accept(path)
        file.write_note(path.with_name("events.db.head"), "other", 1)
        two, three = accept(path), accept(path)
        assert two.epoch not in (one.epoch, "other")
        assert three.epoch == two.epoch

    def test_a_crash_before_the_note_costs_one_more_epoch(self, path, monkeypatch):
        """Otherwise a store that was put back in the meantime would keep its epoch."""
        one = accept(path)
        before = path.read_bytes()
        accept(path)
        path.write_bytes(before)
        with monkeypatch.context() as patch:

            def fail(*arguments):
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(file, "_write_note", fail)
            refused(path, "Input/output error")
        with closing(sqlite3.connect(path)) as db:
            (committed,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        assert committed != one.epoch
        two, three = accept(path), accept(path)
        assert two.epoch not in (one.epoch, committed)
        assert three.epoch == two.epoch

    @pytest.mark.parametrize("note", [b"", b"\0" * 30, b"1f", b"garbage\n"])
    def test_a_torn_note_is_ignored(self, path, note):
        one = accept(path)
        path.with_name("events.db.head").write_bytes(note)
        assert accept(path).epoch == one.epoch

    def test_an_unwritable_note_is_harmless(self, path, monkeypatch):
        def fail(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        with opened(path) as found, monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            store.append(found.writer, Changes(1))
            found.note_head(1)
        assert accept(path) == Position(found.epoch, 2)

    @pytest.mark.parametrize(("durable", "same"), [(True, True), (False, False)])
    def test_a_loss_of_power_keeps_the_epoch_of_a_durable_store_only(
        self, path, monkeypatch, durable, same
    ):
        """A store that did not wait for the disk may have lost commits."""
        epoch = crash(path, durable=durable)
        monkeypatch.setattr(file, "_boot_id", lambda: "another boot")
        assert (accept(path).epoch == epoch) is same

    @pytest.mark.parametrize("ends", ["killed", "closed"])
    def test_the_end_of_the_process_keeps_the_epoch(self, path, monkeypatch, ends):
        if ends == "killed":
            epoch = crash(path)
        else:
            epoch = accept(path).epoch
            monkeypatch.setattr(file, "_boot_id", lambda: "another boot")
        assert accept(path).epoch == epoch
