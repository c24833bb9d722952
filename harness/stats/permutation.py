"""Paired scores of any kind: the sign-flip permutation test, one difference per independent unit.

If the arms are exchangeable within each unit, the signs of the differences are coin tosses, and the observed sum
is one of 2^N equally likely ones. The sum of all differences is large exactly when the sum of the positive ones
is, so that a pattern of signs is a random subset of the absolute differences, and its statistic the subset's sum.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import getitem

from harness.stats.intervals import check_alpha
from harness.stats.paired import Tests

__all__ = ["sign_flip", "sign_flip_min_nonzero"]


def sign_flip(differences: Sequence[float], seed: str, flips: int = 9999) -> Tests:
    """p-values of "the mean difference is above 0"; on differences of -1, 0 and 1 this is McNemar's test.

    Up to 20 nonzero differences every pattern of signs is counted: p = k / 2^N. Beyond, p = (k + 1) / (flips + 1)
    with k of ``flips`` patterns drawn from ``seed``. The observed pattern always counts, so p > 0. Sums closer than
    1e-9 of the sum of absolute differences are ties and count against both claims: rounding never lowers p.

    Assumes: independent units, arms exchangeable within each (a difference is as likely as its negative).
    Fails when: only the mean is 0 and the differences are skewed: the level is then asymptotic. Not for
    differences shifted by a margin, unless they are symmetric about the shift.
    Reference: Fisher (1935); Phipson & Smyth (2010), Permutation p-values should never be zero.
    """
    sizes = sorted(abs(d) for d in differences if d != 0)
    if not differences or not math.isfinite(sum(sizes)):
        raise ValueError(f"{len(differences)} differences of total size {sum(sizes)}, expected at least one and a finite total")
    if flips < 1:
        raise ValueError(f"flips = {flips}, expected flips >= 1")
    gain, loss = math.fsum(d for d in differences if d > 0), math.fsum(-d for d in differences if d < 0)
    tie = 1e-9 * (gain + loss)
    if len(sizes) <= 20:
        # a sum of gains as low as ours leaves a sum of losses as high as ours
        as_high, as_low = (_subsets_above(sizes, total - tie) for total in (gain, loss))
        return Tests(as_high / 2 ** len(sizes), as_low / 2 ** len(sizes))
    drawn = _random_subset_sums(sizes, seed, flips)
    as_high, as_low = sum(s >= gain - tie for s in drawn), sum(s <= gain + tie for s in drawn)
    return Tests((as_high + 1) / (flips + 1), (as_low + 1) / (flips + 1))


def sign_flip_min_nonzero(alpha: float) -> int:
    """The fewest nonzero differences with which ``sign_flip`` can reach ``alpha``: 2^-N <= alpha.

    Reference: all differences of one sign are one pattern of 2^N.
    """
    check_alpha(alpha)
    return math.ceil(-math.log2(alpha))


def _subset_sums(sizes: Sequence[float]) -> list[float]:
    """The sums of all subsets; bit i of the index says whether sizes[i] is in."""
    sums = [0.0]
    for size in sizes:
        sums += [s + size for s in sums]
    return sums


def _subsets_above(sizes: Sequence[float], threshold: float) -> int:
    """How many subsets have a sum of at least ``threshold``: those of one half, with all that match in the other."""
    half = len(sizes) // 2
    others = sorted(_subset_sums(sizes[half:]))
    return sum(len(others) - bisect_left(others, threshold - s) for s in _subset_sums(sizes[:half]))


def _random_subset_sums(sizes: Sequence[float], seed: str, flips: int) -> list[float]:
    """The sums of random subsets, eight sizes at a time: a random byte looks up the sum of its subset."""
    padded = [*sizes, *[0.0] * (-len(sizes) % 8)]
    tables = [_subset_sums(padded[i : i + 8]) for i in range(0, len(padded), 8)]
    return [math.fsum(map(getitem, tables, _random_bytes(f"{seed}:{flip}", len(tables)))) for flip in range(flips)]


def _random_bytes(seed: str, count: int) -> bytes:
    """At least ``count`` bytes: SHA-256 of "seed:0", "seed:1" and so on."""
    return b"".join(hashlib.sha256(f"{seed}:{block}".encode()).digest() for block in range(-(-count // 32)))
