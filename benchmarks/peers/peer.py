"""What the comparison needs to know of another realtime server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import attrs

from benchmarks.servers import Paths, Running


@attrs.frozen
class Peer:
    """A server that users might pick instead."""

    name: str
    transports: Sequence[str]
    """Those that it is measured on."""
    paths: Paths
    missing: Callable[[], str | None]
    """Say why it cannot be measured here and what to do; None: it can."""
    version: Callable[[], str]
    """Only of one that is not missing."""
    serve: Callable[[int], contextlib.AbstractContextManager[Running]]
    """Run it for at most so many connections. Raises ServerFailed."""
    install: Callable[[], None] | None = None
    """Get it from its registry. Raises InstallFailed; None: that is for the system's packages."""
