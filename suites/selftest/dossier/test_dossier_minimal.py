"""ddmin: what it keeps fails, and fails no longer without any one piece of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.dossier import ddmin, most_tests

pytestmark = pytest.mark.selftest


def defects(most: int = 24):
    """A number of pieces, and sets of them each of which shows the defect; some sets cannot be run."""
    return st.integers(1, most).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.frozensets(st.integers(0, n - 1), min_size=1, max_size=5), min_size=1, max_size=4),
            st.lists(st.frozensets(st.integers(0, n - 1), max_size=n), max_size=6),
        )
    )


@given(defects())
@settings(max_examples=150, deadline=None)
def test_it_is_1_minimal_asks_nothing_twice_and_keeps_its_promise(case):
    n, causes, broken = case
    asked: list[tuple[int, ...]] = []
    told: list[int] = []

    def outcome(kept):
        some = frozenset(kept)
        if some in broken and some != frozenset(range(n)):
            return "unresolved"
        return "fail" if any(cause <= some for cause in causes) else "pass"

    def test(kept):
        asked.append(kept)
        return outcome(kept)

    found = ddmin(range(n), test, told.append)
    assert outcome(found) == "fail" and list(found) == sorted(found)
    assert all(outcome(found[:i] + found[i + 1 :]) != "fail" for i in range(len(found)))
    assert len(set(asked)) == len(asked)
    assert told[0] >= len(asked) and told[-1] >= 1
    assert all(left >= len(asked) - i for i, left in enumerate(told))  # at most so many were left, each time


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_of_one_cause_it_keeps_just_that(n, data):
    cause = data.draw(st.frozensets(st.integers(0, n - 1), max_size=6))
    assert set(ddmin(range(n), lambda kept: "fail" if cause <= set(kept) else "pass")) == cause


def test_a_pair_among_fifteen_takes_as_many_tests_as_the_paper_says():
    asked = []

    def test(kept):
        asked.append(kept)
        return "fail" if {4, 11} <= set(kept) else "pass"

    assert ddmin(range(15), test) == (4, 11)
    assert len(asked) <= 40 < most_tests(15) <= 15**2 + 3 * 15


def test_pieces_that_do_not_fail_are_refused():
    for outcome in ("pass", "unresolved"):
        with pytest.raises(ValueError, match="fail together"):
            ddmin("abc", lambda kept, outcome=outcome: outcome)


def test_where_nothing_is_needed_nothing_is_kept():
    assert ddmin("abc", lambda kept: "fail") == ()


def test_the_worst_case_is_the_papers_bound_at_most():
    assert all(most_tests(n) <= n * n + 3 * n for n in range(1, 151))
    assert most_tests(1000) == 1000**2 + 3000
