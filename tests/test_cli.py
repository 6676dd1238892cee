import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import closing

import jwt
import pytest
from click.testing import CliRunner

import triocast.server
from triocast.auth import Authenticator, RoomRight
from triocast.cli import main
from triocast.engines.sqlite.file import open_file
from triocast.settings import SETTINGS, Problem, Settings, SettingsError
from triocast.web.call import Fields, Headers

KEY = "k" * 48


def bearer(token):
    return Headers([(b"authorization", f"Bearer {token}".encode())])


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for variable in os.environ:
        if variable.startswith("TRIOCAST_") or variable.endswith("_ENABLED"):
            monkeypatch.delenv(variable)


@pytest.fixture
def run():
    def run(*arguments, **environ):
        return CliRunner().invoke(main, list(arguments), env=environ)

    return run


@pytest.fixture
def served(monkeypatch):
    """What `serve` hands to the server; ``served.error`` is raised by the server instead."""

    class Served(list):
        error = None

    served = Served()

    def run_server(settings):
        served.append(settings)
        if served.error:
            raise served.error

    monkeypatch.setattr(triocast.server, "run_server", run_server, raising=False)
    root, ours = logging.getLogger(), logging.getLogger("triocast")
    before = root.handlers[:], root.level, ours.level
    yield served
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_version(run):
    assert re.fullmatch(r"\w+ \d+\.\d+\.\d+\n", run("--version").output)


def test_python_m_triocast_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "triocast", "config", "--port", "x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "triocast: 1 setting is wrong:\n"
        "  port (from command line --port): 'x' is not a whole number\n"
        "    Fix: give digits only, such as 1000\n"
    )


@pytest.mark.parametrize("command", ["serve", "config"])
def test_every_setting_is_an_option(run, command):
    output = run(command, "--help").output
    for name in SETTINGS:
        assert f"--{name.replace('_', '-')} " in output


def test_help_warns_of_a_key_on_the_command_line(run):
    assert "prefer TRIOCAST_TOKEN_KEY" in " ".join(run("serve", "--help").output.split())


# config


def test_config_shows_values_and_sources(run, tmp_path):
    path = tmp_path / "triocast.toml"
    path.write_text("max_connections = 5\n")
    done = run(
        *("config", "--config", str(path), "--port", "9", "--no-takeover"),
        TRIOCAST_HEARTBEAT_SECONDS="30s",
    )
    assert done.exit_code == 0
    lines = [re.sub(" +", " ", line) for line in done.output.splitlines()]
    assert len(lines) == len(SETTINGS)
    assert "port = 9 # command line --port" in lines
    assert "takeover = false # command line --takeover" in lines
    assert "max_connections = 5 # triocast.toml: max_connections" in lines
    assert "heartbeat_seconds = 30.0 # environment variable TRIOCAST_HEARTBEAT_SECONDS" in lines
    assert 'host = "127.0.0.1" # default' in lines
    assert "# token_key is not set # default" in lines


def test_a_list_may_be_given_as_one_or_bit_by_bit(run):
    done = run("config", "--host", "::1", "--host", "127.0.0.1,127.0.0.2")
    assert 'host = "::1,127.0.0.1,127.0.0.2"' in done.output
    done = run("config", "--allowed-origins", "http://a", "--allowed-origins", "http://b")
    assert 'allowed_origins = ["http://a", "http://b"]' in done.output


def test_config_is_toml_that_configures_the_same(run, tmp_path):
    options = ["--allowed-origins", "http://a,http://b", "--log-format", "json", "--port", "0"]
    output = run("config", *options).output
    assert tomllib.loads(output)["allowed_origins"] == ["http://a", "http://b"]
    path = tmp_path / "shown.toml"
    path.write_text(output)
    again = run("config", "--config", str(path)).output
    assert tomllib.loads(again) == tomllib.loads(output)


def test_config_masks_secrets(run):
    done = run("config", TRIOCAST_TOKEN_KEY=KEY, TRIOCAST_TURN_SECRET=KEY[::-1])
    assert KEY not in done.output
    assert KEY[::-1] not in done.output
    assert 'turn_secret = "***' in done.output
    assert re.search(
        r'^token_key = "\*+" +# environment variable TRIOCAST_TOKEN_KEY$', done.output, re.M
    )


def test_all_wrong_settings_are_told(run):
    done = run("config", "--port", "-1", TRIOCAST_LOG_LEVEL="loud", TRIOCAST_PROT="1")
    assert done.exit_code == 2
    assert "3 settings are wrong" in done.stderr
    for text in ("command line --port", "TRIOCAST_LOG_LEVEL", "did you mean TRIOCAST_PORT?"):
        assert text in done.stderr


def test_an_unknown_option_is_refused_with_a_suggestion(run):
    done = run("serve", "--max-conections", "1")
    assert done.exit_code == 2
    assert "--max-connections" in done.stderr


# token


def test_a_token_allows_what_it_says(run):
    done = run(
        *("token", "--sub", "ann", "--subscribe", "news:*", "--subscribe", "default:chat"),
        *("--publish", "$all", "--admin", "--ttl", "10m"),
        TRIOCAST_TOKEN_KEY=KEY,
        TRIOCAST_TOKEN_AUDIENCE="here",
    )
    assert done.exit_code == 0
    now = time.time()
    claims = jwt.decode(done.output.strip(), KEY, algorithms=["HS256"], audience="here")
    assert claims["iat"] == pytest.approx(now, abs=60)
    assert claims["exp"] - claims["iat"] == 600
    assert claims["triocast"] == {
        "subscribe": ["news:*", "chat"],
        "publish": ["$all"],
        "admin": True,
    }
    grant = Authenticator(
        token_key=KEY, token_audience="here", token_in_query=False, insecure_anonymous=False
    ).grant(bearer(done.output.strip()), Fields(()), None)
    assert grant.user == "ann"
    assert grant.may_subscribe("news:today")
    assert grant.may_subscribe("chat")
    assert not grant.may_subscribe("secret")
    assert grant.may_publish("$all")
    assert not grant.may_publish("chat")
    assert grant.admin


def test_a_token_allows_nothing_by_default_for_an_hour(run, tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(f'token_key = "{KEY}"\n')
    token = run("token", "--sub", "bob", "--config", str(path)).output.strip()
    claims = jwt.decode(token, KEY, algorithms=["HS256"])
    assert claims.keys() == {"sub", "iat", "exp", "triocast"}
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["triocast"] == {"subscribe": [], "publish": []}


def test_a_token_for_rooms(run):
    def rights(*options):
        done = run("token", "--sub", "ann", *options, TRIOCAST_TOKEN_KEY=KEY)
        assert done.exit_code == 0, done.stderr
        return (
            Authenticator(
                token_key=KEY, token_audience=None, token_in_query=False, insecure_anonymous=False
            )
            .grant(bearer(done.output.strip()), Fields(()), None)
            .rooms
        )

    assert rights("--room", "team-*", "--room", "hall") == (RoomRight("team-*"), RoomRight("hall"))
    assert rights("--room", "r", "--claim", "--role", "host") == (
        RoomRight("r", role="host", claim=True),
    )
    assert rights("--room", "r*", "--data", "--no-create") == (
        RoomRight("r*", data=True, create=False),
    )


@pytest.mark.parametrize("option", [["--role", "host"], ["--claim"], ["--data"], ["--no-create"]])
def test_rights_in_rooms_need_a_room(run, option):
    done = run("token", "--sub", "ann", *option, TRIOCAST_TOKEN_KEY=KEY)
    assert done.exit_code == 2
    assert "are about a --room" in done.stderr


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--room", "a*b"], "--room"),
        (["--room", "**"], "--room"),
        (["--room", "a", "--role", ""], "--role"),
        (["--room", "a*", "--role", "x" * 65], "--role"),
    ],
)
def test_rights_in_rooms_that_no_server_would_take_are_not_given(run, options, wrong):
    done = run("token", "--sub", "ann", *options, TRIOCAST_TOKEN_KEY=KEY)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"Invalid value for {wrong}" in done.stderr


def test_a_token_needs_a_key(run):
    done = run("token", "--sub", "ann")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "there is no token_key" in done.stderr
    assert "TRIOCAST_TOKEN_KEY" in done.stderr
    assert "secrets.token_urlsafe(48)" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--ttl", "soon", "not a duration"),
        ("--ttl", "0", "a second at least"),
        ("--ttl", "1ms", "a second at least"),
        ("--ttl", "999999999999d", "longest"),
        ("--subscribe", "$conn:x", "server's own"),
        ("--subscribe", "a*b*", "one '*'"),
        ("--publish", "a b", "a channel is"),
        ("--sub", "", "a user id has"),
        ("--sub", "a\nb", "a user id has"),
    ],
)
def test_a_token_that_no_server_would_take_is_not_made(run, option, value, problem):
    done = run("token", "--sub", "ann", option, value, TRIOCAST_TOKEN_KEY=KEY)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert option in done.stderr
    assert problem in done.stderr


# backup and restore


def test_there_is_nothing_to_back_up_of_a_server_that_keeps_events_in_memory(run, tmp_path):
    target = tmp_path / "b.db"
    done = run("backup", str(target), TRIOCAST_ENGINE="memory://")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == (
        "triocast: there is nothing to back up: memory:// keeps events in memory; set engine "
        "(from environment variable TRIOCAST_ENGINE) to the server's sqlite:///FILE\n"
    )
    assert not target.exists()
    done = run("restore", str(target), "--engine", "memory://")
    assert done.exit_code == 2
    assert "nothing to restore to" in done.stderr


def test_a_backup_and_a_restore_are_of_the_store_that_serve_takes(run, tmp_path):
    """The one in the user's data folder, or what a file of settings names."""
    target = str(tmp_path / "b.db")
    path = tmp_path / "t.toml"
    path.write_text('engine = "sqlite:////somewhere/else.db"\n')
    for command in ("backup", "restore"):
        wrong = run(command, target, "--config", str(path), TRIOCAST_PORT="x")
        assert (wrong.exit_code, "TRIOCAST_PORT" in wrong.stderr) == (2, True)
    done = run("backup", target, XDG_DATA_HOME=str(tmp_path))
    assert done.exit_code == 2
    assert f"there is no file {tmp_path}/triocast/events.db" in done.stderr
    done = run("backup", target, "--config", str(path))
    assert "there is no file /somewhere/else.db" in done.stderr
    with closing(open_file(tmp_path / "triocast" / "events.db", durable=False)):
        done = run("backup", target, XDG_DATA_HOME=str(tmp_path))
    assert done.exit_code == 0, done.stderr
    path.write_text(f'engine = "sqlite:///{tmp_path}/restored.db"\n')
    done = run("restore", target, "--config", str(path))
    assert done.output.startswith(f"{tmp_path}/restored.db has 0 events of 0 channels")
    assert (tmp_path / "restored.db").exists()


# serve


def test_serve_hands_the_settings_to_the_server(run, served):
    options = ("--port", "0", "--no-sse-enabled", "--engine", "memory://")
    done = run("serve", *options, TRIOCAST_MAX_CONNECTIONS="3")
    assert done.exit_code == 0, done.output
    assert served == [Settings(port=0, sse_enabled=False, max_connections=3)]

    assert done.stderr == ""


def test_a_server_that_nobody_configured_keeps_events_in_the_users_data_folder(run, served):
    run("serve", XDG_DATA_HOME="/somewhere")
    run("serve", HOME="/home/ann")
    assert [settings.engine for settings in served] == [
        "sqlite:////somewhere/triocast/events.db",
        "sqlite:////home/ann/.local/share/triocast/events.db",
    ]
    assert 'engine = "sqlite:////somewhere' in run("config", XDG_DATA_HOME="/somewhere").output


def test_serve_does_not_listen_to_strangers_by_accident(run, served):
    done = run("serve", TRIOCAST_HOST="0.0.0.0")
    assert done.exit_code == 2
    assert "host (from environment variable TRIOCAST_HOST)" in done.stderr
    assert served == []
    assert run("serve", "--host", "0.0.0.0", "--insecure-anonymous").exit_code == 0
    assert run("serve", "--host", "0.0.0.0", TRIOCAST_TOKEN_KEY=KEY).exit_code == 0
    assert len(served) == 2


def test_an_address_in_use_is_told(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert done.exit_code == 1
    assert done.stderr == (
        f"triocast: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


def test_a_setting_that_the_server_refuses_is_told(run, served):
    served.error = SettingsError(Problem("engine", "default", "is broken", "mend it"))
    done = run("serve")
    assert done.exit_code == 2
    assert "engine (from default): is broken" in done.stderr


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ExceptionGroup("", [OSError("x"), ZeroDivisionError()])]
)
def test_a_bug_in_the_server_is_not_hidden(run, served, error):
    served.error = error
    assert run("serve").exception is error


def log_with(run, monkeypatch, *options):
    def run_server(settings):
        log = logging.getLogger("triocast.test")
        log.debug("detail")
        log.info("héllo %s", "you\nthere")
        logging.getLogger("other").info("noise")
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")

    monkeypatch.setattr(triocast.server, "run_server", run_server, raising=False)
    done = run("serve", *options)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_logs_as_text(run, served, monkeypatch):
    output = log_with(run, monkeypatch)
    first, _, rest = output.partition("\n")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    triocast\.test: héllo you\\nthere", first
    )
    assert "ERROR   triocast.test: failed\nTraceback" in rest
    assert "ValueError: broken" in rest
    assert "noise" not in output
    assert "detail" not in output


def test_logs_as_json_lines(run, served, monkeypatch):
    output = log_with(run, monkeypatch, "--log-format", "json", "--log-level", "debug")
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["message"] for line in lines] == ["detail", "héllo you\nthere", "failed"]
    assert [line["level"] for line in lines] == ["debug", "info", "error"]
    assert {line["logger"] for line in lines} == {"triocast.test"}
    assert "ValueError: broken" in lines[2]["exception"]
    assert all(line["time"].endswith("Z") for line in lines)


def test_the_log_level_is_kept(run, served, monkeypatch):
    output = log_with(run, monkeypatch, "--log-level", "error")
    assert "you" not in output
    assert "failed" in output


NOBODY = """
import pwd
def nobody(*_):
    raise KeyError("nobody")
pwd.getpwuid = pwd.getpwnam = nobody
"""
"""Makes the user one whom the machine does not know, as those of containers often are."""

PROGRAM = """
import os, runpy, sys
os.chdir(sys.argv.pop(1))
if sys.argv[1] == "gone":
    import jwt  # with `cryptography`, which itself needs a folder on some Pythons
    os.rmdir(os.getcwd())
sys.argv[1:2] = []
if sys.argv[1:] == ["import"]:
    import triocast, triocast.client, triocast.server, triocast.settings, triocast.web
else:
    runpy.run_module("triocast", run_name="__main__", alter_sys=True)
"""

SURROUNDINGS = {
    "no home": (NOBODY, {}),
    "no folder": (NOBODY, {"FOLDER": "gone"}),
    "empty variables": (NOBODY, {"HOME": "", "XDG_DATA_HOME": "", "LANG": ""}),
    "other bytes": ("", {"HOME": "/\udcff", "XDG_DATA_HOME": "/\udcfe", "X\udcff": "\udcff"}),
    "no locale": ("", {"HOME": "/", "LC_ALL": "nowhere", "PYTHONIOENCODING": "ascii:strict"}),
    "strict output": ("", {"HOME": "/\udcff", "PYTHONIOENCODING": "utf-8:strict"}),
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize(
    "command", [["import"], ["--help"], ["serve", "-h"], ["config", "--engine", "memory://"]]
)
def test_it_needs_nothing_of_its_surroundings(tmp_path, surroundings, command):
    preamble, environ = SURROUNDINGS[surroundings]
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    folder = tmp_path / "folder"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", preamble + PROGRAM, folder, environ.get("FOLDER", ""), *command],
        env=keep | environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_a_home_a_server_has_to_be_told_where_the_events_are(run, served, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("triocast.cli.Path.home", nowhere)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for command in (["serve"], ["config"], ["backup", "x"]):
        done = run(*command)
        assert done.exit_code == 2
        assert "no home folder is known" in done.output
        assert "TRIOCAST_ENGINE" in done.output
    assert run("serve", TRIOCAST_ENGINE="memory://").exit_code == 0
    assert run("serve", XDG_DATA_HOME="/data").exit_code == 0
    assert [settings.engine for settings in served] == [
        "memory://",
        "sqlite:////data/triocast/events.db",
    ]
    assert run("token", "--sub", "ann", TRIOCAST_TOKEN_KEY=KEY).exit_code == 0


def test_a_relative_data_folder_is_passed_over(run):
    done = run("config", XDG_DATA_HOME="data", HOME="/home/ann")
    assert 'engine = "sqlite:////home/ann/.local' in done.output
