"""The engine ``sqlite:///file``: order and history in one file, kept over restarts."""

from __future__ import annotations

from triocast.engines.sqlite.engine import SQLiteEngine
from triocast.engines.sqlite.file import CannotOpen

__all__ = ["CannotOpen", "SQLiteEngine"]
