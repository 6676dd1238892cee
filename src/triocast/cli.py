"""The command line: ``triocast serve``, ``config``, ``token``, ``backup`` and ``restore``."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import attrs
import click
import jwt

from triocast.auth import ALGORITHM, CLAIM, check_publish_pattern, parse_room_right
from triocast.errors import InvalidChannel
from triocast.events import parse_pattern, user_channel
from triocast.settings import (
    SETTINGS,
    LoadedSettings,
    Namespaces,
    Setting,
    Settings,
    SettingsError,
    check_bind,
    load_settings,
)
from triocast.settings.checks import HOW_TO_MAKE_A_KEY, MASK
from triocast.settings.values import (
    BOOLEAN,
    HOSTS,
    LIST,
    UnreadableValue,
    parse_duration,
    write_value,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])

WRONG_SETTINGS: Final = 2
CANNOT_LISTEN: Final = 1
EMBEDDED_ENGINE: Final = "sqlite:///~/.local/share/triocast/events.db"
"""The engine of a server that nobody configured, for people; see `_embedded_engine`."""

LONGEST_TTL: Final = 10 * 366 * 86_400

log = logging.getLogger("triocast.cli")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="triocast", message="%(prog)s %(version)s")
def main() -> None:
    """Triocast: a realtime server for Server-Sent Events and WebSocket.

    Every setting can stand in a file (--config), in the environment (TRIOCAST_PORT for --port)
    and on the command line; each outweighs the one before.
    """


def _with_settings(command: _Command) -> _Command:
    """Give a command ``--config`` and one option for each setting."""
    for name, setting in reversed(list(SETTINGS.items())):
        command = _option(name, setting)(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Read settings from a TOML or YAML file; TRIOCAST_CONFIG names one too.",
    )(command)


def _option(name: str, setting: Setting) -> Callable[[_Command], _Command]:
    flag = "--" + name.replace("_", "-")
    default = getattr(attrs.fields(Settings), name).default
    help = setting.help
    if setting.secret:
        help += f" Other users of this machine see options: prefer TRIOCAST_{name.upper()}."
    if setting.kind is BOOLEAN:
        pair = f"{flag}/--no-{flag[2:]}"
        state = "on" if default else "off"
        return click.option(pair, name, default=None, help=f"{help}  [{state}]")
    if name == "engine":
        help += f"  [{EMBEDDED_ENGINE}]"
    elif default is not None and default not in ((), Namespaces()):
        help += f"  [{default}]"
    if setting.kind in (LIST, HOSTS):
        return click.option(
            flag, name, multiple=True, callback=_join, metavar=setting.kind.metavar, help=help
        )
    return click.option(flag, name, metavar=setting.kind.metavar, help=help)


def _join(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Return an option that was given several times as if it was given once."""
    return ",".join(values) if values else None


def _load(
    config_file: Path | None, options: dict[str, Any], *, needs_engine: bool = True
) -> LoadedSettings:
    given = {name: value for name, value in options.items() if value is not None}
    engine = _embedded_engine()
    defaults = {} if engine is None else {"engine": engine}
    try:
        loaded = load_settings(config_file=config_file, overrides=given, defaults=defaults)
    except SettingsError as error:
        _give_up(str(error), WRONG_SETTINGS)
    if needs_engine and engine is None and loaded.sources["engine"] == "default":
        _give_up(
            "there is no place for the events: no home folder is known for this user.\n"
            "    Fix: set TRIOCAST_ENGINE, or engine in a file, to sqlite:///FILE",
            WRONG_SETTINGS,
        )
    return loaded


def _embedded_engine() -> str | None:
    """Return the engine of a server that nobody configured: a file in the user's data folder.

    None if no such folder is known. Its location follows the XDG Base Directory Specification,
    which says to ignore relative paths.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            data = Path.home() / ".local" / "share"
        except RuntimeError:
            return None
    return f"sqlite:///{data / 'triocast' / 'events.db'}"


def _give_up(message: str, exit_code: int) -> NoReturn:
    click.echo(f"triocast: {message}", err=True)
    sys.exit(exit_code)


@main.command()
@_with_settings
def serve(config_file: Path | None, **options: Any) -> None:
    """Run the server until SIGTERM or SIGINT."""
    loaded = _load(config_file, options)
    settings = loaded.settings
    try:
        check_bind(settings, loaded.sources["host"])
    except SettingsError as error:
        _give_up(str(error), WRONG_SETTINGS)
    configure_logging(settings.log_level, settings.log_format)
    # the server brings in Quart and Hypercorn, which the other commands need not wait for
    from triocast.server import CannotListen, run_server

    try:
        run_server(settings)
    except SettingsError as error:
        _give_up(str(error), WRONG_SETTINGS)
    except CannotListen as error:
        _give_up(str(error), CANNOT_LISTEN)


@main.command()
@_with_settings
def config(config_file: Path | None, **options: Any) -> None:
    """Show the settings in force and where each comes from, as TOML. Secrets are masked."""
    loaded = _load(config_file, options)
    lines = []
    for name, setting in SETTINGS.items():
        value = getattr(loaded.settings, name)
        if value is None:
            lines.append((f"# {name} is not set", loaded.sources[name]))
        else:
            shown = MASK if setting.secret else value
            lines.append((f"{name} = {write_value(shown)}", loaded.sources[name]))
    width = max(len(text) for text, _ in lines)
    for text, source in lines:
        click.echo(f"{text:{min(width, 44)}}  # {source}")


def _with_store(command: _Command) -> _Command:
    """Give a command what names the store: ``--config``, ``--engine``; and ``--force``."""
    command = click.option("--force", is_flag=True, help="Replace what is there.")(command)
    command = _option("engine", SETTINGS["engine"])(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Read the setting engine from this file; TRIOCAST_CONFIG names one too.",
    )(command)


def _store(config_file: Path | None, engine: str | None, nothing: str) -> Path:
    """Return the store's file that the settings name; ``nothing`` is what cannot be done else."""
    loaded = _load(config_file, {"engine": engine})
    scheme, _, place = loaded.settings.engine.partition("://")
    if scheme != "sqlite":
        _give_up(
            f"there is nothing to {nothing}: {loaded.settings.engine} keeps events in memory; "
            f"set engine (from {loaded.sources['engine']}) to the server's sqlite:///FILE",
            WRONG_SETTINGS,
        )
    return Path(place.removeprefix("/"))


@main.command()
@click.argument("target", type=click.Path(path_type=Path))
@_with_store
def backup(target: Path, config_file: Path | None, engine: str | None, force: bool) -> None:
    """Copy the events of the server, which may run, to the file TARGET."""
    from triocast.engines.sqlite.backup import BackupFailed, back_up

    try:
        copied = back_up(_store(config_file, engine, "back up"), target, force=force)
    except BackupFailed as error:
        _give_up(str(error), WRONG_SETTINGS)
    click.echo(
        f"{target} has {copied.events} events of {copied.channels} channels, "
        f"up to position {copied.seq} of epoch {copied.epoch}"
    )


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@_with_store
def restore(source: Path, config_file: Path | None, engine: str | None, force: bool) -> None:
    """Put the backup SOURCE in place of the events of the server, which must not run."""
    from triocast.engines.sqlite.backup import BackupFailed
    from triocast.engines.sqlite.backup import restore as put_back

    path = _store(config_file, engine, "restore to")
    try:
        done = put_back(source, path, force=force)
    except BackupFailed as error:
        _give_up(str(error), WRONG_SETTINGS)
    click.echo(
        f"{path} has {done.contents.events} events of {done.contents.channels} channels, "
        f"up to position {done.contents.seq}; the new epoch is {done.contents.epoch}"
    )
    if done.kept is not None:
        click.echo(f"what was there is kept as {done.kept}")


@main.command()
@click.option("--sub", required=True, metavar="NAME", help="The user that the token is for.")
@click.option(
    "--subscribe",
    multiple=True,
    metavar="PATTERN",
    help="A channel, or a pattern such as news:*, that may be heard. May be repeated.",
)
@click.option(
    "--publish",
    multiple=True,
    metavar="PATTERN",
    help="A channel or pattern that may be published to. May be repeated.",
)
@click.option(
    "--room",
    multiple=True,
    metavar="PATTERN",
    help="A room of WebRTC signaling that may be joined, or a pattern. May be repeated.",
)
@click.option(
    "--role",
    metavar="NAME",
    help="What others in the rooms are told that the user is.  [peer]",
)
@click.option("--claim", is_flag=True, help="Let it choose its peer id in the rooms.")
@click.option("--data", is_flag=True, help="Let it send data through the server in the rooms.")
@click.option("--no-create", is_flag=True, help="Let it into rooms only where somebody is.")
@click.option("--admin", is_flag=True, help="Allow what administrators may do.")
@click.option("--ttl", default="1h", metavar="DURATION", help="How long the token is good.  [1h]")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Read token_key and token_audience from this file.",
)
def token(
    sub: str,
    subscribe: tuple[str, ...],
    publish: tuple[str, ...],
    room: tuple[str, ...],
    role: str | None,
    claim: bool,
    data: bool,
    no_create: bool,
    admin: bool,
    ttl: str,
    config_file: Path | None,
) -> None:
    """Print a token (a JWT, HS256) signed with the configured token_key."""
    seconds = _read_ttl(ttl)
    try:
        user_channel(sub)
    except InvalidChannel as error:
        raise click.BadParameter(error.message, param_hint="--sub") from None
    grant: dict[str, Any] = {
        "subscribe": [_pattern(parse_pattern, name, "--subscribe") for name in subscribe],
        "publish": [_pattern(check_publish_pattern, name, "--publish") for name in publish],
    }
    rights: dict[str, Any] = {} if role is None else {"role": role}
    if claim:
        rights["claim"] = True
    if data:
        rights["data"] = True
    if no_create:
        rights["create"] = False
    if rights and not room:
        raise click.UsageError("--role, --claim, --data and --no-create are about a --room")
    if room:
        grant["rooms"] = [_room(pattern, rights) for pattern in room]
    if admin:
        grant["admin"] = True
    settings = _load(config_file, {}, needs_engine=False).settings
    if settings.token_key is None:
        _give_up(
            "there is no token_key to sign with.\n"
            "    Fix: set TRIOCAST_TOKEN_KEY, or token_key in a file, to the server's own; "
            f"this makes a new one: {HOW_TO_MAKE_A_KEY}",
            WRONG_SETTINGS,
        )
    now = int(time.time())
    claims: dict[str, Any] = {"sub": sub, "iat": now, "exp": now + seconds, CLAIM: grant}
    if settings.token_audience is not None:
        claims["aud"] = settings.token_audience
    click.echo(jwt.encode(claims, settings.token_key, algorithm=ALGORITHM))


def _read_ttl(ttl: str) -> int:
    try:
        seconds = int(parse_duration(ttl))
    except UnreadableValue as error:
        raise click.BadParameter(f"{error.problem}; {error.fix}", param_hint="--ttl") from None
    if seconds < 1:
        raise click.BadParameter("a token is good for a second at least", param_hint="--ttl")
    if seconds > LONGEST_TTL:
        raise click.BadParameter("ten years are the longest", param_hint="--ttl")
    return seconds


def _pattern(parse: Callable[[str], str], name: str, option: str) -> str:
    try:
        return parse(name)
    except InvalidChannel as error:
        raise click.BadParameter(f"{name!r}: {error.message}", param_hint=option) from None


def _room(pattern: str, rights: dict[str, Any]) -> str | dict[str, Any]:
    entry = {"room": pattern, **rights}
    for option, checked in (("--room", pattern), ("--role", entry)):
        try:
            parse_room_right(checked)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from None
    return entry if rights else pattern


def configure_logging(level: str, format: str) -> None:
    """Send log records to stderr, as text or as one JSON object a line, in UTC."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JSONLines() if format == "json" else _TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("triocast").setLevel(level.upper())


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_LINE_BREAKS: Final = {ord(char): repr(char)[1:-1] for char in "\n\r\v\f\x1b\x85\u2028\u2029"}


class _TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        # what a client sent must not look like a line of ours
        return super().formatMessage(record).translate(_LINE_BREAKS)


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
