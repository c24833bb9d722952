"""Betting tests: the numbers of section 3.11, size under peeking, power, and a plain re-computation."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from harness.stats.betting import (
    betting_log_wealth,
    betting_p,
    bounded_mean_interval,
    bounded_mean_tests,
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
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
