"""JSON as publishers send it: bounded in depth, checked once, passed through as written."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar, get_args

import msgspec

from triocast.errors import InvalidEvent, InvalidJSON
from triocast.spelling import nearest

T = TypeVar("T")

LONGEST_NUMBER: Final = 1_000
"""Digits. Python's own `json` refuses longer ones, and so would end plain Python subscribers."""

# Possessive, and content with a missing end: what a client sends must not make it go back.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (LONGEST_NUMBER + 1))
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*?)`", re.DOTALL)
_BRACKET = re.compile(rb"[\[{\]}]")


RAW: Final = msgspec.json.Decoder(msgspec.Raw)
"""Any JSON value, as it is written."""


def check(text: bytes, *, max_depth: int) -> None:
    """Raise InvalidJSON if the text is not UTF-8, nests deeper than ``max_depth``, or has a number
    that common parsers refuse.

    Decoding comes later; this is what msgspec does not look at in values it passes through.
    """
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"the text is not UTF-8 (byte {error.start})") from None
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub(b"", text)):
        raise InvalidJSON(f"a number has at most {LONGEST_NUMBER} digits")
    # Counting is cheap and decides nearly always; only a text that could be too deep is walked.
    if text.count(b"[") + text.count(b"{") <= max_depth:
        return
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", text)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > max_depth:
            raise InvalidJSON(f"JSON may nest {max_depth} deep at the most")


def decode(decoder: msgspec.json.Decoder[T], text: bytes | str) -> T:
    """Decode, telling what is wrong in our own errors.

    Raises InvalidJSON where the text is no JSON, InvalidEvent where it is of another shape.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidEvent(_with_hint(str(error), decoder.type)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidJSON(str(error)) from None


def _with_hint(problem: str, shape: Any) -> str:
    """Return what msgspec says, with the name that was meant where it does not know one."""
    name = _UNKNOWN_FIELD.search(problem)
    close = None if name is None else nearest(name[1], _field_names(shape))
    return problem if close is None else f"{problem}; did you mean {close!r}?"


def _field_names(shape: Any) -> set[str]:
    """Return the names of fields that objects of a shape have, at any depth."""
    names: set[str] = set()
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        fields = msgspec.structs.fields(shape)
        names.update(field.encode_name for field in fields)
        shapes = [field.type for field in fields]
    else:
        shapes = list(get_args(shape))
    return names.union(*map(_field_names, shapes))


def compact(raw: msgspec.Raw | bytes) -> bytes:
    """Return a JSON value on one line, as bytes that do not keep the request's buffer alive."""
    text = bytes(raw)
    if b"\n" in text or b"\r" in text:
        return bytes(msgspec.json.format(text, indent=-1))
    return text


def encode(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8.

    Raises InvalidEvent for what has no JSON form.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"this has no JSON form: {error}") from None
