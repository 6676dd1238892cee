"""What is known about one setting, and where a class of settings keeps it: in its fields."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from triocast.settings.checks import Check, Finding
from triocast.settings.values import Kind

_METADATA_KEY: Final = "triocast"


@attrs.frozen
class Setting:
    """What is known about one setting: its meaning, its kind and its check.

    The value of a ``secret`` is never shown.
    """

    help: str
    kind: Kind
    check: Check | None = None
    secret: bool = False

    @property
    def metadata(self) -> dict[str, Setting]:
        """What the attrs field of this setting has as its metadata."""
        return {_METADATA_KEY: self}

    def find_wrong_kind(self, value: object) -> Finding | None:
        """Say what is wrong with a Python value that is not of this setting's kind."""
        if self.kind.accepts(value):
            return None
        return (
            f"a {type(value).__name__} is not allowed here",
            f"give a value of the kind {self.kind.metavar}",
        )


def settings_of(cls: type[attrs.AttrsInstance]) -> Mapping[str, Setting]:
    """Return the settings of a class by name, in the order of its fields."""
    return MappingProxyType(
        {field.name: _setting_of(field) for field in attrs.fields(cls)},
    )


def _setting_of(field: attrs.Attribute[Any]) -> Setting:
    setting: Setting = field.metadata[_METADATA_KEY]
    return setting
