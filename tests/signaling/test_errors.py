"""Codes are a contract with clients, and the reference has them all."""

import inspect
import re
from pathlib import Path

import pytest

from triocast.errors import CloseCode
from triocast.signaling import errors
from triocast.signaling.errors import RoomFull, SignalingError
from triocast.signaling.messages import _DECODERS
from triocast.signaling.notices import error_message

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "signaling.md"
ALL = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, SignalingError)
]


def test_each_error_has_a_code_of_its_own():
    assert len({error.code for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
def test_an_error_says_what_a_program_needs(error):
    told = error_message(error("why"), re="q", to="b", session=3)
    assert (told.code, told.message) == (error.code, "why")
    assert (told.temporary, told.fatal) == (error.temporary, error.fatal)
    assert (told.re, told.to, told.session) == ("q", "b", 3)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", told.code)
    assert error.temporary == (error.status in (429, 503))


def test_a_wait_is_told():
    assert error_message(RoomFull("full", wait=5)).retry_after == 5


def test_the_reference_lists_the_errors():
    section = REFERENCE.read_text().split("## Errors")[1].split("## Bounds")[0]
    listed = {
        code
        for line in re.findall(r"^\| (`[a-z].*?) \|", section, re.MULTILINE)
        for code in re.findall(r"`([a-z-]+)`", line)
    }
    assert listed - {"code"} == {error.code for error in ALL}
    for code in (CloseCode.REPLACED, CloseCode.KICKED, CloseCode.ROOM_CLOSED):
        assert f"| {int(code)} |" in section
        assert not code.reconnect


def test_the_reference_lists_what_clients_send():
    section = REFERENCE.read_text().split("## What clients send")[1].split("## What clients are")[0]
    first_column = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`([a-z-]+)`", first_column)) - {"type"} == set(_DECODERS)
