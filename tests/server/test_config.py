"""Listening on the addresses of the settings, or a clear error; and the bounds for Hypercorn."""

import errno
import socket

import pytest

from triocast.server.config import CannotListen, hypercorn_config, open_listeners
from triocast.settings import Settings


@pytest.fixture
def listen():
    """Listen as the settings say; closes what was opened."""
    opened = []

    def listen(**settings):
        listeners = open_listeners(Settings(port=0, **settings))
        opened.extend(listeners)
        return listeners

    yield listen
    for listener in opened:
        listener.close()


@pytest.fixture
def addresses(monkeypatch):
    """Make every name resolve to these addresses; ``refuse`` are not there on this machine."""

    def addresses(*hosts, refuse=(), error=errno.EADDRNOTAVAIL):
        def getaddrinfo(host, port, **_):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

        made = []

        class Socket(socket.socket):
            def __init__(self, *args):
                super().__init__(*args)
                made.append(self)

            def bind(self, address):
                if address[0] in refuse:
                    raise OSError(error, "not here")
                super().bind(("127.0.0.1", 0))

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "socket", Socket)
        return made

    return addresses


def test_a_listener_never_blocks_the_loop(listen):
    (listener,) = listen()
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_restart_can_listen_on_the_same_address_at_once(listen):
    (listener,) = listen()
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
@pytest.mark.parametrize(("heartbeat", "milliseconds"), [(25.0, 22_500), (0.001, 1)])
def test_the_kernel_gives_a_dead_peer_up_within_a_heartbeat(listen, heartbeat, milliseconds):
    (listener,) = listen(heartbeat_seconds=heartbeat)
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


def test_each_address_of_a_name_is_listened_on(listen, addresses):
    addresses("127.0.0.2", "127.0.0.3")
    assert len(listen(host="localhost")) == 2


def ports(listeners):
    return {listener.getsockname()[1] for listener in listeners}


def families(listeners):
    return [listener.family for listener in listeners]


def test_several_hosts_are_listened_on_at_one_port(listen):
    listeners = listen(host="127.0.0.1,127.0.0.2,127.0.0.1")
    assert [each.getsockname()[0] for each in listeners] == ["127.0.0.1", "127.0.0.2"]
    assert len(ports(listeners)) == 1


@pytest.fixture
def needs_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("host", ["::", "::,0.0.0.0"])
@pytest.mark.usefixtures("needs_ipv6")
def test_every_address_is_that_of_both_families(listen, host):
    listeners = listen(host=host, insecure_anonymous=True)
    assert families(listeners) == [socket.AF_INET6, socket.AF_INET]
    assert len(ports(listeners)) == 1
    # So that a client of IPv4 keeps its address.
    assert listeners[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_a_host_of_several_that_is_not_here_is_named(listen, addresses):
    made = addresses("127.0.0.2", refuse=["127.0.0.2"])
    with pytest.raises(CannotListen, match=r"cannot listen on localhost port"):
        listen(host="localhost")
    assert all(each.fileno() < 0 for each in made)


def test_a_free_port_that_is_in_use_on_another_address_is_given_up(listen, monkeypatch):
    bound = []

    class Socket(socket.socket):
        def bind(self, address):
            bound.append(address[0])
            if bound == ["127.0.0.1", "127.0.0.2"]:
                raise OSError(errno.EADDRINUSE, "in use")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    assert len(listen(host="127.0.0.1,127.0.0.2")) == 2
    assert bound == ["127.0.0.1", "127.0.0.2"] * 2


@pytest.mark.parametrize("error", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_an_address_that_this_machine_does_not_have_is_passed_over(listen, addresses, error):
    made = addresses("127.0.0.2", "127.0.0.3", refuse=["127.0.0.2"], error=error)
    assert len(listen(host="localhost")) == 1
    assert [each.fileno() < 0 for each in made] == [True, False]


def test_a_name_none_of_whose_addresses_is_here_cannot_be_listened_on(listen, addresses):
    made = addresses("127.0.0.2", "127.0.0.3", refuse=["127.0.0.2", "127.0.0.3"])
    with pytest.raises(CannotListen, match="localhost port 0: not here"):
        listen(host="localhost")
    assert all(each.fileno() < 0 for each in made)


def test_if_one_address_is_taken_none_stays_open(listen, addresses):
    made = addresses("127.0.0.2", "127.0.0.3", refuse=["127.0.0.3"], error=errno.EADDRINUSE)
    with pytest.raises(CannotListen, match="localhost port 0: not here"):
        listen(host="localhost")
    assert made
    assert all(each.fileno() < 0 for each in made)


def test_a_name_that_nobody_knows_is_told(listen, monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(CannotListen, match="localhost port 0: Name or service not known"):
        listen(host="localhost")


@pytest.mark.parametrize(
    ("setting", "value", "names"),
    [
        ("max_header_bytes", 2_048, ["h11_max_incomplete_size"]),
        ("max_message_bytes", 3_000, ["websocket_max_message_size"]),
        ("keep_alive_seconds", 3.5, ["keep_alive_timeout"]),
        ("handshake_seconds", 4.5, ["ssl_handshake_timeout"]),
        ("heartbeat_seconds", 5.5, ["websocket_ping_interval"]),
    ],
)
def test_bounds_of_the_settings_are_those_of_hypercorn(setting, value, names):
    config = hypercorn_config(Settings(**{setting: value}))
    assert {getattr(config, name) for name in names} == {value}


def test_a_connection_is_not_ended_for_its_age_or_silence():
    config = hypercorn_config(Settings())
    assert config.keep_alive_max_requests > 1_000_000
    assert config.read_timeout is None


def test_nothing_tells_which_server_this_is():
    names = [name for name, _ in hypercorn_config(Settings()).response_headers("h11")]
    assert names == [b"date"]


def test_without_a_certificate_there_is_no_tls():
    assert hypercorn_config(Settings()).create_ssl_context() is None
