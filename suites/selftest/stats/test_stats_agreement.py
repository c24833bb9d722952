"""Kappa, Krippendorff's alpha and the certification of judges: published examples, statsmodels, coincidence matrices."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from harness.stats.agreement import Agreement, agreement_tests, cohen_kappa, constant_judge, drop_incomplete, krippendorff
from harness.stats.intervals import clopper_pearson, proportion_tests, wilson
from harness.stats.plan import proportion_n

pytestmark = pytest.mark.selftest

TABLE = [[20, 5], [10, 15]]


def _units(*raters: str) -> list[list[float | None]]:
    return [[None if r == "*" else float(r) for r in unit] for unit in zip(*map(str.split, raters), strict=True)]


FAST = _units("* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4")
FOUR = _units(  # Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C: four observers, 12 units
    "1 2 3 3 2 1 4 1 2 * * *", "1 2 3 3 2 2 4 1 2 5 * 3", "* 3 3 3 2 3 4 2 2 5 1 *", "1 2 3 3 2 4 4 1 2 5 1 *"
)


# --- kappa ----------------------------------------------------------------------------------------


def test_kappa_of_section_5_5() -> None:
    result = cohen_kappa(TABLE, 0.05)
    assert result.estimate == pytest.approx(0.4, rel=1e-15)
    assert result.se == pytest.approx(0.1269960629, abs=5e-11)
    assert result.low == pytest.approx(0.1732064814, abs=5e-11)
    assert result.estimate - stats.norm.isf(0.05) * result.se == pytest.approx(0.1911100653, abs=5e-11)
    assert (result.n, result.chance, result.df) == (50, 0.5, math.inf)


def test_kappa_examples_of_section_5_5() -> None:
    ninety = cohen_kappa([[23, 3], [2, 22]], 0.05)
    assert ninety.estimate == pytest.approx(0.80, abs=0.0005)
    assert ninety.estimate - stats.norm.isf(0.05) * ninety.se == pytest.approx(0.66, abs=0.005)
    assert ninety.low == pytest.approx(0.61, abs=0.005)
    rare = cohen_kappa([[300, 20], [20, 60]], 0.05)
    assert rare.estimate == 0.6875
    assert rare.estimate - stats.norm.isf(0.05) * rare.se == pytest.approx(0.612, abs=0.0005)
    assert rare.low == pytest.approx(0.604, abs=0.0005)
    balanced = cohen_kappa([[85, 15], [15, 85]], 0.025)
    assert balanced.estimate == pytest.approx(0.7, rel=1e-12)
    assert stats.norm.isf(0.025) * balanced.se == pytest.approx(0.10, abs=0.005)


def test_kappa_of_fleiss_cohen_everitt() -> None:
    """Fleiss, Cohen & Everitt (1969), Psychological Bulletin 72, the example of n = 200: kappa .429, variance .002885."""
    result = cohen_kappa([[106, 10, 4], [22, 28, 10], [2, 12, 6]], 0.05)
    assert result.estimate == pytest.approx(0.429, abs=0.0005)
    assert result.se**2 == pytest.approx(0.002885, abs=5e-7)
    assert result.chance == pytest.approx(0.475, rel=1e-12)


def test_kappa_against_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for size in (2, 3, 5):
        for _ in range(60):
            table = rng.multinomial(rng.integers(30, 300), rng.dirichlet(np.ones(size * size))).reshape(size, size)
            if min((table.sum(0) > 0).sum(), (table.sum(1) > 0).sum()) < 2:
                continue
            ours, theirs = cohen_kappa(table.tolist(), 0.05), cohens_kappa(table)
            assert (ours.estimate, ours.se) == pytest.approx((theirs.kappa, theirs.std_kappa), rel=1e-9, abs=1e-12)
            raised = cohens_kappa(table + np.eye(size))
            assert ours.raised == pytest.approx((raised.kappa, raised.std_kappa), rel=1e-9, abs=1e-12)


def test_kappa_limits_by_their_definition() -> None:
    for alpha in (0.05, 0.01):
        result, z = cohen_kappa(TABLE, alpha), stats.norm.isf(alpha)
        assert result.low == pytest.approx(math.tanh(math.atanh(0.4) - z * result.se / 0.84), rel=1e-12)
        raised = cohens_kappa(np.array(TABLE) + np.eye(2))
        assert result.high == pytest.approx(raised.kappa + z * raised.std_kappa, rel=1e-12)
    assert cohen_kappa([[2, 1], [0, 2]], 0.05).high == 1.0
    assert cohen_kappa([[150, 1], [0, 150]], 0.05).low < 0.05 ** (1 / 301)


def test_perfect_kappa() -> None:
    result = cohen_kappa([[30, 0], [0, 10]], 0.05)
    chance = 0.75**2 + 0.25**2
    assert result[:2] == (1.0, 0.0)
    assert result.low == pytest.approx(1 - (1 - 0.05 ** (1 / 40)) / (1 - chance), rel=1e-12)
    assert result.high == 1.0
    # were the n-th root of alpha the share agreed on, kappa would be low
    assert result.low == pytest.approx((0.05 ** (1 / 40) - chance) / (1 - chance), rel=1e-12)
    assert agreement_tests(result, result.low) == pytest.approx((0.05, 1.0), rel=1e-9)
    assert agreement_tests(result, 0.0).p_hold == pytest.approx(chance**40, rel=1e-9)
    assert agreement_tests(result, -0.5).p_hold == pytest.approx((1.5 * chance - 0.5) ** 40, rel=1e-9)
    assert agreement_tests(cohen_kappa([[20, 0], [0, 20]], 0.05), -0.99).p_hold < 1e-90
    assert agreement_tests(cohen_kappa([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 0.05), -0.9).p_hold == 0


@pytest.mark.parametrize("table", [[[40, 0], [0, 0]], [[0, 0], [3, 37]], [[3, 0], [37, 0]], [[40]], [[0, 20], [20, 0]]])
def test_nothing_varies(table) -> None:
    with pytest.raises(ValueError, match="expected"):
        cohen_kappa(table, 0.05)


def test_one_rater_constant_is_not_certainly_bad() -> None:
    """A judge that misses a rare label 20 times out of 20 has kappa 0 and standard error 0: refused, not failed."""
    assert cohens_kappa(np.array([[19, 0], [1, 0]]), return_results=False) == 0
    with pytest.raises(ValueError, match="one label only"):
        cohen_kappa([[19, 0], [1, 0]], 0.05)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(2, 4).flatmap(lambda k: st.lists(st.lists(st.integers(0, 30), min_size=k, max_size=k), min_size=k, max_size=k)))
def test_kappa_properties(table) -> None:
    n = sum(map(sum, table))
    assume(all(sum(line) < n for line in [*table, *zip(*table, strict=True)]))
    try:
        result = cohen_kappa(table, 0.05)
    except ValueError:
        assert cohens_kappa(np.array(table)).std_kappa == pytest.approx(0, abs=1e-7)
        return
    assert -1 < result.estimate <= 1
    assert result.low <= result.estimate <= result.high <= 1 or result.estimate == 1
    wider = cohen_kappa(table, 0.01)
    assert wider.low < result.low
    assert wider.high >= result.high
    order = list(range(len(table)))[::-1]
    assert cohen_kappa([[table[i][j] for j in order] for i in order], 0.05) == result
    swapped = cohen_kappa([list(row) for row in zip(*table, strict=True)], 0.05)
    assert swapped[:2] == result[:2]
    unused = [[*row, 0] for row in table] + [[0] * (len(table) + 1)]
    assert cohen_kappa(unused, 0.05)[:3] == result[:3]


def test_agreement_rises_with_each_agreed_unit() -> None:
    results = [cohen_kappa([[20 + i, 5], [5, 20 + i]], 0.05) for i in range(8)]
    for field in ("estimate", "low", "high"):
        values = [getattr(result, field) for result in results]
        assert values == sorted(set(values))


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.2])
def test_the_tests_are_the_limits(alpha: float) -> None:
    for result in (cohen_kappa(TABLE, alpha), krippendorff(FAST, "interval", alpha), krippendorff(FOUR, "nominal", alpha)):
        assert agreement_tests(result, result.low).p_hold == pytest.approx(alpha, rel=1e-8)
        if result.high < 1:
            assert agreement_tests(result, result.high).p_fail == pytest.approx(alpha, rel=1e-8)
        assert agreement_tests(result, result.low - 1e-3).p_hold < alpha < agreement_tests(result, result.low + 1e-3).p_hold
        assert agreement_tests(result, 0.0).p_hold < agreement_tests(result, 0.5).p_hold
        assert agreement_tests(result, 0.9).p_fail < agreement_tests(result, 0.5).p_fail


def test_few_units_prove_little_however_they_agree() -> None:
    """bound^n <= alpha is needed, as of a proportion: 59 units for .95."""
    nearly = [[1.0, 1.0], [100.0, 100.0]] * 29 + [[50.0, 50.001]]
    result = krippendorff(nearly[-58:], "interval", 0.05)
    assert result.low == pytest.approx(0.05 ** (1 / 58), rel=1e-12)
    assert agreement_tests(result, 0.95).p_hold == pytest.approx(0.95**58, rel=1e-12)
    assert agreement_tests(result, 0.95).p_hold > 0.05 >= agreement_tests(krippendorff(nearly, "interval", 0.05), 0.95).p_hold


# --- Krippendorff's alpha -------------------------------------------------------------------------


def test_published_alphas() -> None:
    assert krippendorff(FAST, "nominal", 0.05).estimate == pytest.approx(0.691358024691, abs=5e-13)
    assert krippendorff(FAST, "interval", 0.05).estimate == pytest.approx(0.810844892812, abs=5e-13)
    for level, alpha in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert krippendorff(FOUR, level, 0.05).estimate == pytest.approx(alpha, abs=0.0005)
    # the same paper, sections A and B: two observers, ten binary units, twelve nominal ones
    binary = _units("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
    assert krippendorff(binary, "nominal", 0.05).estimate == pytest.approx(0.095, abs=0.0005)
    nominal = _units("1 1 2 2 4 3 3 3 5 4 4 1", "2 1 2 2 2 3 3 3 5 4 4 4")
    assert krippendorff(nominal, "nominal", 0.05).estimate == pytest.approx(0.692, abs=0.0005)


def _coincidence_alpha(units, level) -> tuple[float, float]:
    """Alpha from the matrix of coincidences, distances by their definition; and the chance agreement."""
    units = [[r for r in unit if r is not None] for unit in units]
    units = [unit for unit in units if len(unit) > 1]
    values = sorted({r for unit in units for r in unit})
    o = np.zeros((len(values), len(values)))
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                if i != j:
                    o[values.index(a), values.index(b)] += 1 / (len(unit) - 1)
    n = o.sum(0)
    d = np.zeros_like(o)
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            low, high = min(i, j), max(i, j)
            between = n[low : high + 1].sum() - (n[low] + n[high]) / 2
            d[i, j] = {"nominal": float(i != j), "ordinal": between**2, "interval": (a - b) ** 2}[level]
    expected = (np.outer(n, n) * d).sum() / (n.sum() - 1) / n.sum()
    return 1 - (o * d).sum() / n.sum() / expected, 1 - expected / d.max()


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_against_coincidence_matrices(level) -> None:
    """Estimate, jackknife and raised data, over random ratings with gaps."""
    rng = np.random.default_rng(7)
    for _ in range(12):
        true = rng.integers(1, 5, 14)
        noisy = np.where(rng.random((3, 14)) < 0.7, true, rng.integers(1, 5, (3, 14))).astype(float) ** 1.5
        units = [[None if rng.random() < 0.2 else float(r) for r in unit] for unit in noisy.T]
        result = krippendorff(units, level, 0.05)
        rated = [unit for unit in units if sum(r is not None for r in unit) > 1]
        assert (result.estimate, result.chance) == pytest.approx(_coincidence_alpha(units, level), rel=1e-9, abs=1e-12)
        assert (result.n, result.df) == (len(rated), len(rated) - 1)
        values = sorted({r for unit in rated for r in unit if r is not None})
        more = rated + [[v, v] for v in (values if level == "nominal" else (values[0], values[-1]))]
        for data, estimate, se in ((rated, result.estimate, result.se), (more, *result.raised)):
            without = [_coincidence_alpha(data[:i] + data[i + 1 :], level)[0] for i in range(len(data))]
            assert _coincidence_alpha(data, level)[0] == pytest.approx(estimate, rel=1e-9, abs=1e-12)
            assert np.std(without) * math.sqrt(len(data) - 1) == pytest.approx(se, rel=1e-9)
        t = stats.t.isf(0.05, len(rated) - 1)
        low = math.tanh(math.atanh(result.estimate) - t * result.se / (1 - result.estimate**2))
        assert result.low == pytest.approx(low, rel=1e-9)
        assert result.high == pytest.approx(min(result.raised[0] + t * result.raised[1], 1), rel=1e-9)


def test_perfect_alpha_does_not_depend_on_the_scale() -> None:
    """Were the largest distance not divided by, ratings 0 and 100 would prove more than 0 and 1 do."""
    agreed = [[0.0, 0.0]] * 30 + [[1.0, 1.0]] * 10
    result = krippendorff(agreed, "nominal", 0.05)
    expected = 60 * 20 * 2 / (80 * 79)
    assert result[:2] == (1.0, 0.0)
    assert result.low == pytest.approx(1 - (1 - 0.05 ** (1 / 40)) / expected, rel=1e-12)
    assert agreement_tests(result, result.low) == pytest.approx((0.05, 1.0), rel=1e-9)
    hundred = [[100 * r for r in unit] for unit in agreed]
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff(hundred, level, 0.05)[:6] == pytest.approx(result[:6], rel=1e-12)


def _same(a: Agreement, b: Agreement) -> None:
    assert [*a[:6], *a.raised] == pytest.approx([*b[:6], *b.raised], rel=1e-7, abs=1e-9)


RATINGS = st.lists(st.sampled_from([None, 1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=4)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(RATINGS, min_size=4, max_size=15), st.randoms())
def test_alpha_properties(units, random) -> None:
    for level in ("nominal", "ordinal", "interval"):
        try:
            result = krippendorff(units, level, 0.05)
        except ValueError:
            continue
        assert result.low <= result.estimate <= 1
        assert result.low <= result.high <= 1
        shuffled = [random.sample(unit, len(unit)) for unit in units]
        random.shuffle(shuffled)
        _same(krippendorff(shuffled, level, 0.05), result)
        assert krippendorff([*units, [4.0], [None, None], []], level, 0.05) == result
        moved = [[None if r is None else 10 - 2 * r for r in unit] for unit in units]
        _same(krippendorff(moved, level, 0.05), result)


def test_ordinal_needs_the_order_only() -> None:
    squared = [[None if r is None else r**2 for r in unit] for unit in FOUR]
    _same(krippendorff(squared, "ordinal", 0.05), krippendorff(FOUR, "ordinal", 0.05))
    assert krippendorff(squared, "interval", 0.05).estimate != pytest.approx(krippendorff(FOUR, "interval", 0.05).estimate, abs=0.01)


# --- pairs, constant judges, certification --------------------------------------------------------


def test_a_pair_is_dropped_as_a_pair() -> None:
    """Dropped from each list on its own and zipped again, nine misaligned pairs show kappa .10."""
    gold = [1, 0, 1, 0, None, 1, 0, 1, 0, 1]
    pred = [1, 0, 1, 0, 1, 1, 0, 1, 0, None]
    pairs, dropped = drop_incomplete(gold, pred)
    assert (len(pairs), dropped) == (8, 2)

    def kappa(pairs) -> float:
        found = Counter(pairs)
        return cohen_kappa([[found[a, b] for b in (0, 1)] for a in (0, 1)], 0.05).estimate

    assert kappa(pairs) == 1
    misaligned = zip([g for g in gold if g is not None], [p for p in pred if p is not None], strict=True)
    assert kappa(misaligned) == pytest.approx(0.10, abs=0.005)
    with pytest.raises(ValueError, match="expected equally many"):
        drop_incomplete([1], [1, 0])
    assert drop_incomplete([0, None], [None, None]) == ([], 2)


def test_constant_judge() -> None:
    assert constant_judge(["ok"] * 19 + ["bad"]) == 0.95
    assert constant_judge([True, False, True, True]) == 0.75
    with pytest.raises(ValueError, match="expected"):
        constant_judge([])


def test_certification_of_section_5_5() -> None:
    """TPR and TNR by Clopper-Pearson: what counts support, and how many are needed."""
    lows = [clopper_pearson(k, n, 0.05).low for k, n in ((5, 5), (20, 20), (77, 88))]
    assert lows == pytest.approx([0.55, 0.86, 0.801586352011], abs=0.0051)
    assert lows[2] == pytest.approx(0.801586352011, abs=1e-12)
    assert clopper_pearson(59, 59, 0.05).low == pytest.approx(0.95, abs=0.0005)
    highs = [clopper_pearson(k, n, 0.05).high for k, n in ((0, 100), (0, 20))]
    assert highs == pytest.approx([0.030, 0.139], abs=0.0005)
    assert clopper_pearson(20, 200, 0.05).high == pytest.approx(0.141989251591, abs=1e-12)
    assert wilson(45, 50, 0.025) == pytest.approx((0.786, 0.957), abs=0.0005)
    plans = {(0.80, 0.90): (82, 72, 94), (0.80, 0.95): (30, 28, 37), (0.85, 0.92): (134, 121, 150), (0.90, 0.95): (179, 168, 203)}
    for (bound, true), plan in plans.items():
        assert proportion_n(bound, true, 0.05, 0.80, "at_least")[:3] == plan
    assert proportion_tests(77, 88, 0.80)[0] <= 0.05 < proportion_tests(76, 88, 0.80)[0]
    assert stats.binom.sf(76, 88, 0.90) == pytest.approx(0.83, abs=0.005)
    assert proportion_n(0.80, 0.95, 0.05, 0.80, "at_least").stays_k == 34


def test_position_swap_and_canary_of_section_5_5() -> None:
    for pairs, power in ((200, 0.79), (400, 0.98)):
        critical = next(k for k in range(pairs + 1) if proportion_tests(k, pairs, 0.5)[0] <= 0.025)
        assert proportion_tests(critical, pairs, 0.6)[0] == pytest.approx(power, abs=0.005)
    assert proportion_tests(6, 100, 0.02)[1] >= 0.99 > proportion_tests(5, 100, 0.02)[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: cohen_kappa([], 0.05),
        lambda: cohen_kappa([[0, 0], [0, 0]], 0.05),
        lambda: cohen_kappa([[1, 2], [3]], 0.05),
        lambda: cohen_kappa([[5, -1], [3, 4]], 0.05),
        lambda: cohen_kappa(TABLE, 0.5),
        lambda: krippendorff(FAST, "nominal", 0.0),
        lambda: krippendorff(FAST, "ratio", 0.05),  # type: ignore[arg-type]
        lambda: krippendorff([], "nominal", 0.05),
        lambda: krippendorff([[1, None], [2, None]], "nominal", 0.05),
        lambda: krippendorff([[1, 1], [1, 1], [2, None]], "nominal", 0.05),
        lambda: krippendorff([[1, math.nan], [1, 2]], "interval", 0.05),
        lambda: krippendorff([[1, math.inf], [1, 2]], "interval", 0.05),
        lambda: krippendorff([[1, 2]], "nominal", 0.05),
        lambda: krippendorff([[1, 1]] * 9 + [[1, 2]], "nominal", 0.05),
        lambda: krippendorff([[1, 2]] * 9, "interval", 0.05),
        lambda: agreement_tests(cohen_kappa(TABLE, 0.05), 1.0),
        lambda: agreement_tests(cohen_kappa(TABLE, 0.05), -1.0),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
