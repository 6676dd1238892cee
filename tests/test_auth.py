"""Who may do what: every way a request can bring, or fail to bring, a grant."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.auth import (
    EVERYTHING,
    LEEWAY_SECONDS,
    Authenticator,
    Grant,
    check_publish_pattern,
)
from triocast.errors import Forbidden, InvalidChannel, Unauthorized

KEY = "k" * 64
# Of the whole run, which may take long: this is when it begins.
FUTURE = int(time.time()) + 86_400


class Fields(dict):
    """Header fields; names in any case."""

    def __init__(self, **fields):
        super().__init__({name.lower().replace("_", "-"): v for name, v in fields.items()})

    def get(self, name):
        return super().get(name.lower())

    def all(self, name):
        value = super().get(name.lower(), [])
        return value if isinstance(value, list) else [value]

    def __contains__(self, name):
        return super().__contains__(name.lower())


OTHER_SCHEMES = [
    "",
    "Basic YTpi",
    "basic YTpi",
    "Negotiate YII=",
    'Digest username="a"',
    "Bearerx y",
]


def authenticator(*, key=KEY, audience=None, in_query=False, anonymous=False):
    return Authenticator(
        token_key=key,
        token_audience=audience,
        token_in_query=in_query,
        insecure_anonymous=anonymous,
    )


def token(key=KEY, algorithm="HS256", **claims):
    return jwt.encode({"exp": FUTURE} | claims, key, algorithm)


def raw_token(payload: str, *, header='{"alg":"HS256","typ":"JWT"}', key=KEY) -> str:
    """A signed token of any text, also of what a library would not write."""
    parts = [
        base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in (header, payload)
    ]
    signed = ".".join(parts).encode()
    signature = hmac.digest(key.encode(), signed, hashlib.sha256)
    return ".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()])


def grant(token, *, where="192.0.2.7", **options):
    headers = Fields(Authorization=f"Bearer {token}", Host="example.org")
    return authenticator(**options).grant(headers, Fields(), where)


def refused(token, **options):
    with pytest.raises(Unauthorized) as caught:
        grant(token, **options)
    assert not caught.value.temporary
    return caught.value.message


class TestTokens:
    def test_the_claims_are_the_grant(self):
        claims = {
            "subscribe": ["news:*", "default:a", "*"],
            "publish": ["chat:*", "default:b", "$all", "$user:*", "$user:bob", "$conn:*"],
            "admin": True,
        }
        assert grant(token(sub="alice", triocast=claims)) == Grant(
            user="alice",
            subscribe=("news:*", "a", "*"),
            publish=("chat:*", "b", "$all", "$user:*", "$user:bob", "$conn:*"),
            admin=True,
            expires_at=float(FUTURE + LEEWAY_SECONDS),
        )

    def test_without_the_claim_nothing_is_granted(self):
        assert grant(token()) == Grant(expires_at=float(FUTURE + LEEWAY_SECONDS))

    def test_the_scheme_has_any_case(self):
        headers = Fields(authorization=f"bEARER  {token(sub='a')}")
        assert authenticator().grant(headers, Fields(), None).user == "a"

    @pytest.mark.parametrize("header", ["Bearer", "Bearer ", "bearer", "Bearer not.a.token"])
    @pytest.mark.parametrize("anonymous", [False, True])
    def test_a_bad_header_is_refused_where_anonymous_clients_are_let_in_too(
        self, header, anonymous
    ):
        with pytest.raises(Unauthorized):
            authenticator(anonymous=anonymous).grant(
                Fields(Authorization=header, Host="localhost"), Fields(), "127.0.0.1"
            )

    @pytest.mark.parametrize("text", [token(sub="alice"), "", "x", "a.b.c"])
    def test_a_server_without_a_key_does_not_look_at_tokens(self, text):
        headers = Fields(Authorization=f"Bearer {text}", Host="localhost")
        for in_query in (False, True):
            door = authenticator(key=None, in_query=in_query)
            assert door.grant(headers, Fields(token=text), "127.0.0.1") == EVERYTHING
            with pytest.raises(Unauthorized, match="this machine"):
                door.grant(headers, Fields(token=text), "192.0.2.7")
            everywhere = authenticator(key=None, in_query=in_query, anonymous=True)
            assert everywhere.grant(headers, Fields(token=text), "192.0.2.7") == EVERYTHING

    @pytest.mark.parametrize("header", OTHER_SCHEMES)
    def test_another_scheme_is_as_good_as_no_header(self, header):
        others = Fields(Authorization=header, Host="localhost")
        for door in (authenticator(key=None), authenticator(anonymous=True)):
            assert door.grant(others, Fields(), "127.0.0.1") == EVERYTHING
        with pytest.raises(Unauthorized, match="a token is needed"):
            authenticator().grant(others, Fields(), "127.0.0.1")
        with pytest.raises(Unauthorized, match="this machine"):
            authenticator(key=None).grant(others, Fields(), "192.0.2.7")

    @pytest.mark.parametrize("header", OTHER_SCHEMES)
    def test_another_scheme_hides_no_token(self, header):
        ours = token(sub="a")
        lines = [header, f"Bearer {ours}"]
        for brought in (lines, lines[::-1], ", ".join(lines), ", ".join(lines[::-1])):
            both = Fields(Authorization=brought)
            assert authenticator().grant(both, Fields(), None).user == "a"
        others = Fields(Authorization=header)
        door = authenticator(in_query=True)
        assert door.grant(others, Fields(token=ours), None).user == "a"

    @pytest.mark.parametrize("header", OTHER_SCHEMES)
    def test_another_scheme_is_no_token(self, header):
        door = authenticator()
        assert not door.has_token(Fields(Authorization=header), Fields())
        assert door.has_token(Fields(Authorization=[header, "Bearer x"]), Fields())
        assert door.has_token(Fields(Authorization=header), Fields(token="x"))

    def test_another_key_is_refused(self):
        refused(token(key="x" * 64))

    @pytest.mark.parametrize("algorithm", ["HS512", "HS384"])
    def test_another_algorithm_is_refused(self, algorithm):
        refused(token(algorithm=algorithm))

    @pytest.mark.parametrize("name", ["none", "None", "NONE", "hs256", "HS256 ", "", "RS256"])
    def test_a_token_does_not_choose_its_algorithm(self, name):
        payload = json.dumps({"exp": FUTURE})
        signed = raw_token(payload, header=json.dumps({"alg": name, "typ": "JWT"}))
        refused(signed)
        refused(signed.rpartition(".")[0] + ".")

    def test_what_was_changed_is_refused(self):
        head, payload, signature = token(sub="alice").split(".")
        _, other, _ = token(sub="mallory").split(".")
        refused(f"{head}.{other}.{signature}")
        refused(f"{head}.{payload}.")
        refused(f"{head}.{payload}")

    def test_an_expired_token_says_so(self):
        assert "expired" in refused(jwt.encode({"exp": int(time.time()) - 100}, KEY))

    def test_a_token_for_ever_is_refused(self):
        assert "exp" in refused(jwt.encode({"sub": "alice"}, KEY))

    @pytest.mark.parametrize("claim", ["nbf", "iat"])
    def test_a_token_of_tomorrow_is_refused(self, claim):
        refused(token(**{claim: FUTURE}))

    @pytest.mark.parametrize(
        ("claim", "ahead", "problem"),
        [
            ("iat", 2, None),
            ("nbf", 2, None),
            ("iat", LEEWAY_SECONDS, None),
            ("nbf", LEEWAY_SECONDS, None),
            ("exp", 1 - LEEWAY_SECONDS, None),
            ("iat", LEEWAY_SECONDS + 1, "'iat' is 61 s ahead"),
            ("nbf", 3_600, "'nbf' is 3600 s ahead"),
            ("exp", -LEEWAY_SECONDS, "expired, 60 s ago"),
            ("exp", -3_600, "expired, 3600 s ago"),
        ],
    )
    def test_another_clock_may_be_a_minute_off(self, monkeypatch, claim, ahead, problem):
        now = FUTURE - 43_200
        monkeypatch.setattr("triocast.auth.time.time", lambda: now)
        made = token(sub="a", **{claim: now + ahead})
        if problem is None:
            assert grant(made).user == "a"
        else:
            assert problem in refused(made)

    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", ["5", True, None, [], {}])
    def test_a_time_that_is_no_number_is_refused(self, claim, value):
        refused(token(**{claim: value}))

    def test_the_audience_is_ours(self):
        assert grant(token(aud="here"), audience="here")
        assert grant(token(aud=["there", "here"]), audience="here")
        refused(token(aud="there"), audience="here")
        refused(token(), audience="here")
        refused(token(aud="here"))

    @pytest.mark.parametrize(
        "claims",
        [
            {"sub": 5},
            {"sub": ""},
            {"sub": "a\nb"},
            {"sub": "a" * 201},
            {"sub": ["a"]},
            {"triocast": None},
            {"triocast": []},
            {"triocast": "*"},
            {"triocast": {"subscribe": "*"}},
            {"triocast": {"subscribe": None}},
            {"triocast": {"subscribe": [5]}},
            {"triocast": {"subscribe": {"*": 1}}},
            {"triocast": {"subscribe": ["no spaces"]}},
            {"triocast": {"subscribe": ["$all"]}},
            {"triocast": {"subscribe": ["$user:*"]}},
            {"triocast": {"publish": "*"}},
            {"triocast": {"publish": ["$conn:x"]}},
            {"triocast": {"publish": ["$user:"]}},
            {"triocast": {"publish": ["$nobody"]}},
            {"triocast": {"publish": ["a*b"]}},
            {"triocast": {"admin": 1}},
            {"triocast": {"admin": "true"}},
            {"triocast": {"admin": None}},
            {"triocast": {"subscibe": ["*"]}},
            {"exp": "soon"},
            {"exp": None},
            {"exp": [FUTURE]},
            {"exp": str(FUTURE)},
        ],
    )
    def test_claims_of_another_shape_are_refused(self, claims):
        refused(raw_token(json.dumps({"exp": FUTURE} | claims)))

    @pytest.mark.parametrize("exp", ["1e400", "Infinity", "NaN", "-1", "1" + "0" * 400, "true"])
    def test_times_that_are_none_are_refused(self, exp):
        refused(raw_token(f'{{"exp":{exp}}}'))

    @pytest.mark.parametrize("sub", [r"\ud800", r"a\udfffb"])
    def test_a_user_that_has_no_utf_8_is_refused(self, sub):
        """Such a name would fail where an event of this user is written, in the fan-out."""
        refused(raw_token(f'{{"exp":{FUTURE},"sub":"{sub}"}}'))

    @pytest.mark.parametrize("payload", ["", "5", "[]", "null", '"x"', "{", "[" * 50_000])
    def test_payloads_of_another_kind_are_refused(self, payload):
        refused(raw_token(payload))

    def test_the_message_never_has_the_token_or_the_key(self):
        for bad in (token(key="x" * 64), raw_token("{"), token(aud="there"), "a.b.c"):
            message = refused(bad)
            assert bad not in message
            assert KEY not in message


class TestQuery:
    def test_where_it_is_allowed(self):
        made = authenticator(in_query=True).grant(Fields(), Fields(token=token(sub="a")), None)
        assert made.user == "a"

    def test_where_it_is_not(self):
        for options in ({}, {"anonymous": True}):
            with pytest.raises(Unauthorized, match="token_in_query"):
                authenticator(**options).grant(
                    Fields(Host="localhost"), Fields(token=token()), "127.0.0.1"
                )

    def test_the_header_outweighs_it(self):
        headers = Fields(Authorization=f"Bearer {token(sub='header')}")
        made = authenticator(in_query=True).grant(headers, Fields(token=token(sub="query")), None)
        assert made.user == "header"

    @pytest.mark.parametrize("text", ["", "x", "a.b.c"])
    def test_a_bad_one_is_refused(self, text):
        with pytest.raises(Unauthorized):
            authenticator(in_query=True, anonymous=True).grant(Fields(), Fields(token=text), None)


class TestAnonymous:
    def ask(self, address="127.0.0.1", *, key=None, anonymous=False, **headers):
        headers = Fields(**{"Host": "localhost:8000"} | headers)
        return authenticator(key=key, anonymous=anonymous).grant(headers, Fields(), address)

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1"])
    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.0.0.1:8000",
            "localhost.",
            "localhost.:8000",
            "[::1]",
            "[::1]:8000",
            "[0:0:0:0:0:0:0:1]",
        ],
    )
    def test_this_machine_is_let_in(self, address, host):
        assert self.ask(address, Host=host) == EVERYTHING

    @pytest.mark.parametrize("address", [None, "", "192.0.2.1", "10.0.0.1", "::2", "x", "0.0.0.0"])
    def test_others_are_not(self, address):
        with pytest.raises(Unauthorized):
            self.ask(address)

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:127.0.0.1",
            "localhost@evil.example",
            "192.0.2.1:8000",
            "[::2]:8000",
            "0.0.0.0",
            "",
        ],
    )
    def test_a_foreign_name_for_this_machine_is_refused(self, host):
        with pytest.raises(Forbidden):
            self.ask(Host=host)

    def test_a_request_without_a_host_is_refused(self):
        with pytest.raises(Forbidden):
            authenticator(key=None).grant(Fields(), Fields(), "127.0.0.1")

    @pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded"])
    def test_a_proxy_does_not_make_everybody_local(self, header):
        with pytest.raises(Unauthorized, match="proxy"):
            self.ask(**{header: "192.0.2.1"})

    def test_with_a_key_there_is_nobody_anonymous(self):
        with pytest.raises(Unauthorized, match="token"):
            self.ask(key=KEY)

    def test_insecure_anonymous_lets_everybody_in(self):
        for key in (None, KEY):
            assert self.ask("192.0.2.1", key=key, anonymous=True, Host="x") == EVERYTHING


class TestGrant:
    @pytest.mark.parametrize(
        ("granted", "name", "may"),
        [
            ("*", "a", True),
            ("*", "ns:a", True),
            ("*", "*", True),
            ("*", "ns:*", True),
            ("*", "$all", False),
            ("*", "$user:bob", False),
            ("*", "$conn:x", False),
            ("ns:*", "ns:a", True),
            ("ns:*", "ns:*", True),
            ("ns:*", "ns:a*", True),
            ("ns:*", "a", False),
            ("ns:*", "nsx:a", False),
            ("ns:*", "*", False),
            ("ns:a", "ns:a", True),
            ("ns:a", "ns:ab", False),
            ("ns:a", "ns:a*", False),
            ("a*", "ab", True),
            ("a*", "a:b", False),
        ],
    )
    def test_may_subscribe(self, granted, name, may):
        assert Grant(subscribe=("other", granted)).may_subscribe(name) is may
        assert not Grant(publish=(granted,), admin=True).may_subscribe(name)

    @pytest.mark.parametrize(
        ("granted", "channel", "may"),
        [
            ("*", "a", True),
            ("*", "ns:a", True),
            ("*", "$all", False),
            ("*", "$user:bob", False),
            ("*", "$conn:x", False),
            ("$all", "$all", True),
            ("$all", "a", False),
            ("$user:*", "$user:bob", True),
            ("$user:*", "$conn:x", False),
            ("$user:*", "$all", False),
            ("$user:bob", "$user:bob", True),
            ("$user:bob", "$user:bobby", False),
            ("$user:al*", "$user:al*", True),
            ("$user:al*", "$user:alice", False),
            ("$conn:*", "$conn:x", True),
            ("$conn:*", "$user:x", False),
            ("ns:*", "ns:a", True),
            ("ns:*", "a", False),
            ("ns:a", "ns:b", False),
        ],
    )
    def test_may_publish(self, granted, channel, may):
        granted = check_publish_pattern(granted)
        assert Grant(publish=("other", granted)).may_publish(channel) is may
        assert not Grant(subscribe=(granted,), admin=True).may_publish(channel)

    @pytest.mark.parametrize("user", ["*", "bob*", "a:*", "$user:*", "bob"])
    def test_a_user_can_be_granted_literally(self, user):
        made = grant(token(triocast={"publish": [{"user": user}, "news"]}))
        assert made.may_publish(f"$user:{user}")
        assert made.may_publish("news")
        for other in ("$user:bobby", "$user:a:b", "$user:x", "$conn:x", "$all", "other"):
            assert not made.may_publish(other)

    @pytest.mark.parametrize(
        "entry", [{}, {"user": 5}, {"user": ""}, {"user": "a", "x": 1}, {"users": "a"}, 5, None, []]
    )
    def test_an_entry_of_another_shape_is_refused(self, entry):
        refused(token(triocast={"publish": [entry]}))

    def test_everything_is_everything(self):
        for channel in ("a", "ns:a", "$all", "$user:u", "$conn:c"):
            assert EVERYTHING.may_publish(channel)
        assert EVERYTHING.may_subscribe("*")
        assert EVERYTHING.expires_at is None

    @pytest.mark.parametrize("pattern", ["$conn:x", "$al*", "$*", "$user:", "", "a b"])
    def test_other_names_of_the_server_cannot_be_granted(self, pattern):
        with pytest.raises(InvalidChannel):
            check_publish_pattern(pattern)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
claims = st.dictionaries(
    st.sampled_from(["exp", "sub", "nbf", "iat", "jti", "aud", "iss", "triocast"]), values
)
headers = st.dictionaries(st.sampled_from(["typ", "kid", "b64", "crit", "cty"]), values).map(
    lambda header: json.dumps({"alg": "HS256"} | header)
)


@given(
    st.text()
    | st.text().map(raw_token)
    | st.text().map(lambda text: raw_token("{}", header=text))
    | headers.map(lambda text: raw_token("{}", header=text))
    | claims.map(lambda payload: raw_token(json.dumps({"exp": FUTURE} | payload)))
)
@example(raw_token("{}", header="[" * 200_000))
@example(raw_token("{}", header='{"a":' * 200_000))
@example(raw_token("{}", header='{"alg":["HS256"]}'))
@example("\ud800")
def test_any_text_is_a_grant_or_refused(text):
    """Tokens are parsed before anybody knows who sent them."""
    try:
        grant(text)
    except Unauthorized:
        pass


class TestRemembering:
    """A token is verified once, as long as nothing about it can have changed."""

    @pytest.fixture
    def verifications(self, monkeypatch):
        seen = []
        decode = jwt.decode

        def counting(token, *args, **options):
            seen.append(token)
            return decode(token, *args, **options)

        monkeypatch.setattr("triocast.auth.jwt.decode", counting)
        return seen

    @staticmethod
    def ask(door, token):
        return door.grant(Fields(Authorization=f"Bearer {token}"), Fields(), "192.0.2.7")

    def test_a_token_is_verified_once(self, verifications):
        door, first, second = authenticator(), token(sub="a"), token(sub="b")
        for _ in range(3):
            assert self.ask(door, first).user == "a"
            assert self.ask(door, second).user == "b"
        assert verifications == [first, second]

    def test_what_was_refused_is_refused_again(self, verifications):
        door = authenticator()
        good = token(sub="a")
        bad = good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB")
        self.ask(door, good)
        for _ in range(2):
            with pytest.raises(Unauthorized):
                self.ask(door, bad)
        assert verifications == [good, bad, bad]

    @pytest.mark.parametrize("fraction", [0, 0.9])
    def test_a_remembered_token_still_expires(self, monkeypatch, fraction):
        door, brief = authenticator(), token(exp=FUTURE + fraction)
        end = FUTURE + fraction + LEEWAY_SECONDS
        monkeypatch.setattr("triocast.auth.time.time", lambda: end - 0.001)
        self.ask(door, brief)
        self.ask(door, brief)
        monkeypatch.setattr("triocast.auth.time.time", lambda: end)
        with pytest.raises(Unauthorized, match="expired"):
            self.ask(door, brief)

    def test_only_so_many_are_remembered(self, monkeypatch, verifications):
        monkeypatch.setattr("triocast.auth.MOST_REMEMBERED", 2)
        door = authenticator()
        first, second, third = (token(sub=name) for name in "abc")
        for each in (first, second, first, third):
            self.ask(door, each)
        assert len(door._verified) == 2
        self.ask(door, first)
        assert verifications == [first, second, third]
        self.ask(door, second)
        assert verifications[3:] == [second]

    def test_the_tokens_themselves_are_not_kept(self):
        door, secret = authenticator(), token(sub="a")
        self.ask(door, secret)
        assert secret not in repr(vars(door))
