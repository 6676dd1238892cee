"""Kinds of value: what each one reads, what it refuses and why, and how values are written."""

import math
import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.settings.values import (
    BOOLEAN,
    FILE,
    HOSTS,
    INTEGER,
    LIST,
    OPTIONAL_TEXT,
    SECONDS,
    SECRET,
    TEXT,
    UnreadableValue,
    optional,
    parse_duration,
    write_key,
    write_value,
)

# Durations.


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
        ("P2D", 172800),
        ("P1DT1H", 90000),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "1e3", "nan", "inf", "1x", "P", "PT", "P1", "P1DT", "1:30", "1s2", "٣", "1.s"],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UnreadableValue, match="is not a duration"):
        parse_duration(text)


@given(*[st.integers(0, 10**6)] * 4)
def test_both_notations_of_a_duration_mean_the_same(days, hours, minutes, seconds):
    expected = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    assert parse_duration(f"{days}d {hours}h{minutes}m {seconds}s") == expected
    assert parse_duration(f"P{days}DT{hours}H{minutes}M{seconds}S") == expected


@given(st.text("0123456789.smhdPT -+eE_", max_size=12) | st.text(max_size=12))
def test_any_text_is_a_finite_duration_or_refused(text):
    try:
        seconds = parse_duration(text)
    except UnreadableValue:
        return
    assert 0 <= seconds < math.inf


# Reading.


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (TEXT, " a b ", "a b"),
        (OPTIONAL_TEXT, "a", "a"),
        (OPTIONAL_TEXT, None, None),
        # The other side uses a secret byte for byte, so spaces around it are part of it.
        (SECRET, " k\n", " k\n"),
        (SECRET, None, None),
        (FILE, " key.pem ", Path("key.pem")),
        (FILE, Path(" x"), Path(" x")),
        (FILE, None, None),
        (INTEGER, 5, 5),
        (INTEGER, " 1_000_000 ", 1_000_000),
        (INTEGER, "+5", 5),
        (INTEGER, "-5", -5),
        (SECONDS, 5, 5.0),
        (SECONDS, 0.5, 0.5),
        (SECONDS, "1m", 60.0),
        (BOOLEAN, True, True),
        (BOOLEAN, 0, False),
        (LIST, "https://a:8443, http://b,", ("https://a:8443", "http://b")),
        (LIST, [" a ", "", "b,c"], ("a", "b,c")),
        (LIST, ("a",), ("a",)),
        (LIST, "", ()),
        (LIST, None, ()),
        (optional(INTEGER), "5", 5),
        (optional(INTEGER), None, None),
    ],
)
def test_a_value_is_read(kind, raw, value):
    read = kind.read(raw)
    assert (read, type(read)) == (value, type(value))
    assert kind.accepts(read)


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", " On "])
def test_a_word_for_true_has_its_opposite(word):
    no = {"true": "false", "1": "0", "yes": "no", "on": "off"}[word.strip().lower()]
    assert BOOLEAN.read(word) is True
    assert BOOLEAN.read(no) is False


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert FILE.read("~/key.pem") == Path("/home/ann/key.pem")


@pytest.mark.parametrize("kind", [TEXT, OPTIONAL_TEXT, SECRET, FILE, INTEGER, SECONDS, BOOLEAN])
@pytest.mark.parametrize("raw", ["", " \n"])
def test_an_empty_text_is_refused_rather_than_taken_for_a_default(kind, raw):
    with pytest.raises(UnreadableValue, match="is empty"):
        kind.read(raw)


@pytest.mark.parametrize("kind", [TEXT, INTEGER, SECONDS, BOOLEAN])
def test_what_must_be_set_cannot_be_nothing(kind):
    with pytest.raises(UnreadableValue, match="is empty"):
        kind.read(None)


@pytest.mark.parametrize(
    ("kind", "raw", "problem", "fix"),
    [
        (TEXT, 5, "is not text", "quotation marks"),
        (FILE, 5, "is not text", "quotation marks"),
        (FILE, "~nobody-here/x", "no home folder is known for '~nobody-here/x'", "without ~"),
        (INTEGER, "80a", "'80a' is not a whole number", "digits only"),
        (INTEGER, "1.5", "'1.5' is not a whole number", "digits only"),
        (INTEGER, "1__0", "'1__0' is not a whole number", "digits only"),
        (INTEGER, "٣", "is not a whole number", "digits only"),
        (INTEGER, 1.5, "1.5 is not a whole number", "digits only"),
        (INTEGER, True, "True is not a whole number", "digits only"),
        (SECONDS, "soon", "'soon' is not a duration", "500ms"),
        (SECONDS, True, "'True' is not a duration", "give seconds"),
        (SECONDS, 10**400, "the number is too large", "fewer digits"),
        (BOOLEAN, "maybe", "'maybe' is neither true nor false", "yes, no, on, off"),
        (BOOLEAN, 2, "2 is neither true nor false", "yes, no, on, off"),
        (LIST, {"a": "b"}, "is not a list of texts", "commas between them"),
        (LIST, [1], "is not a list of texts", "commas between them"),
        (optional(INTEGER), "x", "'x' is not a whole number", "digits only"),
    ],
)
def test_what_cannot_be_read_is_told_with_a_fix(kind, raw, problem, fix):
    with pytest.raises(UnreadableValue) as caught:
        kind.read(raw)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_secret_that_cannot_be_read_is_not_shown():
    with pytest.raises(UnreadableValue) as caught:
        SECRET.read(1234567)
    assert caught.value.problem == "is not text"
    assert "1234567" not in str(caught.value)


def test_a_fault_is_told_by_its_path_through_the_tables():
    fault = UnreadableValue("is empty", "give it a value")
    assert fault.entry == ""
    assert fault.within("chat").entry == "chat"
    outer = fault.within("compress").within("chat")
    assert (outer.problem, outer.fix, outer.entry) == (fault.problem, fault.fix, "chat.compress")


# Writing.


@attrs.frozen
class Options:
    compress: bool = True
    history_events: int | None = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (8000, "8000"),
        (0.5, "0.5"),
        ('a "b"', '"a \\"b\\""'),
        ("\x7f", '"\\u007f"'),
        (Path("/etc/key.pem"), '"/etc/key.pem"'),
        ((), "[]"),
        (("a", "b"), '["a", "b"]'),
        ({"chat": 1, "a b": 2}, '{chat = 1, "a b" = 2}'),
        (Options(), "{compress = true}"),
    ],
)
def test_a_value_is_written_as_toml(value, text):
    assert write_value(value) == text


texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)


def as_lists(value):
    """The value with lists in the place of tuples, as TOML has them."""
    if isinstance(value, tuple):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value


@given(texts, values)
@example("\x7f", "\\\"'# \x7f\r\n")
def test_what_is_written_is_read_back_by_any_toml_parser(key, value):
    text = f"{write_key(key)} = {write_value(value)}"
    assert tomllib.loads(text) == {key: as_lists(value)}


@given(st.integers(-(10**18), 10**18), st.floats(0, 10**9), st.booleans(), st.lists(texts))
def test_what_python_writes_is_read_back_from_text(whole, seconds, flag, items):
    assert INTEGER.read(str(whole)) == whole
    assert INTEGER.read(f"{whole:_}") == whole
    assert BOOLEAN.read(str(flag)) is flag
    assert SECONDS.read(seconds) == seconds
    assert SECONDS.read(f"{seconds:.20f}") == pytest.approx(seconds)
    assert LIST.read(items) == tuple(stripped for item in items if (stripped := item.strip()))


@pytest.mark.parametrize("kind", [TEXT, OPTIONAL_TEXT, SECRET, FILE, LIST])
def test_text_that_is_not_utf_8_is_refused(kind):
    with pytest.raises(UnreadableValue, match="not UTF-8") as caught:
        kind.read("a\udcff")
    assert "udcff" not in str(caught.value)


def test_any_path_can_be_written():
    assert write_value(Path("/a\udcff")) == '"/a\\udcff"'


# Hosts.


@pytest.mark.parametrize(
    ("raw", "text"),
    [("::1", "::1"), (" ::1 , a,", "::1,a"), (["::1", " a "], "::1,a"), (("a",), "a")],
)
def test_hosts_are_one_text_however_they_are_listed(raw, text):
    assert HOSTS.read(raw) == text
    assert HOSTS.accepts(text)


@pytest.mark.parametrize("raw", [None, "", " ", ",", [], [5], 5])
def test_no_host_at_all_is_refused(raw):
    with pytest.raises(UnreadableValue):
        HOSTS.read(raw)
