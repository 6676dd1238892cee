"""Origins and authorities have one normal form, however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.settings.origins import Authority, normal_origin, parse_authority

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5}){0,2}", fullmatch=True)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("Shop.Example:8000", Authority("shop.example", 8000)),
        ("shop.example", Authority("shop.example", None)),
        ("shop.example:", Authority("shop.example", None)),
        ("shop.example.", Authority("shop.example.", None)),
        ("LOCALHOST.:80", Authority("localhost", 80)),
        ("127.0.0.1:1", Authority("127.0.0.1", 1)),
        ("[0:0:0:0:0:0:0:1]:9", Authority("[::1]", 9)),
        ("[2001:DB8::A]", Authority("[2001:db8::a]", None)),
    ],
)
def test_an_authority_is_read_in_its_normal_form(text, authority):
    assert parse_authority(text) == authority


def test_the_address_of_an_ipv6_host_has_no_brackets():
    assert parse_authority("[::1]:80").address == "::1"


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "a/b", "u@a", "a:x", "a:99999", "a:123456", "[::1", "::1", "[a]", "a:1:2",
     "[::1]x", "a\n", "ä", "[fe80::1"],
)  # fmt: skip
def test_what_is_no_authority_is_none(text):
    assert parse_authority(text) is None


@given(hosts, st.integers(1, 65_535), st.sampled_from(["http", "https", "capacitor"]))
def test_a_normal_origin_stays_as_it_is_and_is_the_same_in_capitals(host, port, scheme):
    origin = parse_authority(f"{host}:{port}").origin(scheme)
    assert normal_origin(origin) == origin
    assert normal_origin(origin.upper()) == origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://a:80", "http://a"),
        ("https://a:443", "https://a"),
        ("https://a:80", "https://a:80"),
        ("http://[0::1]:80", "http://[::1]"),
        ("http://localhost.:3000", "http://localhost:3000"),
        ("null", "null"),
        ("file://", "file://"),
        ("app://.", "app://."),
    ],
)
def test_an_origin_is_as_browsers_write_it(text, origin):
    assert normal_origin(text) == origin


@pytest.mark.parametrize("text", ["", "Null", "a", "http://", "http://.", "app://", "http://a/"])
def test_what_is_no_origin_is_none(text):
    assert normal_origin(text) is None
