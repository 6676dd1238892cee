"""The scripts of `tests/js`, and the packages from npm that its lock file names."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from e2e.programs import missing

SCRIPTS = Path(__file__).parent.parent / "js"
INSTALL_SECONDS = 120.0

_COUNT = re.compile(r"^# (tests|pass) (\d+)$", re.MULTILINE)


def install(parent: Path) -> Path:
    """Return a copy of `tests/js` with what it imports; skip, or fail in CI, where that cannot
    be.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("Node or npm is missing: apt-get install nodejs npm")
    folder = parent / "js"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("node_modules"))
    status, out = run("npm", "ci", "--no-audit", "--no-fund", folder=folder, limit=INSTALL_SECONDS)
    if status:
        missing(f"npm cannot install what the tests need:\n{out[-2_000:]}")
    return folder


def run(*command: str, folder: Path, limit: float) -> tuple[int, str]:
    """Run a command to its end; whatever it started has ended then, too."""
    environment = os.environ | {"TRIOCAST_TEST_PYTHON": sys.executable}
    environment.pop("NODE_TEST_CONTEXT", None)  # of another run that this one is part of
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=limit)
        return process.returncode, out
    finally:
        _end(process)


def run_tests(script: str, *, folder: Path = SCRIPTS, limit: float) -> None:
    """Have Node run the tests of a script; fail if one of them fails, or if there is none.

    Without Node the test is skipped, or fails in CI.
    """
    if shutil.which("node") is None:
        missing("Node is missing: apt-get install nodejs")
    status, out = run("node", "--test", "--test-reporter=tap", script, folder=folder, limit=limit)
    print(out)  # pytest shows it if the test failed
    counts = dict(_COUNT.findall(out))
    assert status == 0
    assert int(counts["tests"]) > 0
    assert counts["pass"] == counts["tests"]


def _end(process: subprocess.Popen[str]) -> None:
    """End the group of processes that a command began, and the command."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # It is gone, as it should be.
    process.wait()
