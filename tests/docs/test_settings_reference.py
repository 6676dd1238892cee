"""The settings reference names every setting, with its default and meaning, and no other."""

from pathlib import Path

import attrs

from triocast.settings import SETTINGS, Settings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def rows() -> list[str]:
    defaults = {field.name: field.default for field in attrs.fields(Settings)}
    return [
        f"| `{name}` | {shown(defaults[name])} | {setting.help} |"
        for name, setting in SETTINGS.items()
    ]


def shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"


def test_the_reference_has_every_setting_as_it_is():
    written = [line for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]
    assert written == rows()
