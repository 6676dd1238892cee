"""JSON as publishers send it: bounded in depth, checked once, passed through as written."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import accumulate, compress
from typing import Any, Final, TypeVar, get_args

import msgspec

from triocast.errors import InvalidEvent, InvalidJSON
from triocast.spelling import nearest
from triocast.wire.nulls import without_nulls

T = TypeVar("T")

LONGEST_NUMBER: Final = 1_000
"""Digits. Python's own `json` refuses longer ones, and so would end plain Python subscribers."""

PIECE_BYTES: Final = 16_384
"""How much of a long text is looked at in one step of `checking`."""

# Possessive, and content with a missing end: what a client sends must not make it go back.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (LONGEST_NUMBER + 1))
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*?)`", re.DOTALL)

_OTHERS = bytes(set(range(256)) - set(b"[]{},"))
_DEPTHS = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
"""What a bracket adds to the depth, as a signed byte."""
_COMMAS = bytes(byte == ord(",") for byte in range(256))


RAW: Final = msgspec.json.Decoder(msgspec.Raw)
"""Any JSON value, as it is written."""


def check(text: bytes, *, max_depth: int) -> None:
    """Raise InvalidJSON if the text is not UTF-8, nests deeper than ``max_depth``, or has a number
    that common parsers refuse.

    Decoding comes later; this is what msgspec does not look at in values it passes through.
    For texts of some kB; longer ones are checked in steps.
    """
    _check_encoding(text)
    # Counting is cheap and decides nearly always.
    if text.count(b"[") + text.count(b"{") > max_depth or _LONG_NUMBER.search(text):
        for _ in _check_pieces(text, max_depth):
            pass


def checking(text: bytes, *, max_depth: int) -> Generator[None, None, int]:
    """Do what `check` does in steps of `PIECE_BYTES`; return how many items an array has at least.

    Of a text that is longer than a step, and a JSON array with something in it, that is exact.
    """
    if len(text) <= PIECE_BYTES:
        check(text, max_depth=max_depth)
        return 0
    _check_encoding(text)
    return (yield from _check_pieces(text, max_depth))


def _check_pieces(text: bytes, max_depth: int) -> Generator[None, None, int]:
    depth, items, before = 0, 1, b""
    for piece in _without_strings(text):
        bare = before[-LONGEST_NUMBER:] + piece
        if _LONG_NUMBER.search(bare):
            raise InvalidJSON(f"a number has at most {LONGEST_NUMBER} digits")
        before = bare
        marks = piece.translate(None, _OTHERS)
        if marks:
            # Nothing but C goes over them: there can be as many as there are bytes.
            changes = memoryview(marks.translate(_DEPTHS)).cast("b")
            depths = list(accumulate(changes, initial=depth))[1:]
            depth = depths[-1]
            if max(depths) > max_depth:
                raise InvalidJSON(f"JSON may nest {max_depth} deep at the most")
            items += list(compress(depths, marks.translate(_COMMAS))).count(1)
        yield
    return items


def _check_encoding(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"the text is not UTF-8 (byte {error.start})") from None


def _without_strings(text: bytes) -> Iterator[bytes]:
    """Yield what is outside of strings, of so many bytes of the text at a time."""
    at, is_inside = 0, False
    while at < len(text):
        most = at + PIECE_BYTES
        if is_inside:
            at = _end(_REST_OF_STRING, text, at, most)
            is_inside = text[at : at + 1] != b'"'
            if is_inside and at < most - 1:  # It ends with the text.
                return
            at += not is_inside
            yield b""
            continue
        end = _end(_WHOLE_STRINGS, text, at, most)
        yield _STRING.sub(b"", text[at:end])
        at = end
        if at < min(most, len(text)):  # A string begins that does not end here.
            at, is_inside = at + 1, True


def _end(pattern: re.Pattern[bytes], text: bytes, start: int, most: int) -> int:
    found = pattern.match(text, start, most)
    return start if found is None else found.end()


def decode(decoder: msgspec.json.Decoder[T], text: bytes | str) -> T:
    """Decode, telling what is wrong in our own errors.

    A ``null`` for a field that may be left out counts as left out. Raises InvalidJSON where the
    text is no JSON, InvalidEvent where it is of another shape.
    """
    try:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError:
            raw = text.encode() if isinstance(text, str) else bytes(text)
            if b"null" not in raw:
                raise
            return decoder.decode(without_nulls(decoder.type, raw))
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
