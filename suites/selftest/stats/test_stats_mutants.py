"""What mutation testing found unpinned: edges, defaults and helpers, each a statement of its own, fast."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from scipy import stats

from harness.stats import means, paired, special
from harness.stats.betting import bounded_mean_interval, bounded_mean_tests, first_decision, running_tests
from harness.stats.means import MeanResult, cluster_mean
from harness.stats.permutation import sign_flip
from harness.stats.ratio import abba, abba_sign_flip, abba_tests, block_log_ratio

pytestmark = pytest.mark.selftest


# --- means, ratio ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skewness", [-4.0, 4.0])
def test_the_guard_asks_for_121_squared_skewnesses(skewness: float) -> None:
    assert MeanResult(0.0, 1.0, -1.0, 1.0, 1936 - 1, skewness).guard_ok
    assert not MeanResult(0.0, 1.0, -1.0, 1.0, 1935 - 1, skewness).guard_ok


def test_two_clusters_are_enough_for_an_error() -> None:
    assert cluster_mean([1.0, 2.0], ["a", "b"], 0.05).se == 0.5


def test_skewness_is_about_the_mean() -> None:
    values = [3.0, 4.0, 4.5, 9.0, 30.0]
    assert means._skewness(values) == pytest.approx(float(stats.skew(values)), rel=1e-12)


def test_abba_claims_are_about_below_unless_said() -> None:
    result = abba([(100, 103, 105, 104), (98, 101, 99, 97), (110, 108, 111, 109), (100, 104, 103, 99)], 0.05)
    assert abba_tests(result, 0.1) == abba_tests(result, 0.1, "below") != abba_tests(result, 0.1, "above")


def test_sampled_sign_flips_of_blocks_take_the_seed_given() -> None:
    blocks = [(100.0, 101.0 + i / 7, 102.0, 100.0 + i % 3) for i in range(25)]
    logs = [0.015 - block_log_ratio(block) for block in blocks]
    assert abba_sign_flip(blocks, 0.015, "s") == sign_flip(logs, "s") != sign_flip(logs, "t")


# --- special --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: special.betainc(math.inf, 1, 0.5),
        lambda: special.betainc(1, math.inf, 0.5),
        lambda: special.betainc(1, 0, 0.5),
        lambda: special.betainc(1, 1, 1.5),
        lambda: special.t_cdf(1.0, math.inf),
        lambda: special.t_quantile(0.0, 3),
        lambda: special.normal_quantile(1.0),
        lambda: special.normal_quantile(1.5),
    ],
)
def test_the_edges_of_the_domains_are_outside(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


def test_quantiles_of_certainty_are_the_ends() -> None:
    assert (special.beta_quantile(0.0, 2, 3), special.beta_quantile(1.0, 2, 3)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("f", "root"),
    [
        (lambda x: 1 - 2 * x, 0.5),  # f is 1 and -1 at the ends: no zero
        (lambda x: 2 * x - 1, 0.5),
        (lambda x: 0.5 - x, 0.5),
        (lambda x: x, 0.0),  # a zero at an end is the answer
        (lambda x: 1 - x, 1.0),
        (lambda x: x + 1, 0.0),  # no change of sign: the end nearer to 0
        (lambda x: x - 2, 1.0),
        (lambda x: 1.0, 0.0),  # equally near: the low end
    ],
)
def test_bisection_at_the_ends(f, root: float) -> None:
    assert special.bisect(f, 0.0, 1.0) == root


def test_bisection_takes_the_sign_of_f_not_its_size() -> None:
    assert special.bisect(lambda x: 0.3 - x, 0.0, 1.0) == pytest.approx(0.3, rel=1e-15)


def test_stirlings_series_is_exact_to_rounding_from_16_on() -> None:
    tau = Decimal("6.28318530717958647692528676655900576839433879875")
    for n in (16, 17, 40, 1000):
        with localcontext(prec=60):
            exact = Decimal(math.factorial(n)).ln() - (n + Decimal("0.5")) * Decimal(n).ln() + n - tau.ln() / 2
        assert special._stirling(n) == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("mean", [1000.001, 999.0, 1100.0, 1300.0, 500.0])
def test_the_deviance_does_not_cancel_near_the_mean(mean: float) -> None:
    with localcontext(prec=60):
        exact = 1000 * (Decimal(1000) / Decimal(mean)).ln() + Decimal(mean) - 1000
    assert special._deviance(1000, mean) == pytest.approx(float(exact), rel=1e-13)


# --- betting, paired ------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "side"), [(0.1, 0), (0.9, 1)])
def test_a_p_equal_to_its_level_decides(x: float, side: int) -> None:
    values = [x] * 30
    stop = first_decision(values, (0.0, 1.0), 0.5, 0.05, 0.05)
    assert stop is not None
    levels = [0.4 * stop.tests[0], 0.4 * stop.tests[1]]
    levels[side] = stop.tests[side]
    assert first_decision(values, (0.0, 1.0), 0.5, *(min(level, 0.4) for level in levels)) == stop


def test_running_claims_are_about_below_unless_said() -> None:
    values = [0.2, 0.4, 0.1]
    assert list(running_tests(values, (0.0, 1.0), 0.6)) == list(running_tests(values, (0.0, 1.0), 0.6, direction="below"))


@pytest.mark.parametrize("u", [0.0, 1.0])
def test_the_ends_of_the_support_are_no_bounds(u: float) -> None:
    with pytest.raises(ValueError, match="inside the support"):
        bounded_mean_tests([0.5], (0.0, 1.0), u, [0])


def test_interval_and_tests_take_the_same_gap() -> None:
    values = [0.1, 0.3, 0.2, 0.4] * 20
    high = bounded_mean_interval(values, (0.0, 1.0), 0.05, list(range(80)), gap=0.03).high
    assert bounded_mean_tests(values, (0.0, 1.0), high, list(range(80)), gap=0.03).p_hold == pytest.approx(0.05, rel=1e-6)


def test_polishing_is_newton_with_the_true_slope() -> None:
    """(x - 1)(x - 2)(x - 3)(x - 4): three quadratic steps take an error of .01 below 1e-13."""
    coefficients = [Fraction(c) for c in (1, -10, 35, -50, 24)]
    polished = [paired._polish(coefficients, root + 0.01) for root in (1, 2, 3, 4)]
    assert polished == pytest.approx([1, 2, 3, 4], abs=1e-13)
