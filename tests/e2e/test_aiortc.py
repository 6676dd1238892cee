"""Peers of aiortc, which find each other through Triocast and Python's own client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.servers import Server

PROGRAM = Path(__file__).parent / "aiortc_peers.py"


@pytest.mark.parametrize("count", [2, 4])
def test_peers_connect(serve: Callable[..., Server], count: int) -> None:
    """All join at once, and each hears each other one over a channel of its own."""
    url = f"ws://127.0.0.1:{serve().port}/realtime/webrtc/signaling"
    done = subprocess.run(
        [sys.executable, PROGRAM, url, f"{count}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [f"{number}" for number in range(count)]
    told = [f"{name} heard {' '.join(each for each in names if each != name)}" for name in names]
    assert done.stdout.splitlines() == told
