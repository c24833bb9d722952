"""Gates in use elsewhere, as exact probabilities to pass: what the rules here are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from scipy import special, stats


def staircase(starts: np.ndarray, p12: np.ndarray | float, p21: np.ndarray | float) -> np.ndarray:
    """P(b >= starts[b + c]) row by row with scipy, for any staircase; one value for each pair of probabilities."""
    n = len(starts) - 1
    m = np.arange(n + 1)
    p12, p21 = np.atleast_1d(p12)[:, None], np.atleast_1d(p21)[:, None]
    psi = p12 + p21
    share = p12 / np.where(psi > 0, psi, 1.0)
    return np.sum(stats.binom.pmf(m, n, psi) * special.bdtrc(starts - 1, m, share), axis=1)


def largest(starts: np.ndarray, margin: float) -> float:
    """The largest probability to pass that 42 points of the boundary delta = -margin show: no more than the size."""
    p12 = np.append(0.0, np.geomspace(1e-4, (1 - margin) / 2, 41))
    return float(staircase(starts, p12, p12 + margin).max())


def tolerance_starts(n: int, margin: float) -> np.ndarray:
    """ "delta-hat >= -margin": the point estimate decides."""
    losses = math.floor(n * Fraction(str(margin)))  # b - c >= -losses
    return np.maximum(0, (np.arange(n + 1) - losses + 1) // 2)


def wald_starts(n: int, margin: float) -> np.ndarray:
    """Lower Wald limit above -margin, nominal .05. Without flips its width is zero and it passes."""
    m = np.arange(n + 1)[:, None]
    net = 2 * np.arange(n + 1) - m  # b - c in the row m
    passes = net - stats.norm.isf(0.05) * np.sqrt(np.maximum(0.0, m - net * net / n)) > -n * margin
    passes &= np.abs(net) <= m
    starts = np.where(passes.any(axis=1), passes.argmax(axis=1), m[:, 0] + 1)
    assert (passes.sum(axis=1) == m[:, 0] + 1 - starts).all()  # in each row all b from the first on
    return starts


def bootstrap_size(n: int, margin: float) -> float:
    """The percentile bootstrap, nominal .025, where all flips are losses: passes iff Q.975 of Bin(n, y/n) < n margin."""
    y = np.arange(n + 1)
    passes = stats.binom.ppf(0.975, n, y / n) < float(n * Fraction(str(margin)))
    return float(stats.binom.pmf(y, n, margin)[passes].sum())


# --- tests of no difference, beside the exact McNemar test ----------------------------------------


def mcnemar_starts(n: int, alpha: float, kind: str) -> np.ndarray:
    """The smallest b in each row m = b + c that is "better" at ``alpha``, by the mid-p, the plain or the corrected chi-square."""
    m = np.arange(n + 1)[:, None]
    b = np.arange(n + 1)[None, :]
    net = 2 * b - m
    if kind == "mid-p":
        p = stats.binom.sf(b, m, 0.5) + stats.binom.pmf(b, m, 0.5) / 2
    else:
        shift = 1 if kind == "corrected" else 0
        p = stats.norm.sf((net - shift) / np.sqrt(np.maximum(m, 1)))
    better = (p <= alpha) & (b <= m) & (net > 0)
    return np.where(better.any(axis=1), better.argmax(axis=1), m[:, 0] + 1)


# --- gates in use ---------------------------------------------------------------------------------


def fixed_tolerance(n: int, base: float, loss: float, lowest: float, highest: float = 1.0) -> float:
    """P(lowest <= k/n <= highest): a score compared with a stored constant."""
    k = np.arange(n + 1)
    inside = (k / n >= lowest) & (k / n <= highest)
    return float(stats.binom.pmf(k, n, base - loss)[inside].sum())


def wilson_against_constant(n: int, base: float, loss: float) -> float:
    """P(the one-sided 95 % Wilson limit of the new score is at least the stored one): a difference of two noisy scores taken for one."""
    k, z = np.arange(n + 1), stats.norm.isf(0.05)
    p = k / n
    low = (p + z * z / (2 * n) - z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return float(stats.binom.pmf(k, n, base - loss)[low >= base].sum())


def paired_gate(n: int, base: float, psi: float, loss: float, passes: Callable[[int, np.ndarray], np.ndarray]) -> float:
    """P(passes(right before, right after)) where the two arms share their items, over all pairs of scores.

    Of ``before`` items right before, some stay right; of the others some become right: two independent binomials.
    """
    p12, p21 = (psi - loss) / 2, (psi + loss) / 2
    total = 0.0
    for before in range(int(stats.binom.ppf(1e-12, n, base)), int(stats.binom.isf(1e-12, n, base)) + 1):
        stay = stats.binom.pmf(np.arange(before + 1), before, 1 - p21 / base)
        gain = stats.binom.pmf(np.arange(n - before + 1), n - before, p12 / (1 - base))
        after = np.convolve(stay, gain)
        total += stats.binom.pmf(before, n, base) * float(after[passes(before, np.arange(n + 1))].sum())
    return total


def rounded_ratio(before: int, after: np.ndarray) -> np.ndarray:
    """round(new / base, 2) >= .95."""
    return np.array([round(k / before, 2) >= 0.95 for k in after.tolist()])


def unpaired_z(n: int, alpha: float = 0.05) -> Callable[[int, np.ndarray], np.ndarray]:
    """Two-sided z of two scores as if from different items; "no significant difference" passes."""

    def passes(before: int, after: np.ndarray) -> np.ndarray:
        p, q = before / n, after / n
        se = np.sqrt((p * (1 - p) + q * (1 - q)) / n)
        return np.abs(p - q) < stats.norm.isf(alpha / 2) * se

    return passes
