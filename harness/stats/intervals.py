"""A single proportion: exact limits and tests, and Wilson's interval for display."""

from __future__ import annotations

import math
from typing import NamedTuple

from harness.stats.special import beta_quantile, binom_cdf, binom_sf, normal_quantile

__all__ = ["Interval", "check_alpha", "clopper_pearson", "proportion_tests", "wilson", "zero_event_upper"]


class Interval(NamedTuple):
    """Two limits, low <= high, each a one-sided bound at the level asked for."""

    low: float
    high: float


def clopper_pearson(k: int, n: int, alpha: float) -> Interval:
    """Exact limits of a proportion, each end one-sided at ``alpha``.

    Assumes: k of n independent units are events.
    Reference: Clopper & Pearson (1934).
    """
    _check_count(k, n)
    check_alpha(alpha)
    low = beta_quantile(alpha, k, n - k + 1) if k > 0 else 0.0
    high = beta_quantile(1 - alpha, k + 1, n - k) if k < n else 1.0
    return Interval(low, high)


def wilson(k: int, n: int, alpha: float) -> Interval:
    """Wilson's score limits of a proportion, each end one-sided at ``alpha``. For display, never decides.

    Assumes: k of n independent units are events.
    Fails when: near 0 and 1 the coverage dips below nominal.
    Reference: Wilson (1927).
    """
    _check_count(k, n)
    check_alpha(alpha)
    z = normal_quantile(1 - alpha)
    p, shrink = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    return Interval(0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)


def proportion_tests(k: int, n: int, p0: float) -> tuple[float, float]:
    """(P(X >= k), P(X <= k)) for X ~ Bin(n, p0): p_hold and p_fail of ``at_least(p0)``, mirrored for ``at_most``.

    Assumes: k of n independent units are events, 0 <= p0 <= 1.
    Reference: exact binomial test.
    """
    _check_count(k, n)
    return binom_sf(k, n, p0), binom_cdf(k, n, p0)


def zero_event_upper(n: int, alpha: float) -> float:
    """The one-sided upper limit of a proportion of which 0 of n were seen: 1 - alpha^(1/n).

    Assumes: n independent units.
    Reference: ``clopper_pearson(0, n, alpha)`` in closed form.
    """
    _check_count(0, n)
    check_alpha(alpha)
    return -math.expm1(math.log(alpha) / n)


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless 0 < alpha < 0.5."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha = {alpha}, expected 0 < alpha < 0.5 (one-sided)")


def _check_count(k: int, n: int) -> None:
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"k = {k} of n = {n}, expected n >= 1 and 0 <= k <= n")
