"""Betting tests: the numbers of section 3.11, size under peeking, power, and a plain re-computation."""

import math
import random
from itertools import pairwise, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.betting import (
    Stop,
    betting_log_wealth,
    betting_p,
    bounded_mean_interval,
    bounded_mean_tests,
    first_decision,
    looks_level,
    running_tests,
    seeded_order,
)

pytestmark = pytest.mark.selftest


def _plain_p(xs: list[float], lower: float, gap: float, s: float) -> float:
    """Section 3.11, word for word."""
    wealth = best = 1.0
    for i in range(1, len(xs) + 1):
        past = xs[: i - 1]
        m = (gap + sum(past)) / i
        v = max((0.1 * s**2 + gap**2 + sum(x * x for x in past)) / i - m * m, 1e-3 * s**2)
        wealth *= 1 + min(max(m / (v + m * m), 0), 0.75 / lower) * xs[i - 1]
        best = max(best, wealth)
    return min(1.0, 1 / best)


def test_against_a_plain_computation() -> None:
    rng = random.Random(8)
    for _ in range(60):
        margin = rng.choice([0.02, 0.05, 0.3])
        xs = [rng.choice([-1, 0, 0, 0, 1]) + margin for _ in range(rng.randint(0, 120))]
        assert betting_p(xs, 1 - margin, margin, 1.0) == pytest.approx(_plain_p(xs, 1 - margin, margin, 1.0), rel=1e-10)


def test_the_first_bet() -> None:
    (log_wealth,) = betting_log_wealth([1.0], 0.95, 0.05, 1.0)
    assert math.expm1(log_wealth) == pytest.approx(0.05 / 0.1025, rel=1e-12)
    assert math.expm1(log_wealth) == pytest.approx(0.4878, abs=5e-5)


def test_no_flips_need_78_items() -> None:
    assert betting_p([0.05] * 78, 0.95, 0.05, 1.0) <= 0.05 < betting_p([0.05] * 77, 0.95, 0.05, 1.0)
    assert (1 + 0.05 * 0.75 / 0.95) ** 78 >= 20 > (1 + 0.05 * 0.75 / 0.95) ** 77


def test_tests_by_their_definition() -> None:
    rng = random.Random(1)
    values = [rng.random() * 3 for _ in range(50)]
    order = seeded_order(50, "plan")
    hold, fail = bounded_mean_tests(values, (0, 4), 1.8, order)
    assert hold == pytest.approx(betting_p([1.8 - values[i] for i in order], 2.2, 0.9, 2.0), rel=1e-14)
    assert fail == pytest.approx(betting_p([values[i] - 1.8 for i in order], 1.8, 0.9, 2.0), rel=1e-14)
    margin = 0.05
    d = [int(i % 17 == 3) - int(i % 23 == 5) for i in range(50)]
    hold, fail = bounded_mean_tests([-x for x in d], (-1, 1), margin, order, gap=margin)
    assert hold == pytest.approx(betting_p([d[i] + margin for i in order], 1 - margin, margin, 1.0), rel=1e-14)
    assert hold < 0.5
    assert fail == pytest.approx(betting_p([-(d[i] + margin) for i in order], 1 + margin, margin, 1.0), rel=1e-14)


@pytest.mark.parametrize(("psi", "margin"), [(0.10, 0.05), (0.05, 0.02)])
def test_size_with_a_look_after_every_item(psi: float, margin: float) -> None:
    rng = np.random.default_rng(3)
    repetitions, n = 1000, 600
    passed = 0
    for _ in range(repetitions):
        d = rng.choice([1.0, -1.0, 0.0], p=[(psi - margin) / 2, (psi + margin) / 2, 1 - psi], size=n)
        passed += betting_p((d + margin).tolist(), 1 - margin, margin, 1.0) <= 0.05
    assert passed <= stats.binom.isf(1e-4, repetitions, 0.05)
    assert passed >= 5


def test_size_on_spiky_documents_where_t_fails() -> None:
    """2 % of documents carry the mean."""
    rng = np.random.default_rng(13)
    passed = t_passed = 0
    for _ in range(1000):
        values = np.where(rng.random(100) < 0.02, 5.0, 0.0) + 0.01 * rng.random(100)
        passed += bounded_mean_tests(values.tolist(), (0.0, 5.01), 0.105, list(range(100))).p_hold <= 0.05
        t_passed += stats.ttest_1samp(values, 0.105, alternative="less").pvalue <= 0.05
    assert passed <= stats.binom.isf(1e-4, 1000, 0.05) < t_passed


def test_power_and_mean_sample_size() -> None:
    """psi .10, margin .05, no difference: 99.9 % found by n = 2000, after 384 items on average."""
    rng = np.random.default_rng(5)
    stops = []
    for _ in range(400):
        d = rng.choice([1.0, -1.0, 0.0], p=[0.05, 0.05, 0.90], size=2000)
        wealth = betting_log_wealth((d + 0.05).tolist(), 0.95, 0.05, 1.0)
        stops.append(next((i for i, w in enumerate(wealth, start=1) if w >= math.log(20)), 2001))
    assert sum(stop > 2000 for stop in stops) <= 4
    assert np.mean(stops) == pytest.approx(384, abs=40)


def test_interval_inverts_the_tests_and_covers() -> None:
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(40):
        values = rng.beta(1, 4, 80).tolist()
        low, high = bounded_mean_interval(values, (0.0, 1.0), 0.05, list(range(80)))
        assert low < np.mean(values) < high
        missed += not low <= 0.2 <= high
    assert missed <= 10
    assert bounded_mean_tests(values, (0.0, 1.0), high, list(range(80))).p_hold == pytest.approx(0.05, rel=1e-6)
    assert bounded_mean_tests(values, (0.0, 1.0), low, list(range(80))).p_fail == pytest.approx(0.05, rel=1e-6)


def test_interval_at_the_ends() -> None:
    low, high = bounded_mean_interval([0.0] * 200, (0.0, 1.0), 0.05, list(range(200)))
    assert low == 0.0
    assert 0 < high < 0.05
    assert bounded_mean_interval([0.2, 0.9], (0.0, 1.0), 0.05, [1, 0]) == (0.0, 1.0)


def test_a_fixed_bet() -> None:
    """Section 3.11: lambda .5 throughout, margin .05, D = (0, 0, 1, -1). Here the cut .75 / 1.5 binds each time."""
    *_, log_wealth = betting_log_wealth([0.05, 0.05, 1.05, -0.95], 1.5, 1.0, 1.0)
    assert math.exp(log_wealth) == pytest.approx(0.8411566406, abs=5e-11)


# --- both directions, and a look after every unit ---------------------------------------------------


def test_above_by_its_definition() -> None:
    rng = random.Random(4)
    values = [1 + rng.random() * 3 for _ in range(60)]
    order = seeded_order(60, "plan")
    hold, fail = bounded_mean_tests(values, (0, 4), 1.8, order, direction="above")
    assert hold == betting_p([values[i] - 1.8 for i in order], 1.8, 1.1, 2.0) < 0.05
    assert fail == betting_p([1.8 - values[i] for i in order], 2.2, 1.1, 2.0)


ratings = st.lists(st.integers(-8, 8).map(lambda k: k / 8), min_size=1, max_size=50)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ratings, st.integers(-11, 11).map(lambda k: k / 12), st.sampled_from([None, 0.05]))
def test_above_mirrors_below(values: list[float], u: float, gap: float | None) -> None:
    order = seeded_order(len(values), "plan")
    mirror = [-x for x in values]
    tests = bounded_mean_tests(values, (-1, 1.5), u, order, gap, "above")
    assert tests == bounded_mean_tests(mirror, (-1.5, 1), -u, order, gap)
    low, high = bounded_mean_interval(values, (-1, 1.5), 0.05, order, gap, "above")
    assert bounded_mean_interval(mirror, (-1.5, 1), 0.05, order, gap) == pytest.approx((-high, -low), abs=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ratings, st.sampled_from([None, 0.05]), st.sampled_from(["below", "above"]))
def test_running_tests_are_those_of_every_prefix(values: list[float], gap: float | None, direction) -> None:
    """To the last bit: a decision made on the way is the decision derived again from the units used."""
    running = list(running_tests(values, (-1, 1.5), 0.1, gap, direction))
    assert running == [bounded_mean_tests(values[:n], (-1, 1.5), 0.1, range(n), gap, direction) for n in range(1, len(values) + 1)]


def test_a_stream_is_read_no_further_than_needed() -> None:
    asked = []
    stream = (asked.append(1) or 0.0 for _ in repeat(0))  # without end
    tests = running_tests(stream, (-1, 1), -0.05, 0.05, "above")
    next(tests), next(tests)
    assert len(asked) == 2
    stop = first_decision(stream, (-1, 1), -0.05, 0.05, 0.05, 0.05, "above")
    assert stop is not None and stop.n == 78
    assert len(asked) == 2 + 78


def test_the_first_decision() -> None:
    """No flips, margin .05: 78 items at .05 (section 3.11); a level of .01 needs more, and each claim has its own."""
    same = [0.0] * 200
    stop = first_decision(same, (-1, 1), -0.05, 0.05, 0.01, 0.05, "above")
    assert stop == Stop(78, bounded_mean_tests(same[:78], (-1, 1), -0.05, range(78), 0.05, "above"))
    assert stop.tests.p_hold <= 0.05 and stop.tests.p_fail == 1.0
    assert first_decision(same[:77], (-1, 1), -0.05, 0.05, 0.01, 0.05, "above") is None
    stricter = first_decision(same, (-1, 1), -0.05, 0.01, 0.05, 0.05, "above")
    assert stricter is not None and stricter.n == 120
    assert _plain_p([0.05] * 120, 0.95, 0.05, 1.0) <= 0.01 < _plain_p([0.05] * 119, 0.95, 0.05, 1.0)
    assert first_decision([], (0, 1), 0.5, 0.05, 0.05) is None
    worse = [-1.0] * 50
    at = {alpha: first_decision(worse, (-1, 1), -0.05, 0.05, alpha, 0.05, "above") for alpha in (0.05, 0.01)}
    for alpha, stop in at.items():
        assert stop is not None and stop.tests.p_fail <= alpha
        assert stop.tests == bounded_mean_tests(worse[: stop.n], (-1, 1), -0.05, range(stop.n), 0.05, "above")
        assert running(worse, stop.n - 1).p_fail > alpha
    assert at[0.05].n < at[0.01].n


def running(values: list[float], n: int):
    return bounded_mean_tests(values[:n], (-1, 1), -0.05, range(n), 0.05, "above")


def test_the_first_decision_stands() -> None:
    """Looked at late, both p-values are small: each has its own past maximum. Only the first counts."""
    turned = [0.0] * 78 + [-1.0] * 50
    stop = first_decision(turned, (-1, 1), -0.05, 0.05, 0.05, 0.05, "above")
    assert stop is not None and stop.n == 78
    assert max(running(turned, 128)) <= 0.05
    assert max(stop.tests) > 0.05
    back = [-1.0] * 10 + [1.0] * 90
    stop = first_decision(back, (-1, 1), -0.05, 0.05, 0.05, 0.05, "above")
    assert stop is not None and stop.tests.p_fail <= 0.05 < stop.tests.p_hold


def test_intervals_on_the_way_are_nested() -> None:
    rng = random.Random(6)
    values = [rng.choice([0.0, 0.0, 1.0, 0.4]) for _ in range(240)]
    intervals = [bounded_mean_interval(values[:n], (0, 1), 0.05, range(n)) for n in (30, 60, 120, 240)]
    for wide, narrow in pairwise(intervals):
        assert wide.low <= narrow.low + 1e-6 and narrow.high <= wide.high + 1e-6
    assert intervals[-1].high - intervals[-1].low < 0.5 * (intervals[0].high - intervals[0].low)


def test_two_looks_at_the_full_level_cost_080() -> None:
    """Half and all of the data, one-sided .05 each: P(Z1 or Z2 > 1.645) with correlation sqrt(1/2)."""

    def either(level: float) -> float:
        z = stats.norm.isf(level)
        both_below = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]]).cdf([z, z])
        return 1 - float(both_below)

    assert either(0.05) == pytest.approx(0.080, abs=5e-4)
    assert looks_level(0.05, 2) == 0.025
    assert either(looks_level(0.05, 2)) <= 0.05
    assert looks_level(0.05, 1) == 0.05


def test_order_is_a_fixed_permutation() -> None:
    order = seeded_order(1000, "abc")
    assert sorted(order) == list(range(1000))
    assert order == seeded_order(1000, "abc") != seeded_order(1000, "abd")
    assert seeded_order(6, "7") == SEVEN
    assert seeded_order(0, "x") == []
    firsts = [seeded_order(4, str(i))[0] for i in range(4000)]
    assert stats.chisquare(np.bincount(firsts)).pvalue > 1e-4


SEVEN = [4, 3, 2, 1, 5, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: betting_p([-2.0], 1.0, 0.1, 1.0),
        lambda: betting_p([math.nan], 1.0, 0.1, 1.0),
        lambda: betting_p([0.1], 0.0, 0.1, 1.0),
        lambda: bounded_mean_tests([0.5], (0, 1), 1.0, [0]),
        lambda: bounded_mean_tests([1.5], (0, 1), 0.5, [0]),
        lambda: bounded_mean_tests([math.nan], (0, 1), 0.5, [0]),
        lambda: bounded_mean_tests([0.5, 0.5], (0, 1), 0.5, [0, 0]),
        lambda: bounded_mean_tests([], (0, 1), 0.5, []),
        lambda: bounded_mean_interval([0.5], (1, 0), 0.05, [0]),
        lambda: seeded_order(-1, "x"),
        lambda: bounded_mean_tests([0.5], (0, 1), 0.5, [0], direction="up"),
        lambda: list(running_tests([0.5, 1.5], (0, 1), 0.5)),
        lambda: list(running_tests([math.nan], (0, 1), 0.5)),
        lambda: list(running_tests([0.5], (0, 1), 0.0)),
        lambda: list(running_tests([0.5], (1, 0), 0.5)),
        lambda: list(running_tests([0.5], (0, 1), 0.5, -0.1)),
        lambda: first_decision([0.5], (0, 1), 0.5, 0.5, 0.05),
        lambda: first_decision([0.5], (0, 1), 0.5, 0.05, 0.0),
        lambda: looks_level(0.05, 0),
        lambda: looks_level(0.5, 2),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
