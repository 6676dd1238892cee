"""Frames that wait while their client still gets what came before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FRAME_OVERHEAD: Final = 100
"""Bytes that a held frame costs beyond its own."""


class Held:
    """What the hub gave a client that still gets its backlog: frames by ``seq``."""

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.frames: dict[int, bytes] = {}
        self.bytes = 0

    def add(self, frames: Sequence[bytes], seqs: Sequence[int]) -> None:
        self.frames.update(zip(seqs, frames, strict=True))
        self.bytes += sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)

    def take(self, seq: float) -> dict[int, bytes]:
        """Take out what is not above ``seq``."""
        taken = {each: frame for each, frame in self.frames.items() if each <= seq}
        for each, frame in taken.items():
            del self.frames[each]
            self.bytes -= len(frame) + FRAME_OVERHEAD
        return taken
