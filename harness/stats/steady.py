"""Whether a run in time was in its steady state: where a warm-up ends, and whether the start and the end agree.

A limit on a quantile speaks of one state of a service. A queue that grows while it is measured has none: what the run
shows then depends on when it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from harness.stats.series import integrated_time
from harness.stats.special import t_cdf

__all__ = ["Drift", "drift", "mser"]


class Drift(NamedTuple):
    """The last third of a run against its first.

    ``later`` is the chance that a request of the last third is slower than one of the first, ties counting half; ``p`` how
    likely one as far from 1/2 is in a steady run; ``tau`` how many neighbours count as one, with any trend removed.
    """

    later: float
    p: float
    tau: float


def drift(latencies: Sequence[float | None]) -> Drift:
    """Whether the last third of the requests, in the order of their arrival, ranks with the first; p is two-sided.

    None (failed, timed out) ranks above every latency. The mean ranks are compared by their own long-run variance: that of
    what a straight line leaves in either third, so that a trend does not pass for dependence and hide itself.

    Assumes: a third many times longer than tau; the middle third stands between them, so that they are independent.
    Fails when: fewer than 30 requests, or a third counts as fewer than 10 (p = 1: nothing is shown); a state that comes
    and goes as often in the first third as in the last is not seen.
    Reference: Geweke (1992), on ranks (Mann & Whitney 1947); tau as ``slo_time``.
    """
    third = len(latencies) // 3
    if third < 10:
        return Drift(0.5, 1.0, 1.0)
    ranks = _ranks([math.inf if x is None else x for x in (*latencies[:third], *latencies[-third:])])
    first, last = ranks[:third], ranks[third:]
    distance = (math.fsum(last) - math.fsum(first)) / third
    rest = [*_straightened(first), *_straightened(last)]
    variance = math.fsum(x * x for x in rest) / (2 * third - 4)
    later = 0.5 + distance / (2 * third)
    if variance < 1e-9 * third * third:  # nothing but the line: what is left is rounding
        return Drift(later, 0.0 if abs(distance) > 0.5 else 1.0, 1.0)
    tau = integrated_time(rest)
    tau *= 1 + 6 * math.sqrt((tau - 1) / len(rest))
    if third < 10 * tau:
        return Drift(later, 1.0, tau)
    t = abs(distance) / math.sqrt(2 * variance * tau / third)
    return Drift(later, 2 * t_cdf(-t, 2 * third / tau - 4), tau)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0; ties share their mean."""
    rank: dict[float, float] = {}
    first = 0
    for value, group in groupby(sorted(values)):
        end = first + sum(1 for _ in group)
        rank[value] = (first + end - 1) / 2
        first = end
    return [rank[x] for x in values]


def _straightened(values: Sequence[float]) -> list[float]:
    """What the line of least squares leaves."""
    n = len(values)
    mean, middle = math.fsum(values) / n, (n - 1) / 2
    slope = math.fsum((i - middle) * x for i, x in enumerate(values)) / (n * (n * n - 1) / 12)
    return [x - mean - slope * (i - middle) for i, x in enumerate(values)]


def mser(values: Sequence[float], batch: int = 5) -> int | None:
    """How many leading values to leave out, so that the mean of the rest is known best; None below ten batches.

    Assumes: values in the order of time.
    Fails when: the warm-up is longer than half of the run: no cut beyond it is looked at.
    Reference: White, Cobb & Spratt (2000), MSER-5: the d <= k/2 with the least sum of squares over (k - d)^2 of k batch means.
    """
    means = [math.fsum(values[i : i + batch]) / batch for i in range(0, len(values) - batch + 1, batch)]
    k = len(means)
    if k < 10:
        return None
    centre = math.fsum(means) / k
    sums = list(accumulate((x - centre for x in reversed(means)), initial=0.0))  # of the last j
    squares = list(accumulate(((x - centre) ** 2 for x in reversed(means)), initial=0.0))

    def error(d: int) -> float:
        left = k - d
        return max(0.0, squares[left] - sums[left] ** 2 / left) / left**2

    return batch * min(range(k // 2 + 1), key=error)
