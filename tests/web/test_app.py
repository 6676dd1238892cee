"""The application around its endpoints: what fails, fails in our form and starts no stream."""

import pytest
from quart import Response

from triocast.web import node_of


async def test_an_error_of_ours_tells_nothing_and_is_logged(app, client, caplog):
    @app.get("/broken")
    async def broken() -> Response:
        raise ZeroDivisionError("secret detail")

    reply = await client.get("/broken")
    assert reply.status_code == 500
    assert reply.json()["code"] == "internal"
    assert "secret" not in reply.text
    assert "secret detail" in caplog.text


async def test_a_response_that_was_replaced_starts_no_stream(app, client):
    @app.after_request
    async def fail(response: Response) -> Response:
        raise ZeroDivisionError

    reply = await client.get("/realtime/events")
    assert reply.status_code == 500
    assert not node_of(app).connections.live
    assert node_of(app).hub.subscribers() == ()


async def test_what_is_not_there_is_refused_in_json(client):
    assert (await client.get("/nowhere")).json()["code"] == "not_found"
    reply = await client.get("/realtime/broadcast")
    assert (reply.status_code, reply.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in reply.headers["Allow"]


@pytest.mark.parametrize("path", ["/x//id", "//realtime//events", "/realtime/webrtc//rooms", "//"])
async def test_slashes_too_many_lead_nowhere(client, caplog, path):
    reply = await client.get(f"http://localhost{path}")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert caplog.text == ""
