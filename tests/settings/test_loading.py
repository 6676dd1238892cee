"""Settings come from defaults, a file, the environment and the command line, and say from where."""

import json
import tomllib

import attrs
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.settings.loading import load_settings
from triocast.settings.model import SETTINGS, Settings
from triocast.settings.namespaces import Namespace, Namespaces
from triocast.settings.problems import SettingsError
from triocast.settings.values import write_value

KEY = "k" * 48


def load(environ=None, config=None, **overrides):
    return load_settings(config_file=config, environ=environ or {}, overrides=overrides)


def problems_of(*args, **kwargs):
    with pytest.raises(SettingsError) as caught:
        load(*args, **kwargs)
    return caught.value.problems


def only_problem_of(*args, **kwargs):
    (problem,) = problems_of(*args, **kwargs)
    return problem


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


def test_other_defaults_take_the_place_of_ours_and_are_outweighed():
    defaults = {"engine": "sqlite:///events.db", "port": 1}
    loaded = load_settings(environ={}, overrides={"port": 2}, defaults=defaults)
    assert loaded.settings == Settings(engine="sqlite:///events.db", port=2)
    assert loaded.sources["engine"] == "default"


def test_an_option_is_named_as_on_the_command_line():
    assert load(max_connections="5").sources["max_connections"] == "command line --max-connections"


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
def test_names_without_our_prefix_are_read_but_weigh_less(variable, raw, name, value):
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


@pytest.mark.parametrize("tree", ["", "5", "{title: x}", "{realtime: 5}"])
def test_a_start_page_need_not_configure_its_stream(write, tree):
    assert load(config=write("a.yaml", f"startpunkt: {tree}\n")).settings == Settings()


def test_a_misspelt_setting_beside_a_start_page_is_told(write):
    problem = only_problem_of(config=write("a.yaml", START_PAGE + "sse_enabeld: true\n"))
    assert (problem.name, problem.source) == ("sse_enabeld", "a.yaml: sse_enabeld")


def test_settings_may_stand_in_a_table_of_our_own(write):
    loaded = load(config=write("x.toml", '[triocast]\nport = 5\nallowed_origins = ["http://a"]\n'))
    assert loaded.settings == Settings(port=5, allowed_origins=("http://a",))
    assert loaded.sources["port"] == "x.toml: triocast.port"


def test_a_setting_stands_once_in_a_file(write):
    problem = only_problem_of(config=write("x.yaml", "port: 1\ntriocast:\n  port: 2\n"))
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


def test_files_in_a_file_are_relative_to_it(pem):
    config = pem / "triocast.toml"
    config.write_text('tls_certificate = "cert.pem"\ntls_key = "key.pem"\n')
    assert load(config=config).settings.tls_certificate == pem / "cert.pem"


def test_a_file_in_the_home_folder_is_found_with_those_relative_to_it(pem, monkeypatch):
    monkeypatch.setenv("HOME", str(pem))
    (pem / "home.toml").write_text('tls_certificate = "cert.pem"\ntls_key = "~/key.pem"\n')
    settings = load({"TRIOCAST_CONFIG": "~/home.toml"}).settings
    assert (settings.tls_certificate, settings.tls_key) == (pem / "cert.pem", pem / "key.pem")


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.endswith("_seconds")])
def test_durations_are_taken_from_every_source(write, name):
    assert getattr(load({f"TRIOCAST_{name.upper()}": "2m"}).settings, name) == 120
    assert getattr(load(config=write("x.yaml", f"{name}: PT2M")).settings, name) == 120
    assert getattr(load(config=write("x.toml", f"{name} = 120")).settings, name) == 120
    assert getattr(load(**{name: "120s"}).settings, name) == 120


def test_a_file_can_leave_something_unset(write):
    assert load(config=write("x.yaml", "token_key: null\ntls_key: ~\n")).settings == Settings()


# What is wrong with a source


def test_an_unknown_variable_is_refused_with_a_suggestion():
    problem = only_problem_of({"TRIOCAST_MAX_CONECTIONS": "1"})
    assert problem.name == "TRIOCAST_MAX_CONECTIONS"
    assert problem.source == "environment"
    assert "did you mean TRIOCAST_MAX_CONNECTIONS?" in problem.fix


@pytest.mark.parametrize("prefix", ["", "[triocast]\n"])
def test_an_unknown_key_is_refused_with_a_suggestion(write, prefix):
    problem = only_problem_of(config=write("x.toml", prefix + "max-connection = 1\n"))
    assert problem.name == "max-connection"
    assert "did you mean max_connections?" in problem.fix


def test_an_unknown_key_like_no_other_is_to_be_removed(write):
    problem = only_problem_of(config=write("x.yaml", "zzzzzz: 1\n"))
    assert problem.fix == "remove it (triocast config lists all)"


def test_a_key_that_is_no_text_is_unknown(write):
    assert only_problem_of(config=write("x.yaml", "on: 1\n")).name == "True"


def test_another_programs_tree_without_a_start_page_is_refused(write):
    problem = only_problem_of(config=write("x.yaml", "quarkus:\n  port: 1\n"))
    assert problem.name == "quarkus"


def test_an_unknown_override_is_refused():
    problem = only_problem_of(prot=1)
    assert problem.source == "command line --prot"
    assert "did you mean port?" in problem.fix


@pytest.mark.parametrize(
    ("name", "raw", "problem", "fix"),
    [
        ("port", "80a", "'80a' is not a whole number", "digits only"),
        ("token_key", " ", "is empty", "leave it out"),
        ("log_level", "loud", "'loud' is not known", "debug, info, warning, error"),
    ],
)
def test_a_wrong_variable_is_told_by_name(name, raw, problem, fix):
    variable = f"TRIOCAST_{name.upper()}"
    found = only_problem_of({variable: raw})
    assert (found.name, found.source) == (name, f"environment variable {variable}")
    assert problem in found.problem
    assert fix in found.fix


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("port: true", "True is not a whole number"),
        ("port:", "is empty"),
        ("port: 70000", "70000 is out of range"),
        ("triocast: 5", "is not a table"),
    ],
)
def test_a_wrong_value_in_a_file_is_told_by_its_place(write, line, problem):
    found = only_problem_of(config=write("x.yaml", line))
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
        ("x.yaml", "[" * 1_000, "cannot be understood"),
    ],
)
def test_a_file_that_cannot_be_understood_is_told_with_the_reason(write, name, text, problem):
    found = only_problem_of(config=write(name, text))
    assert (found.name, found.source) == ("config", "command line --config")
    assert problem in found.problem


def test_a_file_that_is_not_there_is_told_with_who_named_it():
    found = only_problem_of({"TRIOCAST_CONFIG": "/nowhere/x.toml"})
    assert found.source == "environment variable TRIOCAST_CONFIG"
    assert "'/nowhere/x.toml' cannot be read: No such file" in found.problem


def test_a_file_of_an_unknown_user_is_refused():
    found = only_problem_of({"TRIOCAST_CONFIG": "~nobody-here/x.toml"})
    assert found.source == "environment variable TRIOCAST_CONFIG"
    assert "no home folder is known" in found.problem


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b'host = "\xff"')
    assert "utf-8" in only_problem_of(config=path).problem


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
    problem = only_problem_of({"TRIOCAST_OUTBOX_BYTES": "100"})
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


def test_no_error_shows_a_password_in_an_address():
    environ = {
        "TRIOCAST_ENGINE": "redis://user:s3cr3t@host/0",
        "TRIOCAST_TURN_SERVERS": "turn:user:s3cr3t@host",
        "TRIOCAST_TOKEN_KEY": "s3cr3t",
        "TRIOCAST_TURN_SECRET": "s3cr3t",
    }
    problems = problems_of(environ)
    assert {problem.name for problem in problems} == {
        "engine",
        "token_key",
        "turn_servers",
        "turn_secret",
    }
    assert "s3cr3t" not in str(SettingsError(*problems))


def test_loaded_settings_show_no_secret():
    assert KEY not in repr(load(token_key=KEY))


# Round trips


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
