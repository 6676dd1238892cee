"""Engines order, keep and spread events. `base` is the contract; each other module keeps it."""

from __future__ import annotations

from triocast.engines.base import Engine, History, Outlet
from triocast.engines.memory import MemoryEngine
from triocast.settings import Settings

__all__ = ["Engine", "History", "MemoryEngine", "Outlet", "open_engine"]


def open_engine(settings: Settings, *, epoch: str) -> Engine:
    """Return the engine that the setting ``engine`` names (settings are checked before)."""
    return MemoryEngine(
        epoch=epoch,
        history_events=settings.history_events,
        history_bytes=settings.history_bytes,
    )
