"""A setting knows its meaning, kind and check, and a class's fields carry its settings."""

from pathlib import Path

import attrs
import pytest

from triocast.settings.setting import Setting, settings_of
from triocast.settings.values import BOOLEAN, FILE, INTEGER, LIST, SECONDS, TEXT, optional

PORT = Setting("The port.", INTEGER)
NAME = Setting("The name.", TEXT)


@attrs.frozen
class Server:
    port: int = attrs.field(default=1, metadata=PORT.metadata)
    name: str = attrs.field(default="", metadata={**NAME.metadata, "other": 1})


def test_settings_come_by_name_in_the_order_of_the_fields():
    assert list(settings_of(Server).items()) == [("port", PORT), ("name", NAME)]


def test_the_settings_of_a_class_do_not_change():
    with pytest.raises(TypeError):
        settings_of(Server)["port"] = NAME


def test_a_field_that_is_no_setting_is_a_mistake_of_ours():
    @attrs.frozen
    class Forgetful:
        port: int

    with pytest.raises(KeyError):
        settings_of(Forgetful)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TEXT, ""),
        (INTEGER, 5),
        (SECONDS, 5),
        (SECONDS, 0.5),
        (BOOLEAN, False),
        (LIST, ("a",)),
        (FILE, None),
        (FILE, Path("x")),
        (optional(INTEGER), None),
    ],
)
def test_a_value_of_the_right_kind_is_accepted(kind, value):
    assert Setting("", kind).find_wrong_kind(value) is None


@pytest.mark.parametrize(
    ("kind", "value", "found", "metavar"),
    [
        (TEXT, 5, "int", "TEXT"),
        (TEXT, None, "NoneType", "TEXT"),
        (INTEGER, True, "bool", "NUMBER"),
        (INTEGER, 5.0, "float", "NUMBER"),
        (SECONDS, True, "bool", "DURATION"),
        (SECONDS, "5s", "str", "DURATION"),
        (BOOLEAN, 1, "int", "BOOLEAN"),
        (LIST, ["a"], "list", "A,B,..."),
        (LIST, (1,), "tuple", "A,B,..."),
        (FILE, "x", "str", "FILE"),
        (optional(INTEGER), "5", "str", "NUMBER"),
    ],
)
def test_a_value_of_another_kind_is_told_with_both_kinds(kind, value, found, metavar):
    assert Setting("", kind).find_wrong_kind(value) == (
        f"a {found} is not allowed here",
        f"give a value of the kind {metavar}",
    )
