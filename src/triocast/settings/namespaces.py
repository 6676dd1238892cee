"""The setting ``namespaces``: options that all channels of a namespace share.

Every channel has a namespace: ``chat:lobby`` is in ``chat``, ``news`` in ``default``, broadcasts
in ``$all``. One that is not in the table has every option at its default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from triocast.errors import InvalidChannel
from triocast.events import BROADCAST, namespace_of, parse_channel
from triocast.settings.checks import Finding, age_or_zero, between, one_of, unless_none
from triocast.settings.problems import Problem, SettingsError, suggest
from triocast.settings.setting import Setting, settings_of
from triocast.settings.values import (
    BOOLEAN,
    INTEGER,
    SECONDS,
    TEXT,
    Kind,
    UnreadableTable,
    UnreadableValue,
    optional,
    write_key,
)

SETTING: Final = "namespaces"

DISCONNECT: Final = "disconnect"
LATEST: Final = "latest"
DROP: Final = "drop"


def _option(default: object, setting: Setting) -> Any:
    return attrs.field(default=default, metadata=setting.metadata)


@attrs.frozen(kw_only=True)
class Namespace:
    """The options of one namespace.

    Raises SettingsError, with all problems at once, if a value is not allowed.
    """

    compress: bool = _option(
        False,
        Setting("Compress events for WebSocket clients that can inflate them.", BOOLEAN),
    )
    debounce_ms: int | None = _option(
        None,
        Setting(
            "Window in milliseconds in which of events with one type and key only the first and"
            " the last are sent; without it, event_debounce_ms.",
            optional(INTEGER),
            unless_none(between(0, 86_400_000)),
        ),
    )
    history_bytes: int | None = _option(
        None,
        Setting(
            "Bytes of events kept for resuming, per channel; without it there is no such bound.",
            optional(INTEGER),
            unless_none(between(1)),
        ),
    )
    history_events: int | None = _option(
        None,
        Setting(
            "Events kept for resuming, per channel; without it, those of the setting.",
            optional(INTEGER),
            unless_none(between(0)),
        ),
    )
    history_seconds: float | None = _option(
        None,
        Setting(
            "Seconds that events are kept; without it, those of the setting.",
            optional(SECONDS),
            unless_none(age_or_zero),
        ),
    )
    overflow: str = _option(
        DISCONNECT,
        Setting(
            "What happens when a client reads too slowly: disconnect, latest (only the newest event"
            " of each key is kept for it) or drop (its next events are, and it gets a gap).",
            TEXT,
            one_of(DISCONNECT, LATEST, DROP),
        ),
    )
    presence: bool = _option(
        False,
        Setting("Note who is on a channel, and tell those who ask.", BOOLEAN),
    )

    def __attrs_post_init__(self) -> None:
        problems = []
        for name, option in NAMESPACE_OPTIONS.items():
            value = getattr(self, name)
            found = option.find_wrong_kind(value) or (option.check and option.check(value))
            if found:
                problems.append(Problem(name, "argument", *found))
        if problems:
            raise SettingsError(*problems)


NAMESPACE_OPTIONS: Final = settings_of(Namespace)
"""All options by name."""

_DEFAULTS: Final = Namespace()


class Namespaces(Mapping[str, Namespace]):
    """Options by the names of namespaces. Does not change.

    Raises SettingsError, with all problems at once, for names that no namespace has, and for
    those of the server's own that have no options: all but ``$all``.
    """

    __slots__ = ("_table",)

    def __init__(self, table: Mapping[str, Namespace] | None = None) -> None:
        self._table = dict(table or {})
        problems = [
            Problem(f"{SETTING}.{write_key(name)}", "argument", *found)
            for name in self._table
            if (found := _check_name(name))
        ]
        if problems:
            raise SettingsError(*problems)

    def of_channel(self, channel: str) -> Namespace:
        """Return the options of a canonical channel."""
        return self._table.get(namespace_of(channel), _DEFAULTS)

    def __getitem__(self, name: str) -> Namespace:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __hash__(self) -> int:
        return hash(frozenset(self._table.items()))

    def __repr__(self) -> str:
        return f"Namespaces({self._table!r})"


def _check_name(name: str) -> Finding | None:
    if name == BROADCAST:
        return None
    if name.startswith("$"):
        return (
            f"{name!r} cannot have options",
            f"remove it: of the server's own channels only {BROADCAST} (broadcasts) has some",
        )
    try:
        # What namespaces are called is decided where channels are parsed, and there alone.
        if namespace_of(parse_channel(f"{name}:x")) == name:
            return None
    except InvalidChannel:
        pass
    return (
        f"{name!r} is not the name of a namespace",
        "give what stands before a channel's colon: 1 to 64 letters, digits, _ and -; 'default' "
        f"is for names without a colon, {BROADCAST} for broadcasts",
    )


def read_namespaces(raw: object) -> Namespaces:
    """Return the namespaces of a file's table, or of JSON text.

    Raises UnreadableValue where there is no table, UnreadableTable for what is in it.
    """
    if raw is None:
        return Namespaces()
    table = _parse_json(raw) if isinstance(raw, str) else raw
    if not isinstance(table, Mapping):
        raise UnreadableValue(
            f"{table!r} is not a table of namespaces",
            'give each namespace\'s options by its name; as JSON: {"chat": {"compress": true}}',
        )
    faults: list[UnreadableValue] = []
    namespaces: dict[str, Namespace] = {}
    for name, options in table.items():
        if not isinstance(name, str):
            faults.append(UnreadableValue(f"the name {name!r} is not text", "put it in quotes"))
            continue
        if found := _check_name(name):
            faults.append(UnreadableValue(*found, entry=write_key(name)))
        try:
            namespaces[name] = _read_options(options)
        except UnreadableTable as error:
            faults += (fault.within(write_key(name)) for fault in error.faults)
    if faults:
        raise UnreadableTable(faults)
    return Namespaces(namespaces)


def _read_options(raw: object) -> Namespace:
    """Return one namespace's options. Raises UnreadableTable."""
    if raw is None:
        return Namespace()
    if not isinstance(raw, Mapping):
        fault = UnreadableValue(
            f"{raw!r} is not a table of options",
            f"give options by name; there are {', '.join(NAMESPACE_OPTIONS)}",
        )
        raise UnreadableTable([fault])
    values: dict[str, Any] = {}
    faults: list[UnreadableValue] = []
    for name, given in raw.items():
        entry = write_key(str(name))
        option = NAMESPACE_OPTIONS.get(name)
        if option is None:
            fix = suggest(str(name), NAMESPACE_OPTIONS)
            known = ", ".join(NAMESPACE_OPTIONS)
            faults.append(
                UnreadableValue("there is no such option", f"{fix} (there are {known})", entry)
            )
            continue
        try:
            value = option.kind.read(given)
        except UnreadableValue as error:
            faults.append(error.within(entry))
            continue
        if option.check and (found := option.check(value)):
            faults.append(UnreadableValue(*found, entry=entry))
        values[name] = value
    if faults:
        raise UnreadableTable(faults)
    return Namespace(**values)


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is not JSON: {error}"
        raise UnreadableValue(
            what, 'as text it is a JSON object, such as {"chat": {"compress": true}}'
        ) from None


NAMESPACES: Final = Kind(
    "JSON", read_namespaces, lambda value: isinstance(value, Namespaces), is_table=True
)
