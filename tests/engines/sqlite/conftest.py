"""Stores for the tests of the parts of the engine ``sqlite``."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from triocast.engines.sqlite.file import open_file


@pytest.fixture
def tmp_path(new_folder):
    """Return a folder that costs no disk; pytest's own would."""
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
