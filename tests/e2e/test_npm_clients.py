"""Clients from npm, unchanged: the tests of `tests/js`, which Node runs, against this Python's
Triocast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.npm import SCRIPTS, install, run

RUN_SECONDS = 300.0
_COUNT = re.compile(r"^# (tests|pass) (\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the scripts with what they import."""
    return install(tmp_path_factory.mktemp("npm"))


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.test.mjs")))
def test_in_node(folder: Path, script: str) -> None:
    status, out = run(
        "node", "--test", "--test-reporter=tap", script, folder=folder, limit=RUN_SECONDS
    )
    print(out)  # pytest shows it if the test failed
    counts = dict(_COUNT.findall(out))
    assert status == 0
    assert int(counts["tests"]) > 0
    assert counts["pass"] == counts["tests"]
