"""Peers that are in and say nothing: memory of the server, and what their heartbeats cost."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.figures import Figures
from benchmarks.processor_time import processor_seconds
from benchmarks.servers import Running, ServerFailed
from benchmarks.webrtc.dialects import Client, Dialect

HEARTBEAT_SECONDS = 5.0
"""The ``pingInterval`` of PeerJS' client."""

_WARM = 100
"""Peers that come and go before, so that what a server makes once is not counted."""

_REST = 1.0


def resident_kb(pid: int | None) -> int:
    """Return the memory of a process in kB. Raises ServerFailed."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise ServerFailed(f"the server's memory is not known: {error}") from error
    (line,) = (line for line in text.splitlines() if line.startswith("Rss:"))
    return int(line.split()[1])


@attrs.define(eq=False)
class Idlers:
    """The idle peers of one server, and what they have cost so far."""

    name: str
    dialect: Dialect
    server: Running
    clients: list[Client] = attrs.field(factory=list)
    figures: Figures = attrs.field(factory=dict)


@contextlib.contextmanager
def idlers(
    name: str, dialect: Dialect, server: Running, rooms: int, per_room: int
) -> Iterator[Idlers]:
    """Bring peers in for the time of the block. Raises Wrong."""
    found = Idlers(name, dialect, server)
    for number in range(_WARM):
        dialect.leave(dialect.enter(server, number, rooms + number // per_room))
    time.sleep(_REST)
    memory, used = resident_kb(server.pid), processor_seconds(server.pid)
    try:
        for number in range(rooms * per_room):
            found.clients.append(dialect.enter(server, number, number // per_room))
        count = len(found.clients)
        found.figures["join_us"] = (processor_seconds(server.pid) - used) / count * 1e6
        time.sleep(_REST)
        found.figures["kb"] = (resident_kb(server.pid) - memory) / count
        yield found
        found.figures["kb_later"] = (resident_kb(server.pid) - memory) / count
    finally:
        for client in found.clients:
            client.line.stream.close()


def idle(crowds: Sequence[Idlers], seconds: float) -> None:
    """Let time pass for all at once; their figures get a core's share. Raises Wrong or OSError.

    Those whose clients have a heartbeat send it, dealt out evenly over its interval.
    """
    with selectors.DefaultSelector() as selector:
        beating = []
        for crowd in crowds:
            for client in crowd.clients:
                where = (crowd, client)
                selector.register(client.line.stream, selectors.EVENT_READ, where)
            if crowd.dialect.heartbeat is not None:
                beating.append(crowd)
        _answer(selector, 0.1)  # what they were told of each other's coming
        before = {crowd.name: processor_seconds(crowd.server.pid) for crowd in crowds}
        start = now = time.monotonic()
        sent = 0.0
        while now < start + seconds:
            _answer(selector, 0.01)
            now = time.monotonic()
            for crowd in beating:
                _beat(crowd, sent, now - start)
            sent = now - start
        for crowd in crowds:
            used = processor_seconds(crowd.server.pid) - before[crowd.name]
            crowd.figures["share"] = used / seconds


def _answer(selector: selectors.BaseSelector, patience: float) -> None:
    for key, _ in selector.select(patience):
        crowd, client = key.data
        for text in client.line.arrived():
            crowd.dialect.hear(client, text)


def _beat(crowd: Idlers, since: float, until: float) -> None:
    """Send the heartbeats that were due between two times."""
    per_second = len(crowd.clients) / HEARTBEAT_SECONDS
    assert crowd.dialect.heartbeat is not None
    for number in range(int(since * per_second), int(until * per_second)):
        client = crowd.clients[number % len(crowd.clients)]
        client.line.stream.sendall(crowd.dialect.heartbeat)
