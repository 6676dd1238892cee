"""Clients from npm, unchanged: the tests of `tests/js`, which Node runs, against this Python's
Triocast."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.npm import SCRIPTS, run_tests

pytestmark = pytest.mark.once

RUN_SECONDS = 300.0


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.test.mjs")))
def test_in_node(npm_folder: Path, script: str) -> None:
    run_tests(script, folder=npm_folder, limit=RUN_SECONDS)
