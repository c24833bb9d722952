"""Run against run in interleaved blocks: latency, throughput, memory and energy ratios.

A block is four runs in the order ABBA or BAAB. Within a block a linear drift of the machine cancels; a quadratic one
moves ABBA and BAAB by the same amount in opposite directions, and cancels in each pair of neighbours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.stats.intervals import check_alpha
from harness.stats.means import Direction, t_test_p
from harness.stats.paired import Tests
from harness.stats.permutation import sign_flip
from harness.stats.special import t_quantile

__all__ = [
    "RatioResult",
    "UsableBlocks",
    "abba",
    "abba_schedule",
    "abba_sign_flip",
    "abba_tests",
    "block_log_ratio",
    "noise_floor",
    "usable_blocks",
]

Block = tuple[float, float, float, float]


class RatioResult(NamedTuple):
    """The geometric mean of B / A over k blocks, its limits, and the block mean and sd on the log scale."""

    ratio: float
    low: float
    high: float
    mean_log: float
    sd_log: float
    k: int


class UsableBlocks(NamedTuple):
    """The blocks of which all four runs are valid, and the number of the others."""

    blocks: list[Block]
    void: int

    @property
    def enough(self) -> bool:
        """Whether at most a tenth of the blocks is void."""
        return 10 * self.void <= self.void + len(self.blocks)


def abba_schedule(k: int, seed: str) -> list[str]:
    """The order of runs in each of k blocks: "ABBA" and "BAAB" in turn, the first one drawn from ``seed``.

    Assumes: k >= 1; an even k, for quadratic drift to cancel.
    Reference: the lowest bit of the first byte of SHA-256 of the seed in UTF-8; 0 is "ABBA".
    """
    if k < 1:
        raise ValueError(f"k = {k}, expected k >= 1")
    first = hashlib.sha256(seed.encode()).digest()[0] % 2
    return [("ABBA", "BAAB")[(first + block) % 2] for block in range(k)]


def usable_blocks(blocks: Sequence[tuple[float | None, float | None, float | None, float | None]]) -> UsableBlocks:
    """The blocks without an invalid run (None), and how many had one: one invalid run makes its block void.

    Fails when: what makes a run invalid depends on the arm; see ``enough``.
    """
    valid = [(a1, b1, b2, a2) for a1, b1, b2, a2 in blocks if a1 is not None and b1 is not None and b2 is not None and a2 is not None]
    return UsableBlocks(valid, len(blocks) - len(valid))


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
    differ = max(logs) - min(logs) > 1e-12  # rounding may not pass for variance
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (k - 1)) if differ else 0.0
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


def abba_sign_flip(blocks: Sequence[Block], log_bound: float, seed: str, direction: Direction = "below") -> Tests:
    """p-values of "ln(B / A) is below (or above) log_bound" without a normal law, as a companion of ``abba_tests``.

    Assumes: the log ratios of blocks are independent and symmetric about their mean.
    Fails when: fewer than ``sign_flip_min_nonzero(alpha)`` blocks: it cannot reach alpha.
    Reference: ``sign_flip`` on the distances of the blocks from the bound; exact up to 20 blocks.
    """
    tests = sign_flip([log_bound - block_log_ratio(block) for block in blocks], seed)
    return tests if direction == "below" else Tests(tests.p_fail, tests.p_hold)


def noise_floor(pilot: RatioResult) -> float:
    """The largest relative change that an A/A pilot leaves possible: a claim with a smaller margin proves nothing.

    Assumes: ``pilot`` compares A with itself in the design of the claim.
    Reference: the farther limit of the pilot's ratio from 1, on the log scale.
    """
    return max(pilot.high, 1 / pilot.low) - 1


def block_log_ratio(block: Block) -> float:
    """ln(B / A) of one block (A1, B1, B2, A2): the mean of the two B logs minus that of the two A logs.

    A BAAB block has the same four numbers; the order within an arm does not matter.

    Assumes: four finite numbers > 0.
    """
    if not all(0 < value < math.inf for value in block):
        raise ValueError(f"block {block}, expected four finite numbers > 0")
    a1, b1, b2, a2 = map(math.log, block)
    return (b1 + b2) / 2 - (a1 + a2) / 2
