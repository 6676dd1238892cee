"""Settings are closed by default, checked as a whole, and never show a secret."""

import inspect
from pathlib import Path

import attrs
import pytest

from triocast.settings.model import SETTINGS, Settings, check_bind
from triocast.settings.problems import SettingsError

KEY = "k" * 48


def problems_of(**values):
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    return caught.value.problems


def only_problem_of(**values):
    (problem,) = problems_of(**values)
    return problem


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


def test_settings_are_given_by_name_and_listed_in_the_order_of_the_class():
    assert list(SETTINGS) == list(inspect.signature(Settings).parameters)
    with pytest.raises(TypeError):
        Settings("127.0.0.1")


# For each setting a value that its own check or kind refuses; what a check says is its own test.
@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("host", "http://x", "neither an IP address nor a host name"),
        ("port", -1, "-1 is out of range"),
        ("port", 65536, "65536 is out of range"),
        ("port", "80", "a str is not allowed here"),
        ("engine", "redis://host", "no engine is known"),
        ("tls_certificate", Path("/nowhere"), "there is no file '/nowhere'"),
        ("tls_key", Path("/nowhere"), "there is no file '/nowhere'"),
        ("token_key", "k" * 31, "has 31 bytes"),
        ("token_audience", 5, "a int is not allowed here"),
        ("token_in_query", 1, "a int is not allowed here"),
        ("insecure_anonymous", 1, "a int is not allowed here"),
        ("allowed_origins", ("https://a/",), "not an origin"),
        ("allowed_origins", ["https://a"], "a list is not allowed here"),
        ("websocket_enabled", 1, "a int is not allowed here"),
        ("sse_enabled", 1, "a int is not allowed here"),
        ("signaling_enabled", 1, "a int is not allowed here"),
        ("peerjs_enabled", 1, "a int is not allowed here"),
        ("peerjs_path", "/a b", "'/a b/' is no path"),
        ("peerjs_discovery", 1, "a int is not allowed here"),
        ("takeover", 1, "a int is not allowed here"),
        ("max_connections", 0, "0 is out of range"),
        ("max_channels_per_connection", 0, "0 is out of range"),
        ("max_subscriptions", 0, "0 is out of range"),
        ("max_event_bytes", 0, "0 is out of range"),
        ("max_body_bytes", 0, "0 is out of range"),
        ("max_message_bytes", 0, "0 is out of range"),
        ("max_header_bytes", 1_023, "1023 is out of range"),
        ("max_json_depth", 0, "0 is out of range"),
        ("max_json_depth", 501, "501 is out of range"),
        ("outbox_bytes", 0, "0 is out of range"),
        ("inbox_bytes", 0, "0 is out of range"),
        ("history_events", -1, "-1 is out of range"),
        ("history_bytes", -1, "-1 is out of range"),
        ("history_seconds", -1, "-1 seconds is out of range"),
        ("signaling_peers_per_room", 1_001, "1001 is out of range"),
        ("signaling_grace_seconds", 0, "0 seconds is out of range"),
        ("signaling_relay_data", 1, "a int is not allowed here"),
        ("stun_servers", ("turn:a",), "'turn:a' is not the address of a STUN server"),
        ("turn_servers", ("stun:a",), "'stun:a' is not the address of a TURN server"),
        ("turn_secret", "s" * 15, "has 15 bytes"),
        ("turn_seconds", 59, "59 seconds is out of range"),
        ("max_documents", -1, "-1 is out of range"),
        ("idempotency_seconds", -1, "-1 seconds is out of range"),
        ("durability", "none", "'none' is not known"),
        ("heartbeat_seconds", 0, "0 seconds is out of range"),
        ("handshake_seconds", 0, "0 seconds is out of range"),
        ("keep_alive_seconds", 0, "0 seconds is out of range"),
        ("publish_wait_seconds", -1, "-1 seconds is out of range"),
        ("drain_seconds", 90_000, "90000 seconds is out of range"),
        ("presence_grace_seconds", -1, "-1 seconds is out of range"),
        ("event_debounce_ms", -1, "-1 is out of range"),
        ("event_debounce_ms", 86_400_001, "86400001 is out of range"),
        ("namespaces", {}, "a dict is not allowed here"),
        ("log_level", "loud", "'loud' is not known"),
        ("log_format", "xml", "'xml' is not known"),
    ],
)
def test_every_setting_refuses_what_it_cannot_be(name, value, problem):
    found = problems_of(**{name: value})[0]
    assert (found.name, found.source) == (name, "argument")
    assert problem in found.problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("max_event_bytes", 1),
        ("max_header_bytes", 1_024),
        ("history_events", 0),
        ("history_bytes", 0),
        ("history_seconds", 3_660 * 86_400),
        ("signaling_peers_per_room", 1),
        ("publish_wait_seconds", 0),
        ("drain_seconds", 0),
        ("presence_grace_seconds", 0),
        ("idempotency_seconds", 0),
        ("heartbeat_seconds", 1),
        ("durability", "process"),
    ],
)
def test_a_value_at_its_bound_is_allowed(name, value):
    assert getattr(Settings(**{name: value}), name) == value


def test_values_are_kept_in_their_normal_form():
    settings = Settings(allowed_origins=("HTTPS://A.example:443",), peerjs_path="chat")
    assert settings.allowed_origins == ("https://a.example",)
    assert settings.peerjs_path == "/chat/"


# What contradicts each other.


@pytest.mark.parametrize("bound", ["outbox_bytes", "inbox_bytes", "max_body_bytes"])
def test_the_largest_event_fits_everywhere(bound):
    Settings(max_event_bytes=5000, **{bound: 5000})
    problem = only_problem_of(max_event_bytes=5001, **{bound: 5000})
    assert problem.name == "max_event_bytes"
    assert f"{bound} = 5000" in problem.problem
    assert f"raise {bound}" in problem.fix
    assert problem.related == (bound,)


def test_any_origin_needs_a_key():
    problem = only_problem_of(allowed_origins=("*",))
    assert problem.name == "allowed_origins"
    assert "every web page" in problem.problem
    assert "set token_key" in problem.fix
    assert Settings(allowed_origins=("*",), token_key=KEY).allowed_origins == ("*",)


def test_turn_servers_need_the_secret_they_share():
    problem = only_problem_of(turn_servers=("turn:a",))
    assert problem.name == "turn_servers"
    assert "without credentials" in problem.problem
    assert "set turn_secret" in problem.fix
    assert Settings(turn_servers=("turn:a",), turn_secret=KEY).turn_servers == ("turn:a",)


def test_a_certificate_and_its_key_turn_tls_on(pem):
    settings = Settings(tls_certificate=pem / "cert.pem", tls_key=pem / "key.pem")
    assert settings.tls_key == pem / "key.pem"


@pytest.mark.parametrize(
    ("given", "missing"), [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")]
)
def test_certificate_and_key_come_together(pem, given, missing):
    problem = only_problem_of(**{given: pem / "cert.pem"})
    assert problem.name == given
    assert problem.problem == f"is set, but {missing} is not"
    assert f"set {missing} too" in problem.fix
    assert problem.related == (missing,)


def test_certificate_and_key_belong_together(pem):
    problem = only_problem_of(tls_certificate=pem / "cert.pem", tls_key=pem / "other.pem")
    assert (problem.name, problem.related) == ("tls_certificate", ("tls_key",))
    assert "MISMATCH" in problem.problem


def test_all_problems_are_told_together():
    problems = problems_of(port=-1, log_level="loud", max_event_bytes=10**9)
    names = [problem.name for problem in problems]
    assert names == ["port", "log_level", *["max_event_bytes"] * 3]


def test_values_of_the_wrong_kind_are_not_compared_with_others():
    assert only_problem_of(max_event_bytes="many").name == "max_event_bytes"


# Secrets.


@pytest.mark.parametrize("name", ["token_key", "turn_secret"])
def test_a_secret_is_masked(name):
    secrets = [setting for setting, known in SETTINGS.items() if known.secret]
    assert name in secrets
    assert KEY not in repr(Settings(**{name: KEY}))
    assert f"{name}='********'" in repr(Settings(**{name: KEY}))
    assert f"{name}=None" in repr(Settings())


# Where to listen.


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_open_to_all(host):
    check_bind(Settings(host=host))


def test_several_hosts_can_be_listed():
    assert Settings(host="127.0.0.1,::1").hosts == ("127.0.0.1", "::1")
    check_bind(Settings(host="127.0.0.1,::1"))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.1", "example.com", "127.0.0.1,::", "::1,10.0.0.1"]
)
def test_elsewhere_needs_a_key_or_the_word_insecure(host):
    with pytest.raises(SettingsError) as caught:
        check_bind(Settings(host=host), "command line --host")
    (problem,) = caught.value.problems
    assert problem.name == "host"
    assert problem.source == "command line --host"
    for remedy in ("TRIOCAST_TOKEN_KEY", "127.0.0.1", "insecure_anonymous"):
        assert remedy in problem.fix
    check_bind(Settings(host=host, token_key=KEY))
    check_bind(Settings(host=host, insecure_anonymous=True))
