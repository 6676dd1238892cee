"""Endpoints without Quart keep the app's rules: methods, origins, and one form of refusals."""

import pytest

from triocast.errors import BadRequest, Overloaded, Unauthorized
from triocast.node import build_node
from triocast.settings import Settings
from triocast.web.answers import json_answer
from triocast.web.origins import Origins
from triocast.web.plain import serve
from triocast.web.publish import read_text

from .serving import make_scope

LISTED = "https://here.example"
ELSEWHERE = "https://elsewhere.example"
OUR_OWN = "http://localhost"


@pytest.fixture
async def node():
    return build_node(Settings(max_body_bytes=70_000))


@pytest.fixture
def ask(node):
    async def ask(endpoint, method="POST", *, body=(b"{}",), allowed=(LISTED,), **headers):
        """Return the status, the headers and the body of an answer."""
        chunks, sent = list(body), []

        async def receive():
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

        async def send(message):
            sent.append(message)

        names = {name.replace("_", "-"): value for name, value in headers.items()}
        scope = make_scope("/x", names, method=method)
        await serve(endpoint, node, Origins(allowed), scope, receive, send)
        start, end = sent
        assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
        assert not end["more_body"]
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert len(found) == len(start["headers"])
        return start["status"], found, end["body"]

    return ask


async def echo(node, call, body):
    return json_answer({"size": len(await read_text(call, body, 1)), "query": call.query.get("q")})


def raising(error):
    async def endpoint(node, call, body):
        raise error

    return endpoint


async def untouched(node, call, body):
    raise AssertionError("nobody should have asked this")


async def test_a_post_is_answered_by_the_endpoint(ask):
    status, headers, body = await ask(echo, body=(b"[1,", b"", b"2]"))
    assert (status, body) == (200, b'{"size":5,"query":null}')
    assert headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "vary": "Origin",
        "content-length": str(len(body)),
    }


@pytest.mark.parametrize(
    ("announced", "body"),
    [({"content_length": "70001"}, (b"{}",)), ({}, (b" " * 70_000, b" ")), ({}, (b" " * 70_001,))],
)
async def test_a_body_has_a_bound_whether_its_length_is_announced_or_not(ask, announced, body):
    status, _, body = await ask(echo, body=body, **announced)
    assert status == 413
    assert b'"too_large"' in body


@pytest.mark.parametrize(
    ("error", "status", "code", "more"),
    [
        (BadRequest("no"), 400, b'"bad_request"', {}),
        (Unauthorized("no"), 401, b'"unauthorized"', {"www-authenticate": "Bearer"}),
        (Overloaded("no"), 503, b'"overloaded"', {"retry-after": "5"}),
    ],
)
async def test_a_refusal_by_the_endpoint_has_our_form(ask, error, status, code, more):
    found, headers, body = await ask(raising(error))
    assert found == status
    assert code in body and b'"no"' in body
    assert headers.items() >= more.items()
    assert headers["content-length"] == str(len(body))


async def test_an_error_of_ours_tells_nothing_and_is_logged(ask, caplog):
    status, _, body = await ask(raising(ZeroDivisionError("secret detail")))
    assert status == 500
    assert b'"internal"' in body and b"secret" not in body
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "BREW"])
async def test_other_methods_are_refused_and_the_allowed_ones_named(ask, method):
    status, headers, body = await ask(untouched, method)
    assert (status, headers["allow"]) == (405, "OPTIONS, POST")
    assert b'"method_not_allowed"' in body


async def test_options_name_the_methods(ask):
    assert await ask(untouched, "OPTIONS") == (
        200,
        {"allow": "OPTIONS, POST", "vary": "Origin", "content-length": "0"},
        b"",
    )


async def test_a_preflight_has_no_body_to_describe(ask):
    status, headers, body = await ask(
        untouched, "OPTIONS", origin=LISTED, access_control_request_method="POST"
    )
    assert (status, body) == (204, b"")
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-origin"] == LISTED
    assert "content-length" not in headers


async def test_options_that_only_look_like_a_preflight_are_answered_as_options(ask):
    status, headers, _ = await ask(untouched, "OPTIONS", access_control_request_method="POST")
    assert (status, headers["allow"]) == (200, "OPTIONS, POST")


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT"])
async def test_pages_of_other_origins_do_not_reach_the_endpoint(ask, method):
    asked = {"access_control_request_method": "POST"} if method == "OPTIONS" else {}
    status, headers, body = await ask(untouched, method, origin=ELSEWHERE, **asked)
    assert status == 403
    assert b'"origin_refused"' in body
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"


@pytest.mark.parametrize(("origin", "readable"), [(LISTED, True), (OUR_OWN, False)])
async def test_pages_of_listed_origins_and_our_own_reach_it(ask, origin, readable):
    status, headers, _ = await ask(echo, origin=origin)
    assert status == 200
    assert ("access-control-allow-origin" in headers) == readable
    assert headers["vary"] == "Origin"


@pytest.mark.parametrize("error", [BadRequest("no"), ZeroDivisionError()])
async def test_a_listed_page_may_read_why_it_was_refused(ask, error):
    _, headers, _ = await ask(raising(error), origin=LISTED)
    assert headers["access-control-allow-origin"] == LISTED
    assert "Retry-After" in headers["access-control-expose-headers"]
