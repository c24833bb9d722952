"""Run against run in interleaved blocks: latency, throughput, memory and energy ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.stats.intervals import check_alpha
from harness.stats.means import Direction, t_test_p
from harness.stats.paired import Tests
from harness.stats.special import t_quantile

__all__ = ["RatioResult", "abba", "abba_tests", "block_log_ratio"]

Block = tuple[float, float, float, float]


class RatioResult(NamedTuple):
    """The geometric mean of B / A over k blocks, its limits, and the block mean and sd on the log scale."""

    ratio: float
    low: float
    high: float
    mean_log: float
    sd_log: float
    k: int


def abba(blocks: Sequence[Block], alpha: float, alpha_fail: float = 0.01) -> RatioResult:
    """The ratio B / A from blocks of four runs (A1, B1, B2, A2), each a positive statistic.

    ``high`` is a one-sided limit at ``alpha``, ``low`` at ``alpha_fail``: they match "B <= (1 + rho) A", which
    holds by high and fails by low. For a claim in the other direction swap the two levels.

    Assumes: blocks are independent, their log ratios about normal; a drift linear over a block cancels.
    Fails when: fewer than 4 blocks (ValueError); sd_log = 0 decides nothing.
    Reference: paired t on block means of logarithms; 3.9 of the statistics reference.
    """
    check_alpha(alpha)
    check_alpha(alpha_fail)
    k = len(blocks)
    if k < 4:
        raise ValueError(f"{k} blocks, expected at least 4")
    logs = [block_log_ratio(block) for block in blocks]
    mean = math.fsum(logs) / k
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (k - 1)) if len(set(logs)) > 1 else 0.0
    se = sd / math.sqrt(k)
    low = math.exp(mean - t_quantile(1 - alpha_fail, k - 1) * se)
    high = math.exp(mean + t_quantile(1 - alpha, k - 1) * se)
    return RatioResult(math.exp(mean), low, high, mean, sd, k)


def abba_tests(result: RatioResult, log_bound: float, direction: Direction = "below") -> Tests:
    """p-values of "ln(B / A) is below (or above) log_bound".

    Assumes: as ``abba``; sd_log > 0.
    """
    se = result.sd_log / math.sqrt(result.k)
    return t_test_p(result.mean_log, se, result.k - 1, log_bound, direction)


def block_log_ratio(block: Block) -> float:
    """ln(B / A) of one block (A1, B1, B2, A2): the mean of the two B logs minus that of the two A logs.

    Assumes: four finite numbers > 0.
    """
    if not all(0 < value < math.inf for value in block):
        raise ValueError(f"block {block}, expected four finite numbers > 0")
    a1, b1, b2, a2 = map(math.log, block)
    return (b1 + b2) / 2 - (a1 + a2) / 2
