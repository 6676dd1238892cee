"""An explicit ``null`` for what may be left out counts as left out.

Typed languages write absent fields like that. Only where a ``null`` was refused the text is
gone through: whoever sends none pays nothing for it, and the types of fields say what they mean.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import inspect

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_tag = msgspec.json.Decoder(str)

_NULL: Final = b"null"


def without_nulls(shape: Any, text: bytes) -> bytes:
    """Return JSON without the ``null`` of fields that may be left out and take none.

    ``shape`` is the type that it is decoded as. Raises msgspec.DecodeError as decoding it does.
    """
    return bytes(_clean(_look_at(shape), msgspec.Raw(text)))


@lru_cache
def _look_at(shape: Any) -> inspect.Type:
    return inspect.type_info(shape)


def _clean(kind: inspect.Type, raw: msgspec.Raw) -> msgspec.Raw:
    begin = bytes(raw).lstrip()[:1]
    if begin == b"{":
        struct = _struct(kind, raw)
        return raw if struct is None else _clean_object(struct, raw)
    if begin == b"[":
        array = next((each for each in _members(kind) if isinstance(each, inspect.ListType)), None)
        if array is not None and _has_structs(array.item_type):
            items = [_clean(array.item_type, item) for item in _array.decode(raw)]
            return msgspec.Raw(msgspec.json.encode(items))
    return raw


def _clean_object(struct: inspect.StructType, raw: msgspec.Raw) -> msgspec.Raw:
    fields = {field.encode_name: field for field in struct.fields}
    kept = {}
    for name, value in _object.decode(raw).items():
        field = fields.get(name)
        if field is None:
            kept[name] = value
        elif field.required or bytes(value) != _NULL or _takes_null(field.type):
            kept[name] = _clean(field.type, value)
    return msgspec.Raw(msgspec.json.encode(kept))


def _struct(kind: inspect.Type, raw: msgspec.Raw) -> inspect.StructType | None:
    """Return the struct that an object is; of several, the one that its tag names."""
    structs = [each for each in _members(kind) if isinstance(each, inspect.StructType)]
    if len(structs) < 2:
        return structs[0] if structs else None
    said = _object.decode(raw)
    for struct in structs:
        tag = None if struct.tag_field is None else said.get(struct.tag_field)
        if tag is not None and bytes(tag)[:1] == b'"' and _tag.decode(tag) == struct.tag:
            return struct
    return None


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _has_structs(kind: inspect.Type) -> bool:
    return any(isinstance(each, inspect.StructType) for each in _members(kind))


def _takes_null(kind: inspect.Type) -> bool:
    return any(
        isinstance(each, inspect.NoneType | inspect.RawType | inspect.AnyType)
        for each in _members(kind)
    )
