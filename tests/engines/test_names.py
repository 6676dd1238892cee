"""Names in order: any additions and removals agree with a sorted list, whenever they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.engines import names as names_module
from triocast.engines.names import Names

texts = st.text(alphabet="ab:", min_size=1, max_size=4)
prefixes = st.text(alphabet="ab:", max_size=3)


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_module, "MAX_PIECE", 3)
        yield


@given(st.sets(texts), st.lists(texts), prefixes, prefixes)
def test_any_changes_agree_with_a_sorted_list(begun_with, changes, after, prefix):
    names, model = Names(begun_with), set(begun_with)
    for name in changes:
        if name in model:
            names.remove(name)
            model.remove(name)
        else:
            names.add(name)
            model.add(name)
        assert bool(names) is bool(model)
    assert list(names.behind(after)) == sorted(name for name in model if name > after)
    beginning = sorted(name for name in model if name.startswith(prefix))
    assert list(names.starting_with(prefix)) == beginning
    assert list(names.starting_with(prefix, after=after)) == [n for n in beginning if n > after]


@given(st.sets(texts, min_size=2), st.data())
def test_names_may_come_and_go_while_they_are_read(begun_with, data):
    names, model, staying = Names(begun_with), set(begun_with), set(begun_with)
    found = []
    for name in names.starting_with(""):
        found.append(name)
        change = data.draw(texts)
        if change in model:
            names.remove(change)
            model.remove(change)
            staying.discard(change)
        else:
            names.add(change)
            model.add(change)
        if len(found) > 30:
            break
    assert found == sorted(set(found))
    assert {name for name in staying if name <= found[-1]} <= set(found)
