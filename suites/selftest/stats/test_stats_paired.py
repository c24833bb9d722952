"""McNemar, Tango's interval and Newcombe's: the published digits of section 5.1 and two own algorithms."""

import math
import random

import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from harness.stats.paired import mcnemar, mcnemar_midp, newcombe, tango_interval, tango_z
from harness.stats.special import normal_sf

pytestmark = pytest.mark.selftest

TANGO = [  # b, c, n, alpha, 12 digits
    (9, 3, 32, 0.025, -0.027090464504, 0.389697487139),
    (0, 1, 44, 0.05, -0.095662426399, 0.036516938418),
    (16, 8, 86, 0.025, -0.019658922719, 0.206910770622),
    (1, 7, 21, 0.025, -0.517232276421, -0.026003032481),
    (6, 16, 161, 0.025, -0.124023432464, -0.005433395732),
    (40, 20, 160, 0.025, 0.030864533133, 0.218064244167),
]


@pytest.mark.parametrize("algorithm", ["roots", "quartic"])
@pytest.mark.parametrize(("b", "c", "n", "alpha", "low", "high"), TANGO)
def test_tango_digits(b, c, n, alpha, low, high, algorithm) -> None:
    assert tango_interval(b, c, n, alpha, algorithm) == pytest.approx((low, high), abs=6e-13)


def test_the_two_tango_algorithms_agree() -> None:
    rng = random.Random(5)
    for i in range(300):  # 100,000 in quality/test_published.py
        n = rng.randint(1, 30) if i % 2 else rng.randint(30, 3000)
        b = rng.choice([0, n, rng.randint(0, n), rng.randint(0, n // 10)])
        c = rng.choice([0, n - b, rng.randint(0, n - b), rng.randint(0, (n - b) // 10)])
        alpha = rng.choice([0.05, 0.025, 0.005])
        roots, quartic = (tango_interval(b, c, n, alpha, how) for how in ("roots", "quartic"))
        assert tuple(roots) == pytest.approx(tuple(quartic), abs=1e-9), (b, c, n, alpha)
        assert roots.low <= (b - c) / n <= roots.high


@pytest.mark.parametrize(("n", "margin"), [(100, 0.03), (37, 0.2), (1319, 0.01)])
def test_tango_closed_forms(n: int, margin: float) -> None:
    d = margin
    assert tango_z(0, 0, n, -d) == pytest.approx(math.sqrt(n * d / (1 - d)), rel=1e-12)
    assert tango_z(n, 0, n, -d) == pytest.approx(math.sqrt(n * (1 + d) / (1 - d)), rel=1e-12)
    assert tango_z(0, n, n, -d) == pytest.approx(-math.sqrt(n * (1 - d) / (1 + d)), rel=1e-12)
    assert tango_interval(n, 0, n, 0.05).high == 1.0
    assert tango_interval(0, n, n, 0.05).low == -1.0
    low, high = tango_interval(0, 0, n, 0.05)
    z2 = stats.norm.isf(0.05) ** 2
    assert (low, high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), rel=1e-12)
    assert tango_z(0, 0, n, low) == pytest.approx(math.sqrt(z2), rel=1e-9)


@pytest.mark.parametrize(
    ("b", "c", "n", "margin", "p_hold"),
    [
        (6, 8, 200, 0.05, 0.0283602882),
        (3, 5, 200, 0.05, 0.0137252321),
        (10, 12, 300, 0.05, 0.0067027540),
        (0, 0, 100, 0.03, 0.0393200897),
        (0, 1, 150, 0.03, 0.0469439975),
        (4, 4, 100, 0.05, 0.0568779475),
    ],
)
def test_tango_p_hold(b, c, n, margin, p_hold) -> None:
    assert normal_sf(tango_z(b, c, n, -margin)) == pytest.approx(p_hold, abs=6e-11)


@pytest.mark.parametrize(
    ("b", "c", "n", "margin", "p_fail"),
    [
        (2, 30, 200, 0.05, 0.000172930),
        (5, 25, 200, 0.05, 0.025351903),
        (8, 40, 300, 0.05, 0.004376388),
        (0, 10, 100, 0.05, 0.014548166),
        (40, 130, 1319, 0.03, 0.000029592),
    ],
)
def test_tango_p_fail(b, c, n, margin, p_fail) -> None:
    assert normal_sf(-tango_z(b, c, n, -margin)) == pytest.approx(p_fail, abs=6e-10)


def test_without_margin_tango_is_the_mcnemar_z() -> None:
    assert tango_z(9, 3, 40, 0.0) == pytest.approx(6 / math.sqrt(12), rel=1e-15)
    assert tango_z(0, 0, 40, 0.0) == 0.0


def test_newcombe_digits() -> None:
    assert newcombe(20, 12, 2, 16, 0.025) == pytest.approx((0.0561564248, 0.3292069954), abs=6e-11)
    low, high = newcombe(20, 12, 2, 16, 0.025, method=8)
    assert (round(low, 4), round(high, 4)) == (0.0618, 0.3242)
    assert newcombe(59, 6, 16, 80, 0.025) == pytest.approx((-0.1186211956, -0.0046251139), abs=6e-11)


def test_newcombe_bentur() -> None:
    """The source gives only b, c and n; the table is [[1, 1], [7, 12]]."""
    assert newcombe(1, 1, 7, 12, 0.025) == pytest.approx((-0.5069202267, -0.0255591242), abs=6e-11)


@pytest.mark.parametrize(("b", "c", "two_sided"), [(1, 7, 0.0703125), (6, 16, 0.0524787903), (70, 59, 0.378688), (0, 6, 2**-5)])
def test_mcnemar_digits(b: int, c: int, two_sided: float) -> None:
    p_hold, p_fail = mcnemar(b, c)
    assert 2 * min(p_hold, p_fail) == pytest.approx(two_sided, abs=6e-7 if two_sided > 0.1 else 6e-11)
    oracle = statsmodels_mcnemar([[3, b], [c, 4]], exact=True).pvalue
    assert 2 * min(p_hold, p_fail) == pytest.approx(oracle, rel=1e-9)
    assert (p_hold < p_fail) == (b > c)


def test_mcnemar_small_cases() -> None:
    assert mcnemar(0, 0) == (1.0, 1.0)
    assert mcnemar(4, 1).p_hold == pytest.approx(6 / 32, rel=1e-14)
    assert mcnemar(6, 0).p_hold <= 0.025 < mcnemar(5, 0).p_hold
    assert 2 * mcnemar(13, 53).p_fail == pytest.approx(7.2e-7, rel=0.01)


@pytest.mark.parametrize(("b", "c", "two_sided"), [(1, 7, 0.0390625), (6, 16, 0.0346896648), (16, 6, 0.0346896648)])
def test_midp_digits(b: int, c: int, two_sided: float) -> None:
    """Fagerland et al. (2013); the two sides share the table seen, so they add up to one."""
    p_hold, p_fail = mcnemar_midp(b, c)
    assert 2 * min(p_hold, p_fail) == pytest.approx(two_sided, abs=6e-11)
    assert (p_hold < p_fail) == (b > c)
    assert p_hold + p_fail == pytest.approx(1, abs=1e-14)
    assert mcnemar_midp(0, 0) == (0.5, 0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar(-1, 3),
        lambda: mcnemar_midp(2, -1),
        lambda: tango_z(3, 3, 5, -0.1),
        lambda: tango_z(3, 3, 10, -1.0),
        lambda: tango_interval(0, 0, 0, 0.05),
        lambda: tango_interval(1, 1, 5, 0.7),
        lambda: newcombe(-1, 1, 1, 5, 0.05),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
