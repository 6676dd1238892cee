"""Documents and writes are plain values: equal by content, and never changed once made."""

import attrs
import pytest

from triocast.documents import ABSENT, Document, Write, at

DOCUMENT = Document("flags:web", "dark-mode", 3, b"true", "2026-01-01T00:00:00.000Z", "ann")
WRITE = Write(b"true", at(3))


@pytest.mark.parametrize("value", [DOCUMENT, WRITE])
def test_values_with_the_same_content_are_equal_and_can_be_keys(value):
    assert len({value, attrs.evolve(value)}) == 1


@pytest.mark.parametrize(
    "change", [{"version": 4}, {"data": b"false"}, {"channel": "flags:ios"}, {"user": None}]
)
def test_a_document_that_differs_in_anything_is_another_one(change):
    assert attrs.evolve(DOCUMENT, **change) != DOCUMENT


def test_a_write_without_a_condition_is_not_one_that_must_create_the_document():
    assert Write(b"1").precondition is None
    assert Write(b"1") != Write(b"1", ABSENT)


def test_a_removal_is_not_a_write_of_nothing():
    assert Write(None) != Write(b"")


@pytest.mark.parametrize("value", [DOCUMENT, WRITE])
def test_values_cannot_be_changed(value):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.data = b"other"
