"""Keeps worker processes of one server from each having an engine of its own.

`hypercorn -w 2` starts two processes behind one address. With an engine that lives in its process,
each would fan out the half of the events that it was sent, and nobody would be told.
"""

from __future__ import annotations

import errno
import multiprocessing
import socket


class SiblingRuns(Exception):
    """Another worker of the same parent runs an engine that cannot be shared."""


def claim_parent() -> socket.socket | None:
    """Claim the parent process for this worker; the claim lasts until the socket is closed.

    Returns None in a process that no `multiprocessing` parent started. Raises SiblingRuns.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Of the abstract namespace: the kernel takes it back when the process ends, however.
        claim.bind(f"\0triocast-workers-of-{parent.pid}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise SiblingRuns(
            "the engine memory:// lives in one process, and another worker of this server has one"
            " already: run a single worker (-w 1)"
        ) from None
    return claim
