"""The exact non-inferiority test: published p, brute force over every table, sizes of section 5.3."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from harness.stats import paired
from harness.stats.paired import equivalence, noninferiority, noninferiority_region, region_power

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


EXACT = {50: (0.0446, 0.0493, 0.0495, 0.0400), 100: (0.0466, 0.0496, 0.0476, 0.0461)}  # lower ends, margins .01, .02, .03, .05
TANGO = {50: (0.0518, 0.0557, 0.0534, 0.0524), 100: (0.0558, 0.0518, 0.0547, 0.0546)}
MARGINS = (0.01, 0.02, 0.03, 0.05)


@pytest.mark.parametrize(("n", "i"), [(n, i) for n in EXACT for i in range(4)])
def test_sizes_of_section_5_3(n: int, i: int) -> None:
    """All n up to 500 are enumerated in quality/test_size_paired.py."""
    size = noninferiority_region(n, -MARGINS[i], 0.05).size
    assert size.lower == pytest.approx(EXACT[n][i], abs=1.6e-4)
    assert size.upper <= 0.05
    starts = paired._starts(n, -MARGINS[i], stats.norm.isf(0.05))
    assert paired._supremum(starts, -MARGINS[i], 1e-4, None).lower == pytest.approx(TANGO[n][i], abs=1.6e-4)


def test_the_region_is_where_the_test_holds() -> None:
    for n, delta0 in ((24, -0.1), (20, 0.15)):
        region = noninferiority_region(n, delta0, 0.05)
        for m in range(n + 1):
            for b in range(m + 1):
                holds = noninferiority(b, m - b, n, delta0, decide_at=0.05).p_hold.upper <= 0.05
                assert holds == (b >= region.starts[m])


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
    for _ in range(12):
        n = rng.randint(60, 250)
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
    assert equivalence(3, 4, 20, 0.1) == ((0.0, 1.0), (0.0, 1.0), False)


def test_an_impossible_claim_has_an_empty_region() -> None:
    region = noninferiority_region(3, -0.01, 0.05)
    assert region.size.upper <= 0.05
    assert region_power(region, 0.0, 0.0) == 0.0


def test_the_empty_region_lies_above_every_z() -> None:
    region = noninferiority_region(3, -0.01, 0.05)
    assert region.z_crit > paired.tango_z(3, 0, 3, -0.01)
    assert region.starts == (1, 2, 3, 4)


# --- equivalence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c", "n", "margin"), [(0, 0, 14, 0.1), (2, 1, 25, 0.2), (9, 1, 20, 0.1), (1, 12, 18, 0.05), (6, 6, 28, 0.3)])
def test_equivalence_by_brute_force(b: int, c: int, n: int, margin: float) -> None:
    """Both sides over every table: the mirrored side has Z with the arms swapped."""
    z = _z_table(n, -margin)
    hold = max(_grid_p(z >= side - 1e-10, n, -margin) for side in (z[b, c], z[c, b]))
    fail = 2 * min(_grid_p(z <= side + 1e-10, n, -margin) for side in (z[b, c], z[c, b]))
    p_hold, p_fail, monotone = equivalence(b, c, n, margin)
    assert monotone
    for bracket, grid in ((p_hold, hold), (p_fail, min(fail, 1.0))):
        assert bracket.lower - 2e-3 <= grid <= bracket.upper + 1e-12
        assert bracket.upper - bracket.lower <= 1.01e-4


def test_equivalence_is_the_harder_side_and_twice_the_easier_refutation() -> None:
    for b, c, n, margin in ((3, 4, 60, 0.1), (20, 2, 60, 0.1), (2, 20, 60, 0.1), (4, 4, 60, 0.15)):
        both = equivalence(b, c, n, margin, slack=2e-6)
        up, down = noninferiority(b, c, n, -margin, slack=2e-6), noninferiority(c, b, n, -margin, slack=2e-6)
        assert both.p_hold == max(up.p_hold, down.p_hold)
        easier = min(up.p_fail, down.p_fail)
        assert both.p_fail.lower <= min(1, 2 * easier.upper)
        assert min(1, 2 * easier.lower) <= both.p_fail.upper <= 1
        assert both.p_fail.upper - both.p_fail.lower <= 2.1e-6
        assert both == equivalence(c, b, n, margin, slack=2e-6)
        assert both.p_hold.upper >= up.p_hold.upper  # equivalent: all the more not inferior


def test_equivalence_decides_each_side_at_its_level() -> None:
    """p_hold at the level, p_fail at the level too: so each of its sides at half of it."""
    decided = set()
    for b, c in ((1, 1), (4, 4), (8, 4), (20, 4), (22, 4), (24, 4), (4, 24)):
        p_hold, p_fail, _ = equivalence(b, c, 100, 0.08, decide_at=0.05)
        for bracket in (p_hold, p_fail):
            assert bracket.lower > 0.05 or bracket.upper <= 0.05
        decided.add((p_hold.upper <= 0.05, p_fail.upper <= 0.05))
        side = noninferiority(min(b, c), max(b, c), 100, -0.08, slack=1e-4)
        assert (p_fail.upper <= 0.05) == (2 * side.p_fail.upper <= 0.05)
    assert decided == {(True, False), (False, False), (False, True)}


def test_edges_of_equivalence() -> None:
    assert equivalence(0, 0, 100, 0.03, slack=1e-6).p_hold.upper == pytest.approx(0.97**100, abs=2e-6)  # as non-inferiority
    for b, c in ((12, 0), (0, 12)):  # all flips one way: sup of p^n at p = (1 + margin) / 2, and of p_hold at 1
        p_hold, p_fail, _ = equivalence(b, c, 12, 0.1, slack=1e-6)
        assert p_hold == pytest.approx((1.0, 1.0), abs=2e-6)
        assert p_fail.upper == pytest.approx(2 * 0.55**12, abs=2e-6)
    assert equivalence(3, 3, 6, 0.1).p_fail.upper == 1.0
    for call in (
        lambda: equivalence(0, 0, 0, 0.05),
        lambda: equivalence(1, 1, 5001, 0.05),
        lambda: equivalence(1, 1, 50, 0.05, slack=1.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    for margin in (0.0, 1.0, -0.05):
        with pytest.raises(ValueError, match=f"margin = {margin}, expected 0 < margin < 1; for no margin use mcnemar"):
            equivalence(1, 1, 50, margin)


def test_one_side_without_proof_leaves_equivalence_without(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = paired.Bracket(0.0, 1.0)
    monkeypatch.setattr(paired, "_exact_tests", lambda b, c, *rest: paired.ExactTests(unknown, unknown, b < c))
    assert not equivalence(1, 2, 50, 0.05).monotone
