"""The exact non-inferiority test: published p, brute force over every table, sizes of section 5.3."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from harness.stats import paired
from harness.stats.paired import noninferiority, noninferiority_region, region_power

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize(
    ("b", "c", "n", "margin", "p"),
    [
        (6, 8, 200, 0.05, 0.029869120),
        (3, 5, 200, 0.05, 0.014325129),
        (10, 12, 300, 0.05, 0.007622738),
        (0, 0, 100, 0.03, 0.97**100),
        (0, 1, 150, 0.03, 0.058475741),
        (4, 4, 100, 0.05, 0.059068001),
    ],
)
def test_p_hold_digits(b, c, n, margin, p) -> None:
    lower, upper = noninferiority(b, c, n, -margin, slack=2e-6).p_hold
    assert lower - 1e-9 <= p <= upper + 1e-9
    assert upper - lower <= 2.1e-6


@pytest.mark.parametrize(
    ("b", "c", "n", "margin", "p"),
    [
        (2, 30, 200, 0.05, 0.000205736),
        (5, 25, 200, 0.05, 0.028485630),
        (8, 40, 300, 0.05, 0.009348804),
        (0, 10, 100, 0.05, 0.031053701),
        (40, 130, 1319, 0.03, 0.000100130),
    ],
)
def test_p_fail_digits(b, c, n, margin, p) -> None:
    lower, upper = noninferiority(b, c, n, -margin, slack=2e-6).p_fail
    assert lower - 1e-9 <= p <= upper + 1e-9


def _z_table(n: int, delta0: float) -> np.ndarray:
    """Z of every (b, c), straight from the formula, nan outside the simplex."""
    b, c = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    linear = -b - c + (2 * n - b + c) * delta0
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * delta0 * (1 - delta0), 0))
    p21 = np.clip((root - linear) / (4 * n), max(0.0, -delta0), (1 - delta0) / 2)
    z = (b - c - n * delta0) / np.sqrt(n * (2 * p21 + delta0 * (1 - delta0)))
    z[b + c > n] = np.nan
    return z


def _trinomial(n: int, p12: float, p21: float) -> np.ndarray:
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    rest = np.maximum(n - b - c, 0)
    log_factorial = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    with np.errstate(divide="ignore"):
        logs = [np.log(p) for p in (p12, p21, max(0.0, 1 - p12 - p21))]
    with np.errstate(invalid="ignore"):
        powers = sum(np.where(k == 0, 0.0, k * log) for k, log in zip((b, c, rest), logs, strict=True))
    log_mass = log_factorial[n] - log_factorial[b] - log_factorial[c] - log_factorial[rest] + powers
    return np.where(b + c <= n, np.exp(log_mass), 0.0)


def _grid_p(region: np.ndarray, n: int, delta0: float) -> float:
    line = np.linspace(max(0.0, delta0), (1 + delta0) / 2, 300)
    return max(float(_trinomial(n, p12, max(p12 - delta0, 0.0))[region].sum()) for p12 in line)


def _tables() -> list[tuple[int, int, int, float]]:
    rng = random.Random(11)
    cases = [(0, 0, 12, -0.1), (12, 0, 12, -0.1), (0, 12, 12, -0.1), (12, 0, 12, 0.2), (3, 0, 9, 0.3)]
    for _ in range(25):
        n = rng.randint(1, 28)
        b = rng.randint(0, n)
        cases.append((b, rng.randint(0, n - b), n, rng.choice([-0.3, -0.1, -0.05, -0.01, 0.05, 0.2])))
    return cases


@pytest.mark.parametrize(("b", "c", "n", "delta0"), _tables())
def test_brute_force_over_every_table(b: int, c: int, n: int, delta0: float) -> None:
    z = _z_table(n, delta0)
    p_hold, p_fail, monotone = noninferiority(b, c, n, delta0)
    assert monotone
    for bracket, region in ((p_hold, z >= z[b, c] - 1e-10), (p_fail, z <= z[b, c] + 1e-10)):
        grid = _grid_p(region, n, delta0)
        assert grid <= bracket.upper + 1e-12
        assert grid >= bracket.lower - 1e-3
        assert bracket.upper - bracket.lower <= 1.01e-4


def test_the_window_sum_equals_the_plain_sum() -> None:
    """Random staircases, random cells, tiny and large probabilities: rows summed one by one with scipy."""
    rng = random.Random(3)
    for _ in range(300):
        n = rng.choice([1, 5, 40, 300, 900])
        slope = rng.random()
        starts = [rng.choice([0, 1])]
        for _ in range(n):
            starts.append(starts[-1] + (rng.random() < slope))
        p12 = rng.choice([0.0, 1e-9, 1e-3, rng.random() / 2, rng.random()])
        p21 = rng.choice([0.0, 1e-9, 1e-3, rng.random() / 2, 1.0]) * (1 - p12)
        psi = min(1.0, p12 + p21)
        m = np.arange(n + 1)
        share = p12 / psi if psi else 0.0
        plain = np.sum(stats.binom.pmf(m, n, psi) * stats.binom.sf(np.array(starts) - 1, m, share))
        assert paired.staircase_probability(starts)(p12, p21) == pytest.approx(plain, abs=2e-11), (n, p12, p21)


@pytest.mark.parametrize(("n", "delta0"), [(40, -0.05), (60, -0.2), (33, 0.1), (150, -0.01)])
def test_starts_are_the_smallest_b_and_z_rises_along_each_row(n: int, delta0: float) -> None:
    """A full scan of every table, and Barnard's convexity of Z itself."""
    z = _z_table(n, delta0)
    for m in range(n + 1):
        row = np.array([z[b, m - b] for b in range(m + 1)])
        assert (np.diff(row) > 0).all()
    assert not (np.diff(z, axis=0) < -1e-12).any()
    assert not (np.diff(z, axis=1) > 1e-12).any()
    for cutoff in (-1.0, 0.0, 1.6448, 2.5):
        starts = paired._starts(n, delta0, cutoff)
        for m, start in enumerate(starts):
            inside = [z[b, m - b] >= cutoff for b in range(m + 1)]
            assert inside == [b >= start for b in range(m + 1)]


EXACT = {  # lower ends of the brackets, at margins .01, .02, .03, .05
    50: (0.0446, 0.0493, 0.0495, 0.0400),
    100: (0.0466, 0.0496, 0.0476, 0.0461),
    200: (0.0479, 0.0465, 0.0465, 0.0464),
    300: (0.0490, 0.0495, 0.0463, 0.0486),
    500: (0.0499, 0.0497, 0.0499, 0.0498),
}
TANGO = {
    50: (0.0518, 0.0557, 0.0534, 0.0524),
    100: (0.0558, 0.0518, 0.0547, 0.0546),
    200: (0.0519, 0.0519, 0.0593, 0.0518),
    300: (0.0529, 0.0602, 0.0529, 0.0529),
    500: (0.0537, 0.0509, 0.0537, 0.0536),
    1000: (0.0513, 0.0512, 0.0534, 0.0532),
}
MARGINS = (0.01, 0.02, 0.03, 0.05)
SAMPLE = random.Random(53).sample([(n, i) for n in (300, 500) for i in range(4)], 3)


@pytest.mark.parametrize(("n", "i"), [(n, i) for n in (50, 100, 200) for i in range(4)] + SAMPLE)
def test_size_of_the_exact_rule(n: int, i: int) -> None:
    size = noninferiority_region(n, -MARGINS[i], 0.05).size
    assert size.lower == pytest.approx(EXACT[n][i], abs=1.6e-4)
    assert size.upper <= 0.05


@pytest.mark.parametrize(("n", "i"), [(n, i) for n in (50, 100, 200) for i in range(4)] + [*SAMPLE, (1000, 2)])
def test_size_of_tangos_rule(n: int, i: int) -> None:
    starts = paired._starts(n, -MARGINS[i], stats.norm.isf(0.05))
    assert paired._supremum(starts, -MARGINS[i], 1e-4, None).lower == pytest.approx(TANGO[n][i], abs=1.6e-4)


def test_every_n_up_to_a_hundred_keeps_alpha_in_a_seeded_sample() -> None:
    for n in random.Random(1).sample(range(1, 100), 12):
        for alpha in (0.05, 0.025):
            assert noninferiority_region(n, -0.05, alpha).size.upper <= alpha


def test_the_region_is_where_the_test_holds() -> None:
    for n, delta0 in ((30, -0.1), (45, 0.1)):
        region = noninferiority_region(n, delta0, 0.05)
        for m in range(n + 1):
            for b in range(m + 1):
                holds = noninferiority(b, m - b, n, delta0, decide_at=0.05).p_hold.upper <= 0.05
                assert holds == (b >= region.starts[m])


def test_the_size_at_n_1000_is_at_least_the_published_one() -> None:
    """Section 5.3 lists .0488 (margin .01); a larger region also keeps alpha: one point of its boundary proves it."""
    region = noninferiority_region(1000, -0.01, 0.05)
    assert region.size.lower >= 0.0498
    assert region.size.upper <= 0.05
    m = np.arange(1001)
    best = 0.0
    for p12 in np.linspace(0, 0.2, 400):
        rows = stats.binom.sf(np.array(region.starts) - 1, m, p12 / (2 * p12 + 0.01))
        best = max(best, float(np.sum(stats.binom.pmf(m, 1000, 2 * p12 + 0.01) * rows)))
    assert 0.049 < best <= 0.05


def test_zero_flips() -> None:
    for margin, n in ((0.01, 299), (0.02, 149), (0.03, 99), (0.05, 59)):
        assert noninferiority(0, 0, n, -margin, decide_at=0.05).p_hold.upper <= 0.05
        assert noninferiority(0, 0, n - 1, -margin, decide_at=0.05).p_hold.lower > 0.05
    for margin, first, last_failing in ((0.02, 191, 194), (0.03, 126, 129), (0.05, 75, 78)):
        holds = {n: noninferiority(0, 0, n, -margin, decide_at=0.025).p_hold.upper <= 0.025 for n in range(first - 12, last_failing + 8)}
        assert min(n for n, ok in holds.items() if ok) == first
        assert max(n for n, ok in holds.items() if not ok) == last_failing


def test_early_stopping_decides_as_the_full_bracket_does() -> None:
    rng = random.Random(2)
    for _ in range(20):
        n = rng.randint(60, 400)
        b, c = rng.randint(0, n // 12), rng.randint(0, n // 12)
        full, early = noninferiority(b, c, n, -0.05), noninferiority(b, c, n, -0.05, decide_at=0.05)
        for wide, narrow in zip(early[:2], full[:2], strict=True):
            assert wide.lower - 1e-8 <= narrow.upper
            assert narrow.lower - 1e-8 <= wide.upper
            if abs(narrow.upper - 0.05) > 2e-4:
                assert (wide.upper <= 0.05) == (narrow.upper <= 0.05)


def test_shifted_superiority_is_the_mirror_image() -> None:
    left, right = noninferiority(20, 6, 90, 0.05), noninferiority(6, 20, 90, -0.05)
    assert left.p_hold == pytest.approx(right.p_fail, abs=1e-12)
    assert left.p_fail == pytest.approx(right.p_hold, abs=1e-12)


def test_large_n_finishes_in_seconds_and_above_the_limit_is_refused() -> None:
    assert noninferiority(150, 160, 5000, -0.01, decide_at=0.05).monotone
    with pytest.raises(ValueError, match="expected 1 <= n <= 5000"):
        noninferiority(1, 1, 5001, -0.01)
    with pytest.raises(ValueError, match="use mcnemar"):
        noninferiority(1, 1, 50, 0.0)
    with pytest.raises(ValueError, match="slack"):
        noninferiority(1, 1, 50, -0.1, slack=0.0)


def test_an_unsound_staircase_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "_z", lambda b, c, n, delta0: float((b * 7 + c * 3) % 5))
    assert noninferiority(3, 4, 20, -0.1) == ((0.0, 1.0), (0.0, 1.0), False)


def test_an_impossible_claim_has_an_empty_region() -> None:
    region = noninferiority_region(3, -0.01, 0.05)
    assert region.size.upper <= 0.05
    assert region_power(region, 0.0, 0.0) == 0.0
