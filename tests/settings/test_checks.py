"""Checks of single values: each accepts a value, or says what is wrong with it and the fix."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from triocast.settings.checks import (
    age_or_zero,
    between,
    check_engine,
    check_host,
    check_hosts,
    check_ice_servers,
    check_key_pair,
    check_origins,
    check_peerjs_path,
    check_readable,
    check_token_key,
    check_turn_secret,
    credential_lifetime,
    duration_or_zero,
    is_loopback,
    normal_origins,
    normal_path,
    one_of,
    positive_duration,
    unless_none,
)

DAY = 86_400


def is_refused(finding, problem, fix):
    """Whether a check found this problem and names this fix."""
    return finding is not None and problem in finding[0] and fix in finding[1]


# Numbers and words.


@given(st.integers(-5, 15), st.integers(0, 5), st.none() | st.integers(5, 10))
def test_a_number_is_between_its_bounds(value, low, high):
    finding = between(low, high)(value)
    if low <= value and (high is None or value <= high):
        assert finding is None
    else:
        fix = f"at least {low}" if high is None else f"from {low} to {high}"
        assert finding == (f"{value} is out of range", f"give a whole number {fix}")


@pytest.mark.parametrize(
    ("check", "low", "high", "fix"),
    [
        (positive_duration, 0.001, DAY, "from 1ms to 24h"),
        (duration_or_zero, 0, DAY, "from 0 to 24h"),
        (credential_lifetime, 60, 7 * DAY, "from 1 minute to 7 days"),
        (age_or_zero, 0, 3_660 * DAY, "from 0 to 3660 days"),
    ],
)
def test_a_duration_is_between_its_bounds(check, low, high, fix):
    assert check(low) is None
    assert check(high) is None
    for value in (low - 0.001, high + 0.001, float("nan"), float("inf"), float("-inf")):
        assert is_refused(check(value), f"{value} seconds is out of range", fix)


def test_a_word_is_one_of_those_known():
    check = one_of("text", "json")
    assert check("json") is None
    assert check("xml") == ("'xml' is not known", "give one of text, json")


def test_a_value_that_may_be_missing_is_checked_only_if_it_is_there():
    check = unless_none(between(1))
    assert check(None) is None
    assert check(1) is None
    assert is_refused(check(0), "0 is out of range", "at least 1")


# Where to listen.


@pytest.mark.parametrize("host", ["a", "node_1", "realtime.example.com.", "0:0::1", "fe80::1%eth0"])
def test_a_host_is_a_name_or_an_address(host):
    assert check_host(host) is None


@given(st.ip_addresses())
def test_any_ip_address_is_a_host(address):
    assert check_host(str(address)) is None


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "a..b", "-a", "a-", "a b", "a\n", "ü", "[::1]", "http://x", "x:80", "x/y", "::x",
        "a" * 64, ".".join(["a" * 50] * 6),
    ],
)  # fmt: skip
def test_what_cannot_be_listened_on_is_no_host(host):
    problem = "neither an IP address nor a host name"
    assert is_refused(check_host(host), problem, "without scheme, port or brackets")


def test_each_of_several_hosts_is_checked():
    assert check_hosts("127.0.0.1,::1,a") is None
    for hosts in ("127.0.0.1,", "a,a b", "0.0.0.0,::x"):
        assert is_refused(check_hosts(hosts), "neither an IP address", "without scheme")


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost."])
def test_localhost_is_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "example.com", "127.0.0.1.example.com"])
def test_another_name_is_not_loopback(host):
    assert not is_loopback(host)


@given(st.ip_addresses())
def test_only_addresses_of_this_machine_are_loopback(address):
    # Python 3.13 takes an IPv6 address that stands for 127.0.0.1 for loopback, 3.11 does not.
    assume(getattr(address, "ipv4_mapped", None) is None)
    network = ipaddress.ip_network("127.0.0.0/8" if address.version == 4 else "::1/128")
    assert is_loopback(str(address)) is (address in network)


# The engine.


@pytest.mark.parametrize(
    "url", ["memory://", "sqlite:///events.db", "sqlite:////var/lib/triocast/events.db"]
)
def test_an_engine_is_known_by_its_scheme(url):
    assert check_engine(url) is None


@pytest.mark.parametrize(
    ("url", "problem", "fix"),
    [
        ("redis://host", "no engine is known for 'redis://host'", "memory://, sqlite://"),
        ("memory", "no engine is known for 'memory'", "supports memory://"),
        ("memory:", "no engine is known for 'memory:'", "supports memory://"),
        ("MEMORY://", "no engine is known for 'MEMORY://'", "supports memory://"),
        ("memory://x", "takes nothing behind it", "write memory://"),
        ("sqlite://", "names no file", "write sqlite:///events.db"),
        ("sqlite:///", "names no file", "write sqlite:///events.db"),
        ("sqlite://events.db", "lacks a slash", "write sqlite:///events.db"),
    ],
)
def test_an_engine_that_cannot_be_is_told_with_what_to_write(url, problem, fix):
    assert is_refused(check_engine(url), problem, fix)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:s3cr3t@host/0", "redis://********@host/0"),
        ("redis://user:s3c/r3t@host/0", "redis://********@host/0"),
        ("redis://user:s3c@r3t@host/0", "redis://********@host/0"),
        ("redis:user:s3cr3t@host/0", "********@host/0"),
        ("user:s3cr3t@host", "********@host"),
    ],
)
def test_the_password_of_an_engine_is_not_shown(url, shown):
    assert check_engine(url)[0] == f"no engine is known for {shown!r}"


# Secrets.


@pytest.mark.parametrize(
    ("check", "least", "what"),
    [(check_token_key, 32, "the key"), (check_turn_secret, 16, "the secret")],
)
def test_a_secret_has_enough_bytes(check, least, what):
    assert check(None) is None
    assert check("k" * least) is None
    assert check("ü" * (least // 2)) is None
    short = "k" * (least - 1)
    finding = check(short)
    assert is_refused(finding, f"{what} has {least - 1} bytes", f"at least {least} bytes")
    assert "secrets.token_urlsafe(48)" in finding[1]
    assert short not in "".join(finding)


# Origins.


@pytest.mark.parametrize(
    "origin",
    [
        "*", "https://app.example.com", "http://localhost:8080", "http://[::1]:81", "app://a_b",
        "null", "file://", "app://.", "capacitor://localhost",
    ],
)  # fmt: skip
def test_an_origin_is_a_scheme_a_host_and_perhaps_a_port_or_what_apps_have(origin):
    assert check_origins((origin,)) is None


@pytest.mark.parametrize(
    "origin",
    [
        "", "NULL", "a.example", "//a", "https://", "https://.", "app://", "https://*.a",
        "https://a/", "https://a/b",
        "https://a?", "https://a?b", "https://a#", "https://u@a", "https://a:", "https://a:x",
        "https://a:99999", "https://[::x]", "https://[a]", "https://a\tb", "https://a\\b", "a b",
    ],
)  # fmt: skip
def test_what_no_browser_sends_is_no_origin(origin):
    finding = check_origins(("https://good.example", origin))
    assert is_refused(finding, f"{origin!r} is not an origin", "without a path or wildcard")


@pytest.mark.parametrize(
    ("origin", "normal"),
    [
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://a:80", "https://a:80"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
        ("https://a/b", "https://a/b"),
        ("FILE://", "file://"),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(origin, normal):
    assert normal_origins((origin,)) == (normal,)
    assert normal_origins((normal,)) == (normal,)


@pytest.mark.parametrize("value", [["https://A"], "https://A", (1,), None])
def test_what_is_no_list_of_origins_is_left_for_the_check_of_its_kind(value):
    assert normal_origins(value) is value


# The path of PeerJS.


@pytest.mark.parametrize(
    ("path", "normal"),
    [("", "/"), ("/", "/"), ("chat", "/chat/"), ("/chat", "/chat/"), ("//a/b.c//", "/a/b.c/")],
)
def test_a_path_begins_and_ends_with_a_slash(path, normal):
    assert normal_path(path) == normal
    assert check_peerjs_path(normal) is None


def test_what_is_no_path_is_left_for_the_check_of_its_kind():
    assert normal_path(5) == 5


@pytest.mark.parametrize("path", ["/a b/", "/a/../b/", "/.a/", "/<key>/", "/a//b/", "/a" * 9 + "/"])
def test_a_path_has_plain_names_and_few_of_them(path):
    assert is_refused(check_peerjs_path(path), f"{path!r} is no path", "letters, digits")


@pytest.mark.parametrize("path", ["/realtime/", "/realtime/chat/"])
def test_a_path_does_not_hide_the_servers_own(path):
    assert is_refused(check_peerjs_path(path), "is Triocast's own", "outside of /realtime")


def test_a_path_may_resemble_the_servers_own():
    assert check_peerjs_path("/realtimes/") is None


# ICE servers.


@pytest.mark.parametrize(
    ("kind", "urls"),
    [
        ("stun", ("stun:a.", "stuns:a:1")),
        (
            "turn",
            (
                "turn:turn.example.com",
                "turn:turn.example.com:3478?transport=udp",
                "turns:10.0.0.1:443?transport=tcp",
                "turn:[2001:db8::1]:3478",
                "turns:[::1]",
                "turn:coturn_1:65535",
            ),
        ),
    ],
)
def test_an_address_of_an_ice_server_is_one_that_browsers_take(kind, urls):
    assert check_ice_servers(kind)(urls) is None


@pytest.mark.parametrize(
    "url",
    [
        "turn:", "turn:?transport=udp", "turn::3478", "turn:a:", "turn:a:0", "turn:a:99999",
        "turn:a:x", "turn:a:1:2", "turn:a/b", "turn:a#b", "turn:a b", "turn:a\n", "turn:ä",
        "turn:::1", "turn:[::1", "turn:[::1]x", "turn:[a]", "turn:[fe80::1%eth0]", "turn:a?",
        "turn:a?x=y", "turn:a?transport=", "turn:a?transport=sctp", "turn:a?transport=udp&x=y",
        "turn://a", "turn:" + "a" * 64, "TURN:a", "stun:a", "http://a", "",
    ],
)  # fmt: skip
def test_an_address_that_stops_every_browser_is_refused(url):
    finding = check_ice_servers("turn")(("turn:good.example", url))
    assert is_refused(finding, f"{url!r} is not the address of a TURN server", "without //")
    assert "?transport=tcp" in finding[1]


@pytest.mark.parametrize("url", ["stun:a?transport=udp", "turn:a"])
def test_a_stun_server_has_no_transport(url):
    finding = check_ice_servers("stun")((url,))
    assert is_refused(finding, f"{url!r} is not the address of a STUN server", "stun:host:port")
    assert "transport" not in finding[1]


def test_the_user_and_password_in_an_address_are_not_shown():
    problem, fix = check_ice_servers("turn")(("turn:user:s3cr3t@host",))
    assert "without a user" in fix
    assert "s3cr3t" not in problem + fix


# Files.


def test_a_file_that_is_not_set_need_not_be_there():
    assert check_readable(None) is None


def test_a_file_is_there_and_can_be_read(pem):
    assert check_readable(pem / "cert.pem") is None
    for missing in (pem / "nothing.pem", pem, pem / "cert.pem" / "below"):
        assert is_refused(check_readable(missing), f"there is no file '{missing}'", "PEM file")


def test_a_file_of_somebody_else_is_told(pem, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read everything
    finding = check_readable(pem / "key.pem")
    assert is_refused(finding, "cannot be read: Permission", "let the user that runs the server")


def test_a_file_that_cannot_even_be_looked_for_is_told(pem, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_file", refuse)  # root may enter every folder
    finding = check_readable(pem / "key.pem")
    assert is_refused(finding, "cannot be read: Permission", "let the user that runs the server")


def test_a_key_in_the_place_of_its_path_is_not_shown(pem):
    key = (pem / "key.pem").read_text()
    finding = check_readable(Path(key))
    assert is_refused(finding, "is the text of a PEM file", "write it to a file")
    assert not any(line in "".join(finding) for line in key.splitlines())


def test_a_certificate_and_its_own_key_are_a_pair(pem):
    assert check_key_pair(pem / "cert.pem", pem / "key.pem") is None


def test_a_key_of_another_certificate_is_refused(pem):
    finding = check_key_pair(pem / "cert.pem", pem / "other.pem")
    assert is_refused(finding, "cannot be used: KEY_VALUES_MISMATCH", "its own key")


ENCRYPTED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjhidvgADAH9QICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEBRw07P/HU+XGZYX0x/nI6wEQD/Y
EqMHfs3bxXnorHn7OFa1qvDXnEmQXAGlHcR0cieANluKqJRzbS+T+PoORAomzrpJ
XhyJG+aKIHoC/WMY1dE=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize("key", ["hello", "", ENCRYPTED_KEY])
def test_a_key_that_cannot_be_loaded_is_refused(pem, write, key):
    finding = check_key_pair(pem / "cert.pem", write("key.pem", key))
    assert is_refused(finding, "cannot be used", "not encrypted")


def test_nobody_is_asked_for_the_password_of_a_key(pem, write, capfd):
    check_key_pair(pem / "cert.pem", write("key.pem", ENCRYPTED_KEY))
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_certificate_is_refused(pem, write):
    finding = check_key_pair(write("cert.pem", "hello"), pem / "key.pem")
    assert is_refused(finding, "cannot be used", "give a PEM certificate chain")


def test_a_pair_with_a_missing_file_is_left_for_the_check_of_that_file(pem):
    missing = pem / "nothing.pem"
    assert check_key_pair(missing, pem / "key.pem") is None
    assert check_key_pair(pem / "cert.pem", missing) is None
