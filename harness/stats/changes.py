"""Change points in a history of runs: the drift that no pair of runs shows.

A history is one number per run, oldest first. Where nothing changed the runs are exchangeable: every order of
them is equally likely. A segment is split where the mean ranks before and after differ most, and the difference
counts if few random orders of the same values show one as large at *any* place; so the choice of the place is paid
for. (A t test at the place chosen from the data is not: its level is lost.) Ranks make one wild run harmless.
A slow drift shows as one or more such steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from harness.stats.betting import seeded_order
from harness.stats.intervals import check_alpha

__all__ = ["Change", "change_points"]


class Change(NamedTuple):
    """``first`` run after a change, its p-value, the means from the change before up to it and from it to the next."""

    first: int
    p: float
    before: float
    after: float


class _Segment(NamedTuple):
    """Runs start..end-1, the strongest split of them (statistic, first run after it), and what random orders show."""

    start: int
    end: int
    strongest: float
    split: int
    shuffled: tuple[float, ...]


def change_points(values: Sequence[float], alpha: float, seed: str, shortest: int = 5, permutations: int = 999) -> list[Change]:
    """The changes in a history, in its order; at most ``alpha`` is the chance to report any where nothing changed.

    Splits the strongest segment first and stops at the first p > alpha. p is the share of random orders, within
    the segments so far, that show a split as strong as the one seen; never below that of a change found before.
    A change is seen when at least ``shortest`` runs lie on each side. ``alpha`` is for changes up and down together.

    Assumes: where nothing changed the runs are exchangeable: independent, of one precision.
    Fails when: neighbouring runs are alike for another reason: a correlation of .2 between neighbours makes .05 to .14,
    one of .5 to .41; or the spread changed and not the level (threefold: .11). A change that is soon undone is found
    late or not at all. After a true change, further ones keep the level but approximately, since the data chose
    where it lies. (All measured, see ``reports/statistics``.)
    Reference: maximally selected rank statistic, Pettitt (1979), with permutation p-values (k + 1) / (M + 1);
    sequence of splits as in e-divisive, Matteson & James (2014).
    """
    check_alpha(alpha)
    n = len(values)
    if not all(map(math.isfinite, values)):
        raise ValueError("a value is not finite, expected finite numbers only")
    if shortest < 2 or n < 2 * shortest:
        raise ValueError(f"{n} values, shortest = {shortest}; expected shortest >= 2 and twice as many values at least")
    if alpha * (permutations + 1) < 1:
        raise ValueError(f"{permutations} permutations, expected at least 1 / alpha - 1 with alpha = {alpha}")
    orders = [seeded_order(n, f"{seed}:{k}") for k in range(permutations)]
    segments = [_segment(values, 0, n, shortest, orders)]
    found: dict[int, float] = {}
    p = 0.0
    while True:
        best = max(segments, key=lambda s: s.strongest)
        as_strong = sum(max(column) >= best.strongest for column in zip(*(s.shuffled for s in segments), strict=True))
        p = max(p, (as_strong + 1) / (permutations + 1))
        if p > alpha:
            return _changes(values, found)
        found[best.split] = p
        segments.remove(best)
        segments += [_segment(values, start, end, shortest, orders) for start, end in ((best.start, best.split), (best.split, best.end))]


def _changes(values: Sequence[float], found: dict[int, float]) -> list[Change]:
    places = sorted(found)
    edges = [0, *places, len(values)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return [Change(place, found[place], means[i], means[i + 1]) for i, place in enumerate(places)]


def _segment(values: Sequence[float], start: int, end: int, shortest: int, orders: Sequence[Sequence[int]]) -> _Segment:
    ranks = _doubled_ranks(values[start:end])
    strongest, split = _strongest_split(ranks, shortest)
    # A random order of the whole history, read within the segment, is a random order of the segment.
    shuffled = (_strongest_split([ranks[i - start] for i in order if start <= i < end], shortest)[0] for order in orders)
    return _Segment(start, end, strongest, start + split, tuple(shuffled))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, ties sharing their middle: whole numbers, so that sums are exact."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for position, x in enumerate(ordered, start=1):
        first.setdefault(x, position)
        last[x] = position
    return [first[x] + last[x] for x in values]


def _strongest_split(ranks: Sequence[int], shortest: int) -> tuple[float, int]:
    """The largest squared standardised sum of the first k ranks, and its k; (0, 0) where nothing can be split.

    With S the sum of the first k of n ranks, T and Q the sums of all and of their squares, the square is
    (nS - kT)^2 (n - 1) / (k (n - k) (nQ - T^2)), the variance being that over all orders of the ranks.
    """
    n, total = len(ranks), sum(ranks)
    spread = n * sum(r * r for r in ranks) - total * total
    if spread == 0:
        return 0.0, 0
    best, split = 0.0, 0
    for k, above in enumerate(accumulate(ranks), start=1):
        if shortest <= k <= n - shortest:
            square = (n * above - k * total) ** 2 * (n - 1) / (k * (n - k) * spread)
            if square > best:
                best, split = square, k
    return best, split
