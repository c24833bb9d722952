"""The first bad of many: binary search where runs never lie, the error that was asked for where they do."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.dossier import Rates, Seen, bisect, learnt
from harness.errors import ClaimError

pytestmark = pytest.mark.selftest


@given(st.integers(2, 200), st.data())
@settings(max_examples=80, deadline=None)
def test_a_test_that_never_lies_takes_a_binary_search(n, data):
    first = data.draw(st.integers(1, n - 1))
    asked, left = [], []

    def run(place, number):
        asked.append((place, number))
        return "fail" if place >= first else "pass"

    found = bisect(n, run, at_most=left.append)
    assert (found.first, found.or_else, found.runs) == (first, (), len(asked))
    assert math.isclose(found.sure, 1)
    assert len(asked) <= math.ceil(math.log2(n - 1)) if n > 2 else not asked
    assert len(set(asked)) == len(asked) and all(0 < place < n - 1 and number == 0 for place, number in asked)
    assert all(told >= len(asked) - i for i, told in enumerate(left))


@given(st.integers(2, 40), st.data())
@settings(max_examples=80, deadline=None)
def test_places_that_cannot_be_run_are_named_where_they_hide_the_first(n, data):
    first = data.draw(st.integers(1, n - 1))
    dead = data.draw(st.frozensets(st.integers(1, n - 2), max_size=n // 2)) if n > 2 else frozenset()
    found = bisect(n, lambda place, _: "unresolved" if place in dead else "fail" if place >= first else "pass")
    named = {*found.or_else, found.first}
    assert first in named
    assert found.first not in dead and set(found.or_else) <= dead
    assert named == set(range(min(named), found.first + 1)) and (min(named) - 1 not in dead)


@pytest.mark.parametrize(("good", "bad"), [(0.0, 0.5), (0.02, 1.0), (0.1, 0.6)])
def test_it_errs_no_more_often_than_asked_for(good, bad):
    """60 histories of 30 commits: at 5 %, 9 wrong are exceeded with probability 1e-3."""
    wrong, runs = 0, 0
    for seed in range(60):
        rng = random.Random(f"{good} {bad} {seed}")
        first = rng.randrange(1, 30)

        def draw(rate, rng=rng):
            return "fail" if rng.random() < rate else "pass"

        rates, _, _ = learnt(lambda _, draw=draw: draw(good), lambda _, draw=draw: draw(bad), 0.05)
        found = bisect(30, lambda place, _, draw=draw, first=first: draw(bad if place >= first else good), rates, 0.05)
        wrong, runs = wrong + (found.first != first), runs + found.runs
    assert wrong <= 9
    assert (good, bad) != (0.0, 0.5) or runs / 60 < 30  # a search in step with all of them takes 29 trials


def test_of_several_changes_it_finds_one():
    def run(place, number):
        return "fail" if place % 2 else "pass"

    found = bisect(12, run)
    assert run(found.first, 0) == "fail" and run(found.first - 1, 0) == "pass"


@pytest.mark.parametrize("rates", [Rates(), Rates(Seen(0, 20), Seen(20, 0))])
def test_where_nothing_can_be_run_everything_is_named(rates):
    found = bisect(4, lambda place, _: "unresolved", rates)
    assert (found.first, found.or_else) == (3, (1, 2))


def test_runs_that_say_too_little_end_in_words():
    with pytest.raises(ClaimError, match="say too little"):
        bisect(3, lambda place, number: "fail" if number % 2 else "pass", Rates(Seen(500_000, 500_000), Seen(500_010, 499_990)), 1e-9)


def test_one_place_is_no_history():
    with pytest.raises(ClaimError, match="1 places"):
        bisect(1, lambda place, _: "fail")
