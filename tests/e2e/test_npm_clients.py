"""Clients from npm, unchanged: the tests of `tests/js`, which Node runs, against this Python's
Triocast."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.npm import SCRIPTS, install, run_tests

RUN_SECONDS = 300.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the scripts with what they import."""
    return install(tmp_path_factory.mktemp("npm"))


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.test.mjs")))
def test_in_node(folder: Path, script: str) -> None:
    run_tests(script, folder=folder, limit=RUN_SECONDS)
