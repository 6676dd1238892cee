"""What is kept of each kind is counted by itself."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from triocast.engines.usage import Usage

usages = st.builds(Usage, *[st.integers(-(10**9), 10**9)] * len(attrs.fields(Usage)))


@given(usages, usages)
def test_adding_adds_each_number_to_its_own(one, other):
    expected = [sum(pair) for pair in zip(attrs.astuple(one), attrs.astuple(other), strict=True)]
    assert attrs.astuple(one + other) == tuple(expected)


@given(usages)
def test_what_is_removed_again_leaves_nothing(usage):
    less = Usage(*(-number for number in attrs.astuple(usage)))
    assert usage + less == Usage()
