"""Bounded means by betting: valid for any sample size, any skewness, and any stopping time.

Units come one after another in an order fixed by the plan. A bettor who starts with 1 stakes a share
lambda_i of the capital on x_i, where E[x_i] <= 0 if the null hypothesis is true. Capital of 1/p is then
reached with probability at most p (Ville), whatever the bets; the bets only decide the power.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

from harness.stats.intervals import Interval, check_alpha
from harness.stats.paired import Tests
from harness.stats.special import bisect

__all__ = [
    "betting_log_wealth",
    "betting_p",
    "bounded_mean_interval",
    "bounded_mean_tests",
    "seeded_order",
]


def betting_p(xs: Sequence[float], lower: float, gap: float, half_range: float) -> float:
    """The p-value of "E[x_i | past] <= 0": one over the largest capital reached, at most 1.

    ``lower`` bounds the loss, x_i >= -lower; ``gap`` is the mean of x expected under the alternative and
    ``half_range`` half the range of x. The last two affect power, never validity.

    Assumes: the order of xs was fixed before the data were seen.
    Fails when: x_i < -lower (ValueError).
    Reference: Waudby-Smith & Ramdas (2024), Estimating means of bounded random variables by betting.
    """
    return min(1.0, math.exp(-max(betting_log_wealth(xs, lower, gap, half_range), default=0.0)))


def betting_log_wealth(xs: Iterable[float], lower: float, gap: float, half_range: float) -> Iterator[float]:
    """The logarithm of the capital after each unit, under the default bets.

    The bet on unit i is m / (v + m^2), cut to [0, .75 / lower], where m and v are the mean and variance
    of the units before it, shrunk by one imagined unit towards ``gap`` and .1 half_range^2.

    Assumes: as ``betting_p``.
    """
    if not (lower > 0 and gap >= 0 and half_range > 0):
        raise ValueError(f"lower = {lower}, gap = {gap}, half_range = {half_range}; expected > 0, >= 0, > 0")
    prior = 0.1 * half_range * half_range
    log_wealth, total, squares = 0.0, gap, prior + gap * gap
    for i, x in enumerate(xs, start=1):
        if not -lower * (1 + 1e-12) <= x < math.inf:
            raise ValueError(f"x = {x} at position {i - 1}, expected a finite number >= {-lower}")
        mean = total / i
        variance = max(squares / i - mean * mean, 1e-3 * half_range * half_range)
        bet = min(max(mean / (variance + mean * mean), 0.0), 0.75 / lower)
        log_wealth += math.log1p(bet * x)
        total += x
        squares += x * x
        yield log_wealth


def bounded_mean_tests(
    values: Sequence[float],
    support: tuple[float, float],
    u: float,
    order: Sequence[int],
    gap: float | None = None,
) -> Tests:
    """p-values of "the mean is below u" for values within ``support``.

    A claim "the mean is above u" is this one for -values, (-hi, -lo) and -u. ``gap``, the distance from u that
    is expected under the alternative, defaults to half of u - lo; for non-inferiority give the margin.

    Assumes: independent units, all within [lo, hi], lo < u < hi; ``order`` is a permutation fixed by the plan.
    Reference: as ``betting_p``.
    """
    lo, hi = support
    _check_bounded(values, support, order)
    if not lo < u < hi:
        raise ValueError(f"u = {u}, expected a number inside the support ({lo}, {hi})")
    gap = (u - lo) / 2 if gap is None else gap
    half_range = (hi - lo) / 2
    return Tests(
        betting_p([u - values[i] for i in order], hi - u, gap, half_range),
        betting_p([values[i] - u for i in order], u - lo, gap, half_range),
    )


def bounded_mean_interval(
    values: Sequence[float],
    support: tuple[float, float],
    alpha: float,
    order: Sequence[int],
    gap: float | None = None,
) -> Interval:
    """Limits of the mean, each one-sided at ``alpha``: where the betting tests stop rejecting.

    Assumes: as ``bounded_mean_tests``.
    Fails when: the p-value crosses alpha more than once in u (rare, the bets depend on u); the test decides.
    Reference: inversion of ``bounded_mean_tests`` by bisection.
    """
    check_alpha(alpha)
    _check_bounded(values, support, order)
    lo, hi = support
    mean = min(max(math.fsum(values) / len(values), lo), hi)

    def crossing(end: float, side: int) -> float:
        """Where between the mean and this end of the support the test of that side crosses alpha."""
        near_end = end + (mean - end) * 1e-9
        if mean == end or bounded_mean_tests(values, support, near_end, order, gap)[side] > alpha:
            return end
        near_mean = mean + (end - mean) * 1e-9
        left, right = sorted((near_mean, near_end))
        return bisect(lambda u: bounded_mean_tests(values, support, u, order, gap)[side] - alpha, left, right)

    return Interval(crossing(lo, 1), crossing(hi, 0))


def seeded_order(n: int, seed: str) -> list[int]:
    """A permutation of range(n) that depends on n and the text ``seed`` alone, on every platform.

    Reference: sorts i by SHA-256 of "seed:i" in UTF-8, i in decimal.
    """
    if n < 0:
        raise ValueError(f"n = {n}, expected n >= 0")
    return sorted(range(n), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def _check_bounded(values: Sequence[float], support: tuple[float, float], order: Sequence[int]) -> None:
    lo, hi = support
    if not -math.inf < lo < hi < math.inf:
        raise ValueError(f"support = ({lo}, {hi}), expected two finite numbers, low < high")
    if not values or sorted(order) != list(range(len(values))):
        raise ValueError(f"{len(values)} values, order of length {len(order)}; expected a permutation of their indices")
    outside = [x for x in values if not lo <= x <= hi]
    if outside:
        raise ValueError(f"value {outside[0]}, expected a number within the support [{lo}, {hi}]")
