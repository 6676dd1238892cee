"""Real peers on a machine that has no network at all, not even to fail on: a namespace with `lo`.

It is the tests of other modules that run there, in a pytest of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.programs import missing

pytestmark = pytest.mark.once

SECONDS = 240.0
ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/e2e/test_aiortc.py::test_peers_connect[2]",
    "tests/e2e/test_turn.py::test_pages_that_use_relays_only[udp]",
    "tests/e2e/test_webrtc_browser.py::test_two_pages",
)
ALONE = 'ip link set lo up && ip -oneline link show up && ip route show table all && exec "$@"'


@pytest.fixture(scope="module")
def alone() -> tuple[str, ...]:
    """The command before another one that has it run in a namespace with nothing but loopback."""
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            missing(f"{tool} is missing: apt-get install {package}")
    refusals = ""
    # Anybody may have one in a user namespace of one's own; where that is off, root still may.
    for options in ("--map-root-user", "--net"), ("--net",):
        command = ("unshare", *options, "sh", "-c", ALONE, "sh")
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            assert re.fullmatch(r"1: lo: .*\n(?:.* dev lo .*\n)*", tried.stdout), tried.stdout
            return command
        refusals += tried.stderr
    pytest.skip(f"network namespaces are not permitted here: {refusals}")


def test_peers_need_no_network(alone: tuple[str, ...], tmp_path: Path) -> None:
    # Within a user namespace, pytest's usual folder seems to be somebody else's.
    inner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/in"]
    process = subprocess.Popen(
        [*alone, *inner, *TESTS],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest ends what its tests have started
        try:
            output, _ = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        pytest.fail(f"it took longer than {SECONDS:.0f} seconds:\n{output}")
    print(output)
    assert process.returncode == 0
    if "skipped" in output:  # a tool is missing, and this is not CI
        pytest.skip(output)
    assert re.search(r"^=+ 4 passed in", output, re.MULTILINE)
