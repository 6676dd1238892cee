import ipaddress
import json
import tomllib
from pathlib import Path

import attrs
import pytest
import trustme
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.settings import (
    SETTINGS,
    Namespace,
    Namespaces,
    Settings,
    SettingsError,
    check_bind,
    load_settings,
)
from triocast.settings.values import UnreadableValue, parse_duration, write_value

KEY = "k" * 48


def load(environ=None, config=None, **overrides):
    return load_settings(config_file=config, environ=environ or {}, overrides=overrides)


def problems_of(load, *args, **kwargs):
    with pytest.raises(SettingsError) as caught:
        load(*args, **kwargs)
    return caught.value.problems


def only_problem_of(load, *args, **kwargs):
    (problem,) = problems_of(load, *args, **kwargs)
    return problem


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with a certificate and key, and another key that does not belong to it."""
    folder = tmp_path_factory.mktemp("pem")
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    ca.issue_cert("localhost").private_key_pem.write_to_path(str(folder / "other.pem"))
    return folder


# The class


def test_the_defaults_are_allowed_and_closed():
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.token_key is None
    assert not settings.insecure_anonymous
    assert not settings.token_in_query
    assert settings.allowed_origins == ()
    check_bind(settings)


def test_settings_do_not_change():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().port = 1


def test_every_setting_says_what_it_means():
    for name, setting in SETTINGS.items():
        assert setting.help.endswith("."), name
        if "seconds" in name:
            assert "Seconds" in setting.help, name


@pytest.mark.parametrize(
    ("name", "value", "problem", "fix"),
    [
        ("host", "http://x", "neither an IP address nor a host name", "such as 127.0.0.1"),
        ("host", "[::1]", "neither an IP address nor a host name", "brackets"),
        ("host", "a..b", "neither an IP address nor a host name", "such as 127.0.0.1"),
        ("port", -1, "-1 is out of range", "from 0 to 65535"),
        ("port", 65536, "65536 is out of range", "from 0 to 65535"),
        ("port", "80", "a str is not allowed here", "NUMBER"),
        ("port", True, "a bool is not allowed here", "NUMBER"),
        ("engine", "redis://host", "no engine is known for 'redis://host'", "memory://"),
        ("engine", "memory", "no engine is known for 'memory'", "memory://"),
        ("engine", "memory://x", "takes nothing behind it", "write memory://"),
        ("token_key", "short", "has 5 bytes", "secrets.token_urlsafe(48)"),
        ("token_key", "k" * 31, "has 31 bytes", "at least 32 bytes"),
        ("turn_secret", "s" * 15, "has 15 bytes", "at least 16 bytes"),
        ("peerjs_path", "/a b", "'/a b/' is no path", "letters, digits"),
        ("peerjs_path", "/a/../b", "no path", "letters, digits"),
        ("peerjs_path", "/<key>", "no path", "letters, digits"),
        ("peerjs_path", "/realtime", "Triocast's own", "outside"),
        ("allowed_origins", ("https://a/b",), "'https://a/b' is not an origin", "without a path"),
        ("allowed_origins", ("https://a/",), "not an origin", "without a path"),
        ("allowed_origins", ("https://*.a",), "not an origin", "wildcard"),
        ("allowed_origins", ("a.example",), "not an origin", "scheme://host"),
        ("allowed_origins", ("null",), "not an origin", "scheme://host"),
        ("allowed_origins", ("https://u@a",), "not an origin", "scheme://host"),
        ("allowed_origins", ("https://a:99999",), "not an origin", "scheme://host"),
        ("allowed_origins", ("https://a:",), "not an origin", "scheme://host"),
        ("allowed_origins", ("https://[::x]",), "not an origin", "scheme://host"),
        ("allowed_origins", ("https://a\tb",), "not an origin", "scheme://host"),
        ("allowed_origins", ("*",), "every web page", "set token_key"),
        ("allowed_origins", ["https://a"], "a list is not allowed here", "A,B"),
        ("max_connections", 0, "0 is out of range", "at least 1"),
        ("max_header_bytes", 100, "100 is out of range", "at least 1024"),
        ("max_json_depth", 501, "501 is out of range", "from 1 to 500"),
        ("heartbeat_seconds", 0, "0 seconds is out of range", "from 1ms to 24h"),
        ("heartbeat_seconds", float("nan"), "nan seconds is out of range", "from 1ms"),
        ("handshake_seconds", 0, "0 seconds is out of range", "from 1ms"),
        ("keep_alive_seconds", float("inf"), "inf seconds is out of range", "to 24h"),
        ("publish_wait_seconds", -1, "-1 seconds is out of range", "from 0 to 24h"),
        ("drain_seconds", 90_000, "90000 seconds is out of range", "to 24h"),
        ("event_debounce_ms", -1, "-1 is out of range", "from 0 to 86400000"),
        ("log_level", "loud", "'loud' is not known", "debug, info, warning, error"),
        ("log_format", "xml", "'xml' is not known", "text, json"),
        ("stun_servers", ("turn:a",), "'turn:a' is not the address of a STUN", "stun:host:port"),
        ("stun_servers", ("stun:a?transport=udp",), "not the address of a STUN", "stun:host"),
        ("turn_servers", ("turn:a", "stun:a"), "'stun:a' is not the address of a TURN", "turns:"),
        ("turn_servers", ("turn://a",), "'turn://a' is not", "without //"),
        ("turn_servers", ("turn:a?transport=sctp",), "transport=sctp' is not", "?transport=tcp"),
        ("turn_servers", ("turn:a",), "without credentials", "set turn_secret"),
        ("turn_seconds", 59, "59 seconds is out of range", "from 1 minute"),
        ("turn_seconds", 604_801, "604801 seconds is out of range", "to 7 days"),
        ("tls_certificate", Path("/nowhere"), "there is no file '/nowhere'", "PEM"),
    ],
)
def test_a_wrong_value_is_refused(name, value, problem, fix):
    found = problems_of(Settings, **{name: value})[0]
    assert found.name == name
    assert problem in found.problem
    assert fix in found.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "::1"),
        ("host", "0:0::1"),
        ("host", "realtime.example.com."),
        ("host", "node_1"),
        ("port", 0),
        ("token_key", "k" * 32),
        ("token_key", "ü" * 16),
        ("publish_wait_seconds", 0),
        ("drain_seconds", 0),
        ("history_events", 0),
        ("history_bytes", 0),
        ("heartbeat_seconds", 1),
    ],
)
def test_an_unusual_value_is_allowed(name, value):
    assert getattr(Settings(**{name: value}), name) == value


@pytest.mark.parametrize("bound", ["outbox_bytes", "inbox_bytes", "max_body_bytes"])
def test_the_largest_event_fits_everywhere(bound):
    Settings(max_event_bytes=5000, **{bound: 5000})
    problem = only_problem_of(Settings, max_event_bytes=5001, **{bound: 5000})
    assert problem.name == "max_event_bytes"
    assert f"{bound} = 5000" in problem.problem
    assert f"raise {bound}" in problem.fix


def test_any_origin_needs_a_key():
    assert Settings(allowed_origins=("*",), token_key=KEY).allowed_origins == ("*",)


def test_origins_are_kept_as_browsers_write_them():
    settings = Settings(
        allowed_origins=(
            "HTTPS://App.Example.com:443",
            "http://localhost:8080",
            "http://[::1]:80",
            "capacitor://localhost",
        )
    )
    assert settings.allowed_origins == (
        "https://app.example.com",
        "http://localhost:8080",
        "http://[::1]",
        "capacitor://localhost",
    )


def test_all_problems_are_told_together():
    problems = problems_of(Settings, port=-1, log_level="loud", max_event_bytes=10**9)
    names = [problem.name for problem in problems]
    assert names == ["port", "log_level", *["max_event_bytes"] * 3]


@pytest.mark.parametrize(
    "url",
    [
        "turn:", "turn:?transport=udp", "turn::3478", "turn:a:", "turn:a:0", "turn:a:99999",
        "turn:a:x", "turn:a:1:2", "turn:a/b", "turn:a#b", "turn:a b", "turn:a\n", "turn:ä",
        "turn:::1", "turn:[::1", "turn:[::1]x", "turn:[a]", "turn:[fe80::1%eth0]", "turn:a?",
        "turn:a?x=y", "turn:a?transport=", "turn:a?transport=udp&x=y", "turn:" + "a" * 64,
        "TURN:a", "http://a", "",
    ],
)  # fmt: skip
def test_addresses_that_stop_every_browser_stop_the_start(url):
    (problem,) = problems_of(Settings, turn_servers=(url,), turn_secret=KEY)
    assert f"{url!r} is not the address of a TURN server" in problem.problem


def test_addresses_of_ice_servers_are_kept_as_written():
    turn = (
        "turn:turn.example.com", "turn:turn.example.com:3478?transport=udp",
        "turns:10.0.0.1:443?transport=tcp", "turn:[2001:db8::1]:3478", "turns:[::1]",
        "turn:coturn_1:65535",
    )  # fmt: skip
    settings = Settings(stun_servers=("stun:a.", "stuns:a:1"), turn_servers=turn, turn_secret=KEY)
    assert settings.turn_servers == turn


def test_secrets_are_masked():
    settings = Settings(token_key=KEY, turn_secret=KEY[::-1])
    assert KEY not in repr(settings)
    assert KEY[::-1] not in repr(settings)
    assert KEY not in repr(load_settings(environ={}, overrides={"token_key": KEY}))
    assert "token_key='********'" in repr(settings)
    assert "token_key=None" in repr(Settings())


# TLS


def test_a_certificate_and_its_key(pem):
    settings = Settings(tls_certificate=pem / "cert.pem", tls_key=pem / "key.pem")
    assert settings.tls_key == pem / "key.pem"


@pytest.mark.parametrize(
    ("given", "missing"), [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")]
)
def test_certificate_and_key_come_together(pem, given, missing):
    problem = only_problem_of(Settings, **{given: pem / "cert.pem"})
    assert problem.name == given
    assert problem.problem == f"is set, but {missing} is not"
    assert f"set {missing} too" in problem.fix


def test_a_key_of_another_certificate_is_refused(pem):
    problem = only_problem_of(Settings, tls_certificate=pem / "cert.pem", tls_key=pem / "other.pem")
    assert problem.name == "tls_certificate"
    assert "MISMATCH" in problem.problem


def test_a_file_that_is_no_certificate_is_refused(pem, write):
    problem = only_problem_of(
        Settings, tls_certificate=write("x.pem", "hello"), tls_key=pem / "key.pem"
    )
    assert "cannot be used" in problem.problem


def test_files_in_a_file_are_relative_to_it(pem):
    config = pem / "triocast.toml"
    config.write_text('tls_certificate = "cert.pem"\ntls_key = "key.pem"\n')
    assert load(config=config).settings.tls_certificate == pem / "cert.pem"


# Where to listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_open_to_all(host):
    check_bind(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com"])
def test_elsewhere_needs_a_key_or_the_word_insecure(host):
    problem = only_problem_of(check_bind, Settings(host=host), "command line --host")
    assert problem.name == "host"
    assert problem.source == "command line --host"
    for remedy in ("TRIOCAST_TOKEN_KEY", "127.0.0.1", "insecure_anonymous"):
        assert remedy in problem.fix
    check_bind(Settings(host=host, token_key=KEY))
    check_bind(Settings(host=host, insecure_anonymous=True))


@given(st.ip_addresses())
def test_only_loopback_is_open(address):
    settings = Settings(host=str(address))
    if address in ipaddress.ip_network("127.0.0.0/8" if address.version == 4 else "::1/128"):
        check_bind(settings)
    else:
        with pytest.raises(SettingsError):
            check_bind(settings)


# Sources


def test_each_source_outweighs_the_one_before(write):
    config = write("triocast.toml", "port = 1\nmax_connections = 1\nmax_body_bytes = 100000\n")
    environ = {"TRIOCAST_PORT": "2", "TRIOCAST_MAX_CONNECTIONS": "2"}
    loaded = load(environ, config, port=3)
    assert loaded.settings == Settings(port=3, max_connections=2, max_body_bytes=100000)
    assert loaded.sources["port"] == "command line --port"
    assert loaded.sources["max_connections"] == "environment variable TRIOCAST_MAX_CONNECTIONS"
    assert loaded.sources["max_body_bytes"] == "triocast.toml: max_body_bytes"
    assert loaded.sources["host"] == "default"
    assert loaded.sources.keys() == SETTINGS.keys()


def test_what_is_outweighed_is_not_looked_at():
    assert load({"TRIOCAST_PORT": "many"}, port="9").settings.port == 9


def test_the_environment_names_the_file(write):
    config = write("triocast.yaml", "port: 7\n")
    assert load({"TRIOCAST_CONFIG": str(config)}).settings.port == 7
    other = write("other.yml", "port: 8\n")
    assert load({"TRIOCAST_CONFIG": str(config)}, other).settings.port == 8


def test_the_environment_of_the_process_is_read(monkeypatch):
    monkeypatch.setenv("TRIOCAST_PORT", "4321")
    assert load_settings().settings.port == 4321


@pytest.mark.parametrize(
    ("variable", "raw", "name", "value"),
    [
        ("WEBSOCKET_ENABLED", "false", "websocket_enabled", False),
        ("SSE_ENABLED", "0", "sse_enabled", False),
        ("REALTIME_MAX_CONNECTIONS", "1000", "max_connections", 1000),
    ],
)
def test_other_names_in_the_environment(variable, raw, name, value):
    loaded = load({variable: raw})
    assert getattr(loaded.settings, name) == value
    assert loaded.sources[name] == f"environment variable {variable}"
    own = f"TRIOCAST_{name.upper()}"
    for environ in ({variable: raw, own: "1"}, {own: "1", variable: raw}):
        loaded = load(environ)
        assert getattr(loaded.settings, name) == 1
        assert loaded.sources[name] == f"environment variable {own}"


START_PAGE = """
quarkus:
  http:
    port: 8080
quarkus.log.level: INFO
startpunkt:
  title: Home
  realtime:
    enabled: false
    heartbeatInterval: 30s
    eventDebounceMs: 500
    other: 1
"""


def test_a_start_page_configures_its_stream(write):
    loaded = load(config=write("application.yaml", START_PAGE))
    assert loaded.settings == Settings(
        sse_enabled=False, heartbeat_seconds=30, event_debounce_ms=500
    )
    assert (
        loaded.sources["heartbeat_seconds"]
        == "application.yaml: startpunkt.realtime.heartbeatInterval"
    )


@pytest.mark.parametrize("own", ["triocast:\n  heartbeat_seconds: 9\n", "heartbeat_seconds: 9\n"])
@pytest.mark.parametrize("first", [True, False])
def test_own_names_outweigh_the_start_pages(write, own, first):
    text = own + START_PAGE if first else START_PAGE + own
    loaded = load(config=write("application.yaml", text))
    assert loaded.settings.heartbeat_seconds == 9
    assert not loaded.settings.sse_enabled


def test_a_start_page_without_realtime(write):
    assert load(config=write("a.yaml", "startpunkt:\n  title: x\n")).settings == Settings()
    assert load(config=write("a.yaml", "startpunkt:\n")).settings == Settings()


def test_a_misspelt_setting_beside_a_start_page_is_told(write):
    problem = only_problem_of(load, config=write("a.yaml", START_PAGE + "sse_enabeld: true\n"))
    assert (problem.name, problem.source) == ("sse_enabeld", "a.yaml: sse_enabeld")


def test_a_table_of_our_own_in_toml(write):
    loaded = load(config=write("x.toml", '[triocast]\nport = 5\nallowed_origins = ["http://a"]\n'))
    assert loaded.settings == Settings(port=5, allowed_origins=("http://a",))
    assert loaded.sources["port"] == "x.toml: triocast.port"


def test_a_setting_stands_once_in_a_file(write):
    problem = only_problem_of(load, config=write("x.yaml", "port: 1\ntriocast:\n  port: 2\n"))
    assert problem.source == "x.yaml: port and triocast.port"
    assert problem.fix == "remove one of them"


def test_variables_that_kubernetes_makes_are_no_settings():
    environ = {
        "TRIOCAST_PORT": "tcp://10.0.0.7:8000",
        "TRIOCAST_SERVICE_HOST": "10.0.0.7",
        "TRIOCAST_SERVICE_PORT": "8000",
        "TRIOCAST_SERVICE_PORT_HTTP": "8000",
        "TRIOCAST_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "TRIOCAST_PORT_8000_TCP_ADDR": "10.0.0.7",
        "TRIOCAST_HEADLESS_SERVICE_HOST": "10.0.0.8",
        "TRIOCAST_HEADLESS_PORT": "tcp://10.0.0.8:80",
    }
    assert load(environ).settings == Settings()


# What is wrong with a source


def test_an_unknown_variable_is_refused_with_a_suggestion():
    problem = only_problem_of(load, {"TRIOCAST_MAX_CONECTIONS": "1"})
    assert problem.name == "TRIOCAST_MAX_CONECTIONS"
    assert problem.source == "environment"
    assert "did you mean TRIOCAST_MAX_CONNECTIONS?" in problem.fix


@pytest.mark.parametrize("prefix", ["", "[triocast]\n"])
def test_an_unknown_key_is_refused_with_a_suggestion(write, prefix):
    problem = only_problem_of(load, config=write("x.toml", prefix + "max-connection = 1\n"))
    assert problem.name == "max-connection"
    assert "did you mean max_connections?" in problem.fix


def test_an_unknown_key_like_no_other(write):
    problem = only_problem_of(load, config=write("x.yaml", "zzzzzz: 1\n"))
    assert problem.fix == "remove it (triocast config lists all)"


def test_another_programs_tree_without_a_start_page_is_refused(write):
    problem = only_problem_of(load, config=write("x.yaml", "quarkus:\n  port: 1\n"))
    assert problem.name == "quarkus"


def test_an_unknown_override_is_refused():
    problem = only_problem_of(load, prot=1)
    assert problem.source == "command line --prot"
    assert "did you mean port?" in problem.fix


@pytest.mark.parametrize(
    ("name", "raw", "problem", "fix"),
    [
        ("port", "80a", "'80a' is not a whole number", "digits only"),
        ("port", "1.5", "'1.5' is not a whole number", "digits only"),
        ("port", "", "is empty", "leave it out"),
        ("token_key", " ", "is empty", "leave it out"),
        ("sse_enabled", "maybe", "'maybe' is neither true nor false", "yes, no, on, off"),
        ("heartbeat_seconds", "soon", "'soon' is not a duration", "500ms"),
        ("log_level", "loud", "'loud' is not known", "debug, info, warning, error"),
    ],
)
def test_a_wrong_variable_is_told_by_name(name, raw, problem, fix):
    variable = f"TRIOCAST_{name.upper()}"
    found = only_problem_of(load, {variable: raw})
    assert (found.name, found.source) == (name, f"environment variable {variable}")
    assert problem in found.problem
    assert fix in found.fix


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("port: true", "True is not a whole number"),
        ("port: 1.5", "1.5 is not a whole number"),
        ("port:", "is empty"),
        ("host: 5", "is not text"),
        ("heartbeat_seconds: true", "'True' is not a duration"),
        ("allowed_origins: {a: b}", "is not a list of texts"),
        ("allowed_origins: [1]", "is not a list of texts"),
        ("sse_enabled: 2", "2 is neither true nor false"),
        ("triocast: 5", "is not a table"),
    ],
)
def test_a_wrong_value_in_a_file_is_told(write, line, problem):
    found = only_problem_of(load, config=write("x.yaml", line))
    assert problem in found.problem
    assert found.source == "x.yaml: " + line.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("x.ini", "port=1", "is neither TOML nor YAML by its name"),
        ("x.toml", "port: 1", "cannot be understood"),
        ("x.toml", "port = 1\nport = 2", "cannot be understood"),
        ("x.yaml", "a: [", "(at line 1)"),
        ("x.yaml", "- 1", "is not a mapping"),
        ("x.yaml", "port: 2026-13-01", "cannot be understood"),
        ("x.yaml", "a: 1\n---\nb: 2", "cannot be understood"),
        ("x.yaml", "[" * 10_000, "cannot be understood"),
    ],
)
def test_a_file_that_cannot_be_read(write, name, text, problem):
    found = only_problem_of(load, config=write(name, text))
    assert (found.name, found.source) == ("config", "command line --config")
    assert problem in found.problem


def test_a_file_that_is_not_there():
    found = only_problem_of(load, {"TRIOCAST_CONFIG": "/nowhere/x.toml"})
    assert found.source == "environment variable TRIOCAST_CONFIG"
    assert "'/nowhere/x.toml' cannot be read: No such file" in found.problem


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b'host = "\xff"')
    assert "utf-8" in only_problem_of(load, config=path).problem


def test_an_empty_file_is_fine(write):
    assert load(config=write("x.yaml", "# nothing\n")).settings == Settings()
    assert load(config=write("x.toml", "")).settings == Settings()


def test_problems_of_all_sources_are_told_together(write):
    config = write("x.toml", "prot = 1\nmax_connections = 0\n")
    environ = {"TRIOCAST_LOG_LEVL": "x", "TRIOCAST_LOG_FORMAT": "xml", "TRIOCAST_PORT": "x"}
    with pytest.raises(SettingsError) as caught:
        load(environ, config)
    text = str(caught.value)
    assert text.startswith("5 settings are wrong:\n")
    assert (
        "  max_connections (from x.toml: max_connections): 0 is out of range\n"
        "    Fix: give a whole number at least 1" in text
    )
    for name in ("prot", "TRIOCAST_LOG_LEVL", "log_format", "port"):
        assert f"\n  {name} (from " in text


def test_a_contradiction_names_the_sources_of_both():
    problem = only_problem_of(load, {"TRIOCAST_OUTBOX_BYTES": "100"})
    assert problem.source == (
        "default; outbox_bytes from environment variable TRIOCAST_OUTBOX_BYTES"
    )


@pytest.mark.parametrize(
    "text", ["token_key: 1234567\n", "token_key: *s3cr3ts3cr3t\n", "token_key: !s3cr3ts3cr3t x\n"]
)
def test_no_error_shows_a_secret(write, text):
    with pytest.raises(SettingsError) as caught:
        load(config=write("x.yaml", text))
    assert "1234567" not in str(caught.value)
    assert "s3cr3ts3cr3t" not in str(caught.value)


def test_no_error_shows_the_password_of_an_engine():
    with pytest.raises(SettingsError) as caught:
        load({"TRIOCAST_ENGINE": "redis://user:s3cr3t@host/0", "TRIOCAST_TOKEN_KEY": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)
    assert "redis://********@host/0" in str(caught.value)


def test_no_error_shows_the_password_in_an_address():
    with pytest.raises(SettingsError) as caught:
        load({"TRIOCAST_TURN_SERVERS": "turn:user:s3cr3t@host", "TRIOCAST_TURN_SECRET": "s3cr3t"})
    assert "without a user" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25", 25),
        ("0.5", 0.5),
        ("30s", 30),
        ("500ms", 0.5),
        ("1m", 60),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        (" 1h 30m ", 5400),
        ("1M", 60),
        ("PT30S", 30),
        ("PT1M30.5S", 90.5),
        ("pt1h", 3600),
        ("P1DT1H", 90000),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1e3", "nan", "inf", "1x", "P", "PT", "P1", "1:30", "1s2", "٣", "1.s"]
)
def test_no_durations(text):
    with pytest.raises(UnreadableValue, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.endswith("_seconds")])
def test_durations_are_taken_from_every_source(write, name):
    assert getattr(load({f"TRIOCAST_{name.upper()}": "2m"}).settings, name) == 120
    assert getattr(load(config=write("x.yaml", f"{name}: PT2M")).settings, name) == 120
    assert getattr(load(config=write("x.toml", f"{name} = 120")).settings, name) == 120
    assert getattr(load(**{name: "120s"}).settings, name) == 120


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", " On "])
@pytest.mark.parametrize("opposite", [False, True])
def test_booleans(word, opposite):
    no = {"true": "false", "1": "0", "yes": "no", "on": "off"}[word.strip().lower()]
    assert load({"TRIOCAST_TAKEOVER": no if opposite else word}).settings.takeover is not opposite


def test_lists_are_separated_by_commas_only():
    loaded = load({"TRIOCAST_ALLOWED_ORIGINS": "https://a:8443, http://b,"})
    assert loaded.settings.allowed_origins == ("https://a:8443", "http://b")
    assert load(allowed_origins="http://a,http://b").settings.allowed_origins == (
        "http://a",
        "http://b",
    )
    assert load({"TRIOCAST_ALLOWED_ORIGINS": ""}).settings.allowed_origins == ()


def test_a_secret_is_taken_byte_for_byte():
    assert load({"TRIOCAST_TOKEN_KEY": f" {KEY}\n"}).settings.token_key == f" {KEY}\n"


def test_a_file_can_leave_something_unset(write):
    assert load(config=write("x.yaml", "token_key: null\ntls_key: ~\n")).settings == Settings()


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: text == text.strip()
)
sizes = st.integers(70_000, 10**12)
seconds = st.floats(0.001, 86_400, allow_nan=False)
any_settings = st.builds(
    Settings,
    host=st.sampled_from(["127.0.0.1", "::1", "a.example"]),
    port=st.integers(0, 65535),
    token_key=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=32).filter(
        str.strip
    ),
    token_audience=st.none() | texts,
    allowed_origins=st.lists(
        st.sampled_from(["*", "https://a.example", "http://[::1]:81"]), unique=True
    ).map(tuple),
    takeover=st.booleans(),
    outbox_bytes=sizes,
    inbox_bytes=sizes,
    max_body_bytes=sizes,
    heartbeat_seconds=seconds,
    drain_seconds=seconds,
    namespaces=st.dictionaries(
        st.sampled_from(["chat", "default", "$all", "a-b_c"]),
        st.builds(Namespace, compress=st.booleans()),
    ).map(Namespaces),
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
)


@given(any_settings)
@example(Settings(token_key="\\\"'# \x7f" + KEY))
def test_what_is_written_as_toml_is_read_back(tmp_path_factory, settings):
    path = tmp_path_factory.mktemp("written") / "triocast.toml"
    given = {name: value for name in SETTINGS if (value := getattr(settings, name)) is not None}
    path.write_text("".join(f"{name} = {write_value(value)}\n" for name, value in given.items()))
    assert tomllib.loads(path.read_text()).keys() == given.keys()
    assert load(config=path).settings == settings


@given(any_settings)
def test_text_from_every_source_reads_alike(tmp_path_factory, settings):
    as_text = {
        name: ",".join(value) if isinstance(value, tuple) else str(value)
        for name in SETTINGS
        if name != "namespaces" and (value := getattr(settings, name)) is not None
    }
    as_text["namespaces"] = json.dumps(
        {name: attrs.asdict(options) for name, options in settings.namespaces.items()}
    )
    path = tmp_path_factory.mktemp("written") / "triocast.yaml"
    path.write_text(yaml.safe_dump(as_text, allow_unicode=True))
    environ = {f"TRIOCAST_{name.upper()}": text for name, text in as_text.items()}
    assert load(environ).settings == settings
    assert load(**as_text).settings == settings
    assert load(config=path).settings == settings
