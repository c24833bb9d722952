"""Clustered means, ratios and ABBA blocks: arithmetic oracles, statsmodels, what must not matter."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.means import MeanResult, cluster_mean, ratio_estimator, replicate_means, t_test_p
from harness.stats.permutation import sign_flip
from harness.stats.ratio import (
    RatioResult,
    abba,
    abba_schedule,
    abba_sign_flip,
    abba_tests,
    block_log_ratio,
    noise_floor,
    usable_blocks,
)

pytestmark = pytest.mark.selftest


def test_small_arithmetic() -> None:
    result = cluster_mean([1, 2, 3, 4, 5, 6], ["a", "a", "b", "c", "c", "c"], 0.05)
    assert result.se**2 == pytest.approx(1.5208333, abs=5e-8)
    assert (result.estimate, result.df) == (3.5, 2)
    ratio = ratio_estimator([1, 2, 3], [10, 10, 20], [1, 2, 3], 0.05)
    assert ratio.estimate == pytest.approx(0.15, rel=1e-15)
    assert ratio.se == pytest.approx(0.0216506, abs=5e-8)
    assert ratio.high == pytest.approx(0.15 + stats.t.isf(0.05, 2) * ratio.se, rel=1e-12)
    assert ratio.low == pytest.approx(0.15 - stats.t.isf(0.05, 2) * ratio.se, rel=1e-12)


def test_cluster_se_against_statsmodels() -> None:
    rng = np.random.default_rng(4)
    for clusters in (5, 40):
        groups = rng.integers(0, clusters, 300)
        values = rng.normal(size=300) + rng.normal(size=clusters)[groups]
        fit = sm.OLS(values, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}, use_t=True)
        # statsmodels multiplies by (n - 1)/(n - k) too, which is 1 for a mean
        result = cluster_mean(values.tolist(), groups.tolist(), 0.05)
        assert result.se == pytest.approx(float(fit.bse[0]), rel=1e-9)
        assert result.estimate == pytest.approx(float(fit.params[0]), rel=1e-9)
        p_hold = t_test_p(result.estimate, result.se, result.df, 0.1).p_hold
        assert p_hold == pytest.approx(stats.t.cdf((result.estimate - 0.1) / result.se, result.df), rel=1e-9)


def test_ratio_se_against_statsmodels() -> None:
    """The ratio is the slope of y / sqrt(t) on sqrt(t) without intercept, so its sandwich is that of the regression."""
    rng = np.random.default_rng(8)
    groups = rng.integers(0, 25, 200)
    tokens = rng.integers(20, 400, 200).astype(float)
    sums = tokens * 0.02 + np.sqrt(tokens) * (rng.normal(size=200) + rng.normal(size=25)[groups])
    fit = sm.OLS(sums / np.sqrt(tokens), np.sqrt(tokens)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    result = ratio_estimator(sums.tolist(), tokens.tolist(), groups.tolist(), 0.05)
    assert result.estimate == pytest.approx(float(fit.params[0]), rel=1e-9)
    assert result.se == pytest.approx(float(fit.bse[0]), rel=1e-9)
    residuals = sums - result.estimate * tokens
    assert result.skewness == pytest.approx(float(stats.skew(np.bincount(groups, residuals))), rel=1e-9)
    assert (result.low, result.high) == pytest.approx(stats.t.interval(0.90, 24, result.estimate, result.se), rel=1e-9)


def test_one_item_clusters_are_the_ordinary_t_test() -> None:
    values = np.random.default_rng(1).lognormal(size=35)
    result = cluster_mean(values.tolist(), list(range(35)), 0.05)
    assert result.se == pytest.approx(float(stats.sem(values)), rel=1e-12)
    assert result.skewness == pytest.approx(float(stats.skew(values)), rel=1e-9)
    tests = t_test_p(result.estimate, result.se, result.df, 2.0)
    assert tests.p_hold == pytest.approx(stats.ttest_1samp(values, 2.0, alternative="less").pvalue, rel=1e-9)
    assert tests.p_fail == pytest.approx(stats.ttest_1samp(values, 2.0, alternative="greater").pvalue, rel=1e-9)
    assert t_test_p(result.estimate, result.se, result.df, 2.0, "above") == tests[::-1]


def test_two_clusters_are_enough_for_a_number() -> None:
    result = cluster_mean([1.0, 3.0], "ab", 0.05)
    assert (result.estimate, result.se, result.df) == (2.0, 1.0, 1)
    assert result.high == pytest.approx(2 + math.tan(0.45 * math.pi), rel=1e-9)  # Cauchy's quantile


def test_splitting_a_cluster_never_moves_the_estimate() -> None:
    values = [0.3, 1.2, -4.0, 2.5, 7.0]
    whole, split = cluster_mean(values, "aabbc", 0.05), cluster_mean(values, "abcde", 0.05)
    assert whole.estimate == split.estimate
    assert whole.se != split.se


def test_guard() -> None:
    def result(clusters: int, skewness: float, se: float = 1.0) -> MeanResult:
        return MeanResult(0.0, se, -1.0, 1.0, clusters - 1, skewness)

    assert result(30, 0.0).guard_ok
    assert not result(29, 0.0).guard_ok
    assert result(484, -2.0).guard_ok
    assert not result(483, 2.0).guard_ok
    assert not result(400, 0.0, se=0.0).guard_ok


def test_equal_units_have_no_variance() -> None:
    result = cluster_mean([0.1] * 40, list(range(40)), 0.05)
    assert (result.se, result.skewness) == (0.0, 0.0)
    assert not result.guard_ok
    with pytest.raises(ValueError, match="se > 0"):
        t_test_p(result.estimate, result.se, result.df, 0.2)


def test_rounding_is_no_variance() -> None:
    differences = [(i + 1) / 10 - i / 10 for i in range(40)]
    assert len(set(differences)) > 1
    assert cluster_mean(differences, list(range(40)), 0.05).se == 0.0
    assert cluster_mean([0.0] * 9, list(range(9)), 0.05).se == 0.0
    assert ratio_estimator([0.1, 0.2, 0.3], [1, 2, 3], "abc", 0.05).se == 0.0
    assert cluster_mean([1.0, 1.0 + 1e-11, 1.0, -1.0 + 2.0], "abcd", 0.05).se > 0
    scaled = [(x, x * 1.03, x * 1.03, x) for x in (100.0, 130.0, 77.0, 1e9)]
    assert abba(scaled, 0.05).sd_log == 0.0
    assert abba([*scaled, (1, 1.03 + 1e-11, 1.03, 1)], 0.05).sd_log > 0


def test_replicates_are_averaged_by_item() -> None:
    assert replicate_means([("b", 1), ("a", 0), ("b", 0), ("b", 1), ("a", 0.5)]) == {"b": 2 / 3, "a": 0.25}
    assert list(replicate_means([("b", 1), ("a", 0), ("b", 0)])) == ["b", "a"]
    assert replicate_means([(i, x) for x in (0.1, 0.2, 0.3) for i in range(2)]) == pytest.approx({0: 0.2, 1: 0.2}, rel=1e-15)
    assert replicate_means([]) == {}


def test_the_mean_of_replicate_means_is_clustered_when_balanced() -> None:
    rng = np.random.default_rng(5)
    items = np.repeat(np.arange(40), 3).tolist()
    values = rng.normal(size=120).tolist()
    units = replicate_means(zip(items, values, strict=True))
    clustered, averaged = cluster_mean(values, items, 0.05), cluster_mean(list(units.values()), list(units), 0.05)
    assert averaged == pytest.approx(clustered, rel=1e-12)


def test_abba_arithmetic_and_drift() -> None:
    assert math.exp(block_log_ratio((100, 103, 105, 104))) == pytest.approx(1.0197567583, abs=5e-11)
    blocks = [(100, 103, 105, 104), (98, 101, 99, 97), (110, 108, 111, 109), (100, 104, 103, 99)]
    drifting = [tuple(x * math.exp(0.07 * i) for i, x in enumerate(block)) for block in blocks]
    result = abba(blocks, 0.05)
    assert abba(drifting, 0.05) == pytest.approx(result, rel=1e-12)  # type: ignore[arg-type]
    logs = np.log(blocks) @ np.array([-0.5, 0.5, 0.5, -0.5])
    assert result.mean_log == pytest.approx(logs.mean(), rel=1e-12)
    assert result.sd_log == pytest.approx(logs.std(ddof=1), rel=1e-9)
    assert result.high == pytest.approx(math.exp(logs.mean() + stats.t.isf(0.05, 3) * stats.sem(logs)), rel=1e-10)
    assert result.low == pytest.approx(math.exp(logs.mean() - stats.t.isf(0.01, 3) * stats.sem(logs)), rel=1e-10)
    assert abba_tests(result, math.log(result.high), "below").p_hold == pytest.approx(0.05, rel=1e-8)
    assert abba_tests(result, math.log(result.low), "below").p_fail == pytest.approx(0.01, rel=1e-8)
    assert abba_tests(result, 0.1, "above") == abba_tests(result, 0.1, "below")[::-1]


runs = st.tuples(*[st.floats(0.1, 1e4)] * 4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(runs, st.floats(-0.5, 0.5), st.floats(-0.1, 0.1))
def test_drift_within_a_block(block: tuple[float, float, float, float], slope: float, bend: float) -> None:
    """In either orientation a linear drift cancels; a quadratic one of c i^2 moves ABBA by -2c and BAAB by +2c, whenever it starts."""
    a1, b1, b2, a2 = block
    plain = block_log_ratio(block)
    for start in (0, 5):
        drift = [math.exp(slope * i + bend * (i * i - 2 * start * i)) for i in range(start, start + 4)]
        abba_block = (a1 * drift[0], b1 * drift[1], b2 * drift[2], a2 * drift[3])
        baab_block = (a1 * drift[1], b1 * drift[0], b2 * drift[3], a2 * drift[2])
        assert block_log_ratio(abba_block) == pytest.approx(plain - 2 * bend, abs=1e-9)
        assert block_log_ratio(baab_block) == pytest.approx(plain + 2 * bend, abs=1e-9)
    assert block_log_ratio((b1, a1, a2, b2)) == pytest.approx(-plain, abs=1e-12)
    assert block_log_ratio((a2, b2, b1, a1)) == pytest.approx(plain, abs=1e-12)


def test_schedule_alternates_and_is_drawn() -> None:
    assert abba_schedule(5, "0") == ["BAAB", "ABBA", "BAAB", "ABBA", "BAAB"]  # SHA-256 of "0" begins with 5f
    assert abba_schedule(2, "2") == ["ABBA", "BAAB"]  # of "2" with d4
    firsts = sum(abba_schedule(1, str(i)) == ["ABBA"] for i in range(2000))
    assert stats.binom.isf(0.9999, 2000, 0.5) <= firsts <= stats.binom.isf(1e-4, 2000, 0.5)


def test_void_blocks_are_counted() -> None:
    good = (100.0, 103.0, 105.0, 104.0)
    for position in range(4):
        broken = tuple(None if i == position else x for i, x in enumerate(good))
        assert usable_blocks([good, broken, good]) == ([good, good], 1)
    assert usable_blocks([good] * 9 + [(None,) * 4]).enough
    assert not usable_blocks([good] * 8 + [(None,) * 4]).enough
    assert usable_blocks([good]).enough


def test_sign_flip_companion() -> None:
    blocks = [(100, 103, 105, 104), (98, 101, 99, 97), (110, 108, 111, 109), (100, 104, 103, 99), (100, 107, 107, 100)]
    logs = [block_log_ratio(block) for block in blocks]
    above = abba_sign_flip(blocks, 0.0, "s", "above")
    assert above == sign_flip(logs, "s")
    assert above.p_hold == 2 / 32  # one block fell, by least
    assert abba_sign_flip(blocks, 0.2, "s") == (1 / 32, 1.0)
    assert abba_sign_flip(blocks, 0.02, "s") == sign_flip([0.02 - x for x in logs], "s")
    assert abba_sign_flip(blocks, 0.02, "s", "above") == abba_sign_flip(blocks, 0.02, "s", "below")[::-1]


def test_noise_floor_is_the_farther_limit() -> None:
    assert noise_floor(RatioResult(1.0, 0.9, 1.05, 0.0, 0.1, 6)) == pytest.approx(1 / 0.9 - 1)
    assert noise_floor(RatioResult(1.0, 0.9, 1.2, 0.0, 0.1, 6)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: cluster_mean([], [], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a", "a"], 0.05),
        lambda: cluster_mean([1.0, math.nan], ["a", "b"], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a"], 0.05),
        lambda: ratio_estimator([1.0, 2.0], [1.0, 0.0], ["a", "b"], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a", "b"], 0.6),
        lambda: cluster_mean([1.0, 2.0], ["a", "b"], 0.5),
        lambda: ratio_estimator([1.0, 2.0], [1.0, math.inf], ["a", "b"], 0.05),
        lambda: replicate_means([("a", math.inf)]),
        lambda: t_test_p(0.0, math.inf, 3, 0.0),
        lambda: t_test_p(math.nan, 1.0, 3, 0.0),
        lambda: abba([(1, 1, 1, 1)] * 3, 0.05),
        lambda: abba([(1, 1, 1, 1)] * 4, 0.05, 0.5),
        lambda: abba([(1, 1, 1, math.inf)] * 4, 0.05),
        lambda: abba_schedule(0, "s"),
        lambda: abba_sign_flip([], 0.0, "s"),
        lambda: abba([(1, 1, 1, 0)] * 4, 0.05),
        lambda: abba_tests(abba([(1, 1, 1, 1)] * 4, 0.05), 0.0),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
