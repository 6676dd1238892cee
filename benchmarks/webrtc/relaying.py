"""Pairs that send each other candidates as fast as a server passes them on."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator

import attrs

from benchmarks.figures import Figures
from benchmarks.processor_time import processor_seconds
from benchmarks.servers import Running
from benchmarks.webrtc.dialects import FIRST, Candidates, Client, Dialect, number_of
from benchmarks.wire import PATIENCE, Wrong


@attrs.define(eq=False)
class Sender:
    """One direction of a pair."""

    client: Client
    candidates: Candidates
    received_by: Client
    sent: int = FIRST
    """The number of the next candidate."""
    received: int = FIRST
    """The number of the next that has to come."""

    def send(self, count: int, end: int) -> None:
        numbers = range(self.sent, min(self.sent + count, end))
        if numbers:
            self.client.line.stream.sendall(self.candidates.frames(numbers))
            self.sent = numbers.stop


@contextlib.contextmanager
def pairs(dialect: Dialect, server: Running, count: int) -> Iterator[list[Sender]]:
    """Bring pairs in, each in a room of its own, for the time of the block. Raises Wrong."""
    senders: list[Sender] = []
    try:
        for room in range(count):
            ann = dialect.enter(server, 0, room)
            bob = dialect.enter(server, 1, room)
            for one, other in ((ann, bob), (bob, ann)):
                frames = dialect.candidates(other, bob.session)
                senders.append(Sender(one, frames, other))
        yield senders
    finally:
        for sender in senders:
            sender.client.line.stream.close()


def relay(
    dialect: Dialect, server: Running, senders: list[Sender], messages: int, window: int
) -> Figures:
    """Let each sender send so many, and at most ``window`` that have not arrived.

    Raises Wrong unless all come, each once, in their order and from whom they are.
    """
    end = senders[0].sent + messages
    missing = messages * len(senders)
    texts_from = {sender.received_by: sender for sender in senders}
    with selectors.DefaultSelector() as selector:
        for client, sender in texts_from.items():
            selector.register(client.line.stream, selectors.EVENT_READ, (client, sender))
        before, client_before = processor_seconds(server.pid), time.process_time()
        start = time.monotonic()
        for sender in senders:
            sender.send(window, end)
        while missing:
            ready = selector.select(PATIENCE)
            if not ready:
                raise Wrong(f"{missing} of {messages * len(senders)} messages never came")
            for key, _ in ready:
                client, sender = key.data
                count = _take(dialect, client, sender)
                missing -= count
                sender.send(count, end)
        seconds = time.monotonic() - start
        client_used = time.process_time() - client_before
        used = processor_seconds(server.pid) - before
    total = messages * len(senders)
    return {
        "rate": total / seconds,
        "us": used / total * 1e6,
        "server_share": used / seconds,
        "client_share": client_used / seconds,
    }


def _take(dialect: Dialect, client: Client, sender: Sender) -> int:
    """Return how many candidates have come."""
    before = sender.received
    source = f'"{sender.client.id}"'.encode()
    for text in client.line.arrived():
        number = number_of(text)
        if number is None:
            dialect.hear(client, text)
            continue
        if number != sender.received or source not in text:
            raise Wrong(f"candidate {sender.received} of {sender.client.id} is due, not {text!r}")
        sender.received += 1
    return sender.received - before
