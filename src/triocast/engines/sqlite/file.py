"""The file of a store: opened by one process at a time, checked, migrated, and given its epoch.

Two small files stand beside it. ``<file>.lock`` is locked while a process has the store. The kernel
lets go of it however that process ends. ``<file>.head`` has the last position that was accepted,
written when the store is opened, and then without waiting for the disk. If it is ahead of the
store, or of another epoch, an older state was put back, and the store begins a new epoch. A crash
between a new epoch's commit and its note costs one more epoch, as nobody has a position of it yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from triocast.engines.documents import DOCUMENT_OVERHEAD
from triocast.engines.idempotency import RECORD_OVERHEAD
from triocast.engines.sqlite.ages import OFFSET, Ages
from triocast.engines.sqlite.rows import ROW_OVERHEAD
from triocast.events import Position, namespace_of

APPLICATION_ID: Final = 0x54726963
"""Marks our files, in SQLite's header: "Tric"."""

BUSY_SECONDS: Final = 5.0
"""How long to wait for another's lock on the file, such as a backup's."""

READERS: Final = 4
"""Connections to read: so many reads can be under way at one time, each at its own moment."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class CannotOpen(Exception):
    """A store cannot be used; ``what`` is wrong with it and ``fix`` is what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}: {fix}")
        self.what = what
        self.fix = fix


def _create(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID")
    db.execute(
        "CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " floor INTEGER NOT NULL)"
    )
    db.execute("CREATE TABLE namespaces (name TEXT PRIMARY KEY, floor INTEGER NOT NULL)")
    db.execute(
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, channel INTEGER NOT NULL,"
        " prev INTEGER NOT NULL, type TEXT NOT NULL, timestamp TEXT NOT NULL, key TEXT,"
        " tags TEXT, user TEXT, exclude TEXT, data BLOB NOT NULL)"
    )
    db.execute(
        "CREATE TABLE published (scope TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL,"
        " digest BLOB NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,"
        " PRIMARY KEY (scope, key, number)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX published_at ON published (at)")
    db.execute("CREATE INDEX events_of_channel ON events (channel, seq)")
    db.execute("CREATE INDEX events_of_key ON events (channel, key, seq)")


def _add_documents(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE events ADD COLUMN version INTEGER")
    db.execute("ALTER TABLE published ADD COLUMN version INTEGER")
    db.execute(
        "CREATE TABLE documents (channel TEXT NOT NULL, key TEXT NOT NULL,"
        " version INTEGER NOT NULL, timestamp TEXT NOT NULL, user TEXT, data BLOB NOT NULL,"
        " PRIMARY KEY (channel, key))"
    )
    db.execute(
        "CREATE TABLE held (number INTEGER PRIMARY KEY, channel TEXT NOT NULL,"
        " type TEXT NOT NULL, timestamp TEXT NOT NULL, key TEXT, tags TEXT, user TEXT,"
        " exclude TEXT, data BLOB NOT NULL, version INTEGER)"
    )


def _keep_first_answers(db: sqlite3.Connection) -> None:
    """Keep with an idempotency record all that the first answer said."""
    db.execute("ALTER TABLE published ADD COLUMN epoch TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE published ADD COLUMN subscribers INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE published ADD COLUMN channel TEXT")
    db.execute("UPDATE published SET epoch = (SELECT value FROM meta WHERE name = 'epoch')")


def _count_usage(db: sqlite3.Connection) -> None:
    """Keep what each kind takes, so that each can have a bound of its own."""
    db.execute(
        "CREATE TABLE usage (events INTEGER NOT NULL, event_bytes INTEGER NOT NULL,"
        " documents INTEGER NOT NULL, document_bytes INTEGER NOT NULL,"
        " records INTEGER NOT NULL, record_bytes INTEGER NOT NULL)"
    )
    kinds = (
        ("length(data)", ROW_OVERHEAD, "events"),
        (
            "length(data) + length(channel) + length(key)",
            DOCUMENT_OVERHEAD,
            "documents WHERE channel NOT LIKE '$%'",
        ),
        ("length(scope) + length(key)", RECORD_OVERHEAD, "published"),
    )
    usage: list[int] = []
    for size, overhead, rows in kinds:
        query = f"SELECT count(*), coalesce(sum({size} + ?), 0) FROM {rows}"  # noqa: S608
        usage += db.execute(query, (overhead,)).fetchone()
    db.execute("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)", usage)


def _index_namespaces(db: sqlite3.Connection) -> None:
    """Have the events of each namespace in order, so that a pattern costs what it covers."""
    db.execute("ALTER TABLE channels ADD COLUMN namespace INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE events ADD COLUMN namespace INTEGER NOT NULL DEFAULT 0")
    channels = db.execute("SELECT id, name FROM channels").fetchall()
    names = dict.fromkeys(namespace_of(name) for _, name in channels)
    numbers = {name: number for number, name in enumerate(names, 1)}
    db.executemany(
        "UPDATE channels SET namespace = ? WHERE id = ?",
        [(numbers[namespace_of(name)], id) for id, name in channels],
    )
    db.execute(
        "UPDATE events SET namespace = coalesce("
        "(SELECT namespace FROM channels WHERE channels.id = events.channel), 0)"
    )
    db.execute("CREATE INDEX events_of_namespace ON events (namespace, seq, channel)")
    db.execute("CREATE INDEX channels_of_namespace ON channels (namespace, name)")


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    _create,
    _add_documents,
    _keep_first_answers,
    _count_usage,
    _index_namespaces,
)
"""What makes the schema of version n out of that of version n - 1."""


@attrs.frozen
class StoreFile:
    """An open store: one connection to write, some to read, and where its order stands."""

    path: Path
    writer: sqlite3.Connection
    readers: tuple[sqlite3.Connection, ...]
    epoch: str
    seq: int
    ages: Ages
    _lock: int
    _head: int

    def note_head(self, seq: int) -> None:
        """Write down the last accepted position beside the store; a loss of power may lose it."""
        # Events are safe without it; only an older copy put in the store's place may go unnoticed.
        with contextlib.suppress(OSError):
            os.pwrite(self._head, _head_line(self.epoch, seq), 0)

    def close(self) -> None:
        """Close the store as one that needs no check when it is opened again."""
        with contextlib.suppress(sqlite3.Error):
            self.writer.execute("UPDATE meta SET value = 1 WHERE name = 'clean'")
        for reader in self.readers:
            reader.close()
        self.writer.close()
        os.close(self._head)
        os.close(self._lock)


def open_file(path: Path, *, durable: bool) -> StoreFile:
    """Open a store, or make one. ``durable`` waits for the disk at each commit.

    Raises CannotOpen.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite would, which lets everybody on the machine read it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            head = os.open(f"{path}.head", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, head)
        except OSError as error:
            raise CannotOpen(
                f"{error.filename or path} cannot be made or written ({error.strerror})",
                "give a folder that this user may write to",
            ) from None
        claim(lock, path)
        try:
            writer = _connect(path)
            stack.callback(writer.close)
            noted = _read_note(os.pread(head, 200, 0))
            epoch, seq, ages = _prepare(writer, path, noted, durable=durable)
            if noted != Position(epoch, seq):
                _write_note(head, epoch, seq)
            readers = tuple(_connect(path) for _ in range(READERS))
            for reader in readers:
                stack.callback(reader.close)
                reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise _explain(error, path) from None
        except OSError as error:
            raise CannotOpen(
                f"{path} cannot be read or written ({error.strerror})", "look at the disk"
            ) from None
        stack.pop_all()
        return StoreFile(path, writer, readers, epoch, seq, ages, lock, head)


def claim(lock: int, path: Path) -> None:
    """Lock a store by its open lock file, until that is closed. Raises CannotOpen."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise CannotOpen(
            f"another server (process {owner}) has {path}",
            "stop it, or give this one a file of its own; of several workers only one can have it",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _connect(path: Path) -> sqlite3.Connection:
    # Each is used by one thread at a time, which its worker sees to.
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.text_factory = _decode
    return db


def _decode(text: bytes) -> str | bytes:
    """Decode a text; return a damaged one as it is, so that only its row cannot be read."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def write_note(path: Path, epoch: str, seq: int) -> None:
    """Write the note of a store that is not open into the file ``path``."""
    head = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _write_note(head, epoch, seq)
    finally:
        os.close(head)


def _prepare(
    db: sqlite3.Connection, path: Path, noted: Position | None, *, durable: bool
) -> tuple[str, int, Ages]:
    """Bring an open file into use; return its epoch, head and ages.

    Raises CannotOpen, sqlite3.Error.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise CannotOpen(f"{path} is a database of another program", "give another file")
    if version > len(MIGRATIONS):
        raise CannotOpen(
            f"{path} was written by a newer version (its schema is {version})",
            "run that version, or give another file",
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("BEGIN IMMEDIATE")
    for migrate in MIGRATIONS[version:]:
        migrate(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
    if meta and not meta["clean"]:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            db.execute("ROLLBACK")
            raise _damaged(path, verdict)
    seq = meta.get("head", 0)
    inode, boot = path.stat().st_ino, _boot_id()
    epoch = meta.get("epoch")
    if (
        epoch is None
        or meta["inode"] != inode
        or (noted is not None and (noted.epoch != epoch or noted.seq > seq))
        or (meta["boot"] != boot and not meta["clean"] and not meta["durable"])
    ):
        epoch = secrets.token_hex(4)
    has_run = boot and meta.get("boot") == boot
    # Without what is no time, as a damaged row may have it.
    (newest,) = db.execute("SELECT max(at) FROM published WHERE at < 1e12").fetchone()
    ages = Ages.continued(meta.get(OFFSET) if has_run else None, newest=newest or 0)
    values = {
        "epoch": epoch, "head": seq, "inode": inode, "boot": boot, "clean": 0,
        "durable": int(durable), "revision": meta.get("revision", 0),
        OFFSET: ages.offset,
    }  # fmt: skip
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
    db.execute("COMMIT")
    return epoch, seq, ages


def _head_line(epoch: str, seq: int) -> bytes:
    return b"%s %020d\n" % (epoch.encode(), seq)


def _read_note(line: bytes) -> Position | None:
    """Return the position in a note; None if there is none, or a loss of power tore it."""
    epoch, _, seq = line.decode("ascii", "replace").strip().partition(" ")
    return Position(epoch, int(seq)) if epoch and seq.isdecimal() else None


def _write_note(head: int, epoch: str, seq: int) -> None:
    """Write a note that may be of another epoch than the one before it; waits for the disk."""
    line = _head_line(epoch, seq)
    os.pwrite(head, line, 0)
    os.ftruncate(head, len(line))
    os.fsync(head)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _damaged(path: Path, verdict: str) -> CannotOpen:
    return CannotOpen(
        f"{path} is damaged ({verdict})",
        "restore a backup ('triocast restore'), or move the file away to begin anew",
    )


def _explain(error: sqlite3.Error, path: Path) -> CannotOpen:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path, str(error))
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return CannotOpen(
            f"{path} cannot be written ({error})", "give a file that this user may write to"
        )
    if name.startswith("SQLITE_FULL"):
        return CannotOpen(f"the disk of {path} is full", "make room on it")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return CannotOpen(f"another program has {path} locked", "stop it, and start again")
    return CannotOpen(f"{path} cannot be used ({error})", "look at the disk")
