"""What Hypercorn refuses by itself is told in JSON, too."""

import json

import pytest
from hypercorn.protocol.events import Body, EndBody, Response

from triocast.errors import BadRequest, UpgradeRequired
from triocast.server.error_responses import error_of_status, send_error


class Stream:
    stream_id = 1

    def __init__(self, version, method="GET"):
        self.scope = {"http_version": version, "method": method}
        self.sent = []

    async def send(self, event):
        self.sent.append(event)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "bad_request"), (403, "forbidden"), (404, "not_found"), (500, "internal")],
)
def test_each_status_of_hypercorn_has_a_code(status, code):
    error = error_of_status(status)
    assert (error.status, error.code) == (status, code)


async def test_an_error_is_answered_whole_and_ends_the_connection():
    stream = Stream("1.1")
    await send_error(stream, BadRequest("why"))
    head, body, end = stream.sent
    assert isinstance(head, Response) and isinstance(body, Body) and isinstance(end, EndBody)
    headers = dict(head.headers)
    assert json.loads(body.data)["message"] == "why"
    assert headers[b"content-length"] == str(len(body.data)).encode()
    assert headers[b"connection"] == b"close"


async def test_a_head_has_no_body():
    stream = Stream("1.1", "HEAD")
    await send_error(stream, BadRequest("why"))
    assert [type(event) for event in stream.sent] == [Response, EndBody]


@pytest.mark.parametrize(("version", "status", "upgrade"), [("1.1", 426, True), ("2", 400, False)])
async def test_http_2_has_no_upgrade(version, status, upgrade):
    stream = Stream(version)
    await send_error(stream, UpgradeRequired("why"))
    headers = dict(stream.sent[0].headers)
    assert stream.sent[0].status_code == status
    assert headers[b"sec-websocket-version"] == b"13"
    assert (b"upgrade" in headers, b"connection" in headers) == (upgrade, upgrade)
