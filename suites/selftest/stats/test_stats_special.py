"""Tails and quantiles against scipy, far into the tails."""

import math
import random
from fractions import Fraction

import pytest
from scipy import special as oracle
from scipy import stats

from harness.stats import special

pytestmark = pytest.mark.selftest


def _binomial_cases(count: int) -> list[tuple[int, int, float]]:
    rng = random.Random(20240601)
    cases = []
    for _ in range(count):
        n = rng.choice([1, 2, 5, 20, 100, 500, 2000, 5000])
        p = rng.choice([rng.random(), rng.random() * 0.01, 1 - rng.random() * 0.01, 0.5])
        near = n * p + rng.gauss(0, 5) * math.sqrt(n * p * (1 - p))
        cases.append((min(n, max(0, round(rng.choice([near, rng.uniform(0, n)])))), n, p))
    return cases


def test_binomial_mass_and_tails_against_scipy() -> None:
    for k, n, p in _binomial_cases(1500):
        expected = {
            special.binom_pmf: stats.binom.pmf(k, n, p),
            special.binom_cdf: oracle.betainc(n - k, k + 1, 1 - p) if k < n else 1.0,
            special.binom_sf: oracle.betainc(k, n - k + 1, p) if k > 0 else 1.0,
        }
        for function, value in expected.items():
            if value > 1e-290:
                assert function(k, n, p) == pytest.approx(value, rel=1e-11), (function, k, n, p)


@pytest.mark.parametrize(("k", "n", "p"), [(681, 5000, 0.3125), (60, 200, 0.5), (3, 4, 0.25), (0, 30, 0.05), (0, 0, 0.3)])
def test_binomial_tails_against_rational_arithmetic(k: int, n: int, p: float) -> None:
    x = Fraction(p)
    terms = [math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(max(0, k - 160), k + 1)]
    assert special.binom_pmf(k, n, p) == pytest.approx(float(terms[-1]), rel=1e-11)
    assert special.binom_cdf(k, n, p) == pytest.approx(float(sum(terms)), rel=1e-11)


def test_at_least_means_at_least() -> None:
    assert special.binom_sf(2, 2, 0.5) == pytest.approx(0.25, rel=1e-15)
    assert special.binom_sf(0, 7, 0.1) == 1.0
    assert special.binom_sf(8, 7, 0.1) == 0.0
    assert special.binom_cdf(-1, 7, 0.1) == 0.0
    assert special.binom_pmf(8, 7, 0.1) == 0.0
    assert [special.binom_pmf(k, 3, p) for k in (0, 3) for p in (0.0, 1.0)] == [1.0, 0.0, 0.0, 1.0]


def test_beta_function_and_quantile_against_scipy() -> None:
    rng = random.Random(7)
    for _ in range(150):
        a, b = rng.random() * 10 ** rng.randint(0, 3), rng.random() * 10 ** rng.randint(0, 3)
        prob, x = rng.random(), rng.random()
        quantile = special.beta_quantile(prob, a, b)
        assert quantile == pytest.approx(oracle.betaincinv(a, b, prob), rel=1e-10, abs=1e-300)
        assert special.betainc(a, b, x) == pytest.approx(oracle.betainc(a, b, x), rel=1e-11, abs=1e-290)
        assert special.betainc(a, b, x) + special.betainc(b, a, 1 - x) == pytest.approx(1, abs=1e-12)


def test_student_and_normal_against_scipy() -> None:
    for df in (1, 2.5, 5, 30, 1000, 1e5):
        for t in (-40.0, -3.2, -0.4, 0.0, 0.7, 2.0, 9.0):
            assert special.t_cdf(t, df) == pytest.approx(oracle.stdtr(df, t), rel=1e-11)
        for prob in (1e-9, 0.01, 0.05, 0.5, 0.8, 0.975, 0.9999):
            assert special.t_quantile(prob, df) == pytest.approx(oracle.stdtrit(df, prob), rel=1e-9, abs=1e-12)
    for z in (-3.0, 0.0, 1.96, 8.0, 30.0):
        assert special.normal_sf(z) == pytest.approx(stats.norm.sf(z), rel=1e-12)
    for prob in (1e-12, 0.05, 0.5, 0.975):
        assert special.normal_quantile(prob) == pytest.approx(oracle.ndtri(prob), rel=1e-12, abs=1e-15)


def test_infinite_t() -> None:
    assert special.t_cdf(-math.inf, 3) == 0.0
    assert special.t_cdf(math.inf, 3) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: special.binom_pmf(1, -1, 0.5),
        lambda: special.binom_sf(1, 2, 1.5),
        lambda: special.binom_cdf(1, 2, math.nan),
        lambda: special.betainc(0, 1, 0.5),
        lambda: special.beta_quantile(1.1, 1, 1),
        lambda: special.t_cdf(math.nan, 3),
        lambda: special.t_cdf(0, 0),
        lambda: special.t_quantile(1.0, 3),
        lambda: special.normal_quantile(0),
        lambda: special.normal_sf(math.nan),
    ],
)
def test_domain_errors_say_what_was_expected(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
