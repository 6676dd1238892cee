"""Responses in JSON: every refusal has one form, and tells a client when to try again."""

import json

import pytest

from triocast import errors
from triocast.errors import Overloaded, TriocastError, Unauthorized, WrongContentEncoding
from triocast.web.answers import Answer, failure, json_answer, refusal

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TriocastError)
]


def test_a_value_is_answered_as_json_that_no_cache_keeps():
    answer = json_answer({"a": [1, "é"]}, 207)
    assert answer.status == 207
    assert json.loads(answer.body) == {"a": [1, "é"]}
    assert dict(answer.headers) == {
        "content-type": "application/json",
        "cache-control": "no-store",
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_refusal_says_what_is_wrong_and_whether_to_try_again(kind):
    answer = refusal(kind("what is wrong"))
    headers = dict(answer.headers)
    assert answer.status == kind.status
    assert json.loads(answer.body) == {
        "code": kind.code,
        "message": "what is wrong",
        "temporary": kind.temporary,
    }
    assert headers.get("retry-after") == (str(kind.retry_after) if kind.temporary else None)
    assert headers.get("www-authenticate") == ("Bearer" if kind.status == 401 else None)
    accepted = "identity" if kind is WrongContentEncoding else None
    assert headers.get("accept-encoding") == accepted
    assert headers["cache-control"] == "no-store"


def test_a_refusal_can_have_another_status_and_code():
    answer = refusal(Overloaded("full"), status=429, code="too_many_requests")
    assert answer.status == 429
    assert json.loads(answer.body)["code"] == "too_many_requests"
    assert dict(answer.headers)["retry-after"] == str(Overloaded.retry_after)
    assert "www-authenticate" not in dict(refusal(Unauthorized("no"), status=403).headers)


def test_a_failure_of_ours_says_nothing_about_itself():
    answer = failure()
    told = json.loads(answer.body)
    assert (answer.status, told["code"], told["temporary"]) == (500, "internal", False)


async def test_quart_gets_the_same_response():
    headers = [("vary", "Origin"), ("vary", "Accept"), ("content-type", "text/plain")]
    response = Answer(201, headers, b"body").as_response()
    assert response.status_code == 201
    assert response.headers.getlist("Vary") == ["Origin", "Accept"]
    assert response.headers.getlist("Content-Type") == ["text/plain"]
    assert await response.get_data(as_text=False) == b"body"
