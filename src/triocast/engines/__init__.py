"""Engines order, keep and spread events. `base` is the contract; each other module keeps it."""

from __future__ import annotations

from pathlib import Path

from triocast.engines.base import Engine, History, Outlet
from triocast.engines.memory import MemoryEngine
from triocast.settings import Problem, Settings, SettingsError

__all__ = ["Engine", "History", "MemoryEngine", "Outlet", "open_engine"]


def open_engine(settings: Settings, *, epoch: str) -> Engine:
    """Return the engine that the setting ``engine`` names (settings are checked before).

    ``epoch`` is for one that keeps nothing from before. Raises SettingsError if it cannot be used.
    """
    scheme, _, place = settings.engine.partition("://")
    if scheme == "sqlite":
        # Only here: who keeps events in memory need not load it.
        from triocast.engines.sqlite import CannotOpen, SQLiteEngine

        try:
            return SQLiteEngine(
                Path(place.removeprefix("/")),
                history_events=settings.history_events,
                history_bytes=settings.history_bytes,
                history_seconds=settings.history_seconds,
                idempotency_seconds=settings.idempotency_seconds,
                durable=settings.durability == "power",
            )
        except CannotOpen as error:
            raise SettingsError(Problem("engine", "argument", error.what, error.fix)) from None
    return MemoryEngine(
        epoch=epoch,
        history_events=settings.history_events,
        history_bytes=settings.history_bytes,
        idempotency_seconds=settings.idempotency_seconds,
    )
