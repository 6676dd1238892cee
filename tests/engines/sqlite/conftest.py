"""Stores for the tests of the modules of the engine ``sqlite``."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from triocast.engines.debounce import Debounce
from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite import store
from triocast.engines.sqlite.batch import Batch
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.file import open_file
from triocast.engines.sqlite.store import Known
from triocast.engines.usage import Bounds
from triocast.events import Position


@pytest.fixture
def tmp_path(new_folder):
    """Replace pytest's folder with one in memory."""
    with new_folder() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def new_store(new_folder):
    """Make open stores, as context managers."""

    @contextmanager
    def new_store():
        with new_folder() as folder:
            file = open_file(Path(folder) / "events.db", durable=False)
            try:
                yield file
            finally:
                file.close()

    return new_store


@pytest.fixture
def db(new_store):
    """Return the writing connection of a new store."""
    with new_store() as file:
        yield file.writer


class Tables:
    """The tables of a store and its channels in memory, filled by commits like the engine's."""

    def __init__(self, db, keep=Keep(10**6), namespaces=None):  # noqa: B008
        self.db = db
        self.retention = Retention(keep, namespaces)
        self.channels = Channels((), {}, self.retention)
        self.head = Position("e", 0)
        self.revision = 0

    def publish(self, *events):
        batch = Batch(
            self.channels,
            Debounce(),
            Known(self.revision, store.load_usage(self.db)),
            head=self.head,
            bounds=Bounds(),
            records_at=0.0,
            now=0.0,
        )
        batch.check(events)
        publications = tuple(batch.accept(event) for event in events)
        store.append(self.db, batch.changes)
        batch.settle()
        self.head, self.revision = Position("e", batch.seq), batch.revision
        return publications

    def seqs(self, name):
        """Return the positions of a channel's events in the file."""
        query = (
            "SELECT seq FROM events JOIN channels ON channels.id = events.channel"
            " WHERE name = ? ORDER BY seq"
        )
        return [seq for (seq,) in self.db.execute(query, (name,))]

    def floors(self):
        """Return the floors of channels and of namespaces in the file."""
        return (
            dict(self.db.execute("SELECT name, floor FROM channels")),
            dict(self.db.execute("SELECT name, floor FROM namespaces")),
        )


@pytest.fixture(scope="session")
def new_tables():
    """Make `Tables` of an open store."""
    return Tables


@pytest.fixture
def tables(db):
    return Tables(db)
