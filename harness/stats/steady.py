"""Whether a run in time was in its steady state: where a warm-up ends, and whether the start and the end agree.

A limit on a quantile speaks of one state of a service. A queue that grows while it is measured has none: what the run
shows then depends on when it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from harness.stats.special import t_cdf

__all__ = ["Drift", "drift", "mser"]


_BATCHES = 4  # in each third: few enough that each is longer than what neighbours share, enough for Student's t


class Drift(NamedTuple):
    """The last third of a run against its first.

    ``later`` is the chance that a request of the last third is slower than one of the first, ties counting half; ``p`` how
    likely one as far from 1/2 is in a steady run.
    """

    later: float
    p: float


def drift(latencies: Sequence[float | None]) -> Drift:
    """Whether the last third of the requests, in the order of their arrival, ranks with the first; p is two-sided.

    None (failed, timed out) ranks above every latency. The mean ranks of the thirds are compared by those of four batches in
    each, so that what neighbours share within a batch is in the error; no correlation has to be estimated.

    Assumes: a batch, a twelfth of the run, is many times longer than the correlation time; the middle third stands between.
    Fails when: fewer than 36 requests (p = 1: nothing is shown); a queue at 90 % load is seen for too short, then it is
    called unsteady up to 8 times in 100 at p = .01; a state that comes and goes as often in the first third as in the last.
    Reference: batch means (Schmeiser 1982) of ranks (Mann & Whitney 1947) in a test of the kind of Goldsman, Schruben & Swain
    (1994); 6 degrees of freedom.
    """
    size = len(latencies) // 3 // _BATCHES
    if size < 3:
        return Drift(0.5, 1.0)
    third = size * _BATCHES
    ranks = _ranks([math.inf if x is None else x for x in (*latencies[:third], *latencies[-third:])])
    means = [math.fsum(ranks[i : i + size]) / size for i in range(0, 2 * third, size)]
    first, last = means[:_BATCHES], means[_BATCHES:]
    distance = (math.fsum(last) - math.fsum(first)) / _BATCHES
    later = 0.5 + distance / (2 * third)
    squares = math.fsum((x - math.fsum(part) / _BATCHES) ** 2 for part in (first, last) for x in part)
    if squares < 1e-9:  # every batch of a third ranks alike
        return Drift(later, 1.0 if abs(distance) < 1e-9 else 0.0)
    freedom = 2 * (_BATCHES - 1)
    return Drift(later, 2 * t_cdf(-abs(distance) / math.sqrt(squares / freedom * 2 / _BATCHES), freedom))


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0; ties share their mean."""
    rank: dict[float, float] = {}
    first = 0
    for value, group in groupby(sorted(values)):
        end = first + sum(1 for _ in group)
        rank[value] = (first + end - 1) / 2
        first = end
    return [rank[x] for x in values]


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
