"""Error codes and close codes are a contract with clients."""

import inspect

import pytest

from triocast import errors
from triocast.errors import CloseCode, EndReason, TriocastError, should_reconnect

ALL = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, TriocastError)
]


def test_each_error_has_a_code_of_its_own():
    codes = [error.code for error in ALL]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", ALL)
def test_errors_are_told_in_one_shape(error):
    assert error("why").as_dict() == {
        "code": error.code,
        "message": "why",
        "temporary": error.temporary,
    }
    assert str(error("why")) == "why"


@pytest.mark.parametrize("error", [e for e in ALL if e.status in (408, 429, 503)])
def test_statuses_that_mean_later_are_temporary(error):
    assert error.temporary
    assert error.retry_after > 0


@pytest.mark.parametrize("error", [e for e in ALL if 400 <= e.status < 500])
def test_a_bad_request_is_not_tried_again(error):
    assert error.temporary == (error.status in (408, 429))


@pytest.mark.parametrize(
    ("codes", "reconnect"),
    [
        ((1001, 1006, 1011, 1012, 1013, 4000, 4001, 4499), True),
        ((1000, 1002, 1003, 1007, 1008, 1009, 3999, 4500, 4999), False),
    ],
)
def test_close_codes_say_whether_to_come_back(codes, reconnect):
    assert all(should_reconnect(code) is reconnect for code in codes)


def test_each_end_tells_the_client_the_right_thing():
    come_back = {reason for reason in EndReason if reason.close_code.reconnect}
    assert come_back == {
        EndReason.PEER_LOST,
        EndReason.SLOW_CONSUMER,
        EndReason.SHUTDOWN,
        EndReason.SERVER_ERROR,
    }
    assert len({reason.word for reason in EndReason}) == len(EndReason)
    assert EndReason.SHUTDOWN.close_code == 1012
    assert CloseCode.UNAUTHORIZED == 4500
