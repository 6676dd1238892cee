"""The grammar of channels, patterns and labels."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from triocast.errors import InvalidChannel, InvalidEvent
from triocast.events import (
    LONGEST_CHANNEL,
    LONGEST_TAG,
    LONGEST_TYPE,
    MOST_TAGS,
    connection_channel,
    is_connection_channel,
    is_pattern,
    namespace_of,
    parse_channel,
    parse_key,
    parse_pattern,
    parse_tags,
    parse_type,
    pattern_covers,
    pattern_matches,
    user_channel,
)

# Few letters, so that names are prefixes of each other often.
namespaces = st.sampled_from(["default", "a", "ab", "b", "de"])
names = st.text("ab:.", min_size=1, max_size=4)
written = st.one_of(names, st.builds("{}:{}".format, namespaces, names))
written_patterns = st.one_of(
    written,
    st.builds("{}*".format, written),
    st.builds("{}:*".format, namespaces),
    st.just("*"),
)


def canonical_channels(texts):
    return texts.flatmap(lambda text: st.just(_canonical(parse_channel, text))).filter(bool)


def canonical_patterns(texts):
    return texts.flatmap(lambda text: st.just(_canonical(parse_pattern, text))).filter(bool)


def _canonical(parse, text):
    try:
        return parse(text)
    except InvalidChannel:
        return ""


def split(channel: str) -> tuple[str, str]:
    """The model's channel: a namespace and a name."""
    namespace, colon, name = channel.partition(":")
    return (namespace, name) if colon else ("default", channel)


def model_matches(pattern: str, channel: str) -> bool:
    if channel.startswith("$"):
        return pattern == channel
    if pattern == "*":
        return True
    if not pattern.endswith("*"):
        return split(pattern) == split(channel)
    namespace, prefix = split(pattern[:-1])
    own, name = split(channel)
    return namespace == own and name.startswith(prefix)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("news", "news"),
        ("default:news", "news"),
        ("chat:room/1", "chat:room/1"),
        ("chat:a:b", "chat:a:b"),
        ("user.1@example#x=+~%-_", "user.1@example#x=+~%-_"),
        ("x" * LONGEST_CHANNEL, "x" * LONGEST_CHANNEL),
    ],
)
def test_a_channel_has_one_canonical_name(name, canonical):
    assert parse_channel(name) == canonical


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * (LONGEST_CHANNEL + 1),
        "$all",
        "$user:alice",
        "$conn:1",
        "a b",
        "a\nb",
        "news\n",
        "é",
        "a*",
        "*",
        "a?b",
        "default:",
        "chat:",
        ":",
        ":x",
        "na.me:space",
        "n" * 65 + ":x",
    ],
)
def test_names_outside_the_grammar_are_refused(name):
    with pytest.raises(InvalidChannel):
        parse_channel(name)


@given(written)
@example("default:default:x")
@example("default:a:b")
def test_the_canonical_name_is_its_own_canonical_name(text):
    channel = _canonical(parse_channel, text)
    assume(channel)
    assert parse_channel(channel) == channel


@given(written)
@example("default:a:b")
def test_a_canonical_name_keeps_namespace_and_name(text):
    channel = _canonical(parse_channel, text)
    assume(channel)
    assert split(channel) == split(text)


@given(written_patterns)
@example("default:default:a*")
def test_the_canonical_pattern_is_its_own_canonical_pattern(text):
    pattern = _canonical(parse_pattern, text)
    assume(pattern)
    assert parse_pattern(pattern) == pattern
    assert is_pattern(pattern) == text.endswith("*")


@pytest.mark.parametrize("user", ["*", "bob*", "a:*", "default:*"])
def test_a_name_of_the_servers_own_is_no_pattern(user):
    name = user_channel(user)
    assert not is_pattern(name)
    assert pattern_matches(name, name)
    assert pattern_covers(name, name)
    for other in ("$user:bob", "$user:a:b", "$user:bobby", "a", "a:b", "bob"):
        assert not pattern_matches(name, other)
        assert not pattern_covers(name, other)
    for pattern in ("*", "a*", "$user:x"):
        assert not pattern_covers(pattern, name)


@pytest.mark.parametrize(
    "pattern", ["**", "a*b", "a**", "$*", "$user:*", "$conn:*", "a b*", "default:a:*", ":*", ""]
)
def test_patterns_outside_the_grammar_are_refused(pattern):
    with pytest.raises(InvalidChannel):
        parse_pattern(pattern)


@given(canonical_patterns(written_patterns), canonical_channels(written))
def test_matching_agrees_with_the_model(pattern, channel):
    assert pattern_matches(pattern, channel) == model_matches(pattern, channel)


@given(
    canonical_patterns(written_patterns),
    canonical_patterns(written_patterns),
    st.lists(canonical_channels(written), max_size=20),
)
def test_what_covers_a_name_matches_all_that_the_name_matches(outer, inner, channels):
    if pattern_covers(outer, inner):
        for channel in [*channels, inner.replace("*", "a")]:
            if pattern_matches(inner, channel):
                assert pattern_matches(outer, channel)


@pytest.mark.parametrize(
    ("outer", "inner", "covers"),
    [
        ("*", "*", True),
        ("*", "a:*", True),
        ("*", "a", True),
        ("a:*", "*", False),
        ("a:*", "a:*", True),
        ("a:*", "a:b*", True),
        ("a:b*", "a:*", False),
        ("a:*", "ab:*", False),
        ("a*", "a:*", False),
        ("a*", "ab*", True),
        ("default:*", "a*", True),
        ("default:*", "a", True),
        ("default:*", "a:b", False),
        ("default:a*", "ab", True),
        ("a", "a", True),
        ("a", "a*", False),
        ("*", "$all", False),
        ("*", "$user:alice", False),
    ],
)
def test_coverage(outer, inner, covers):
    assert pattern_covers(outer, inner) is covers


def test_the_servers_own_channels_are_matched_by_their_name_alone():
    assert pattern_matches("$all", "$all")
    assert not pattern_matches("*", "$all")
    assert not pattern_matches("$user:*", "$user:alice")


def test_users_and_connections_have_channels():
    assert user_channel("alice@example.org, with spaces") == "$user:alice@example.org, with spaces"
    assert connection_channel("a-B_9") == "$conn:a-B_9"
    assert is_connection_channel(connection_channel("x"))
    assert not is_connection_channel(user_channel("x"))


@pytest.mark.parametrize("id", ["", "a" * 65, "a:b", "a b", "*", "a\n", "é"])
def test_a_connection_id_has_its_grammar(id):
    with pytest.raises(InvalidChannel):
        connection_channel(id)


BAD_LABELS = ["", "a\nb", "a\rb", "\x00", "a\x7f", "\u2028", "tab\t", "line\n"]


@pytest.mark.parametrize(
    "parse", [parse_type, parse_key, user_channel, lambda tag: parse_tags([tag])]
)
class TestLabels:
    @pytest.mark.parametrize("label", BAD_LABELS)
    def test_control_characters_are_refused(self, parse, label):
        with pytest.raises((InvalidEvent, InvalidChannel)):
            parse(label)

    def test_a_lone_surrogate_is_refused(self, parse):
        """It has no UTF-8: encoding it later would fail in the middle of the fan-out."""
        with pytest.raises((InvalidEvent, InvalidChannel)):
            parse("a\ud800")

    def test_any_language_is_taken(self, parse):
        parse("Grüße 🎉 : * $ /")


def test_labels_are_bounded():
    parse_type("x" * LONGEST_TYPE)
    parse_tags(["x" * LONGEST_TAG] * MOST_TAGS)
    for refused in (
        lambda: parse_type("x" * (LONGEST_TYPE + 1)),
        lambda: parse_tags(["x" * (LONGEST_TAG + 1)]),
        lambda: parse_tags(["x"] * (MOST_TAGS + 1)),
        lambda: parse_key("x" * (LONGEST_CHANNEL + 1)),
    ):
        with pytest.raises(InvalidEvent):
            refused()


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("news", "default"),
        ("chat:lobby", "chat"),
        ("chat:lobby:2", "chat"),
        ("$all", "$all"),
        ("$user:ann", "$user"),
        ("$user:a:b", "$user"),
        ("$conn:c1", "$conn"),
    ],
)
def test_each_channel_has_a_namespace(channel, namespace):
    assert namespace_of(channel) == namespace


@given(namespaces, st.text("ab.", min_size=1, max_size=4))
def test_a_channel_is_in_the_namespace_it_names(namespace, name):
    assert namespace_of(parse_channel(f"{namespace}:{name}")) == namespace
