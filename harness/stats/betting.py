"""Bounded means by betting: valid for any sample size, any skewness, and any stopping time.

Units come one after another in an order fixed by the plan. A bettor who starts with 1 stakes a share
lambda_i of the capital on x_i, where E[x_i] <= 0 if the null hypothesis is true. Capital of 1/p is then
reached with probability at most p (Ville), whatever the bets; the bets only decide the power. So one may look after
every unit and stop when the answer is known; a fixed-n test may not be looked at twice at its full level.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, tee
from typing import NamedTuple

from harness.stats.intervals import Interval, check_alpha
from harness.stats.means import Direction
from harness.stats.paired import Tests
from harness.stats.special import bisect

__all__ = [
    "Stop",
    "betting_log_wealth",
    "betting_p",
    "bounded_mean_interval",
    "bounded_mean_tests",
    "first_decision",
    "looks_level",
    "running_tests",
    "seeded_order",
]


class Stop(NamedTuple):
    """The first ``n`` units that decide, and their p-values: of these, one alone is within its level."""

    n: int
    tests: Tests


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
    direction: Direction = "below",
) -> Tests:
    """p-values of "the mean is below (or above) u" for values within ``support``.

    ``gap``, the distance from u that is expected under the alternative, defaults to half of the claim's side
    of the support, u - lo or hi - u; for non-inferiority give the margin.

    Assumes: independent units, all within [lo, hi], lo < u < hi; ``order`` is a permutation fixed by the plan.
    Reference: as ``betting_p``.
    """
    _check_bounded(values, support, order)
    lo, hi = support
    gap = _expected_gap(support, u, gap, direction)
    half_range = (hi - lo) / 2
    under = betting_p([u - values[i] for i in order], hi - u, gap, half_range)
    over = betting_p([values[i] - u for i in order], u - lo, gap, half_range)
    return Tests(under, over) if direction == "below" else Tests(over, under)


def bounded_mean_interval(
    values: Sequence[float],
    support: tuple[float, float],
    alpha: float,
    order: Sequence[int],
    gap: float | None = None,
    direction: Direction = "below",
) -> Interval:
    """Limits of the mean, each one-sided at ``alpha``: where the betting tests stop rejecting.

    Valid at any stop: with probability 1 - alpha a limit is right after every unit at once (a confidence sequence).

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

        def p(u: float) -> float:
            return bounded_mean_tests(values, support, u, order, gap, direction)[side]

        near_end = end + (mean - end) * 1e-9
        if mean == end or p(near_end) > alpha:
            return end
        near_mean = mean + (end - mean) * 1e-9
        left, right = sorted((near_mean, near_end))
        return bisect(lambda u: p(u) - alpha, left, right)

    below = int(direction == "above")  # the test that says "the mean is below u"
    return Interval(crossing(lo, 1 - below), crossing(hi, below))


def running_tests(
    values: Iterable[float],
    support: tuple[float, float],
    u: float,
    gap: float | None = None,
    direction: Direction = "below",
) -> Iterator[Tests]:
    """``bounded_mean_tests`` of all units so far, after each unit, at a constant cost per unit.

    Assumes: as ``bounded_mean_tests``; the values come in the order that the plan fixed.
    """
    lo, hi = support
    gap = _expected_gap(support, u, gap, direction)
    half_range = (hi - lo) / 2
    first, second = tee(_within(values, support))
    under = betting_log_wealth((u - x for x in first), hi - u, gap, half_range)
    over = betting_log_wealth((x - u for x in second), u - lo, gap, half_range)
    for best_under, best_over in zip(accumulate(under, max), accumulate(over, max), strict=True):
        tests = Tests(min(1.0, math.exp(-best_under)), min(1.0, math.exp(-best_over)))
        yield tests if direction == "below" else Tests(*reversed(tests))


def first_decision(
    values: Iterable[float],
    support: tuple[float, float],
    u: float,
    alpha: float,
    alpha_fail: float,
    gap: float | None = None,
    direction: Direction = "below",
) -> Stop | None:
    """Where "the mean is below (or above) u" is first decided: p_hold <= alpha or p_fail <= alpha_fail; else None.

    No value after that is asked for. Both cannot be: a unit that lets one capital grow shrinks the other. (Later
    they can, each by its own past maximum; the first decision counts.) P(holds | false) <= alpha and
    P(fails | true) <= alpha_fail, however many units there are.

    Assumes: as ``running_tests``.
    Reference: Ville's inequality.
    """
    check_alpha(alpha)
    check_alpha(alpha_fail)
    for n, tests in enumerate(running_tests(values, support, u, gap, direction), start=1):
        if tests.p_hold <= alpha or tests.p_fail <= alpha_fail:
            return Stop(n, tests)
    return None


def looks_level(alpha: float, looks: int) -> float:
    """The level of each look when a fixed-n test is planned to be looked at ``looks`` times: alpha / looks.

    Assumes: the number of looks was fixed before the data; each look uses all units so far.
    Reference: Bonferroni.
    """
    check_alpha(alpha)
    if looks < 1:
        raise ValueError(f"looks = {looks}, expected at least 1")
    return alpha / looks


def seeded_order(n: int, seed: str) -> list[int]:
    """A permutation of range(n) that depends on n and the text ``seed`` alone, on every platform.

    Reference: sorts i by SHA-256 of "seed:i" in UTF-8, i in decimal.
    """
    if n < 0:
        raise ValueError(f"n = {n}, expected n >= 0")
    return sorted(range(n), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def _expected_gap(support: tuple[float, float], u: float, gap: float | None, direction: Direction) -> float:
    _check_support(support)
    lo, hi = support
    if not lo < u < hi:
        raise ValueError(f"u = {u}, expected a number inside the support ({lo}, {hi})")
    if direction not in ("below", "above"):
        raise ValueError(f"direction = {direction!r}, expected 'below' or 'above'")
    if gap is not None:
        return gap
    return (u - lo) / 2 if direction == "below" else (hi - u) / 2


def _check_bounded(values: Sequence[float], support: tuple[float, float], order: Sequence[int]) -> None:
    _check_support(support)
    if not values or sorted(order) != list(range(len(values))):
        raise ValueError(f"{len(values)} values, order of length {len(order)}; expected a permutation of their indices")
    for _ in _within(values, support):
        pass


def _check_support(support: tuple[float, float]) -> None:
    lo, hi = support
    if not -math.inf < lo < hi < math.inf:
        raise ValueError(f"support = ({lo}, {hi}), expected two finite numbers, low < high")


def _within(values: Iterable[float], support: tuple[float, float]) -> Iterator[float]:
    lo, hi = support
    for x in values:
        if not lo <= x <= hi:
            raise ValueError(f"value {x}, expected a number within the support [{lo}, {hi}]")
        yield x
