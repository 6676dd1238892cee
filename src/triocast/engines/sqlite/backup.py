"""Copies a store while a server is at work on it, and puts such a copy in a store's place.

A copy is one file that needs no other beside it. All is done under a temporary name first, so that
a name that somebody relies on stands for something whole at every moment. Every function blocks.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import secrets
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from triocast.engines.sqlite.file import (
    APPLICATION_ID,
    BUSY_SECONDS,
    MIGRATIONS,
    CannotOpen,
    claim,
    write_note,
)

STEP_PAGES: Final = 256
"""How many pages are copied in one go: a mebibyte."""

_COMPANIONS: Final = ("-wal", "-journal", "-shm")
"""Files beside a database that SQLite reads together with it, whoever left them there."""


class BackupFailed(Exception):
    """Nothing was copied or replaced; ``what`` is the reason and ``fix`` is what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}: {fix}")
        self.what = what
        self.fix = fix


@attrs.frozen
class Contents:
    """What a store holds: how many events of how many channels, and where its order stands."""

    events: int
    channels: int
    epoch: str
    seq: int


@attrs.frozen
class Restored:
    """What is in the store's place now, and where its predecessor is kept, if there was one."""

    contents: Contents
    kept: Path | None


def back_up(path: Path, target: Path, *, force: bool = False) -> Contents:
    """Copy the store at ``path`` as it is at this moment; a server may go on writing to it.

    ``force`` replaces a ``target`` that is there. Raises BackupFailed.
    """
    with _explained(path):
        _require_file(path, "no server has kept events there yet; look at the setting 'engine'")
        place = _target(path, target, force=force)
        with _temporary(place) as copy:
            contents = _copy(path, copy)
            # Used without `restore`, it is taken for a file from elsewhere: a new epoch.
            _write_meta(copy, {"inode": 0})
            _flush(copy)
            if force:
                os.replace(copy, place)
            else:
                _move_if_free(copy, place)
            _flush(place.parent)
        return contents


def restore(source: Path, path: Path, *, force: bool = False) -> Restored:
    """Put a copy of the backup ``source`` in place of the store at ``path``, under a new epoch.

    ``force`` replaces a store that is there, and keeps it beside the new one. Raises BackupFailed,
    also while a server has the store.
    """
    with _explained(source):
        _require_file(source, "give the file that 'triocast backup' made")
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.resolve()  # as SQLite does: it has its own files beside what a link names
        with _locked(path):
            old = _stat(place)
            if old is not None:
                _check_replaceable(source, place, old, force=force)
            head = Path(f"{path}.head")
            with _temporary(place) as copy, _temporary(head) as note:
                contents = _copy(source, copy)
                epoch = secrets.token_hex(4)
                _write_meta(copy, {"epoch": epoch, "clean": 1, "inode": copy.stat().st_ino})
                write_note(note, epoch, contents.seq)
                if old is not None:
                    _make_alike(copy, old)
                    _make_alike(note, _stat(head) or old)
                _flush(copy)
                kept = _swap(copy, place, keep=old is not None)
                # Only now: until here the old one told whether the old store had been put back. If
                # it stays, a server that finds it makes another new epoch.
                os.replace(note, head)
            _flush(head.parent)
            _flush(place.parent)
        return Restored(attrs.evolve(contents, epoch=epoch), kept)


def _require_file(path: Path, fix: str) -> None:
    found = _stat(path)
    if found is None:
        raise BackupFailed(f"there is no file {path}", fix)
    if not stat.S_ISREG(found.st_mode):
        raise BackupFailed(f"{path} is not a file", fix)


def _target(path: Path, target: Path, *, force: bool) -> Path:
    """Return where the copy goes, by its real name."""
    place = target.resolve()
    store = path.resolve()
    own = [f"{store}{suffix}" for suffix in ("", *_COMPANIONS)]
    if str(place) in (*own, f"{path.absolute()}.lock", f"{path.absolute()}.head"):
        raise BackupFailed(f"{target} is the store itself or belongs to it", "give another name")
    if not place.parent.is_dir():
        raise BackupFailed(f"there is no folder {place.parent}", "make it, or name another")
    found = _stat(place)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise BackupFailed(f"{target} is not a file", "give the name of a file")
    if found is not None and not force:
        raise _taken(target)
    for companion in _COMPANIONS:
        if os.path.lexists(f"{place}{companion}"):
            # SQLite would take it for a part of the copy.
            raise BackupFailed(
                f"{target}{companion} shows that a database of that name is in use",
                "give another name",
            )
    return place


def _taken(target: Path) -> BackupFailed:
    return BackupFailed(f"{target} exists", "give another name, or --force to replace it")


def _check_replaceable(source: Path, place: Path, old: os.stat_result, *, force: bool) -> None:
    if not stat.S_ISREG(old.st_mode):
        raise BackupFailed(f"{place} is not a file", "look at the setting 'engine'")
    if os.path.samestat(old, source.stat()):
        raise BackupFailed(f"{source} is the store itself", "give the backup to restore")
    if not force:
        raise BackupFailed(
            f"there is a store at {place}", "give --force to replace it; it is kept beside the new"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Have the store as a server has it. Raises BackupFailed if another has it."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        claim(lock, path)
        yield
    except CannotOpen as error:
        raise BackupFailed(error.what, "stop it, restore, and start it again") from None
    finally:
        os.close(lock)


@contextlib.contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """Make an empty file beside ``place``; remove at the end what is left of it."""
    number, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    os.close(number)
    try:
        yield Path(name)
    finally:
        for suffix in ("", *_COMPANIONS):
            Path(f"{name}{suffix}").unlink(missing_ok=True)


def _copy(source: Path, copy: Path) -> Contents:
    """Copy a store's state of one moment into one file, and check that. Writes to no source.

    Raises BackupFailed, sqlite3.Error.
    """
    with _open(source, "ro") as db, _open(copy, "rw") as into:
        # The open transaction keeps that moment's pages readable. Without it each write of the
        # server would begin the copy anew. In WAL mode it holds up nobody.
        db.execute("BEGIN")
        _check_ours(db, source)
        db.backup(into, pages=STEP_PAGES)
        into.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = into.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _damaged(source, verdict)
        meta = dict(into.execute("SELECT name, value FROM meta").fetchall())
        (events,) = into.execute("SELECT count(*) FROM events").fetchone()
        (channels,) = into.execute("SELECT count(*) FROM channels").fetchone()
        return Contents(events, channels, meta["epoch"], meta["head"])


def _check_ours(db: sqlite3.Connection, path: Path) -> None:
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not tables:
        raise BackupFailed(f"{path} is empty", "give a file that a server has kept events in")
    if application != APPLICATION_ID:
        raise BackupFailed(f"{path} is a database of another program", "give another file")
    if version > len(MIGRATIONS):
        raise BackupFailed(
            f"{path} was written by a newer version (its schema is {version})",
            "do this with that version",
        )


def _write_meta(path: Path, values: dict[str, str | int]) -> None:
    with _open(path, "rw") as db:
        db.execute("BEGIN")
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
        db.execute("COMMIT")


def _make_alike(path: Path, old: os.stat_result) -> None:
    """Let a server that could open the old store open this one too."""
    os.chmod(path, stat.S_IMODE(old.st_mode))
    if (old.st_uid, old.st_gid) != (path.stat().st_uid, path.stat().st_gid):
        os.chown(path, old.st_uid, old.st_gid)


def _swap(copy: Path, place: Path, *, keep: bool) -> Path | None:
    """Put ``copy`` in place. Return where the old store is kept, if there was one.

    At no moment is the new store there with what SQLite left of the old one beside it, nor an old
    store without what is its own, unless it is damaged.
    """
    if keep:
        _fold(place)
    kept = _keep(place) if keep else None
    try:
        for suffix in _COMPANIONS:
            Path(f"{place}{suffix}").unlink(missing_ok=True)
        _flush(place.parent)
        os.replace(copy, place)
    except OSError:
        if kept is not None:
            for suffix in (*_COMPANIONS, ""):
                if os.path.lexists(f"{kept}{suffix}"):
                    os.replace(f"{kept}{suffix}", f"{place}{suffix}")
                    # Two names of one file stay two.
                    Path(f"{kept}{suffix}").unlink(missing_ok=True)
        raise
    return kept


def _fold(place: Path) -> None:
    """Bring what a server that was killed left beside the store into its file.

    What is damaged stays as it is. Raises BackupFailed, sqlite3.Error.
    """
    try:
        with _open(place, "rw") as db:
            (mode,) = db.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.DatabaseError as error:
        if not _means_damage(error):
            raise _explain(error, place) from None
    else:
        if mode != "delete":
            raise BackupFailed(f"another program has {place} open", "stop it, and try again")


def _keep(place: Path) -> Path:
    """Give the old store a second name, with what is left beside it."""
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in itertools.count(1):
        kept = place.with_name(
            f"{place.name}.before-restore-{moment}{f'-{number}' if number > 1 else ''}"
        )
        if not any(os.path.lexists(f"{kept}{suffix}") for suffix in ("", *_COMPANIONS)):
            break
    for suffix in ("", "-wal", "-journal"):
        if os.path.lexists(f"{place}{suffix}"):
            try:
                os.link(f"{place}{suffix}", f"{kept}{suffix}")
            except OSError:  # a file system without links
                shutil.copy2(f"{place}{suffix}", f"{kept}{suffix}")
                _flush(Path(f"{kept}{suffix}"))
    return kept


def _move_if_free(copy: Path, place: Path) -> None:
    """Rename, but not onto a file that came meanwhile."""
    try:
        os.link(copy, place)
    except OSError:  # also of a file system without links: there a moment is left
        if os.path.lexists(place):
            raise _taken(place) from None
        os.rename(copy, place)


@contextlib.contextmanager
def _open(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
    )
    with contextlib.closing(db):
        yield db


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Make BackupFailed of what the disk and SQLite have to say."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, source) from None
    except OSError as error:
        raise BackupFailed(
            f"{error.filename or source} cannot be read or written ({error.strerror})",
            "see that there is room, and that this user may",
        ) from None


def _means_damage(error: sqlite3.Error) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _damaged(path: Path, verdict: object) -> BackupFailed:
    return BackupFailed(f"{path} is damaged ({verdict})", "use an older backup")


def _explain(error: sqlite3.Error, path: Path) -> BackupFailed:
    if _means_damage(error):
        return _damaged(path, error)
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return BackupFailed("the disk is full", "make room where the copy goes")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return BackupFailed(f"another program has {path} open", "stop it, and try again")
    return BackupFailed(
        f"{path} cannot be copied ({error})", "see that this user may read it, and look at the disk"
    )
