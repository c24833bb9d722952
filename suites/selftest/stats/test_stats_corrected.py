"""Judge-corrected differences: figures of 3.13 and 5.5, a plain computation with numpy, invariances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from harness.stats.corrected import corrected_tests, lee_interval, ppi_difference

pytestmark = pytest.mark.selftest


def _draw(seed: int, m: int = 120, n: int = 300) -> tuple[list[float], list[float], list[float]]:
    rng = np.random.default_rng(seed)
    human = rng.choice([-1.0, 0.0, 1.0], size=m + n, p=[0.12, 0.8, 0.08])
    judge = np.where(rng.random(m + n) < 0.8, human, rng.choice([-1.0, 0.0, 1.0], size=m + n))
    return judge[m:].tolist(), judge[:m].tolist(), human[:m].tolist()


def _plain(unlabelled, judge, human, alpha):
    """Section 3.13 with numpy; the limits by a root-finder on the transformed t."""
    u, f, h = map(np.array, (unlabelled, judge, human))
    n, m = len(u), len(h)
    lam = np.clip(np.cov(h, f)[0, 1] / ((1 + m / n) * np.var(np.concatenate([u, f]), ddof=1)), 0, 1)
    rest = h - lam * f
    estimate = lam * u.mean() + rest.mean()
    size = np.sqrt((h**4).mean() / (h**2).mean())
    joined = np.append(rest - rest.mean(), size)  # one more residual, whose mean stays 0
    variances = lam**2 * u.var(ddof=1) / n, (joined**2).sum() / m / (m + 1)
    thirds = lam**3 * stats.moment(u, 3) / n**2, ((rest - rest.mean()) ** 3).sum() / (m + 1) ** 3
    se = math.sqrt(sum(variances))
    g = sum(thirds) / se**3

    def excess(theta: float, q: float) -> float:
        t = (estimate - theta) / se
        return float(t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6 - q)

    q = float(stats.t.isf(alpha, m))
    limits = [optimize.brentq(excess, estimate - 20 * se, estimate + 20 * se, args=(s * q,), xtol=1e-14) for s in (1, -1)]
    return estimate, se, *limits, m, lam, g


def test_against_a_plain_computation() -> None:
    for seed in range(12):
        data = _draw(seed)
        for alpha in (0.05, 0.025):
            result = ppi_difference(*data, alpha)
            assert tuple(result[:7]) == pytest.approx(_plain(*data, alpha), rel=1e-9, abs=1e-12)
            assert result[7:] == (300, 120)
    rng = np.random.default_rng(3)
    human = rng.gamma(1, 0.1, 400) - 0.08
    judge = human + rng.normal(0, 0.1, 400)
    data = judge[150:].tolist(), judge[:150].tolist(), human[:150].tolist()
    assert tuple(ppi_difference(*data, 0.05)[:7]) == pytest.approx(_plain(*data, 0.05), rel=1e-9, abs=1e-12)


def _one_rate(n: int, m: int) -> tuple[list[float], list[float], list[float]]:
    """Right or wrong with .8, a judge with TPR .9 and TNR .85: samples that show exactly these shares."""
    cells = {(1.0, 1.0): 0.72, (1.0, 0.0): 0.08, (0.0, 1.0): 0.03, (0.0, 0.0): 0.17}
    pairs = [pair for pair, share in cells.items() for _ in range(round(share * m))]
    return [1.0] * round(0.75 * n) + [0.0] * round(0.25 * n), [f for _, f in pairs], [h for h, _ in pairs]


def test_half_widths_of_section_3_13() -> None:
    """n = 500, m = 200: Rogan-Gladen .080, humans alone .055, PPI .059, PPI++ .045; and 1.5 times the labels."""
    low, high = lee_interval(0.75, 500, 0.85, 40, 0.90, 160, 0.025)
    assert (high - low) / 2 == pytest.approx(0.080, abs=0.0025)  # the smoothed rates move it a little
    unlabelled, judge, human = _one_rate(500, 200)
    z = stats.norm.isf(0.025)

    def half_width(lam: float) -> float:
        rest = np.array(human) - lam * np.array(judge)
        return float(z * math.sqrt(lam**2 * np.var(unlabelled) / 500 + np.var(rest) / 200))

    result = ppi_difference(unlabelled, judge, human, 0.025)
    assert half_width(0.0) == pytest.approx(0.055, abs=0.0005)
    assert half_width(1.0) == pytest.approx(0.059, abs=0.0005)
    assert half_width(result.lam) == pytest.approx(0.045, abs=0.0005)
    assert (half_width(0.0) / half_width(result.lam)) ** 2 == pytest.approx(1.5, abs=0.05)
    assert (result.high - result.low) / 2 == pytest.approx(0.045, abs=0.0015)  # t for z, and one more residual
    assert min(half_width(lam) for lam in np.linspace(0, 1, 101)) == pytest.approx(half_width(result.lam), rel=1e-3)


def test_the_weight_makes_the_variance_least() -> None:
    unlabelled, judge, human = _one_rate(600, 200)
    assert ppi_difference(unlabelled, judge, human, 0.05).lam == pytest.approx((0.72 - 0.8 * 0.75) / (4 / 3 * 0.75 * 0.25), rel=0.01)


def test_corrects_a_judge_that_errs_in_one_arm() -> None:
    """The judge sees an improvement by .10 everywhere; humans see none."""
    human = [0.0] * 90 + [1.0, -1.0] * 5
    judge = [0.0] * 80 + [1.0] * 10 + [1.0, -1.0] * 5
    result = ppi_difference(judge * 5, judge, human, 0.05)
    assert np.mean(judge * 5) == pytest.approx(0.10)
    assert result.estimate == pytest.approx(0.0, abs=1e-12)
    assert result.low < 0 < result.high


def test_a_useless_judge_leaves_the_humans() -> None:
    unlabelled, _, human = _draw(1)
    opposite = [-h for h in human]
    for useless in ([0.3] * 120, opposite):
        result = ppi_difference([0.3] * 300 if useless[0] == 0.3 else unlabelled, useless, human, 0.05)
        assert result.lam == 0.0
        assert result.estimate == pytest.approx(np.mean(human), rel=1e-12)
        assert result.se == pytest.approx(math.sqrt((np.var(human) * 120 + 1) / 120 / 121), rel=1e-12)


def test_a_perfect_judge_and_the_clip() -> None:
    _, _, human = _draw(2)
    assert ppi_difference(human * 100, human, human, 0.05).lam == pytest.approx(1 / 1.01, rel=0.01)
    timid = [h / 4 for h in human]
    assert ppi_difference(timid * 100, timid, human, 0.05).lam == 1.0


def test_one_more_residual_widens_by_its_square() -> None:
    """For flips of size s it is s^2: scaling the scores scales everything."""
    unlabelled, judge, human = _draw(4)
    result = ppi_difference(unlabelled, judge, human, 0.05)
    scaled = ppi_difference([3 * x for x in unlabelled], [3 * x for x in judge], [3 * x for x in human], 0.05)
    assert scaled[:4] == pytest.approx([3 * x for x in result[:4]], rel=1e-12)
    assert scaled[4:] == pytest.approx(result[4:], rel=1e-9)


def test_skewness_moves_both_limits_the_same_way() -> None:
    """Few flips, all for the worse: the long tail is below, so both limits lie lower than Student's."""
    human = [-1.0] * 6 + [0.0] * 114
    result = ppi_difference([-1.0] * 15 + [0.0] * 285, human, human, 0.05)
    q = stats.t.isf(0.05, 120)
    assert result.skewness < -0.09
    assert result.low < result.estimate - q * result.se
    assert result.high < result.estimate + q * result.se
    even = ppi_difference([1.0, -1.0] * 20, [1.0, -1.0] * 10 + [0.0] * 100, [1.0, -1.0] * 10 + [0.0] * 100, 0.05)
    assert even.skewness == 0
    assert (even.low, even.high) == pytest.approx((-q * even.se, q * even.se), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.2])
def test_the_tests_are_the_limits(alpha: float) -> None:
    for seed in (0, 5):
        result = ppi_difference(*_draw(seed), alpha)
        assert corrected_tests(result, result.low).p_hold == pytest.approx(alpha, rel=1e-8)
        assert corrected_tests(result, result.high).p_fail == pytest.approx(alpha, rel=1e-8)
        assert corrected_tests(result, result.low - 0.01).p_hold < alpha < corrected_tests(result, result.low + 0.01).p_hold
        assert sum(corrected_tests(result, 0.01)) == pytest.approx(1, rel=1e-12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.01]), st.randoms())
def test_properties(seed: int, alpha: float, random) -> None:
    unlabelled, judge, human = _draw(seed, 100, 60)
    result = ppi_difference(unlabelled, judge, human, alpha)
    assert result.low < result.estimate < result.high
    assert 0 <= result.lam <= 1
    swapped = ppi_difference(*([-x for x in values] for values in (unlabelled, judge, human)), alpha)
    mirrored = (-result.estimate, result.se, -result.high, -result.low, 100, result.lam, -result.skewness)
    assert swapped[:7] == pytest.approx(mirrored, rel=1e-9, abs=1e-12)
    assert corrected_tests(swapped, -0.05) == pytest.approx(corrected_tests(result, 0.05)[::-1], rel=1e-9)
    order = random.sample(range(100), 100)
    shuffled = random.sample(unlabelled, 60), [judge[i] for i in order], [human[i] for i in order]
    assert ppi_difference(*shuffled, alpha) == result
    wider = ppi_difference(unlabelled, judge, human, alpha / 2)
    assert wider.low < result.low
    assert wider.high > result.high


# --- Lee et al. -----------------------------------------------------------------------------------


def test_lee_interval_of_section_5_5() -> None:
    """UW-Madison-Lee-Lab/LLM-judge-reporting, its worked example."""
    interval = lee_interval(0.4, 1000, 0.7, 200, 0.9, 200, 0.025)
    assert interval == pytest.approx((0.0563507248, 0.2627330258), abs=5e-11)


def test_lee_interval_is_clipped_and_mirrored() -> None:
    assert lee_interval(0.0, 50, 0.8, 20, 0.9, 30, 0.05).low == 0.0
    assert lee_interval(1.0, 50, 0.8, 20, 0.9, 30, 0.05).high == 1.0
    low, high = lee_interval(0.3, 400, 0.8, 70, 0.9, 50, 0.05)
    other = lee_interval(0.7, 400, 0.9, 50, 0.8, 70, 0.05)
    assert (1 - high, 1 - low) == pytest.approx(other, rel=1e-9)
    wider = lee_interval(0.3, 400, 0.8, 70, 0.9, 50, 0.01)
    assert wider.low < low < high < wider.high


def test_lee_interval_with_endless_calibration_is_wilson_like() -> None:
    low, high = lee_interval(0.4, 1000, 1.0, 10**9, 1.0, 10**9, 0.025)
    z = stats.norm.isf(0.025)
    p = (400 + z * z / 2) / (1000 + z * z)
    half = z * math.sqrt(p * (1 - p) / (1000 + z * z))
    assert (low, high) == pytest.approx((p - half, p + half), abs=1e-6)


HUNDRED = [1.0, *[0.0] * 99]


@pytest.mark.parametrize(
    "call",
    [
        lambda: ppi_difference([0.0, 1.0], HUNDRED[:99], HUNDRED[:99], 0.05),
        lambda: ppi_difference([0.0, 1.0], HUNDRED[:99], HUNDRED, 0.05),
        lambda: ppi_difference([1.0], HUNDRED, HUNDRED, 0.05),
        lambda: ppi_difference([0.0, 1.0], HUNDRED, [0.0] * 100, 0.05),
        lambda: ppi_difference([0.0, 1.0], HUNDRED, [1.0] * 100, 0.05),
        lambda: ppi_difference([0.0, math.nan], HUNDRED, HUNDRED, 0.05),
        lambda: ppi_difference([0.0, 1.0], [math.inf, *HUNDRED[1:]], HUNDRED, 0.05),
        lambda: ppi_difference([0.0, 1.0], HUNDRED, [math.inf, *HUNDRED[1:]], 0.05),
        lambda: ppi_difference([0.0, 1.0], HUNDRED, HUNDRED, 0.5),
        lambda: corrected_tests(ppi_difference([0.0, 1.0], HUNDRED, HUNDRED, 0.05), math.nan),
        lambda: lee_interval(0.4, 1000, 0.5, 200, 0.5, 200, 0.025),
        lambda: lee_interval(0.4, 1000, 0.0, 200, 0.9, 200, 0.025),
        lambda: lee_interval(0.4, 1000, 0.9, 1, 0.15, 200, 0.025),
        lambda: lee_interval(1.4, 1000, 0.7, 200, 0.9, 200, 0.025),
        lambda: lee_interval(0.4, 0, 0.7, 200, 0.9, 200, 0.025),
        lambda: lee_interval(0.4, 1000, 0.7, 0, 0.9, 200, 0.025),
        lambda: lee_interval(0.4, 1000, 0.7, 200, 0.9, 0, 0.025),
        lambda: lee_interval(0.4, 1000, 0.7, 200, 0.9, 200, 0.5),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


def test_the_smallest_that_is_allowed() -> None:
    assert ppi_difference([0.0, 1.0], HUNDRED, HUNDRED, 0.05).m == 100
