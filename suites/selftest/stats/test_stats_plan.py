"""The planning tables of sections 3.4, 4, 5.2, 5.5, 5.6."""

import math

import pytest
from scipy import stats

from harness.stats.plan import (
    betting_min_n,
    mcnemar_power,
    ni_n,
    ni_power,
    ni_zero_flip_n,
    pass_all,
    proportion_min_n,
    proportion_n,
    ratio_k,
    superiority_n,
)

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize(
    ("psi", "row"),
    [
        (0.02, [(1397, 1901), (425, 563), (225, 292), (107, 134)]),
        (0.05, [(3162, 4366), (837, 1146), (400, 542), (167, 222)]),
        (0.10, [(6215, 8602), (1578, 2178), (717, 987), (274, 374)]),
        (0.20, [(12378, 17143), (3104, 4297), (1386, 1918), (507, 699)]),
    ],
)
def test_ni_n(psi: float, row: list[tuple[int, int]]) -> None:
    assert [(ni_n(d, psi, 0.05, 0.8), ni_n(d, psi, 0.05, 0.9)) for d in (0.01, 0.02, 0.03, 0.05)] == row


def test_ni_n_for_superiority_by_a_margin() -> None:
    """A shift of the hypothesis and of the truth moves n little; an effect at the bound is refused."""
    assert ni_n(-0.02, 0.10, 0.05, 0.8, delta1=0.05) == pytest.approx(ni_n(0.03, 0.10, 0.05, 0.8), rel=0.1)
    with pytest.raises(ValueError, match="expected"):
        ni_n(-0.02, 0.10, 0.05, 0.8, delta1=0.02)


@pytest.mark.parametrize(("margin", "psi", "delta1"), [(0.2, 0.6, 0.4), (0.1, 0.5, -0.05), (0.3, 0.9, 0.5)])
def test_ni_n_with_a_true_difference(margin: float, psi: float, delta1: float) -> None:
    """Section 4, word for word."""
    b, c, d0 = (psi + delta1) / 2, (psi - delta1) / 2, -margin
    linear = -b - c + (2 - b + c) * d0
    q = ((linear**2 + 8 * c * d0 * (1 - d0)) ** 0.5 - linear) / 4
    w0, w1 = (2 * q + d0 * (1 - d0)) ** 0.5, (psi - delta1**2) ** 0.5
    n = ((stats.norm.isf(0.05) * w0 + stats.norm.isf(0.1) * w1) / (delta1 - d0)) ** 2
    assert ni_n(margin, psi, 0.05, 0.9, delta1) == math.ceil(n)


@pytest.mark.parametrize(
    ("n", "margin", "psi", "percent"),
    [
        (100, 0.05, 0.10, 41), (200, 0.05, 0.05, 88), (200, 0.05, 0.10, 67), (200, 0.05, 0.15, 54),
        (300, 0.05, 0.10, 83), (500, 0.03, 0.05, 88), (500, 0.03, 0.10, 67), (500, 0.05, 0.10, 96),
    ],
)  # fmt: skip
def test_exact_ni_power(n: int, margin: float, psi: float, percent: int) -> None:
    assert 100 * ni_power(n, margin, psi, 0.05) == pytest.approx(percent, abs=0.51)


@pytest.mark.parametrize(("margin", "psi"), [(0.02, 0.02), (0.03, 0.02), (0.05, 0.05), (0.05, 0.10)])
def test_exact_power_at_the_formula_n(margin: float, psi: float) -> None:
    assert 0.7985 <= ni_power(ni_n(margin, psi, 0.05, 0.8), margin, psi, 0.05) <= 0.8465
    assert 0.8975 <= ni_power(ni_n(margin, psi, 0.05, 0.9), margin, psi, 0.05) <= 0.9315


@pytest.mark.parametrize(
    ("psi", "cells"),
    [
        (0.05, [0.89, 0.94, 0.999, 1.00, 1.00]),
        (0.08, [0.70, 0.80, 0.969, 0.985, 1.00]),
        (0.10, [0.60, 0.72, 0.925, 0.960, 1.00]),
        (0.15, [0.44, 0.56, 0.787, 0.867, 0.997]),
        (0.20, [0.35, 0.47, 0.664, 0.769, 0.981]),
    ],
)
def test_mcnemar_power_gsm8k(psi: float, cells: list[float]) -> None:
    columns = [(0.02, 0.025), (0.02, 0.05), (0.03, 0.025), (0.03, 0.05), (0.05, 0.025)]
    for (d, alpha), cell in zip(columns, cells, strict=True):
        tolerance = 0.0051 if d == 0.02 or cell == 1 else 0.00051
        assert mcnemar_power(1319, psi, d, alpha) == pytest.approx(cell, abs=tolerance)


def test_mcnemar_power_of_ten_points() -> None:
    for alpha, row in ((0.05, (8, 67.5, 93)), (0.025, (3, 54, 88))):
        powers = [100 * mcnemar_power(n, 0.20, 0.10, alpha) for n in (20, 100, 200)]
        assert powers == pytest.approx(row, abs=0.51)


def test_mcnemar_size_and_mirror() -> None:
    for n in (30, 200):
        assert 0 < mcnemar_power(n, 0.3, 0.0, 0.025) <= 0.025
        assert mcnemar_power(n, 0.3, -0.1, 0.025) < 0.025


@pytest.mark.parametrize(
    ("psi", "d", "n80", "n90", "formula", "powers"),
    [
        (0.10, 0.02, 2043, 2697, (1960, 2623), (0.783, 0.892)),
        (0.10, 0.03, 920, 1208, (870, 1164), (0.776, 0.889)),
        (0.10, 0.05, 337, 431, (312, 417), (0.764, 0.889)),
        (0.20, 0.03, 1800, 2388, (1742, 2331), (0.787, 0.893)),
        (0.20, 0.05, 658, 867, (626, 837), (0.779, 0.889)),
        (0.20, 0.10, 168, 215, (155, 206), (0.762, 0.886)),
    ],
)
def test_superiority_n(psi, d, n80, n90, formula, powers) -> None:
    assert (superiority_n(psi, d, 0.025, 0.8), superiority_n(psi, d, 0.025, 0.9)) == (n80, n90)
    for n, power in zip(formula, powers, strict=True):
        assert mcnemar_power(n, psi, d, 0.025) == pytest.approx(power, abs=0.00051)


@pytest.mark.parametrize(("psi", "d"), [(0.3, 0.2), (0.25, 0.15), (0.6, 0.3), (1.0, 0.1), (1.0, 0.25)])
def test_superiority_n_by_its_definition(psi: float, d: float) -> None:
    """From the formula's n on, the first n with enough power at n ... n + 11."""
    n = ni_n(0.0, psi, 0.05, 0.8, delta1=d)
    enough = [mcnemar_power(i, psi, d, 0.05) >= 0.8 for i in range(n, n + 100)]
    assert superiority_n(psi, d, 0.05, 0.8) == n + next(i for i in range(80) if all(enough[i : i + 12]))


def test_zero_flips_and_minimum_n() -> None:
    margins = (0.01, 0.02, 0.03, 0.05)
    assert [ni_zero_flip_n(d, 0.05) for d in margins] == [299, 149, 99, 59]
    assert [ni_zero_flip_n(d, 0.025) for d in margins] == [368, 183, 122, 72]
    assert [proportion_min_n(p, 0.05) for p in (0.80, 0.90, 0.95, 0.99, 0.999)] == [14, 29, 59, 299, 2995]
    assert [proportion_min_n(p, 0.01) for p in (0.90, 0.95, 0.99, 0.999)] == [44, 90, 459, 4603]
    assert proportion_min_n(0.5, 0.25) == 2


@pytest.mark.parametrize(
    ("p0", "p1", "plan"),
    [(0.80, 0.90, (82, 72, 94)), (0.80, 0.95, (30, 28, 37)), (0.85, 0.92, (134, 121, 150)), (0.90, 0.95, (179, 168, 203))],
)
def test_proportion_n(p0: float, p1: float, plan: tuple[int, int, int]) -> None:
    found = proportion_n(p0, p1, 0.05, 0.8, "at_least")
    assert found[:3] == plan
    assert found.stays_k == stats.binom.isf(0.05, found.stays, p0) + 1
    mirrored = proportion_n(1 - p0, 1 - p1, 0.05, 0.8, "at_most")
    assert mirrored == (found.first, found.first - found.first_k, found.stays, found.stays - found.stays_k)


def test_a_valid_plan_in_between() -> None:
    assert stats.binom.sf(76, 88, 0.8) <= 0.05
    assert stats.binom.sf(76, 88, 0.9) == pytest.approx(0.83, abs=0.005)
    assert proportion_n(0.80, 0.95, 0.05, 0.8, "at_least").stays_k == 34


@pytest.mark.parametrize(
    ("allowed", "rate", "n80", "n90"),
    [(0.01, 0.005, 2185, 2784), (0.01, 0.002, 773, 913), (0.05, 0.025, 434, 554), (0.05, 0.01, 124, 181)],
)
def test_slo_n(allowed: float, rate: float, n80: int, n90: int) -> None:
    assert proportion_n(allowed, rate, 0.05, 0.8, "at_most").stays == n80
    assert proportion_n(allowed, rate, 0.05, 0.9, "at_most").stays == n90


def test_betting_min_n() -> None:
    assert betting_min_n(0.0, 0.05, (-1, 1), 0.05, gap=0.05) == 78
    assert betting_min_n(0.0, 0.5, (0, 1), 0.05) < betting_min_n(0.2, 0.5, (0, 1), 0.05)
    with pytest.raises(ValueError, match="expected"):
        betting_min_n(0.5, 0.5, (0, 1), 0.05)


def test_ratio_k() -> None:
    for sd, bound in [(0.02, 0.05), (0.055, 0.05), (0.079, 0.05), (0.1, 0.05)]:
        k = ratio_k(sd, bound, 0.05, 0.8)

        def shortfall(k: int, sd: float = sd, bound: float = bound) -> float:
            return float((stats.t.isf(0.05, k - 1) + stats.t.ppf(0.8, k - 1)) ** 2 * sd**2 / bound**2 - k)

        assert k >= 4
        assert shortfall(k) <= 0
        assert k == 4 or shortfall(k - 1) > 0
    assert ratio_k(0.1, 0.05, 0.05, 0.8, delta1=-0.05) < ratio_k(0.1, 0.05, 0.05, 0.8)


def test_pass_all() -> None:
    assert pass_all([0.9] * 10) == pytest.approx(0.349, abs=5e-4)
    for count, each in ((10, 0.9895), (5, 0.979), (3, 0.9655)):
        assert pass_all([each] * count) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: superiority_n(0.05, 0.10, 0.025, 0.8),
        lambda: superiority_n(0.05, -0.01, 0.025, 0.8),
        lambda: proportion_n(0.9, 0.8, 0.05, 0.8, "at_least"),
        lambda: proportion_min_n(1.0, 0.05),
        lambda: ni_n(1.0, 0.1, 0.05, 0.8),
        lambda: ni_n(0.05, 0.1, 0.05, 1.0),
        lambda: mcnemar_power(0, 0.1, 0.0, 0.05),
        lambda: ratio_k(0.0, 0.05, 0.05, 0.8),
        lambda: pass_all([1.2]),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
