"""Options of namespaces: read from every source, looked up by channel, refused with a fix."""

import json
import tomllib

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from triocast.cli import main
from triocast.events import parse_channel
from triocast.settings import (
    NAMESPACE_OPTIONS,
    Namespace,
    Namespaces,
    Settings,
    SettingsError,
    load_settings,
)
from triocast.settings.namespaces import read_namespaces
from triocast.settings.values import write_value

ON = Namespace(compress=True)
CHAT = Namespaces({"chat": ON})


@pytest.fixture
def load(tmp_path):
    """Load settings from the text of a file, variables and options."""

    def load(name=None, text="", environ=None, **overrides):
        path = None
        if name is not None:
            path = tmp_path / name
            path.write_text(text)
        return load_settings(config_file=path, environ=environ or {}, overrides=overrides)

    return load


def problems_of(load, *args, **kwargs):
    with pytest.raises(SettingsError) as caught:
        load(*args, **kwargs)
    return [(p.name, p.source, p.problem, p.fix) for p in caught.value.problems]


# Where they come from.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.toml", "[namespaces.chat]\ncompress = true\n"),
        ("x.toml", "[triocast.namespaces.chat]\ncompress = true\n"),
        ("x.toml", "namespaces.chat.compress = true\n"),
        ("x.toml", "namespaces = {chat = {compress = 'yes'}}\n"),
        ("x.yaml", "namespaces:\n  chat:\n    compress: on\n"),
        ("x.yaml", "startpunkt:\n  title: x\nnamespaces:\n  chat: {compress: true}\n"),
        ("x.yaml", 'namespaces: \'{"chat": {"compress": true}}\'\n'),
    ],
)
def test_a_file_has_a_table(load, name, text):
    loaded = load(name, text)
    assert loaded.settings == Settings(namespaces=CHAT)
    assert loaded.sources["namespaces"].endswith("namespaces")


def test_text_is_json(load):
    text = '{"chat": {"compress": true}}'
    loaded = load(environ={"TRIOCAST_NAMESPACES": text})
    assert loaded.settings.namespaces == CHAT
    assert loaded.sources["namespaces"] == "environment variable TRIOCAST_NAMESPACES"
    assert load(namespaces=text).settings.namespaces == CHAT


def test_a_weightier_source_replaces_the_table_as_a_whole(load):
    file = "[namespaces.news]\ncompress = true\n"
    loaded = load("x.toml", file, environ={"TRIOCAST_NAMESPACES": '{"chat": {"compress": true}}'})
    assert loaded.settings.namespaces == CHAT


@pytest.mark.parametrize("text", ["namespaces:", "namespaces: {}", "other: 1\nstartpunkt:\n"])
def test_none_is_fine(load, text):
    text = text.replace("other: 1\n", "other: {a: 1}\n")
    assert load("x.yaml", text).settings.namespaces == {}


@pytest.mark.parametrize("options", ["", "{}", "null"])
def test_a_namespace_may_leave_all_at_their_defaults(load, options):
    loaded = load("x.yaml", f"namespaces:\n  chat: {options}\n")
    assert loaded.settings.namespaces == {"chat": Namespace()}


names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True) | st.sampled_from(["$all", "default"])
VALUES = {
    "compress": st.booleans(),
    "debounce_ms": st.none() | st.integers(0, 86_400_000),
    "history_bytes": st.none() | st.integers(1, 10**12),
    "history_events": st.none() | st.integers(0, 10**9),
    "presence": st.booleans(),
    "history_seconds": st.none() | st.floats(0, 10**6),
    "overflow": st.sampled_from(["disconnect", "latest", "drop"]),
}
options = st.builds(Namespace, **{name: VALUES[name] for name in NAMESPACE_OPTIONS})
tables = st.dictionaries(names, options, max_size=5).map(Namespaces)


@given(tables)
def test_what_is_written_is_read_back(namespaces):
    toml = tomllib.loads(f"namespaces = {write_value(namespaces)}")["namespaces"]
    assert read_namespaces(toml) == namespaces
    assert read_namespaces(json.dumps(toml)) == namespaces
    assert hash(read_namespaces(toml)) == hash(namespaces)


def test_config_shows_them(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('namespaces."$all".compress = true\nnamespaces.chat.compress = false\n')
    output = CliRunner().invoke(main, ["config", "--config", str(path)]).output
    assert tomllib.loads(output)["namespaces"] == {
        "$all": {"compress": True, "overflow": "disconnect", "presence": False},
        "chat": {"compress": False, "overflow": "disconnect", "presence": False},
    }
    (line,) = [line for line in output.splitlines() if line.startswith("namespaces")]
    assert line.endswith("# x.toml: namespaces")


def test_an_option_of_the_command_line(tmp_path):
    runner = CliRunner()
    shown = runner.invoke(main, ["config", "--namespaces", '{"chat": {"compress": true}}']).output
    assert tomllib.loads(shown)["namespaces"]["chat"]["compress"] is True
    help = " ".join(runner.invoke(main, ["serve", "--help"]).output.split())
    assert (
        "--namespaces JSON Options of each namespace's channels, by the namespace's name. -" in help
    )


# Which options a channel has.


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("chat:lobby", "chat"),
        ("chat:a:b", "chat"),
        ("chat", "default"),
        ("lobby", "default"),
        ("default:lobby", "default"),
        ("chats:lobby", None),
        ("CHAT:lobby", None),
    ],
)
def test_a_channel_has_its_namespaces_options(channel, namespace):
    for name in ("chat", "default", "$all"):
        options = Namespaces({name: ON}).of_channel(parse_channel(channel))
        assert options.compress == (name == namespace)


def test_the_servers_own_channels():
    namespaces = Namespaces({"$all": ON, "default": ON, "all": ON, "user": ON})
    assert namespaces.of_channel("$all").compress
    for channel in ("$user:ann", "$user:a:b", "$conn:c1"):
        assert not namespaces.of_channel(channel).compress


# They do not change.


def test_namespaces_do_not_change():
    table = {"chat": ON}
    namespaces = Namespaces(table)
    table["news"] = ON
    assert set(namespaces) == {"chat"}
    with pytest.raises(TypeError):
        namespaces["news"] = ON
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        namespaces["chat"].compress = False
    assert hash(Settings(namespaces=namespaces)) == hash(Settings(namespaces=CHAT))
    assert "chat" in repr(Settings(namespaces=namespaces))


# What is wrong with them.


SOURCE = "environment variable TRIOCAST_NAMESPACES"


@pytest.mark.parametrize(
    ("raw", "name", "problem", "fix"),
    [
        ({"chat": {"compres": 1}}, ".chat.compres", "no such option", "did you mean compress?"),
        ({"chat": {"zz": 1}}, ".chat.zz", "no such option", "remove it (there are compress, "),
        (
            {"chat": {"compress": "maybe"}},
            ".chat.compress",
            "'maybe' is neither true nor false",
            "give one of true, false",
        ),
        ({"chat": {"compress": None}}, ".chat.compress", "is empty", "leave it out"),
        ({"chat": {"compress": {}}}, ".chat.compress", "{} is neither true nor", "give one of"),
        ({"chat": True}, ".chat", "True is not a table of options", "there are compress"),
        ({"a b": {}}, '."a b"', "'a b' is not the name of a namespace", "1 to 64 letters"),
        ({"chat:": {}}, '."chat:"', "is not the name", "before a channel's colon"),
        ({"chat:*": {}}, '."chat:*"', "is not the name", "before a channel's colon"),
        ({"*": {}}, '."*"', "is not the name", "1 to 64 letters"),
        ({"": {}}, '.""', "is not the name", "1 to 64 letters"),
        ({"x" * 65: {}}, f".{'x' * 65}", "is not the name", "1 to 64 letters"),
        ({"$user": {}}, '."$user"', "'$user' cannot have options", "only $all (broadcasts)"),
        ({"$conn": {}}, '."$conn"', "'$conn' cannot have options", "only $all (broadcasts)"),
        ({"$al": {}}, '."$al"', "'$al' cannot have options", "only $all (broadcasts)"),
        ([{"chat": {}}], "", "is not a table of namespaces", "as JSON"),
        (5, "", "5 is not a table of namespaces", "as JSON"),
    ],
)
def test_a_wrong_table_is_told_by_place(load, raw, name, problem, fix):
    ((found_name, source, found, found_fix),) = problems_of(
        load, environ={"TRIOCAST_NAMESPACES": json.dumps(raw)}
    )
    assert (found_name, source) == (f"namespaces{name}", SOURCE)
    assert problem in found
    assert fix in found_fix


@pytest.mark.parametrize("text", ["", " ", "{", "chat", "{'chat': {}}", "[" * 100_000])
def test_what_is_not_json_is_told(load, text):
    ((name, source, problem, fix),) = problems_of(load, environ={"TRIOCAST_NAMESPACES": text})
    assert (name, source) == ("namespaces", SOURCE)
    assert problem.startswith("is not JSON: " if text.strip() else "is empty")
    assert '{"chat": {"compress": true}}' in fix


def test_names_of_yaml_that_are_no_text(load):
    ((name, _, problem, fix),) = problems_of(load, "x.yaml", "namespaces:\n  on: {}\n")
    assert (name, problem, fix) == ("namespaces", "the name True is not text", "put it in quotes")


def test_all_problems_are_told_together(load):
    text = "[namespaces.chat]\ncompress = 5\ncompres = 1\n[namespaces.'a b']\nx = 1\n"
    problems = problems_of(load, "x.toml", text, environ={"TRIOCAST_PORT": "x"})
    assert sorted((name, source) for name, source, _, _ in problems) == [
        ('namespaces."a b"', "x.toml: namespaces"),
        ('namespaces."a b".x', "x.toml: namespaces"),
        ("namespaces.chat.compres", "x.toml: namespaces"),
        ("namespaces.chat.compress", "x.toml: namespaces"),
        ("port", "environment variable TRIOCAST_PORT"),
    ]


def test_python_code_is_told_too():
    assert problems_of(Namespace, compress="yes") == [
        ("compress", "argument", "a str is not allowed here", "give a value of the kind BOOLEAN")
    ]
    ((name, source, _, _),) = problems_of(Namespaces, {"a:b": ON})
    assert (name, source) == ('namespaces."a:b"', "argument")
    ((name, source, problem, _),) = problems_of(Settings, namespaces={"chat": ON})
    assert (name, source, problem) == ("namespaces", "argument", "a dict is not allowed here")


def test_an_overflow_policy_that_is_none_is_refused_with_those_there_are(load):
    (problem,) = problems_of(load, namespaces='{"chat": {"overflow": "block"}}')
    assert problem[0] == "namespaces.chat.overflow"
    assert problem[2:] == ("'block' is not known", "give one of disconnect, latest, drop")
