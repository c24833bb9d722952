"""The search for the largest rate, on services whose answer is known: what it asks for, and what it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.serve.search import grid, max_rate, together
from harness.types import Verdict

pytestmark = pytest.mark.selftest


def verdict(outcome, reason="", hold=None, fail=None, share=None) -> Verdict:
    return Verdict(outcome, reason or {"inconclusive": "straddles"}.get(outcome, "proven"), "", estimate=share, p_hold=hold, p_fail=fail)


class Service:
    """Holds below ``limit`` by so much, fails above; a run of n requests decides from 1 / sqrt(n) on."""

    def __init__(self, limit, sharp=1.0):
        self.limit, self.sharp, self.asked = limit, sharp, []

    def __call__(self, rate, seed, n):
        self.asked.append((rate, seed, n))
        away = math.log(self.limit / rate) * math.sqrt(n) * self.sharp
        return verdict("holds", hold=0.0001) if away > 1 else verdict("fails", fail=0.0001) if away < -1 else verdict("inconclusive")


def found(service, low=1.0, high=20.0, **more):
    return max_rate(service, low, high, **({"n": 1000, "seed": 1} | more))


@settings(derandomize=True, deadline=None)
@given(st.floats(1.1, 19), st.integers(0, 3))
def test_a_clear_limit_is_found_to_one_step(limit, seed) -> None:
    service = Service(limit, sharp=1e9)
    result = found(service, seed=seed)
    assert result.outcome == "holds" and result.rate <= limit < result.rate * 1.05 * (1 + 1e-9)
    assert result.failed == pytest.approx(result.rate * 1.05)
    assert len(service.asked) <= 8 and result.requests == sum(n for *_, n in service.asked)
    assert service.asked[-1][0] == result.rate and service.asked[-1][2] == 4000


def test_every_run_has_a_seed_of_its_own() -> None:
    service = Service(7.0)
    found(service)
    assert len({seed for _, seed, _ in service.asked}) == len(service.asked)
    again = Service(7.0)
    found(again)
    assert again.asked == service.asked


def test_an_inconclusive_probe_is_lengthened_once_and_then_left_undecided() -> None:
    service = Service(7.0, sharp=0.2)  # n = 1000 decides beyond 16 %, n = 4000 beyond 8 %
    result = found(service)
    rates = [rate for rate, *_ in service.asked]
    lengthened = [rate for rate, _, n in service.asked if n == 4000 and rates.count(rate) > 1]
    assert lengthened and result.outcome == "holds"
    assert 7 / 1.16 < result.rate < 7 / math.exp(1 / math.sqrt(4000) / 0.2)
    assert all(result.rate < rate for rate in result.undecided)


def test_a_confirmation_that_does_not_hold_steps_down() -> None:
    asked = []

    def service(rate, seed, n):
        asked.append((rate, n))
        if n == 4000:  # confirmations only: probes are decided at 1000
            return verdict("holds", hold=0.001) if rate < 4.5 else verdict("inconclusive")
        return verdict("holds", hold=0.001) if rate < 5 else verdict("fails", fail=0.001)

    result = found(service)
    assert result.outcome == "holds" and result.rate < 4.5 < result.rate * 1.05
    assert [n for _, n in asked].count(4000) == 3
    assert found(service, confirmations=1).reason == "not_confirmed"


def test_three_confirmations_are_each_held_to_a_third_of_alpha() -> None:
    def service(rate, seed, n):
        return verdict("holds", hold=0.04) if rate < 5 else verdict("fails", fail=0.04)

    assert found(service, confirmations=3).outcome == "inconclusive"
    assert found(service, confirmations=1).outcome == "holds"
    assert found(service, confirmations=1, alpha=0.01).outcome == "inconclusive"


def test_verdicts_out_of_order_decide_nothing() -> None:
    def service(rate, seed, n):
        if n == 4000:
            return verdict("fails", fail=0.001)
        return verdict("holds", hold=0.001) if rate < 5 else verdict("fails", fail=0.001)

    result = found(service)
    assert (result.outcome, result.reason, result.rate) == ("inconclusive", "not_monotone", None)


def test_a_service_that_is_never_good_enough_fails() -> None:
    result = found(lambda rate, seed, n: verdict("fails", fail=0.001))
    assert (result.outcome, result.rate, result.failed) == ("fails", None, 1.0)
    result = found(lambda rate, seed, n: verdict("inconclusive"))
    assert (result.outcome, result.reason, result.failed) == ("inconclusive", "nothing_held", None)


def test_a_service_that_never_fails_has_no_upper_end() -> None:
    result = found(lambda rate, seed, n: verdict("holds", hold=0.001))
    assert result.outcome == "holds" and result.rate >= 20 and result.failed is None
    assert "no rate was shown to be too high" in result.sentence


def test_a_void_run_is_not_lengthened_and_bounds_nothing() -> None:
    """Above 6/s the client is the limit: what is said of the service ends there."""
    asked = []

    def service(rate, seed, n):
        asked.append((rate, n))
        return verdict("holds", hold=0.001) if rate < 6 else verdict("inconclusive", "client_limited")

    result = found(service)
    assert result.outcome == "holds" and result.rate < 6 < result.rate * 1.05 and result.failed is None
    assert "client_limited" in result.sentence
    assert all(n == 1000 for rate, n in asked if rate >= 6)


@pytest.mark.parametrize("after", range(1, 9))
def test_an_interrupted_search_goes_on(after) -> None:
    kept, whole = [], found(Service(7.0, sharp=0.2))

    def dying(service):
        def probe(rate, seed, n):
            if len(service.asked) == after:
                raise KeyboardInterrupt
            return service(rate, seed, n)

        return probe

    if after >= len(whole.probes):
        pytest.skip("the search is shorter")
    with pytest.raises(KeyboardInterrupt):
        found(dying(Service(7.0, sharp=0.2)), keep=kept.append)
    rest = Service(7.0, sharp=0.2)
    assert found(rest, known=kept) == whole
    assert len(rest.asked) == len(whole.probes) - after


def test_the_estimate_lies_between_the_runs() -> None:
    def service(rate, seed, n):
        share = 0.05 * (rate / 7) ** 6
        outcome = "holds" if share < 0.03 else "fails" if share > 0.08 else "inconclusive"
        return verdict(outcome, hold=0.001, share=min(1.0, share))

    result = found(service, bound=0.05)
    assert result.estimate == pytest.approx(7, rel=0.01) and "estimated at 7/s" in result.sentence
    assert found(service).estimate is None


def test_several_objectives_hold_together_or_not_at_all() -> None:
    good, better, bad = verdict("holds", hold=0.04, fail=1.0), verdict("holds", hold=0.001, fail=1.0), verdict("fails", hold=1.0, fail=0.01)
    undecided, void = verdict("inconclusive", hold=0.2, fail=0.5), verdict("inconclusive", "client_limited")
    assert (together([good, better]).outcome, together([good, better]).p_hold) == ("holds", 0.04)
    assert (together([good, bad, undecided]).outcome, together([good, bad]).p_fail) == ("fails", 0.01)
    assert together([good, undecided]).outcome == "inconclusive"
    assert (together([good, void]).reason, together([good, void]).p_hold) == ("client_limited", None)


def test_grids_are_geometric() -> None:
    assert grid(1, 1.1025) == pytest.approx((1, 1.05, 1.1025))
    assert len(grid(1, 1.11)) == 4


@pytest.mark.parametrize(
    "more", [{"low": 0}, {"low": 30}, {"high": math.inf}, {"step": 0}, {"n": 0}, {"confirmations": 0}, {"alpha": 0.5}, {"lengthen": 0}]
)
def test_what_is_no_search_is_refused(more) -> None:
    with pytest.raises(ConfigError, match="max_rate"):
        found(Service(5), **more)
