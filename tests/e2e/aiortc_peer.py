"""The example of a peer of aiortc, run on loopback: a program of its own for each peer.

Not in the process of the tests: trio-asyncio replaces asyncio's event loops for all of a process,
and Playwright needs the usual ones.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "aiortc_chat.py"
PATIENCE = 60.0

# aioice passes over 127.0.0.1.
LOOPBACK = """
import runpy, sys
import aioice.ice
aioice.ice.get_host_addresses = lambda **_: ["127.0.0.1"]
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class AiortcPeer:
    """A running example: `type` is what its user does, `sees` what is shown."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self._process = process
        self._name = name
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._all: list[str] = []
        self._reader = threading.Thread(target=self._read, name=f"output of {name}")
        self._reader.start()

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def sees(self, *lines: str) -> None:
        """Wait for these lines, in any order, and others between them."""
        missing = list(lines)
        deadline = time.monotonic() + PATIENCE
        while missing:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self._name} has not seen {missing}, but {self._all}")
            self._all.append(line)
            if line in missing:
                missing.remove(line)

    def leave(self) -> None:
        """End the input: the program leaves the room, and has to end without a complaint."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE) == 0
        self._reader.join()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


@contextmanager
def aiortc_peer(port: int, name: str, room: str = "room") -> Iterator[AiortcPeer]:
    """Have a peer join the room of a server; what it wrote on its error output is shown on failure.

    The program is killed at the end, if it has not left.
    """
    url = f"ws://127.0.0.1:{port}/realtime/webrtc/signaling"
    command = [sys.executable, "-c", LOOPBACK, str(EXAMPLE), url, room, "--name", name]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        peer = AiortcPeer(process, name)
        try:
            yield peer
        finally:
            peer.kill()
