"""Runs the crowd (``crowd/``): stream clients in C that come at once, then do as they are told."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from benchmarks.compiling import compile_program, find_compiler
from benchmarks.loading import LoadFailed
from benchmarks.servers import Paths, Running

MARK = "@ns:"
"""Before the time in a record: when an event was due, by the monotonic clock, in 19 digits."""

STOP_SECONDS = 10.0

ANYTHING_ELSE = ("closed", "refused", "reset", "cut", "turned_away", "unanswered")
"""What can become of a client besides being in."""


def record(due_ns: int = 0) -> str:
    """Return what the crowd counts in an event, and measures from ``due_ns`` if that is given."""
    return f"{MARK}{due_ns:019}"


def need_compiler() -> str:
    """Return the C compiler. Raises LoadFailed: there is no crowd in Python."""
    compiler = find_compiler()
    if compiler is None:
        raise LoadFailed("the crowd is a C program: install gcc and libc6-dev, or set CC")
    return compiler


@attrs.frozen
class Crowd:
    """Clients that are connected, or were turned away; see ``crowd/main.c`` for what they do."""

    process: subprocess.Popen[str]
    arrival: dict[str, Any]
    """What became of them when all had been answered."""

    def say(self, client: int, text: str) -> None:
        """Let one client send a WebSocket message."""
        self._tell(f"say {client} {text}\n")

    def reset(self) -> None:
        """Forget what was counted so far; on return this has been done."""
        self._tell("reset\n")
        self.wait("records", 0, 0)

    def wait(self, what: str, count: int, seconds: float) -> dict[str, Any]:
        """Return the counts when there are so many ``records`` or ``messages``, or time is up."""
        self._tell(f"await {what} {count} {round(seconds * 1000)}\n")
        return self.counts()

    def counts(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise LoadFailed(f"the crowd ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def rest(self, seconds: float) -> dict[str, Any]:
        """Let time pass; return the counts."""
        return self.wait("records", 1 << 60, seconds)

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise LoadFailed(f"the crowd ended with {self.process.wait()}") from None


@contextlib.contextmanager
def crowd(
    server: Running,
    clients: int,
    transport: str,
    *,
    query: str = "",
    headers: Sequence[str] = (),
    patience_seconds: float = 60.0,
) -> Iterator[Crowd]:
    """Connect clients, all at once, for the time of the block. Raises LoadFailed."""
    program = compile_program("crowd", need_compiler())
    command = [str(program), "--host", server.host, "--port", str(server.port)]
    command += ["--path", Paths().stream(transport) + query, "--transport", transport]
    command += ["--clients", str(clients), "--patience-ms", str(round(patience_seconds * 1000))]
    for line in headers:
        command += ["--header", line]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        waiting = Crowd(process, {})
        yield attrs.evolve(waiting, arrival=waiting.counts())
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=STOP_SECONDS)
        process.kill()
        process.wait()


def turned_away(arrival: dict[str, Any]) -> list[str]:
    """Say what happened to those who are not in."""
    words = (f"{arrival[name]} {name.replace('_', ' ')}" for name in ANYTHING_ELSE if arrival[name])
    return list(words)


def need_all(crowd: Crowd) -> None:
    """Raise LoadFailed unless every client is in."""
    if problems := turned_away(crowd.arrival):
        raise LoadFailed(f"not all clients got in: {', '.join(problems)}")
