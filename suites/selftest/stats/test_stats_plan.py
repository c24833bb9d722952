"""The planning tables of sections 3.4, 4, 5.2, 5.5, 5.6."""

import math

import pytest
from scipy import stats

from harness.stats.paired import noninferiority_region
from harness.stats.plan import (
    _first_run,
    agreement_bound,
    agreement_n,
    betting_min_n,
    betting_stops,
    corrected_se,
    equivalence_n,
    equivalence_power,
    kappa_spread,
    mcnemar_power,
    mean_n,
    ni_exact_n,
    ni_loss_passed,
    ni_loss_refuted,
    ni_margin,
    ni_n,
    ni_power,
    ni_power_normal,
    ni_zero_flip_n,
    pass_all,
    proportion_min_n,
    proportion_n,
    proportion_power,
    proportion_truth,
    ratio_k,
    superiority_gain,
    superiority_n,
    t_effect,
    t_n,
    t_power,
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


def test_a_run_is_twelve_long() -> None:
    assert _first_run(lambda n: n not in (3, 15), 1) == 16  # 4 ... 14 are eleven
    assert _first_run(lambda n: n not in (3, 16), 1) == 4
    assert _first_run(lambda n: True, 7) == 7


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


@pytest.mark.parametrize(("margin", "psi", "power"), [(0.30, 0.10, 0.8), (0.30, 0.40, 0.9)])
def test_ni_exact_n_by_its_definition(margin: float, psi: float, power: float) -> None:
    """The first n, however small, with the power at n ... n + 11."""
    n = ni_exact_n(margin, psi, 0.05, power)
    enough = [i > 0 and ni_power(i, margin, psi, 0.05) >= power for i in range(n + 12)]
    assert n == next(i for i in range(n + 1) if all(enough[i : i + 12]))


@pytest.mark.parametrize(("psi", "n"), [(0.02, 103), (0.05, 161)])
def test_ni_exact_n_at_the_edge_of_a_tooth(psi: float, n: int) -> None:
    assert ni_exact_n(0.05, psi, 0.05, 0.8) == n
    assert ni_power(n - 1, 0.05, psi, 0.05) < 0.8 <= ni_power(n, 0.05, psi, 0.05)


def test_ni_exact_n_with_a_true_difference() -> None:
    """A true loss costs n, a true gain saves it; superiority by a margin is planned likewise."""
    losing, equal, gaining = (ni_exact_n(0.20, 0.20, 0.05, 0.8, delta1) for delta1 in (-0.05, 0.0, 0.05))
    assert losing > equal > gaining
    n = ni_exact_n(-0.02, 0.30, 0.05, 0.8, delta1=0.25)
    assert ni_power(n, -0.02, 0.30, 0.05, 0.25) >= 0.8 > ni_power(n - 1, -0.02, 0.30, 0.05, 0.25)


@pytest.mark.parametrize(("n", "psi", "delta1"), [(1, 0.10, 0.0), (60, 0.10, 0.0), (60, 0.30, -0.02)])
def test_ni_margin(n: int, psi: float, delta1: float) -> None:
    """At the margin the power is there, one ten-thousandth below it is not."""
    margin = ni_margin(n, psi, 0.05, 0.8, delta1)
    assert margin is not None
    assert round(1e4 * margin) == pytest.approx(1e4 * margin, abs=1e-6)
    assert ni_power(n, margin, psi, 0.05, delta1) >= 0.8 > ni_power(n, margin - 1e-4, psi, 0.05, delta1)


def test_a_hundred_items_cannot_support_five_points() -> None:
    assert ni_power(100, 0.05, 0.10, 0.05) < 0.42
    assert 0.085 < (ni_margin(100, 0.10, 0.05, 0.8) or 0) < 0.095
    assert ni_margin(1, 0.10, 0.05, 0.8) == pytest.approx(0.9501)  # one item that does not flip: 1 - margin <= alpha
    assert ni_margin(1, 0.50, 0.05, 0.8) is None


def test_losses_at_the_edges_of_a_margin() -> None:
    passed = ni_loss_passed(300, 0.05, 0.10, 0.05, 0.8)
    refuted = ni_loss_refuted(300, 0.05, 0.10, 0.05, 0.8)
    assert passed is not None
    assert refuted is not None
    assert ni_power(300, 0.05, 0.10, 0.05, -passed) == pytest.approx(0.8, abs=1e-9)
    fails = noninferiority_region(300, 0.05, 0.05).starts  # "old is better than new by the margin"
    lost, gained = (0.10 + refuted) / 2, (0.10 - refuted) / 2
    chance = sum(stats.binom.pmf(m, 300, 0.10) * stats.binom.sf(start - 1, m, lost / (lost + gained)) for m, start in enumerate(fails))
    assert chance == pytest.approx(0.8, abs=1e-9)
    assert ni_loss_passed(100, 0.05, 0.10, 0.05, 0.8) is None
    all_worse = ni_loss_refuted(300, 0.05, 0.02, 0.05, 0.8)  # more than psi: whatever flips is lost
    assert all_worse is not None
    least = next(m for m, start in enumerate(fails) if start <= m)
    assert stats.binom.sf(least - 1, 300, all_worse) == pytest.approx(0.8, abs=1e-9)
    assert ni_loss_refuted(2, 0.5, 0.10, 0.05, 0.8) is None


@pytest.mark.parametrize(("margin", "psi", "delta1"), [(0.05, 0.10, 0.0), (0.05, 0.10, -0.02), (0.02, 0.05, 0.01), (-0.02, 0.10, 0.05)])
def test_ni_power_normal_is_the_inverse_of_ni_n(margin: float, psi: float, delta1: float) -> None:
    n = ni_n(margin, psi, 0.05, 0.9, delta1)
    assert ni_power_normal(n, margin, psi, 0.05, delta1) >= 0.9 > ni_power_normal(n - 1, margin, psi, 0.05, delta1)


def test_ni_power_normal_without_spread() -> None:
    """All flips for the better, all items flip: nothing is left to chance."""
    n = ni_n(-0.9, 1.0, 0.05, 0.8, delta1=1.0)
    assert [ni_power_normal(i, -0.9, 1.0, 0.05, 1.0) for i in (n - 1, n)] == [0.0, 1.0]


@pytest.mark.parametrize(("n", "margin", "psi", "delta1"), [(40, 0.15, 0.2, 0.0), (60, 0.2, 0.4, 0.1), (25, 0.3, 0.5, -0.1)])
def test_equivalence_power_by_enumeration(n: int, margin: float, psi: float, delta1: float) -> None:
    starts = noninferiority_region(n, -margin, 0.05).starts
    cells = [(psi + delta1) / 2, (psi - delta1) / 2, 1 - psi]
    tables = ((b, c) for b in range(n + 1) for c in range(n + 1 - b) if b >= starts[b + c] and c >= starts[b + c])
    power = sum(stats.multinomial.pmf([b, c, n - b - c], n, cells) for b, c in tables)
    assert equivalence_power(n, margin, psi, 0.05, delta1) == pytest.approx(power, abs=1e-12)


def test_equivalence_n_by_its_definition() -> None:
    n = equivalence_n(0.15, 0.10, 0.05, 0.8)
    assert all(equivalence_power(i, 0.15, 0.10, 0.05) >= 0.8 for i in range(n, n + 12))
    assert equivalence_power(n - 1, 0.15, 0.10, 0.05) < 0.8
    assert n > ni_exact_n(0.15, 0.10, 0.05, 0.8)


def test_superiority_gain() -> None:
    gain = superiority_gain(168, 0.20, 0.025, 0.8)
    assert gain is not None
    assert gain < 0.10
    assert mcnemar_power(168, 0.20, gain, 0.025) == pytest.approx(0.8, abs=1e-9)
    assert superiority_gain(5, 0.20, 0.025, 0.8) is None  # six flips are needed
    assert superiority_gain(6, 1.0, 0.025, 0.8) == pytest.approx(2 * 0.8 ** (1 / 6) - 1)


@pytest.mark.parametrize(("n", "p0"), [(82, 0.8), (88, 0.8), (59, 0.95), (300, 0.99)])
def test_proportion_power_and_truth(n: int, p0: float) -> None:
    k = int(stats.binom.isf(0.05, n, p0)) + 1
    for p1 in (p0, (1 + p0) / 2, 1.0):
        power = stats.binom.sf(k - 1, n, p1)
        assert proportion_power(n, p0, p1, 0.05, "at_least") == pytest.approx(power, abs=1e-12)
        assert proportion_power(n, 1 - p0, 1 - p1, 0.05, "at_most") == pytest.approx(power, abs=1e-12)
    truth = proportion_truth(n, p0, 0.05, 0.8, "at_least")
    assert truth is not None
    assert stats.binom.sf(k - 1, n, truth) == pytest.approx(0.8, abs=1e-9)
    assert proportion_truth(n, 1 - p0, 0.05, 0.8, "at_most") == pytest.approx(1 - truth)


def test_proportion_without_a_chance() -> None:
    assert proportion_power(58, 0.95, 1.0, 0.05, "at_least") == 0
    assert proportion_power(59, 0.95, 1.0, 0.05, "at_least") == 1
    assert proportion_power(6, 0.5, 1.0, 0.015625, "at_least") == 1  # p = alpha is enough
    assert proportion_truth(58, 0.95, 0.05, 0.8, "at_least") is None
    assert proportion_truth(58, 0.05, 0.05, 0.8, "at_most") is None


def test_position_swap_and_retest_canary() -> None:
    """Section 5.5: a binomial test of one half, and a quantile of the retests that change."""
    assert proportion_power(200, 0.5, 0.6, 0.025, "at_least") == pytest.approx(0.79, abs=0.005)
    assert proportion_power(400, 0.5, 0.6, 0.025, "at_least") == pytest.approx(0.98, abs=0.005)
    assert stats.binom.ppf(0.99, 100, 0.02) == 6
    assert proportion_min_n(0.98, 0.01, misses=6) > 100  # 7 changed of 100 show "more than 2 %", 6 do not
    assert proportion_power(100, 0.02, 0.02, 0.01, "at_least") == pytest.approx(stats.binom.sf(6, 100, 0.02))


@pytest.mark.parametrize(
    ("confidence", "quantile", "row"),
    [
        (0.99, 0.90, (44, 64, 81, 127, 197, 325, 681, 1246)),
        (0.99, 0.95, (90, 130, 165, 259, 398, 656, 1372, 2504)),
        (0.99, 0.99, (459, 662, 838, 1307, 2010, 3304, 6898, 12571)),
        (0.99, 0.999, (4603, 6636, 8403, 13105, 20140, 33097, 69058, 125826)),
        (0.95, 0.95, (59, 93, 124, 208, 336, 577, 1260, 2353)),
        (0.95, 0.99, (299, 473, 628, 1049, 1693, 2902, 6323, 11799)),
    ],
)
def test_minimum_n_with_requests_over_the_limit(confidence: float, quantile: float, row: tuple[int, ...]) -> None:
    """Section 5.6; columns 0 and 1 are MLPerf LoadGen's."""
    assert tuple(proportion_min_n(quantile, 1 - confidence, over) for over in (0, 1, 2, 5, 10, 20, 50, 100)) == row


def test_naive_gates_on_a_quantile() -> None:
    """Section 5.6: the raw p99 passes an over-rate of 1.25 %, and fails one of .75 %."""
    for n, passes, fails in ((300, 0.27, 0.39), (1000, 0.20, 0.22)):
        assert stats.binom.cdf(n // 100 - 1, n, 0.0125) == pytest.approx(passes, abs=0.006)
        assert stats.binom.sf(n // 100 - 1, n, 0.0075) == pytest.approx(fails, abs=0.006)


@pytest.mark.parametrize("k", [4, 5, 6, 8, 30, 400])
@pytest.mark.parametrize(("effect", "alpha"), [(2.4, 0.01), (1.0, 0.05), (0.1, 0.025), (-0.5, 0.05), (0.0, 0.05)])
def test_t_power_is_noncentral_t(k: int, effect: float, alpha: float) -> None:
    oracle = stats.nct.sf(stats.t.isf(alpha, k - 1), k - 1, effect * k**0.5)
    assert t_power(k, effect, alpha) == pytest.approx(oracle, abs=1e-8)


def test_t_power_of_few_units() -> None:
    assert t_power(2, 1.0, 0.05) == pytest.approx(stats.nct.sf(stats.t.isf(0.05, 1), 1, 2**0.5), abs=2e-5)
    assert t_power(3, 1.0, 0.05) == pytest.approx(stats.nct.sf(stats.t.isf(0.05, 2), 2, 3**0.5), abs=2e-5)


def test_regressions_found_by_abba() -> None:
    """Section 5.7: per-run log sd .02 makes .02 per block; +5 % at alpha_fail = .01 with 4, 6, 8 blocks."""
    found = [t_power(k, math.log(1.05) / 0.02, 0.01) for k in (4, 6, 8)]
    assert found == pytest.approx([0.65, 0.97, 0.999], abs=0.005)


def test_t_effect_and_t_n() -> None:
    for k, alpha in ((4, 0.01), (6, 0.05), (200, 0.05)):
        effect = t_effect(k, alpha, 0.8)
        assert t_power(k, effect, alpha) == pytest.approx(0.8, abs=1e-9)
        assert t_n(effect * 1.0001, alpha, 0.8) == k
        assert t_n(effect * 0.9999, alpha, 0.8) == k + 1
    assert t_n(50.0, 0.05, 0.8) == 2


def test_ratio_k_has_the_power_it_asks_for() -> None:
    for sd in (0.02, 0.055, 0.079, 0.1):
        k = ratio_k(sd, 0.05, 0.05, 0.8)
        assert t_power(k, 0.05 / sd, 0.05) >= 0.795
        assert k == 4 or t_power(k - 1, 0.05 / sd, 0.05) < 0.81


def test_mean_n_is_millers() -> None:
    """arXiv 2411.00640, section 5: omega^2 = 1/9, no noise, 3 points, 80 %, two-sided 5 %."""
    assert mean_n(0.03, 1 / 9, 0.025, 0.8) == 969
    z = stats.norm.isf(0.025) + stats.norm.isf(0.1)
    variance = 1 / 9 + 0.2 / 4 + 0.3 / 2
    assert mean_n(0.05, 1 / 9, 0.025, 0.9, (0.2, 0.3), (4, 2)) == math.ceil(z**2 * variance / 0.05**2)
    assert t_n(0.09, 0.025, 0.8) - mean_n(0.09, 1.0, 0.025, 0.8) in (1, 2, 3)  # what Student's t costs


def fleiss_cohen_everitt(table: list[list[float]]) -> tuple[float, float]:
    """Kappa and sqrt(n) times its standard error, section 3.13 word for word."""
    rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    po, pe = sum(table[i][i] for i in (0, 1)), sum(rows[i] * columns[i] for i in (0, 1))
    kappa = (po - pe) / (1 - pe)
    same = sum(table[i][i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    other = (1 - kappa) ** 2 * sum(table[i][1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    return kappa, math.sqrt(same + other - (kappa - pe * (1 - kappa)) ** 2) / (1 - pe)


@pytest.mark.parametrize(("base", "agreement"), [(0.5, 0.9), (0.8, 0.9), (0.3, 0.7), (0.95, 0.99)])
def test_kappa_spread(base: float, agreement: float) -> None:
    apart = (1 - agreement) / 2
    kappa, spread = fleiss_cohen_everitt([[base - apart, apart], [apart, 1 - base - apart]])
    assert kappa_spread(kappa, base) == pytest.approx(spread)


def test_agreement_plans() -> None:
    """Section 5.5: what kappa = .80 shows at n = 50, kappa = .6875 at n = 400; kappa = .7 to within .10 at n = 200."""
    balanced, skewed = kappa_spread(0.8, 0.5), kappa_spread(0.6875, 0.8)
    assert agreement_bound(50, 0.8, balanced, 0.05, 0.5) == pytest.approx(0.61, abs=0.005)
    assert agreement_bound(400, 0.6875, skewed, 0.05, 0.5) == pytest.approx(0.604, abs=0.0005)
    assert 1.96 * kappa_spread(0.7, 0.5) / math.sqrt(200) == pytest.approx(0.10, abs=0.005)
    # n = 400 is what a typical sample needs; for power .80 twice as many
    assert agreement_n(0.6875, 0.6, skewed, 0.05, 0.5) == 365
    assert agreement_n(0.6875, 0.6, skewed, 0.05, 0.8) == 834


def test_agreement_bound_is_the_inverse_of_agreement_n() -> None:
    for power in (0.5, 0.9):
        n = agreement_n(0.8, 0.6, 0.7, 0.05, power)
        assert agreement_bound(n, 0.8, 0.7, 0.05, power) >= 0.6 > agreement_bound(n - 1, 0.8, 0.7, 0.05, power)


def test_corrected_half_widths() -> None:
    """Section 3.13: theta = .8, TPR .9, TNR .85, n = 500, m = 200: PPI++ .045, labels alone .055."""
    correlation = (0.8 * 0.9 - 0.8 * 0.75) / math.sqrt(0.16 * 0.1875)
    assert 1.96 * corrected_se(500, 200, 0.4, correlation) == pytest.approx(0.045, abs=0.0005)
    assert 1.96 * corrected_se(500, 200, 0.4, 0.0) == pytest.approx(0.055, abs=0.0005)
    assert corrected_se(0, 200, 0.4, 1.0) == pytest.approx(0.4 / math.sqrt(200))  # nothing judged: nothing gained


def ni_stops(psi: float, margin: float, truth: float, n_max: int, replicates: int, seed: str = "s") -> tuple[int, ...]:
    values, weights = (1 + margin, margin, margin - 1), ((psi + truth) / 2, 1 - psi, (psi - truth) / 2)
    return betting_stops(values, weights, 1 - margin, margin, 1.0, 0.05, n_max, replicates, seed)


def test_betting_stops_when_nothing_flips() -> None:
    """The deterministic case: 78 items at the full bet."""
    assert betting_stops((0.05,), (1.0,), 0.95, 0.05, 1.0, 0.05, 100, 3, "s") == (78, 78, 78)
    assert betting_stops((0.05,), (1.0,), 0.95, 0.05, 1.0, 0.05, 77, 3, "s") == (78, 78, 78)  # never, within 77


def test_betting_stops_are_seeded() -> None:
    stops = ni_stops(0.10, 0.05, 0.0, 300, 40)
    assert stops == ni_stops(0.10, 0.05, 0.0, 300, 40) == tuple(sorted(stops))
    assert stops != ni_stops(0.10, 0.05, 0.0, 300, 40, "t")


def test_sequential_plans() -> None:
    """Section 5.7, 4000 series: 99.9 %, mean n 384; 80 %, mean n 1076; at the margin .036-.042."""
    stops = ni_stops(0.10, 0.05, 0.0, 2000, 400)
    assert sum(stop <= 2000 for stop in stops) >= 395
    assert sum(min(stop, 2000) for stop in stops) / 400 == pytest.approx(384, abs=45)  # 4 standard errors
    stops = ni_stops(0.05, 0.02, 0.0, 2000, 400)
    assert sum(stop <= 2000 for stop in stops) / 400 == pytest.approx(0.80, abs=0.08)
    assert sum(min(stop, 2000) for stop in stops) / 400 == pytest.approx(1076, abs=110)
    assert sum(stop <= 500 for stop in ni_stops(0.10, 0.05, -0.05, 500, 400)) <= stats.binom.isf(1e-4, 400, 0.05)


def test_betting_stops_follow_the_weights() -> None:
    """Two values, deciding at once on the first: the share of stops is its weight."""
    stops = betting_stops((300.0, -1.0), (0.3, 0.7), 1.0, 10.0, 1.0, 0.05, 1, 2000, "s")
    assert sum(stop == 1 for stop in stops) / 2000 == pytest.approx(0.3, abs=0.04)


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
        lambda: ni_exact_n(0.05, 0.1, 0.05, 0.4),
        lambda: ni_margin(0, 0.1, 0.05, 0.8),
        lambda: ni_power_normal(0, 0.05, 0.1, 0.05),
        lambda: ni_loss_passed(50, 0.05, 0.1, 0.05, 1.0),
        lambda: ni_loss_refuted(50, 0.05, 0.1, 0.05, 1.0),
        lambda: superiority_gain(50, 0.1, 0.05, 1.0),
        lambda: equivalence_power(50, 0.0, 0.1, 0.05),
        lambda: equivalence_n(0.05, 0.1, 0.05, 1.0),
        lambda: proportion_power(0, 0.5, 0.6, 0.05, "at_least"),
        lambda: proportion_power(10, 1.0, 0.6, 0.05, "at_least"),
        lambda: proportion_power(10, 0.5, 0.6, 0.5, "at_least"),
        lambda: proportion_truth(10, 0.5, 0.05, 0.3, "at_least"),
        lambda: proportion_min_n(0.9, 0.05, -1),
        lambda: t_power(1, 1.0, 0.05),
        lambda: t_power(4, math.inf, 0.05),
        lambda: t_effect(4, 0.05, 0.2),
        lambda: t_n(0.0, 0.05, 0.8),
        lambda: mean_n(0.0, 1.0, 0.05, 0.8),
        lambda: mean_n(0.1, 0.0, 0.05, 0.8),
        lambda: mean_n(0.1, 1.0, 0.05, 0.8, (-0.1, 0.0)),
        lambda: mean_n(0.1, 1.0, 0.05, 0.8, (0.1, 0.1), (0, 1)),
        lambda: kappa_spread(1.0, 0.5),
        lambda: kappa_spread(-0.9, 0.2),
        lambda: agreement_n(0.6, 0.6, 0.7, 0.05, 0.8),
        lambda: agreement_n(0.8, 0.6, 0.0, 0.05, 0.8),
        lambda: agreement_bound(50, 1.0, 0.7, 0.05, 0.8),
        lambda: agreement_bound(0, 0.8, 0.7, 0.05, 0.8),
        lambda: corrected_se(500, 1, 0.4, 0.5),
        lambda: corrected_se(-1, 100, 0.4, 0.5),
        lambda: corrected_se(500, 100, 0.4, 1.1),
        lambda: betting_stops((1.0,), (0.9,), 1.0, 0.1, 1.0, 0.05, 10, 10, "s"),
        lambda: betting_stops((1.0, 0.0), (1.0,), 1.0, 0.1, 1.0, 0.05, 10, 10, "s"),
        lambda: betting_stops((1.0, 0.0), (1.5, -0.5), 1.0, 0.1, 1.0, 0.05, 10, 10, "s"),
        lambda: betting_stops((1.0,), (1.0,), 1.0, 0.1, 1.0, 0.05, 0, 10, "s"),
        lambda: betting_stops((1.0,), (1.0,), 1.0, 0.1, 1.0, 0.05, 10, 0, "s"),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
