"""The settings reference names every setting, with its default and meaning, and no other."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs

from triocast.settings import NAMESPACE_OPTIONS, SETTINGS, Namespace, Setting, Settings
from triocast.settings.namespaces import read_namespaces

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def rows(cls: type, settings: Mapping[str, Setting]) -> list[str]:
    defaults = {field.name: field.default for field in attrs.fields(cls)}
    return [
        f"| `{name}` | {shown(defaults[name])} | {setting.help} |"
        for name, setting in settings.items()
    ]


def shown(default: object) -> str:
    if default is None or default == () or (isinstance(default, Mapping) and not default):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"


def table(head: str) -> list[str]:
    """The rows of the table whose first column has this head."""
    _, _, rest = REFERENCE.read_text().partition(f"| {head} | default | meaning |\n|---|---|---|\n")
    return rest.partition("\n\n")[0].splitlines()


def test_the_reference_has_every_setting_as_it_is():
    assert table("setting") == rows(Settings, SETTINGS)


def test_the_reference_has_every_option_of_a_namespace_as_it_is():
    assert table("option") == rows(Namespace, NAMESPACE_OPTIONS)


def test_its_examples_of_namespaces_are_understood():
    text = REFERENCE.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    namespaces = read_namespaces(tomllib.loads(example)["namespaces"])
    assert namespaces == {"chat": Namespace(compress=True), "$all": Namespace(compress=True)}
    (as_json,) = re.findall(r"TRIOCAST_NAMESPACES='(.*?)'", text)
    assert read_namespaces(as_json) == {"chat": Namespace(compress=True)}
    assert json.loads(as_json) == tomllib.loads(example.partition("\n\n")[0])["namespaces"]
