"""The kinds of value a setting can have: how each is read, and how it is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,3}(?:_?[0-9]{1,3}){0,6}")
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{1,20})?"
_PLAIN_DURATION: Final = re.compile(_NUMBER)
_UNIT_DURATION: Final = re.compile(rf"(?:{_NUMBER}\s*(?:ms|s|m|h|d)\s*)+", re.IGNORECASE)
_UNIT_PART: Final = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)", re.IGNORECASE)
_ISO_DURATION: Final = re.compile(
    rf"P(?=.)(?:({_NUMBER})D)?(?:T(?=.)(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?",
    re.IGNORECASE,
)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SECONDS_PER: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class UnreadableValue(ValueError):
    """A value cannot be understood: the ``problem``, and its ``fix``.

    ``entry`` is the path to it within a table, as TOML writes it; empty for a plain setting.
    Never carries a secret: only kinds that no secret has quote what they were given.
    """

    def __init__(self, problem: str, fix: str, entry: str = "") -> None:
        super().__init__(problem, fix, entry)
        self.problem = problem
        self.fix = fix
        self.entry = entry

    def within(self, key: str) -> UnreadableValue:
        """Return the same fault as it is seen from the table around."""
        return UnreadableValue(self.problem, self.fix, f"{key}.{self.entry}".rstrip("."))


class UnreadableTable(ValueError):
    """Entries of a table cannot be understood: ``faults`` are all of them, at least one."""

    def __init__(self, faults: Sequence[UnreadableValue]) -> None:
        super().__init__(faults)
        self.faults = faults


def parse_duration(text: str) -> float:
    """Return seconds from ``25``, ``0.5``, ``30s``, ``500ms``, ``1h30m`` or ISO 8601 ``PT1M30S``.

    Raises UnreadableValue.
    """
    text = text.strip()
    if _PLAIN_DURATION.fullmatch(text):
        return float(text)
    if _UNIT_DURATION.fullmatch(text):
        return math.fsum(
            float(number) * _SECONDS_PER[unit.lower()] for number, unit in _UNIT_PART.findall(text)
        )
    if match := _ISO_DURATION.fullmatch(text):
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return math.fsum((days * 86400, hours * 3600, minutes * 60, seconds))
    raise UnreadableValue(
        f"{text!r} is not a duration",
        "give seconds (25, 0.5), a number with a unit (30s, 500ms, 1m, 2h) or ISO 8601 (PT30S)",
    )


def _refuse_nothing(raw: object) -> None:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        raise UnreadableValue("is empty", "give it a value, or leave it out")


def _refuse_other_bytes(text: str) -> None:
    """Refuse what Python makes of bytes in the environment that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnreadableValue("is not UTF-8", "write it in UTF-8") from None


def _read_text(raw: object) -> str:
    _refuse_nothing(raw)
    if not isinstance(raw, str):
        raise UnreadableValue("is not text", "put the value in quotation marks")
    _refuse_other_bytes(raw)
    return raw.strip()


def _read_optional_text(raw: object) -> str | None:
    return None if raw is None else _read_text(raw)


def _read_secret(raw: object) -> str | None:
    # byte for byte, as the other side that signs with it reads it
    if raw is not None:
        _read_text(raw)
    return raw if isinstance(raw, str) else None


def _read_file(raw: object) -> Path | None:
    if raw is None or isinstance(raw, Path):
        return raw
    return expand_user(Path(_read_text(raw)))


def expand_user(path: Path) -> Path:
    """Return the path with ``~`` or ``~user`` replaced by the home folder.

    Raises UnreadableValue if there is no such folder.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UnreadableValue(
            f"no home folder is known for {str(path)!r}", "give the whole path, without ~"
        ) from None


def _read_integer(raw: object) -> int:
    _refuse_nothing(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and _WHOLE_NUMBER.fullmatch(raw.strip()):
        return int(raw)
    raise UnreadableValue(f"{raw!r} is not a whole number", "give digits only, such as 1000")


def _read_seconds(raw: object) -> float:
    _refuse_nothing(raw)
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        try:
            return float(raw)
        except OverflowError:
            raise UnreadableValue("the number is too large", "give fewer digits") from None
    return parse_duration(str(raw))


def _read_boolean(raw: object) -> bool:
    _refuse_nothing(raw)
    word = str(raw).strip().lower()
    if word not in _WORDS:
        raise UnreadableValue(
            f"{raw!r} is neither true nor false",
            "give one of true, false, yes, no, on, off, 1, 0",
        )
    return _WORDS[word]


def _read_list(raw: object) -> tuple[str, ...]:
    if raw is None:
        return ()
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, (list, tuple)) or not all(isinstance(item, str) for item in raw):
        raise UnreadableValue(
            f"{raw!r} is not a list of texts", "give a list, or texts with commas between them"
        )
    for item in raw:
        _refuse_other_bytes(item)
    return tuple(stripped for item in raw if (stripped := item.strip()))


def _read_hosts(raw: object) -> str:
    _refuse_nothing(raw)
    hosts = _read_list(raw)
    _refuse_nothing(",".join(hosts))
    return ",".join(hosts)


@attrs.frozen
class Kind:
    """A kind of value.

    ``metavar`` stands for it in help texts; ``read`` makes it from text or from a file's value,
    or raises UnreadableValue; ``accepts`` says whether a Python value is of it. A table's ``read``
    may raise UnreadableTable, too.
    """

    metavar: str
    read: Callable[[object], Any]
    accepts: Callable[[object], bool]
    is_table: bool = False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


TEXT: Final = Kind("TEXT", _read_text, lambda value: isinstance(value, str))
OPTIONAL_TEXT: Final = Kind(
    "TEXT", _read_optional_text, lambda value: value is None or isinstance(value, str)
)
SECRET: Final = attrs.evolve(OPTIONAL_TEXT, read=_read_secret)
FILE: Final = Kind("FILE", _read_file, lambda value: value is None or isinstance(value, Path))
INTEGER: Final = Kind(
    "NUMBER",
    _read_integer,
    lambda value: isinstance(value, int) and not isinstance(value, bool),
)
SECONDS: Final = Kind("DURATION", _read_seconds, _is_number)
BOOLEAN: Final = Kind("BOOLEAN", _read_boolean, lambda value: isinstance(value, bool))
LIST: Final = Kind(
    "A,B,...",
    _read_list,
    lambda value: isinstance(value, tuple) and all(isinstance(item, str) for item in value),
)


HOSTS: Final = Kind("A,B,...", _read_hosts, lambda value: isinstance(value, str))
"""Hosts, as one text with commas between them."""


def optional(kind: Kind) -> Kind:
    """Return the kind of a value that may be missing: None."""
    return attrs.evolve(
        kind,
        read=lambda raw: None if raw is None else kind.read(raw),
        accepts=lambda value: value is None or kind.accepts(value),
    )


def write_value(value: Any) -> str:
    """Return a setting's value as TOML writes it. ``value`` is not None."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(write_value(item) for item in value) + "]"
    if attrs.has(type(value)):
        value = attrs.asdict(value, recurse=False)
    if isinstance(value, Mapping):
        entries = (
            f"{write_key(key)} = {write_value(item)}"
            for key, item in value.items()
            if item is not None  # which TOML has no word for: it is left out
        )
        return "{" + ", ".join(entries) + "}"
    # TOML's basic strings have JSON's escapes, and \u007f must be escaped in TOML only
    text = json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode(errors="backslashreplace").decode()  # a path can have any bytes


def write_key(key: str) -> str:
    """Return a table's key as TOML writes it."""
    return key if _BARE_KEY.fullmatch(key) else write_value(key)
