"""Clustered means, ratios and ABBA blocks: arithmetic oracles, statsmodels, seeded size and power."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from harness.stats.means import MeanResult, cluster_mean, ratio_estimator, t_test_p
from harness.stats.ratio import abba, abba_tests, block_log_ratio

pytestmark = pytest.mark.selftest


def _most_rejections(repetitions: int, alpha: float) -> float:
    return float(stats.binom.isf(1e-4, repetitions, alpha))


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


def test_one_item_clusters_are_the_ordinary_t_test() -> None:
    values = np.random.default_rng(1).lognormal(size=35)
    result = cluster_mean(values.tolist(), list(range(35)), 0.05)
    assert result.se == pytest.approx(float(stats.sem(values)), rel=1e-12)
    assert result.skewness == pytest.approx(float(stats.skew(values)), rel=1e-9)
    tests = t_test_p(result.estimate, result.se, result.df, 2.0)
    assert tests.p_hold == pytest.approx(stats.ttest_1samp(values, 2.0, alternative="less").pvalue, rel=1e-9)
    assert tests.p_fail == pytest.approx(stats.ttest_1samp(values, 2.0, alternative="greater").pvalue, rel=1e-9)
    assert t_test_p(result.estimate, result.se, result.df, 2.0, "above") == tests[::-1]


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


@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_size_of_cluster_t(alpha: float) -> None:
    """Documents of 8 correlated tokens: size is alpha with clusters, far above it without."""
    rng = np.random.default_rng(6)
    clusters, tokens, repetitions = 30, 8, 1000
    groups = np.repeat(np.arange(clusters), tokens).tolist()
    rejected = naive = 0
    for _ in range(repetitions):
        values = (rng.normal(size=(clusters, 1)) + rng.normal(size=(clusters, tokens))).ravel()
        result = cluster_mean(values.tolist(), groups, alpha)
        rejected += t_test_p(result.estimate, result.se, result.df, 0.0).p_hold <= alpha
        naive += stats.norm.cdf(values.mean() / values.std() * math.sqrt(values.size)) <= alpha
    limit = _most_rejections(repetitions, alpha)
    assert 2 * repetitions * alpha - limit <= rejected <= limit
    assert naive > 2 * limit


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


@pytest.mark.parametrize(
    ("k", "effect", "drift", "low", "high"),
    [(6, 0.0, 0.01, 1, 29), (4, 0.05, 0.0, 600, 700), (6, 0.05, 0.01, 945, 990), (8, 0.05, 0.0, 990, 1000)],
)
def test_abba_alarm_and_detection(k: int, effect: float, drift: float, low: int, high: int) -> None:
    """Alarms at .01 per 1000: A/A about 10, +5 % found .65, .97, .999 with K = 4, 6, 8 and run sd .02."""
    rng = np.random.default_rng(9)
    alarms = 0
    for _ in range(1000):
        logs = rng.normal(0, 0.02, (k, 4)) + drift * np.arange(4 * k).reshape(k, 4)
        logs[:, 1:3] += math.log1p(effect)
        result = abba([tuple(row) for row in np.exp(logs).tolist()], 0.05)
        alarms += abba_tests(result, 0.0, "below").p_fail <= 0.01
    assert low <= alarms <= high


@pytest.mark.parametrize(
    "call",
    [
        lambda: cluster_mean([], [], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a", "a"], 0.05),
        lambda: cluster_mean([1.0, math.nan], ["a", "b"], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a"], 0.05),
        lambda: ratio_estimator([1.0, 2.0], [1.0, 0.0], ["a", "b"], 0.05),
        lambda: cluster_mean([1.0, 2.0], ["a", "b"], 0.6),
        lambda: abba([(1, 1, 1, 1)] * 3, 0.05),
        lambda: abba([(1, 1, 1, 0)] * 4, 0.05),
        lambda: abba_tests(abba([(1, 1, 1, 1)] * 4, 0.05), 0.0),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
