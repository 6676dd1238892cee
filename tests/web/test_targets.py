"""Requests look the same to endpoints, whatever form of target they came with."""

import pytest

from triocast.errors import BadRequest, NotFound
from triocast.settings import Settings
from triocast.web import create_app
from triocast.web.targets import check_framing, local_scope, split_target, with_authority


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b", (None, b"/a?b")),
        (b"//a", (None, b"//a")),
        (b"*", (None, b"*")),
        (b"http://h/a?b", (b"h", b"/a?b")),
        (b"HTTPS://[::1]:8/a", (b"[::1]:8", b"/a")),
        (b"ws://h", (b"h", b"/")),
        (b"http://h?b", (b"h", b"/?b")),
    ],
)
def test_a_target_is_split_into_authority_and_path(target, parts):
    assert split_target(target) == parts


@pytest.mark.parametrize(
    "target", [b"", b"a", b"x:", b"h:80", b"http://", b"http:///a", b"http://u@h/", b"http://[/",
    b"ftp://h/", b"http://h:x/", b"?a"],
)  # fmt: skip
def test_anything_else_is_no_target(target):
    with pytest.raises(BadRequest):
        split_target(target)


def test_the_authority_takes_the_place_of_every_host():
    headers = [(b"host", b"a"), (b"x", b"1"), (b"host", b"b")]
    assert with_authority(headers, b"c") == [(b"host", b"c"), (b"x", b"1")]
    assert with_authority(headers, None) == headers


@pytest.mark.parametrize("names", [[], [b"content-length"], [b"transfer-encoding"]])
def test_a_body_has_one_end(names):
    check_framing([(name, b"1") for name in names], "1.1")


@pytest.mark.parametrize(
    ("names", "version"),
    [([b"content-length", b"transfer-encoding"], "1.1"), ([b"transfer-encoding"], "1.0")],
)
def test_a_body_whose_end_is_in_doubt_is_refused(names, version):
    with pytest.raises(BadRequest):
        check_framing([(name, b"1") for name in names], version)


def scope(path, root="", **more):
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "root_path": root,
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 5),
        **more,
    }


def test_a_plain_scope_is_not_copied():
    plain = scope("/a")
    assert local_scope(plain) is plain


@pytest.mark.parametrize(
    ("path", "root", "local"),
    [
        ("/rt/a", "/rt", "/a"),
        ("/rt/a", "/rt/", "/a"),
        ("/rt/rt/a", "/rt", "/rt/a"),
        ("/rt//a", "/rt", "/a"),
        ("//a//b", "", "/a//b"),
        ("/rt", "/rt", "/"),
        ("http://h/rt/a%20b", "/rt", "/a b"),
    ],
)
def test_the_path_is_that_below_the_root_path(path, root, local):
    found = local_scope(scope(path, root, raw_path=path.encode()))
    assert (found["path"], found["root_path"]) == (local, "")


@pytest.mark.parametrize("path", ["/a", "/rtx/a", "/"])
def test_outside_of_the_root_path_there_is_nothing(path):
    with pytest.raises(NotFound):
        local_scope(scope(path, "/rt"))


# Over the application.


async def ask(app, asked, body=b""):
    messages = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        messages.append(message)

    await app(asked, receive, send)
    return messages[0]["status"], dict(messages[0]["headers"]), messages[1]["body"]


POST = {
    "method": "POST",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
}
ENDPOINTS = [
    ("/realtime/history", {}),
    ("/healthz", {}),
    ("/realtime/sdk/signaling.js", {}),
    ("/peerjs/id", {}),
    ("/realtime/broadcast", POST),
    ("/realtime/send", POST),
]


@pytest.fixture
async def app(run_node):
    return await run_node(create_app(Settings()))


@pytest.mark.parametrize(("path", "more"), ENDPOINTS)
@pytest.mark.parametrize(
    ("before", "root"),
    [("", ""), ("/", ""), ("/rt", "/rt"), ("http://localhost", ""), ("http://[::1]:8", "")],
)
async def test_every_endpoint_is_found_by_every_form_of_target(app, path, more, before, root):
    target = before + path
    asked = scope(target, root, **more, raw_path=target.encode())
    status, _, _ = await ask(app, asked, b'{"channel":"a","data":1}')
    assert status == 200


@pytest.mark.parametrize(("path", "more"), ENDPOINTS[:1] + ENDPOINTS[-2:])
async def test_the_authority_of_the_target_decides_who_is_local(app, path, more):
    """A page under another name that leads here must not be taken for ours (DNS rebinding)."""
    target = "http://evil.example" + path
    status, _, body = await ask(app, scope(target, **more, raw_path=target.encode()), b"{}")
    assert (status, b'"forbidden"' in body) == (403, True)


async def test_a_body_whose_end_is_in_doubt_is_refused_and_the_connection_closed(app):
    both = [(b"host", b"localhost"), (b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
    asked = scope("/realtime/broadcast", method="POST", headers=both)
    status, headers, body = await ask(app, asked)
    assert (status, headers[b"connection"]) == (400, b"close")
    assert b'"bad_request"' in body


async def test_only_options_is_about_the_whole_server(app):
    status, headers, body = await ask(app, scope("*", method="OPTIONS"))
    assert (status, body) == (204, b"")
    assert b"GET" in headers[b"allow"]
    assert (await ask(app, scope("*")))[0] == 400
