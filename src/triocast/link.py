"""What a connection needs of the way to its client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Link(Protocol):
    """How bytes or messages reach one client and come from it."""

    taken_over: bool
    """Whether this is the connection's own stream rather than an ASGI server's."""

    @property
    def write_now(self) -> Callable[[bytes], int] | None:
        """Gives the kernel what it takes now and returns how many bytes that was.

        None where only the send task may write. It raises OSError, for a closed socket too: it
        must not be made of a descriptor, whose number could be another client's by then.
        """

    async def send(self, frames: Sequence[bytes | memoryview]) -> None:
        """Send frames, whole and in order.

        Raises OSError or trio.BrokenResourceError; trio.ClosedResourceError where its stream has
        been closed.
        """

    async def receive(self) -> bytes | str | None:
        """Return what the client sent next; None at the end.

        Raises as `send` does.
        """

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        """Send what a cancelled `send` left, then the farewell, then end our side.

        ``abruptly`` makes the end look like a fault to the client, where the end of the link is
        the end of a response. The caller owns the deadline. Raises as `send` does.
        """

    def close(self) -> None:
        """Let go of the client at once."""
