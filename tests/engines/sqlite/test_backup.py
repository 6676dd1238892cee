import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from triocast.engines.sqlite import backup, store
from triocast.engines.sqlite.backup import BackupFailed, Contents, back_up, restore
from triocast.engines.sqlite.file import open_file
from triocast.engines.sqlite.rows import row_of
from triocast.engines.sqlite.store import Changes
from triocast.events import Event, Position, Publication

TIME = "2026-01-01T00:00:00.000Z"


def row(n, data, channel=1):
    event = Event(type="t", data=data, channel="a", timestamp=TIME)
    return row_of(Publication(event, Position("e", n), n - 1), channel, 1)


@contextmanager
def opened(path):
    file = open_file(path, durable=False)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def filled(path, *datas):
    """A store that is open, with events of the channel "a"."""
    with opened(path) as file:
        rows = [row(n, data) for n, data in enumerate(datas, 1)]
        file.writer.execute("INSERT INTO channels (id, name, floor) VALUES (1, 'a', 0)")
        store.append(file.writer, Changes(len(rows), rows))
        file.note_head(len(rows))
        yield file


def events_in(path):
    """Open a store as a server does; return its epoch, position and events."""
    with opened(path) as file:
        datas = [data for (data,) in file.writer.execute("SELECT data FROM events ORDER BY seq")]
        assert file.writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return file.epoch, file.seq, datas


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    return folder / "events.db"


@pytest.fixture
def copy(tmp_path):
    """A backup with the events x, y and z."""
    (tmp_path / "copies").mkdir()
    with filled(tmp_path / "origin.db", b"x", b"y", b"z"):
        back_up(tmp_path / "origin.db", tmp_path / "copies" / "b.db")
    return tmp_path / "copies" / "b.db"


def refused(call, *arguments, **options):
    with pytest.raises(BackupFailed) as failure:
        call(*arguments, **options)
    assert failure.value.what in str(failure.value)
    assert failure.value.fix
    return failure.value.what


# Backing up.


def test_a_backup_is_one_whole_file_of_an_open_store(place, tmp_path):
    with filled(place, b"1", b"2") as file:
        before = names(place.parent)
        contents = back_up(place, tmp_path / "b.db")
        assert contents == Contents(events=2, channels=1, epoch=file.epoch, seq=2)
        assert names(place.parent) == before
        store.append(file.writer, Changes(3, [row(3, b"3")]))
    assert names(tmp_path) == ["b.db", "place"]
    with closing(sqlite3.connect(tmp_path / "b.db")) as db:
        assert [x for (x,) in db.execute("SELECT data FROM events ORDER BY seq")] == [b"1", b"2"]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",), "it is one file"


def test_a_backup_is_for_this_user_only(place, tmp_path):
    with filled(place, b"1"):
        back_up(place, tmp_path / "b.db")
    assert (tmp_path / "b.db").stat().st_mode & 0o777 == 0o600


def test_a_backup_put_in_place_by_hand_is_a_new_epoch(place, tmp_path):
    """Even into the same file, as the system sees it."""
    with filled(place, b"1") as file:
        back_up(place, tmp_path / "b.db")
    place.write_bytes((tmp_path / "b.db").read_bytes())
    epoch, _, datas = events_in(place)
    assert datas == [b"1"]
    assert epoch != file.epoch


def test_a_store_is_copied_as_it_is_at_one_moment_while_it_is_written(place, tmp_path, monkeypatch):
    """Each transaction keeps two events. The copy ends although the writing does not."""
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    started, done, last = threading.Event(), threading.Event(), 0

    def write():
        nonlocal last
        with closing(sqlite3.connect(place, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")
            for n in itertools.count(301, 2):
                two = [row(n, b"x" * 500), row(n + 1, b"x" * 500)]
                store.append(db, Changes(n + 1, two))
                last = n + 1
                started.set()
                if done.is_set():
                    return

    patience = threading.Timer(30, done.set)
    with filled(place, *[b"x" * 2_000] * 300):
        writer = threading.Thread(target=write)
        writer.start()
        patience.start()
        assert started.wait(10)
        for _ in range(20):  # The writer's thread need not get its turn during the first one.
            (tmp_path / "b.db").unlink(missing_ok=True)
            start = last
            contents = back_up(place, tmp_path / "b.db")
            end = last
            if end > start:
                break
        assert not done.is_set(), "the copy waited for the writer to stop"
        patience.cancel()
        done.set()
        writer.join()
    assert end > start, "the writer waited for the copy to end"
    assert start <= contents.seq <= end + 2  # The writer notes a transaction behind its commit.
    assert contents.seq % 2 == 0
    with closing(sqlite3.connect(tmp_path / "b.db")) as db:
        seqs = [seq for (seq,) in db.execute("SELECT seq FROM events ORDER BY seq")]
        assert seqs == list(range(1, contents.seq + 1))
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_a_killed_server_left_beside_its_store_is_copied_and_stays(place, tmp_path):
    leave_as_killed(place, b"1", b"2")
    wal = Path(f"{place}-wal").read_bytes()
    main = place.read_bytes()
    assert back_up(place, tmp_path / "b.db").events == 2
    assert Path(f"{place}-wal").read_bytes() == wal
    assert place.read_bytes() == main


def leave_as_killed(path, *datas):
    """Make a store whose events stand in its -wal only."""
    folder = path.parent / "alive"
    folder.mkdir()
    with filled(folder / "events.db", *datas):
        # in another process: to open such a file here would take SQLite's locks from it
        command = ["cp", "events.db", "events.db-wal", "events.db.head", str(path.parent)]
        subprocess.run(command, cwd=folder, check=True)
    shutil.rmtree(folder)


def test_a_target_that_exists_is_replaced_by_force_only(place, tmp_path):
    target = tmp_path / "b.db"
    target.write_text("precious")
    with filled(place, b"1"):
        assert "b.db exists" in refused(back_up, place, target)
        assert target.read_text() == "precious"
        assert back_up(place, target, force=True).events == 1
    assert names(tmp_path) == ["b.db", "place"]
    with closing(sqlite3.connect(target)) as db:
        assert db.execute("SELECT data FROM events").fetchall() == [(b"1",)]


@pytest.mark.parametrize("links", [True, False])
def test_a_target_that_came_meanwhile_is_not_replaced(place, tmp_path, monkeypatch, links):
    target = tmp_path / "b.db"
    flush = backup._flush

    def come_meanwhile(path):
        flush(path)
        target.write_text("precious")

    monkeypatch.setattr(backup, "_flush", come_meanwhile)
    if not links:
        forbid_links(monkeypatch)
    with filled(place, b"1"):
        assert "b.db exists" in refused(back_up, place, target)
    assert target.read_text() == "precious"
    assert names(tmp_path) == ["b.db", "place"]


def forbid_links(monkeypatch):
    def link(source, target):
        raise PermissionError(1, "Operation not permitted", source)

    monkeypatch.setattr(os, "link", link)


def test_a_file_system_without_links(place, copy, tmp_path, monkeypatch):
    forbid_links(monkeypatch)
    with filled(place, b"1"):
        back_up(place, tmp_path / "b.db")
    kept = restore(copy, place, force=True).kept
    assert events_in(place)[2] == [b"x", b"y", b"z"]
    assert events_in(kept)[2] == [b"1"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock", ".head"])
def test_a_backup_never_replaces_the_store_that_it_is_of(place, tmp_path, suffix):
    (tmp_path / "link.db").symlink_to(place)
    with filled(place, b"1"):
        assert "itself" in refused(back_up, place, Path(f"{place}{suffix}"), force=True)
        assert "itself" in refused(back_up, place, tmp_path / "link.db", force=True)
    assert events_in(place)[2] == [b"1"]


def test_a_backup_never_replaces_a_database_in_use(place, tmp_path):
    with filled(place, b"1"), filled(tmp_path / "other.db", b"2"):
        assert "in use" in refused(back_up, place, tmp_path / "other.db", force=True)
    assert events_in(tmp_path / "other.db")[2] == [b"2"]


def test_targets_that_cannot_be(place, tmp_path):
    with filled(place, b"1"):
        assert "is not a file" in refused(back_up, place, tmp_path, force=True)
        assert "there is no folder" in refused(back_up, place, tmp_path / "no" / "b.db")
    assert names(tmp_path) == ["place"]


def make_foreign(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE precious (x)")
    return "is a database of another program"


def make_newer(path):
    with filled(path, b"1") as file:
        file.writer.execute("PRAGMA user_version = 99")
    return "was written by a newer version (its schema is 99)"


def make_empty(path):
    path.write_bytes(b"")
    return "is empty"


def make_text(path):
    path.write_text("not a database at all" * 100)
    return "is damaged"


def make_cut(path):
    with filled(path, *[b"x" * 2_000] * 50):
        pass
    os.truncate(path, 50_000)
    return "is damaged"


def make_scribbled(path):
    """Damaged in the midst of it: whole for whoever reads its beginning only."""
    with filled(path, *[b"x" * 2_000] * 50):
        pass
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\x55" * 4096)
    return "is damaged"


def make_folder(path):
    path.mkdir()
    return "is not a file"


def make_nothing(path):
    return "there is no file"


WRONG = [
    make_foreign, make_newer, make_empty, make_text, make_cut, make_scribbled, make_folder,
    make_nothing,
]  # fmt: skip


@pytest.mark.parametrize("make", WRONG)
def test_what_is_no_store_is_not_backed_up(place, tmp_path, make):
    what = make(place)
    assert what in refused(back_up, place, tmp_path / "b.db")
    assert names(tmp_path) == ["place"]


# Restoring.


def test_a_restored_store_has_the_events_and_a_new_epoch(copy, place):
    done = restore(copy, place)
    assert done.kept is None
    assert (done.contents.events, done.contents.channels, done.contents.seq) == (3, 1, 3)
    assert names(place.parent) == ["events.db", "events.db.head", "events.db.lock"]
    with closing(sqlite3.connect(copy)) as db:
        (before,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    assert done.contents.epoch != before
    assert events_in(place) == (done.contents.epoch, 3, [b"x", b"y", b"z"])
    assert restore(copy, place, force=True).contents.epoch != done.contents.epoch


def test_a_store_that_is_put_back_over_a_restored_one_begins_a_new_epoch(copy, place):
    """Also before a server had the restored one: its note is beside it."""
    with filled(place, b"1"):
        pass
    before = place.read_bytes()
    place.chmod(0o640)
    restored = restore(copy, place, force=True).contents.epoch
    with closing(sqlite3.connect(place)) as db:
        (inode,) = db.execute("SELECT value FROM meta WHERE name = 'inode'").fetchone()
    place.write_bytes(before)
    with closing(sqlite3.connect(place)) as db, db:  # the system may give a number again
        (old,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        db.execute("UPDATE meta SET value = ? WHERE name = 'inode'", (inode,))
    assert events_in(place)[0] not in (old, restored)


def test_the_note_beside_a_restored_store_can_be_written_by_who_wrote_the_old_one(copy, place):
    with filled(place, b"1"):
        pass
    note = Path(f"{place}.head")
    note.chmod(0o660)
    restore(copy, place, force=True)
    assert note.stat().st_mode & 0o777 == 0o660
    note.unlink()
    place.chmod(0o640)
    restore(copy, place, force=True)
    assert note.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_not_there_is_made(copy, tmp_path):
    restore(copy, tmp_path / "new" / "er" / "events.db")
    assert events_in(tmp_path / "new" / "er" / "events.db")[2] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("make", WRONG)
@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_backup_is_not_restored(place, tmp_path, make, force):
    what = make(tmp_path / "b.db")
    if force:
        with filled(place, b"1"):
            pass
    assert what in refused(restore, tmp_path / "b.db", place, force=force)
    if force:
        assert events_in(place)[2] == [b"1"]
    assert set(names(place.parent)) <= {"events.db", "events.db.lock", "events.db.head"}
    assert force is place.exists()


def test_a_store_that_is_there_is_replaced_by_force_only_and_kept(copy, place):
    with filled(place, b"1", b"2"):
        pass
    place.chmod(0o640)
    assert "there is a store at" in refused(restore, copy, place)
    epoch, _, datas = events_in(place)
    assert datas == [b"1", b"2"]
    done = restore(copy, place, force=True)
    assert done.kept.name.startswith("events.db.before-restore-")
    assert place.stat().st_mode & 0o777 == 0o640, "who could open it still can"
    assert events_in(place) == (done.contents.epoch, 3, [b"x", b"y", b"z"])
    assert events_in(done.kept)[2] == [b"1", b"2"]
    assert done.contents.epoch != epoch


def test_stores_that_are_kept_do_not_replace_each_other(copy, place):
    kept = {restore(copy, place).kept} | {restore(copy, place, force=True).kept for _ in range(4)}
    assert len(kept) == 5
    assert all(path.exists() for path in kept if path)


def test_what_a_killed_server_left_goes_with_the_store_that_is_kept(copy, place):
    leave_as_killed(place, b"1", b"2")
    kept = restore(copy, place, force=True).kept
    assert names(place.parent) == ["events.db", kept.name, "events.db.head", "events.db.lock"]
    assert events_in(place)[2] == [b"x", b"y", b"z"]
    assert events_in(kept)[2] == [b"1", b"2"]


@pytest.mark.parametrize("force", [True, False])
def test_what_was_left_of_a_store_that_is_gone_is_not_taken_for_part_of_the_new(copy, place, force):
    """Or SQLite would put the pages of the old store into the new one."""
    leave_as_killed(place, b"1", b"2")
    place.unlink()
    restore(copy, place, force=force)
    assert names(place.parent) == ["events.db", "events.db.head", "events.db.lock"]
    assert events_in(place)[2] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("make", [make_text, make_cut, make_scribbled, make_foreign, make_empty])
def test_a_damaged_store_is_replaced_and_kept_as_it_is(copy, place, make):
    make(place)
    Path(f"{place}.head").unlink(missing_ok=True)
    before = place.read_bytes()
    kept = restore(copy, place, force=True).kept
    assert kept.read_bytes()[4096:] == before[4096:]
    assert len(kept.read_bytes()) == len(before)
    assert events_in(place)[2] == [b"x", b"y", b"z"]


def test_what_was_left_beside_a_damaged_store_is_not_taken_for_part_of_the_new(copy, place):
    leave_as_killed(place, b"1", b"2")
    place.write_text("not a database at all" * 100)
    restore(copy, place, force=True)
    assert not Path(f"{place}-wal").exists()
    assert events_in(place)[2] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("force", [True, False])
def test_a_store_that_a_server_has_is_not_replaced(copy, place, force):
    with filled(place, b"1") as file:
        what = refused(restore, copy, place, force=force)
        assert what == f"another server (process {os.getpid()}) has {place}"
        store.append(file.writer, Changes(2, [row(2, b"2")]))
    assert events_in(place)[2] == [b"1", b"2"]


def test_a_store_that_another_program_reads_is_not_replaced(copy, place, monkeypatch):
    monkeypatch.setattr(backup, "BUSY_SECONDS", 0.01)
    leave_as_killed(place, b"1")
    with closing(sqlite3.connect(place, isolation_level=None)) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT data FROM events").fetchall() == [(b"1",)]
        assert "another program has" in refused(restore, copy, place, force=True)
    assert events_in(place)[2] == [b"1"]


def test_a_store_is_not_restored_from_itself(place, tmp_path):
    with filled(place, b"1"):
        pass
    (tmp_path / "same.db").hardlink_to(place)
    assert "is the store itself" in refused(restore, tmp_path / "same.db", place, force=True)
    assert events_in(place)[2] == [b"1"]


def test_a_copied_store_can_be_restored_with_what_is_beside_it(place, tmp_path):
    """One that was copied as files, from a killed server."""
    (tmp_path / "other").mkdir()
    leave_as_killed(tmp_path / "other" / "b.db", b"1", b"2")
    for name in ("events.db", "events.db-wal"):
        (tmp_path / "other" / name).rename(tmp_path / "other" / name.replace("events", "b"))
    restore(tmp_path / "other" / "b.db", place)
    assert events_in(place)[2] == [b"1", b"2"]


def test_a_store_behind_a_link(copy, place, tmp_path):
    """SQLite has its own files beside what the link names."""
    leave_as_killed(place, b"1")
    (tmp_path / "link.db").symlink_to(place)
    kept = restore(copy, tmp_path / "link.db", force=True).kept
    assert kept.parent == place.parent
    assert (tmp_path / "link.db").is_symlink()
    assert events_in(tmp_path / "link.db")[2] == [b"x", b"y", b"z"]
    assert events_in(kept)[2] == [b"1"]


# Half-way failures.


def fail(monkeypatch, function, on):
    """Let a function of `os` fail where its arguments fit."""
    real = getattr(os, function)

    def failing(*arguments, **options):
        if on(*arguments):
            raise OSError(28, "No space left on device", str(arguments[0]))
        return real(*arguments, **options)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_backup_that_fails_leaves_nothing_and_replaces_nothing(
    place, tmp_path, monkeypatch, function
):
    (tmp_path / "b.db").write_text("precious")
    with filled(place, b"1"):
        fail(monkeypatch, function, lambda *_: True)
        what = refused(back_up, place, tmp_path / "b.db", force=True)
    assert "cannot be read or written (No space left on device)" in what
    assert names(tmp_path) == ["b.db", "place"]
    assert (tmp_path / "b.db").read_text() == "precious"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_restore_that_fails_at_the_end_leaves_the_old_store(copy, place, monkeypatch, damaged):
    leave_as_killed(place, b"1", b"2")
    if damaged:
        place.write_bytes(b"damaged")
        Path(f"{place}-wal").write_bytes(b"too")
        monkeypatch.setattr(backup, "_fold", lambda place: None)
    before = {path.name: path.read_bytes() for path in place.parent.iterdir()}
    fail(monkeypatch, "replace", lambda source, target: str(source).endswith(".part"))
    assert "No space left" in refused(restore, copy, place, force=True)
    monkeypatch.undo()
    if damaged:
        after = {path.name: path.read_bytes() for path in place.parent.iterdir()}
        assert after.keys() - before.keys() == {"events.db.lock"}
        assert after.items() >= before.items()
    else:
        assert names(place.parent) == ["events.db", "events.db.head", "events.db.lock"]
        assert events_in(place)[2] == [b"1", b"2"]


CRASHES = """
import os, sys
from pathlib import Path
from triocast.engines.sqlite.backup import restore

def end(event, arguments):
    global left
    if event.split(".")[0] in ("os", "sqlite3", "tempfile") or event == "open":
        left -= 1
        if left < 0:
            os._exit(9)

for moment, folder in enumerate(sys.argv[2:]):
    child = os.fork()
    if not child:
        left = moment
        sys.addaudithook(end)
        restore(Path(sys.argv[1]), Path(folder) / "events.db", force=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_a_crash_at_any_moment_there_is_the_old_store_or_the_new(copy, place, tmp_path):
    """It is ended before each of its calls to the system and SQLite."""
    leave_as_killed(place, b"1", b"2")
    folders = [tmp_path / f"crash{moment}" for moment in range(80)]
    for folder in folders:
        shutil.copytree(place.parent, folder)
    command = [sys.executable, "-c", CRASHES, copy, *folders]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    codes = [int(code) for code in done.stdout.split()]
    assert set(codes) == {0, 9}, done.stderr
    assert codes == sorted(codes, reverse=True)
    assert codes.count(9) > 15
    seen = []
    for folder in folders:
        epoch, _, datas = events_in(folder / "events.db")
        assert datas in ([b"1", b"2"], [b"x", b"y", b"z"]), folder
        assert events_in(folder / "events.db")[0] == epoch, "one new epoch is enough"
        seen.append(len(datas))
        if datas == [b"x", b"y", b"z"]:
            (kept,) = folder.glob("*.before-restore-*Z")
            assert events_in(kept)[2] == [b"1", b"2"], folder
    assert seen == sorted(seen)
    assert {code for code, count in zip(codes, seen, strict=True) if count == 2} == {9}
