"""Trials: one run where runs never lie; where they do, the error that was asked for."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.dossier import Rates, Seen, Trial, calibrated, learnt, tried
from harness.dossier.trials import MOST_RUNS
from harness.errors import ClaimError

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize("outcome", ["pass", "fail", "unresolved"])
def test_a_test_that_never_lies_is_run_once(outcome):
    assert tried(lambda _: outcome, Rates(), 0.001) == Trial(outcome, 1, int(outcome == "fail"))


def draws(rate: float, rng: random.Random):
    return lambda _: "fail" if rng.random() < rate else "pass"


@pytest.mark.parametrize(("good", "bad"), [(0.0, 0.5), (0.0, 0.2), (0.02, 1.0), (0.1, 0.6), (0.05, 0.3)])
def test_trials_err_no_more_often_than_asked_for(good, bad):
    """150 ends learnt and a trial of either kind after each: at 5 %, 29 wrong of 300 are exceeded with probability 1e-3."""
    wrong = 0
    for seed in range(150):
        rng = random.Random(f"{good} {bad} {seed}")
        rates, _, _ = learnt(draws(good, rng), draws(bad, rng), 0.05)
        wrong += tried(draws(bad, rng), rates, 0.05).outcome != "fail"
        wrong += tried(draws(good, rng), rates, 0.05).outcome != "pass"
    assert wrong <= 29


def test_what_always_passes_ends_after_the_number_that_was_told():
    rates = Rates(Seen(0, 20), Seen(10, 10))
    assert tried(lambda _: "pass", rates, 0.01) == Trial("pass", rates.passes(0.01), 0)
    assert Rates().passes(0.01) == 1


def test_what_cannot_be_run_ends_a_trial():
    outcomes = ["pass", "fail", "unresolved", "fail"]
    assert tried(lambda number: outcomes[number], Rates(Seen(0, 20), Seen(10, 10)), 0.001) == Trial("unresolved", 3, 1)


def test_what_lies_between_the_rates_stays_open():
    rates = Rates(Seen(400, 600), Seen(410, 590))
    assert tried(lambda number: "fail" if number % 2 else "pass", rates, 1e-6).outcome == "unresolved"
    assert rates.passes(1e-300) == MOST_RUNS


def test_ends_that_no_number_of_runs_tells_apart_are_refused():
    rng = random.Random(1)
    with pytest.raises(ClaimError, match="does not tell them apart"):
        learnt(draws(0.5, rng), draws(0.5, rng), 0.05)
    with pytest.raises(ClaimError, match="0 of 200"):
        learnt(lambda _: "pass", lambda _: "pass", 0.05)
    with pytest.raises(ClaimError, match="good end cannot be run"):
        learnt(lambda _: "unresolved", lambda _: "fail", 0.05)


def test_twelve_failures_are_told_from_none_whatever_the_rate():
    for runs in (12, 20, 50, 200, 1000):
        assert calibrated(Trial("pass", runs, 0), Trial("fail", runs, 12), 0.0125).bad == Seen(12, runs - 12)


@given(st.integers(0, 30), st.integers(0, 30), st.floats(1e-6, 0.4))
@settings(max_examples=100, deadline=None)
def test_the_likelihood_of_more_runs_adds_up_to_one_over_their_outcomes(failed, passed, error):
    rates = Rates(Seen(failed, passed), Seen(failed + 1, passed))
    for log in (rates.log_bad, rates.log_good):
        assert math.isclose(sum(math.comb(5, k) * math.exp(log(k, 5 - k)) for k in range(6)), 1, rel_tol=1e-9)
    assert 1 <= rates.passes(error) <= MOST_RUNS


@pytest.mark.parametrize("error", [0, 0.5, -1, float("nan")])
def test_an_error_that_is_none_is_refused(error):
    with pytest.raises(ClaimError, match="expected a probability"):
        tried(lambda _: "pass", Rates(), error)
