"""Engines order, keep and spread events. `base` is the contract; each other module keeps it."""

from __future__ import annotations

from pathlib import Path

from triocast.engines.base import Documents, Engine, History, Outlet
from triocast.engines.debounce import Debounce
from triocast.engines.memory import MemoryEngine
from triocast.engines.retention import Keep
from triocast.engines.usage import Bounds, Usage
from triocast.settings import Problem, Settings, SettingsError

__all__ = ["Documents", "Engine", "History", "MemoryEngine", "Outlet", "Usage", "open_engine"]


def open_engine(settings: Settings, *, epoch: str) -> Engine:
    """Return the engine that the setting ``engine`` names (settings are checked before).

    ``epoch`` is for one that keeps nothing from before. Raises SettingsError if it cannot be used.
    """
    scheme, _, place = settings.engine.partition("://")
    usual = Keep(settings.history_events, settings.history_seconds)
    namespaces = {
        name: Keep(
            usual.events if options.history_events is None else options.history_events,
            usual.seconds if options.history_seconds is None else options.history_seconds,
            options.history_bytes or 0,
        )
        for name, options in settings.namespaces.items()
    }
    debounce = Debounce(
        settings.event_debounce_ms / 1_000,
        {
            name: options.debounce_ms / 1_000
            for name, options in settings.namespaces.items()
            if options.debounce_ms is not None
        },
    )
    bounds = Bounds(
        documents=settings.max_documents,
        document_bytes=settings.documents_bytes,
        records=settings.idempotency_records,
        record_bytes=settings.idempotency_bytes,
    )
    if scheme == "sqlite":
        # Only here: who keeps events in memory need not load it.
        from triocast.engines.sqlite import CannotOpen, SQLiteEngine

        try:
            return SQLiteEngine(
                Path(place.removeprefix("/")),
                history_events=usual.events,
                history_bytes=settings.history_bytes,
                history_seconds=usual.seconds,
                namespaces=namespaces,
                idempotency_seconds=settings.idempotency_seconds,
                debounce=debounce,
                bounds=bounds,
                durable=settings.durability == "power",
            )
        except CannotOpen as error:
            raise SettingsError(Problem("engine", "argument", error.what, error.fix)) from None
    return MemoryEngine(
        epoch=epoch,
        history_events=usual.events,
        history_bytes=settings.history_bytes,
        history_seconds=usual.seconds,
        namespaces=namespaces,
        idempotency_seconds=settings.idempotency_seconds,
        debounce=debounce,
        bounds=bounds,
    )
