"""Problems with settings say where the value came from, what is wrong and how to fix it."""

import pytest

from triocast.settings.problems import Problem, SettingsError, suggest

PORT = Problem("port", "x.toml: port", "70000 is out of range", "give a number up to 65535")
HOST = Problem("host", "default", "is empty", "give it a value")


def test_a_problem_reads_as_what_is_wrong_and_its_fix():
    assert str(PORT) == (
        "port (from x.toml: port): 70000 is out of range\n    Fix: give a number up to 65535"
    )


@pytest.mark.parametrize(
    ("problems", "head"),
    [((PORT,), "1 setting is wrong:"), ((PORT, HOST), "2 settings are wrong:")],
)
def test_an_error_counts_its_problems_and_lists_each(problems, head):
    error = SettingsError(*problems)
    assert error.problems == problems
    assert str(error) == "\n".join([head, *(f"  {problem}" for problem in problems)])


@pytest.mark.parametrize(
    ("name", "known", "fix"),
    [
        ("prot", ["host", "port"], "did you mean port?"),
        ("max-connection", ["max_connections", "max_documents"], "did you mean max_connections?"),
        ("triocast_prot", ["TRIOCAST_PORT"], "did you mean TRIOCAST_PORT?"),
        ("PORT", ["port"], "did you mean port?"),
        ("zzzzzz", ["host", "port"], "remove it"),
        ("port", [], "remove it"),
    ],
)
def test_a_misspelt_name_gets_the_closest_known_one(name, known, fix):
    assert suggest(name, known) == fix
