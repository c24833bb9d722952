"""What mutation testing found unpinned: edges, defaults and helpers, each a statement of its own, fast."""

import math

import pytest
from scipy import stats

from harness.stats import means
from harness.stats.means import MeanResult, cluster_mean
from harness.stats.permutation import sign_flip
from harness.stats.ratio import abba, abba_sign_flip, abba_tests, block_log_ratio

pytestmark = pytest.mark.selftest


# --- means, ratio ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skewness", [-4.0, 4.0])
def test_the_guard_asks_for_121_squared_skewnesses(skewness: float) -> None:
    assert MeanResult(0.0, 1.0, -1.0, 1.0, 1936 - 1, skewness).guard_ok
    assert not MeanResult(0.0, 1.0, -1.0, 1.0, 1935 - 1, skewness).guard_ok


def test_two_clusters_are_enough_for_an_error() -> None:
    assert cluster_mean([1.0, 2.0], ["a", "b"], 0.05).se == 0.5


def test_skewness_is_about_the_mean() -> None:
    values = [3.0, 4.0, 4.5, 9.0, 30.0]
    assert means._skewness(values) == pytest.approx(float(stats.skew(values)), rel=1e-12)


def test_abba_claims_are_about_below_unless_said() -> None:
    result = abba([(100, 103, 105, 104), (98, 101, 99, 97), (110, 108, 111, 109), (100, 104, 103, 99)], 0.05)
    assert abba_tests(result, 0.1) == abba_tests(result, 0.1, "below") != abba_tests(result, 0.1, "above")


def test_sampled_sign_flips_of_blocks_take_the_seed_given() -> None:
    blocks = [(100.0, 101.0 + i / 7, 102.0, 100.0 + i % 3) for i in range(25)]
    logs = [0.015 - block_log_ratio(block) for block in blocks]
    assert abba_sign_flip(blocks, 0.015, "s") == sign_flip(logs, "s") != sign_flip(logs, "t")
    assert math.isfinite(sum(logs))
