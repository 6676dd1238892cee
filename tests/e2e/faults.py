"""Faults in server processes: code that a server runs at its start, to break a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def inject(folder: Path, code: str) -> dict[str, str]:
    """Return the environment in which Python runs this code before anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": str(folder) if before is None else f"{folder}{os.pathsep}{before}"}


POISONED_ENCODERS = """
import triocast.wire.envelope as envelope

encode = envelope.encode_publication

def encode_publication(publication, **how):
    if publication.event.type == "poison":
        raise RuntimeError("injected")
    return encode(publication, **how)

envelope.encode_publication = encode_publication
"""
"""No encoder can encode an event of the type ``poison``."""

POISONED_HUB = """
from triocast.hub import Hub

take = Hub._take_batch

def take_batch(self):
    batch = take(self)
    if any(publication.event.type == "poison" for publication in batch):
        raise RuntimeError("injected")
    return batch

Hub._take_batch = take_batch
"""
"""The hub fails at an event of the type ``poison``."""

BUSY_LOOP = """
import signal

def loop(*_):
    while True:
        pass

signal.signal(signal.SIGUSR1, loop)
"""
"""SIGUSR1 keeps the run loop busy for ever."""

STUCK_DISK = """
import os, time
from triocast.engines.sqlite import store

append = store.append

def append_slowly(*arguments, **keywords):
    while os.path.exists({flag!r}):
        time.sleep(0.02)
    return append(*arguments, **keywords)

store.append = append_slowly
"""
"""No commit ends while the file ``flag`` exists."""

FEW_DESCRIPTORS = """
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number}))
"""
