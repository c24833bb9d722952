"""Clopper-Pearson, Wilson and exact binomial tests: section 5.5 and statsmodels."""

import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from harness.stats.intervals import clopper_pearson, proportion_tests, wilson, zero_event_upper

pytestmark = pytest.mark.selftest


def test_published_figures() -> None:
    assert clopper_pearson(5, 5, 0.05).low == pytest.approx(0.55, abs=0.005)
    assert clopper_pearson(20, 20, 0.05).low == pytest.approx(0.861, abs=5e-4)
    assert clopper_pearson(59, 59, 0.05).low == pytest.approx(0.95, abs=0.005)
    assert clopper_pearson(59, 59, 0.05).low >= 0.95 > clopper_pearson(58, 58, 0.05).low
    assert clopper_pearson(0, 100, 0.05).high == pytest.approx(0.030, abs=5e-4)
    assert clopper_pearson(0, 20, 0.05).high == pytest.approx(0.139, abs=5e-4)
    assert clopper_pearson(20, 200, 0.05).high == pytest.approx(0.141989251591, abs=1e-12)
    assert clopper_pearson(77, 88, 0.05).low == pytest.approx(0.801586352011, abs=1e-12)
    low, high = wilson(45, 50, 0.025)
    assert (round(low, 3), round(high, 3)) == (0.786, 0.957)


@pytest.mark.parametrize(
    ("k", "n", "score", "exact"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_newcombe_1998(k: int, n: int, score: tuple[float, float], exact: tuple[float, float]) -> None:
    """Statistics in Medicine 17:857, two-sided 95 %."""
    assert tuple(round(x, 4) for x in wilson(k, n, 0.025)) == score
    assert tuple(round(x, 4) for x in clopper_pearson(k, n, 0.025)) == exact


@pytest.mark.parametrize("n", [1, 7, 50, 1319])
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.01])
def test_against_statsmodels(n: int, alpha: float) -> None:
    for k in {0, 1, n // 3, n - 1, n}:
        exact = proportion_confint(k, n, 2 * alpha, "beta")
        assert clopper_pearson(k, n, alpha) == pytest.approx(exact, rel=1e-9, abs=1e-12)
        assert wilson(k, n, alpha) == pytest.approx(proportion_confint(k, n, 2 * alpha, "wilson"), abs=1e-12)


def test_limits_are_the_tests_inverted() -> None:
    low, high = clopper_pearson(12, 40, 0.05)
    assert proportion_tests(12, 40, low)[0] == pytest.approx(0.05, rel=1e-9)
    assert proportion_tests(12, 40, high)[1] == pytest.approx(0.05, rel=1e-9)
    assert proportion_tests(12, 40, 0.2) == pytest.approx((stats.binom.sf(11, 40, 0.2), stats.binom.cdf(12, 40, 0.2)), rel=1e-11)


def test_zero_events() -> None:
    assert zero_event_upper(100, 0.05) == pytest.approx(clopper_pearson(0, 100, 0.05).high, rel=1e-12)
    assert zero_event_upper(40, 0.05) == pytest.approx(1 - 0.05 ** (1 / 40), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_limits_rise_with_k(alpha: float) -> None:
    limits = [clopper_pearson(k, 30, alpha) for k in range(31)]
    assert limits == sorted(limits)
    assert sorted(high for _, high in limits) == [high for _, high in limits]


def test_coverage_is_at_least_nominal_by_enumeration() -> None:
    limits = [clopper_pearson(k, 25, 0.05) for k in range(26)]
    for p in (0.02, 0.1, 0.37, 0.5, 0.9):
        missed_low = sum(stats.binom.pmf(k, 25, p) for k in range(26) if limits[k].low > p)
        missed_high = sum(stats.binom.pmf(k, 25, p) for k in range(26) if limits[k].high < p)
        assert max(missed_low, missed_high) <= 0.05


@pytest.mark.parametrize(("k", "n", "alpha"), [(3, 2, 0.05), (-1, 2, 0.05), (0, 0, 0.05), (1, 2, 0.5), (1, 2, 0.0)])
def test_domain_errors(k: int, n: int, alpha: float) -> None:
    for function in (clopper_pearson, wilson):
        with pytest.raises(ValueError, match="expected"):
            function(k, n, alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_ends_are_exactly_zero_and_one(alpha: float) -> None:
    for limits in (clopper_pearson, wilson):
        assert limits(0, 9, alpha).low == 0.0
        assert limits(9, 9, alpha).high == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: proportion_tests(3, 2, 0.5),
        lambda: proportion_tests(1, 2, 1.5),
        lambda: zero_event_upper(0, 0.05),
        lambda: zero_event_upper(5, 0.5),
    ],
)
def test_other_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
