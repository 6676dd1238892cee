"""Where settings come from: defaults, a file, the environment, the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from triocast.settings.model import SETTINGS, Settings
from triocast.settings.problems import Problem, SettingsError, suggest
from triocast.settings.values import UnreadableTable, UnreadableValue, expand_user

PREFIX: Final = "TRIOCAST_"
CONFIG_VARIABLE: Final = "TRIOCAST_CONFIG"
TABLE: Final = "triocast"
START_PAGE: Final = "startpunkt"

_ENVIRONMENT_ALIASES: Final = {
    "WEBSOCKET_ENABLED": "websocket_enabled",
    "SSE_ENABLED": "sse_enabled",
    "REALTIME_MAX_CONNECTIONS": "max_connections",
}
_START_PAGE_ALIASES: Final = {
    "enabled": "sse_enabled",
    "heartbeatInterval": "heartbeat_seconds",
    "eventDebounceMs": "event_debounce_ms",
}
# Kubernetes describes each service of a namespace in variables named after it. A service called
# "triocast" makes TRIOCAST_PORT=tcp://10.0.0.7:8000 and more, none of them meant as a setting.
_SERVICE_VARIABLE: Final = re.compile(
    r"TRIOCAST_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT: Final = re.compile(r"TRIOCAST_(?:\w+_)?PORT")
_QUOTED: Final = re.compile(r"""'[^']{4,}'|"[^"]{4,}\"""")
_SERVICE_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://")


@attrs.frozen
class LoadedSettings:
    """Settings, and for each one where its value came from, in words for people."""

    settings: Settings
    sources: Mapping[str, str]


@attrs.frozen
class _Given:
    raw: object
    source: str
    folder: Path = Path()
    """What relative paths are relative to."""


@attrs.frozen
class _Layer:
    """What one source says, and what is wrong with the names it uses."""

    given: dict[str, _Given] = attrs.field(factory=dict)
    problems: list[Problem] = attrs.field(factory=list)


def load_settings(
    *,
    config_file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> LoadedSettings:
    """Return the settings in force.

    The command line (``overrides``, by setting name) outweighs the environment (``environ``,
    os.environ if None), which outweighs the file (``config_file``, or the one that
    TRIOCAST_CONFIG names), which outweighs the defaults; ``defaults``, by setting name, are used
    in place of those of `Settings`. Values that are outweighed are not
    looked at; unknown names always are.

    Raises SettingsError with everything that is wrong.
    """
    environ = os.environ if environ is None else environ
    layers = [
        _read_file(config_file, environ),
        _read_environment(environ),
        _read_overrides(overrides or {}),
    ]
    given: dict[str, _Given] = {}
    problems: list[Problem] = []
    for layer in layers:
        given |= layer.given
        problems += layer.problems

    sources = {name: given[name].source if name in given else "default" for name in SETTINGS}
    values: dict[str, Any] = dict(defaults or {})
    for name, item in given.items():
        try:
            value = SETTINGS[name].kind.read(item.raw)
        except UnreadableValue as error:
            problems.append(Problem(name, item.source, error.problem, error.fix))
        except UnreadableTable as error:
            problems += (_describe(fault, name, item.source) for fault in error.faults)
        else:
            values[name] = item.folder / value if isinstance(value, Path) else value
    try:
        settings = Settings(**values)
    except SettingsError as error:
        problems += (_name_sources(problem, sources) for problem in error.problems)
    if problems:
        raise SettingsError(*problems)
    return LoadedSettings(settings, sources)


def _describe(fault: UnreadableValue, name: str, source: str) -> Problem:
    return Problem(f"{name}.{fault.entry}".rstrip("."), source, fault.problem, fault.fix)


def _name_sources(problem: Problem, sources: Mapping[str, str]) -> Problem:
    parts = [sources[problem.name]]
    parts += (f"{name} from {sources[name]}" for name in problem.related)
    return attrs.evolve(problem, source="; ".join(parts))


def _unknown(name: str, known: Iterable[str], source: str) -> Problem:
    fix = f"{suggest(name, known)} (triocast config lists all)"
    return Problem(name, source, "there is no such setting", fix)


def _read_overrides(overrides: Mapping[str, object]) -> _Layer:
    layer = _Layer()
    for name, raw in overrides.items():
        source = "command line --" + name.replace("_", "-")
        if name in SETTINGS:
            layer.given[name] = _Given(raw, source)
        else:
            layer.problems.append(_unknown(name, SETTINGS, source))
    return layer


def _read_environment(environ: Mapping[str, str]) -> _Layer:
    layer = _Layer()
    for variable, name in _ENVIRONMENT_ALIASES.items():
        if variable in environ:
            layer.given[name] = _Given(environ[variable], f"environment variable {variable}")
    variables = {PREFIX + name.upper(): name for name in SETTINGS}
    for variable, raw in environ.items():
        if not variable.startswith(PREFIX) or _describes_a_service(variable, raw):
            continue
        source = f"environment variable {variable}"
        if variable in variables:
            layer.given[variables[variable]] = _Given(raw, source)
        elif variable != CONFIG_VARIABLE:
            known = [*variables, CONFIG_VARIABLE]
            layer.problems.append(_unknown(variable, known, "environment"))
    return layer


def _describes_a_service(variable: str, raw: str) -> bool:
    if _SERVICE_VARIABLE.fullmatch(variable):
        return True
    return bool(_SERVICE_PORT.fullmatch(variable) and _SERVICE_ADDRESS.match(raw))


def _read_file(config_file: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> _Layer:
    if config_file is not None:
        path, source = Path(config_file), "command line --config"
    elif CONFIG_VARIABLE in environ:
        path, source = Path(environ[CONFIG_VARIABLE]), f"environment variable {CONFIG_VARIABLE}"
    else:
        return _Layer()
    try:
        path = expand_user(path)
        content = _parse_file(path)
    except UnreadableValue as error:
        return _Layer(problems=[Problem("config", source, error.problem, error.fix)])
    return _read_content(content, path)


def _parse_file(path: Path) -> Mapping[Any, object]:
    """Return a file's top level. Raises UnreadableValue."""
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise UnreadableValue(
            f"{str(path)!r} is neither TOML nor YAML by its name",
            "give a file whose name ends in .toml, .yaml or .yml",
        )
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise UnreadableValue(
            f"{str(path)!r} cannot be read: {error.strerror}", "give the path of a readable file"
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # ValueError is TOML's, text that is not UTF-8, and a YAML date such as 2026-13-01
        raise UnreadableValue(
            f"{str(path)!r} cannot be understood: {_first_words(error)}", "correct the file there"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UnreadableValue(
            f"{str(path)!r} is not a mapping", "write one 'name: value' on each line"
        )
    return content


def _first_words(error: Exception) -> str:
    """Say what a parser met and where, but quote nothing that may be a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = _QUOTED.sub("...", error.problem or "an error")
        return f"{problem} (at line {error.problem_mark.line + 1})"
    return str(error).partition("\n")[0]


def _read_content(content: Mapping[Any, object], path: Path) -> _Layer:
    layer = _Layer()
    shared = START_PAGE in content
    if shared:
        _take_start_page(content[START_PAGE], path, layer)
    top = {
        str(key): raw
        for key, raw in content.items()
        if key not in (START_PAGE, TABLE) and not (shared and _is_foreign(key, raw))
    }
    _take_settings(top, "", path, layer)
    table = content.get(TABLE)
    if isinstance(table, dict):
        below = {str(key): raw for key, raw in table.items()}
        _take_settings(below, f"{TABLE}.", path, layer)
        layer.problems.extend(
            Problem(
                name,
                f"{path.name}: {name} and {TABLE}.{name}",
                "is given twice",
                "remove one of them",
            )
            for name in sorted(top.keys() & below.keys() & SETTINGS.keys())
        )
    elif table is not None:
        layer.problems.append(
            Problem(TABLE, f"{path.name}: {TABLE}", "is not a table", "put settings underneath it")
        )
    return layer


def _is_foreign(key: object, raw: object) -> bool:
    """Say whether a key beside a start page's tree is of another program.

    Whole trees (``quarkus:``) and dotted keys (``quarkus.http.port``) are; ``namespaces:`` is not.
    """
    setting = SETTINGS.get(str(key))
    ours = setting is not None and setting.kind.is_table
    return "." in str(key) or (isinstance(raw, dict) and not ours)


def _take_settings(table: Mapping[str, object], prefix: str, path: Path, layer: _Layer) -> None:
    for name, raw in table.items():
        source = f"{path.name}: {prefix}{name}"
        if name in SETTINGS:
            layer.given[name] = _Given(raw, source, path.parent)
        else:
            layer.problems.append(_unknown(name, SETTINGS, source))


def _take_start_page(tree: object, path: Path, layer: _Layer) -> None:
    realtime = tree.get("realtime") if isinstance(tree, dict) else None
    if not isinstance(realtime, dict):
        return
    for key, name in _START_PAGE_ALIASES.items():
        if key in realtime:
            source = f"{path.name}: {START_PAGE}.realtime.{key}"
            layer.given[name] = _Given(realtime[key], source)
