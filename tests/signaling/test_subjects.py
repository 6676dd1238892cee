"""Who is the same one, for bans and for coming back."""

from ipaddress import AddressValueError

import pytest

from triocast.signaling.subjects import address_subject, may_be_proxy, user_subject


def test_a_user_and_an_address_are_never_the_same() -> None:
    assert user_subject("192.0.2.1") != address_subject("192.0.2.1")


def test_each_address_of_ipv4_is_somebody_else() -> None:
    assert address_subject("192.0.2.1") == "address:192.0.2.1"
    assert address_subject("192.0.2.1") != address_subject("192.0.2.2")


@pytest.mark.parametrize(
    "address",
    ["2001:db8:1:2::1", "2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64", "2001:db8:1:2::"],
)
def test_who_has_a_network_of_ipv6_is_one(address: str) -> None:
    assert address_subject(address) == "address:2001:db8:1:2::/64"


@pytest.mark.parametrize(
    ("address", "may_be"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("fd00::1", True),
        (None, True),
        ("8.8.8.8", False),
        ("2a00:1450::1", False),
    ],
)
def test_a_proxy_is_near(address: str | None, may_be: bool) -> None:
    assert may_be_proxy(address) is may_be


def test_networks_of_ipv6_are_told_apart() -> None:
    assert address_subject("2001:db8:1:3::1") != address_subject("2001:db8:1:2::1")


def test_one_machine_is_one_whichever_family_it_comes_by() -> None:
    assert address_subject("::ffff:192.0.2.1") == address_subject("192.0.2.1")
    assert address_subject("0:0:0:0:0:0:0:1") == address_subject("::1") == "address:::1"


def test_a_link_is_not_one_site() -> None:
    assert address_subject("fe80::1%eth0") != address_subject("fe80::2%eth0")


@pytest.mark.parametrize("text", ["", "x", "192.0.2.0/24", "2001:db8::/48", "192.0.2.1/64", "::/x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressValueError):
        address_subject(text)
