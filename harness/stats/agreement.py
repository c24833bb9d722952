"""Agreement between raters beyond chance: Cohen's kappa and Krippendorff's alpha, with the limits that decide.

The lower limit is taken on the atanh scale: the plain one, estimate - z SE, is far too high where agreement is high,
because the standard error vanishes with the disagreements. The upper limit is plain, but of data *raised* by one more agreed
unit per category (on a scale: at each end), as Clopper and Pearson's is of one more event: where a category is rare, a
sample that lacks it shows next to no agreement and next to no standard error, on either scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from typing import Literal, NamedTuple, TypeVar

from harness.stats.intervals import check_alpha
from harness.stats.paired import Tests
from harness.stats.special import normal_quantile, normal_sf, t_cdf, t_quantile

__all__ = ["Agreement", "Level", "agreement_tests", "cohen_kappa", "constant_judge", "drop_incomplete", "krippendorff"]

Level = Literal["nominal", "ordinal", "interval"]
Ratings = tuple[float, ...]
Label = TypeVar("Label", bound=Hashable)


class Agreement(NamedTuple):
    """An agreement (1 perfect, 0 as by chance), its standard error and limits, over ``n`` units.

    ``chance`` is the agreement expected by chance: of kappa p_e, of alpha 1 - D_e over the largest squared distance.
    ``raised`` are estimate and standard error behind ``high``; ``df`` those of Student's t, infinite for the normal.
    """

    estimate: float
    se: float
    low: float
    high: float
    n: int
    chance: float
    raised: tuple[float, float]
    df: float


def cohen_kappa(table: Sequence[Sequence[int]], alpha: float) -> Agreement:
    """Kappa of a square table of counts (one rater in the rows, one in the columns); each limit one-sided at ``alpha``.

    Assumes: units are independent.
    Fails when: a rater uses one label only: nothing varies, nothing can be decided (ValueError).
    Reference: Cohen (1960); standard error of Fleiss, Cohen & Everitt (1969); limits: 3.13 of the statistics reference.
    """
    check_alpha(alpha)
    size, n = len(table), sum(map(sum, table))
    if n < 1 or any(len(row) != size for row in table) or min(map(min, table)) < 0:
        raise ValueError(f"table {table}, expected a square of counts >= 0 that are not all 0")
    if any(n in (sum(row), sum(column)) for row, column in zip(table, zip(*table, strict=True), strict=True)):
        raise ValueError("a rater uses one label only, expected at least two of each rater")
    estimate, variance, chance = _kappa([[Fraction(count) for count in row] for row in table])
    if estimate < 1 and variance == 0:
        raise ValueError(f"kappa = {estimate} without variance, expected some agreement and some disagreement")
    higher, spread, _ = _kappa([[Fraction(count + (i == j)) for j, count in enumerate(row)] for i, row in enumerate(table)])
    raised = float(higher), math.sqrt(spread)
    return _agreement(float(estimate), math.sqrt(variance), raised, n, float(chance), math.inf, alpha)


def krippendorff(units: Sequence[Sequence[float | None]], level: Level, alpha: float) -> Agreement:
    """Krippendorff's alpha of units rated by any number of raters (None: not rated); each limit one-sided at ``alpha``.

    Units with fewer than two ratings say nothing and are left out; ``n`` counts the others. The time grows with the square
    of the number of units that differ.

    Assumes: units are independent; the raters are exchangeable.
    Fails when: all ratings, or all but one unit's, are equal, or nothing varies (ValueError). Asymptotic: where
    disagreements are rare and of unequal size, a lower 95 % limit covers .92 (.88 if alpha exceeds .95) with 50-100 units.
    Reference: Krippendorff (2011), Computing Krippendorff's alpha-reliability; delete-one jackknife; 3.13 of the
    statistics reference.
    """
    check_alpha(alpha)
    if level not in ("nominal", "ordinal", "interval"):
        raise ValueError(f"level {level!r}, expected nominal, ordinal or interval")
    ratings = [tuple(sorted(rating for rating in unit if rating is not None)) for unit in units]
    patterns: Counter[Ratings] = Counter(unit for unit in ratings if len(unit) > 1)
    values = sorted(set(chain.from_iterable(patterns)))
    if not all(map(math.isfinite, values)) or len(values) < 2:
        raise ValueError(f"ratings {values[:3]} in units rated twice or more, expected at least two finite values that differ")
    n, (estimate, chance) = patterns.total(), _alpha(patterns, level)
    if all(unit[0] == unit[-1] for unit in patterns):
        return _agreement(1.0, 0.0, (1.0, 0.0), n, chance, math.inf, alpha)
    ends = values if level == "nominal" else (values[0], values[-1])
    raised = patterns + Counter((value, value) for value in ends)
    se, raised_se = _jackknife_se(patterns, level), _jackknife_se(raised, level)
    return _agreement(estimate, se, (_alpha(raised, level)[0], raised_se), n, chance, n - 1, alpha)


def agreement_tests(result: Agreement, bound: float) -> Tests:
    """p-values of "the agreement is above bound": they are at most alpha where the limits at alpha are beyond it.

    Assumes: -1 < bound < 1.
    """
    if not -1 < bound < 1:
        raise ValueError(f"bound = {bound}, expected -1 < bound < 1")
    estimate, higher, higher_se = result.estimate, *result.raised
    if estimate == 1:
        return Tests(max(bound + result.chance * (1 - bound), 0.0) ** result.n, 1.0)
    distance = (math.atanh(estimate) - math.atanh(bound)) * (1 - estimate**2) / result.se
    return Tests(max(_sf(distance, result.df), max(bound, 0.0) ** result.n), _sf((bound - higher) / higher_se, result.df))


def drop_incomplete(a: Sequence[Label | None], b: Sequence[Label | None]) -> tuple[list[tuple[Label, Label]], int]:
    """The pairs of which both labels are there, and how many were dropped because one was not.

    Assumes: a[i] and b[i] label the same item.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} labels, expected equally many")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return pairs, len(a) - len(pairs)


def constant_judge(labels: Sequence[Hashable]) -> float:
    """The share of the commonest label: what a judge that always answers it scores against these labels.

    With two labels this is the base rate or its complement: to be shown beside every kappa and exact match.
    """
    if not labels:
        raise ValueError("no label, expected at least one")
    return max(Counter(labels).values()) / len(labels)


def _agreement(estimate: float, se: float, raised: tuple[float, float], n: int, chance: float, df: float, alpha: float) -> Agreement:
    """The limits. No n units prove more than alpha^(1/n): were a share 1 - A rated at random, all n escaped it with A^n."""
    if estimate == 1:
        low, high = 1 - (1 - alpha ** (1 / n)) / (1 - chance), 1.0
    else:
        q = normal_quantile(1 - alpha) if df == math.inf else t_quantile(1 - alpha, df)
        low = min(math.tanh(math.atanh(estimate) - q * se / (1 - estimate**2)), alpha ** (1 / n))
        high = min(raised[0] + q * raised[1], 1.0)
    return Agreement(estimate, se, low, high, n, chance, raised, df)


def _sf(x: float, df: float) -> float:
    return normal_sf(x) if df == math.inf else t_cdf(-x, df)


def _kappa(table: Sequence[Sequence[Fraction]]) -> tuple[Fraction, Fraction, Fraction]:
    """(kappa, its variance, chance agreement), exactly: no rounding error passes for variance."""
    cells, n = range(len(table)), sum(map(sum, table))
    rows = [sum(row) / n for row in table]
    columns = [sum(column) / n for column in zip(*table, strict=True)]
    observed = sum((table[i][i] for i in cells), Fraction()) / n
    chance = sum((rows[i] * columns[i] for i in cells), Fraction())
    kappa = (observed - chance) / (1 - chance)
    total = (
        sum(table[i][j] / n * ((i == j) - (1 - kappa) * (columns[i] + rows[j])) ** 2 for i in cells for j in cells)
        - (kappa - chance * (1 - kappa)) ** 2
    )
    return kappa, total / (n * (1 - chance) ** 2), chance


def _alpha(units: Counter[Ratings], level: Level) -> tuple[float, float]:
    """(alpha, chance agreement) of the units, each with how often it occurs."""
    counts = Counter[float]()
    for unit, times in units.items():
        for value in unit:
            counts[value] += times
    score = _midranks(counts) if level == "ordinal" else {value: value for value in counts}
    n = counts.total()
    expected = _distances(counts, score, level) / (n * (n - 1))
    observed = math.fsum(times * _distances(Counter(unit), score, level) / (len(unit) - 1) for unit, times in units.items()) / n
    largest = 1 if level == "nominal" else (score[max(counts)] - score[min(counts)]) ** 2
    return 1 - observed / expected, 1 - expected / largest


def _distances(counts: Counter[float], score: Mapping[float, float], level: Level) -> float:
    """The sum of the squared distances over all ordered pairs of the values counted."""
    n = counts.total()
    if level == "nominal":
        return n * n - sum(count * count for count in counts.values())
    mean = math.fsum(count * score[value] for value, count in counts.items()) / n
    return 2 * n * math.fsum(count * (score[value] - mean) ** 2 for value, count in counts.items())


def _midranks(counts: Counter[float]) -> dict[float, float]:
    """The mean rank of each value: the difference of two is Krippendorff's ordinal distance."""
    ranks, below = {}, 0
    for value in sorted(counts):
        ranks[value] = below + counts[value] / 2
        below += counts[value]
    return ranks


def _jackknife_se(units: Counter[Ratings], level: Level) -> float:
    """The standard error of alpha from leaving out one unit at a time, equal units together."""
    n = units.total()
    without = []
    for unit, times in units.items():
        rest = units - Counter([unit])
        if len(set(chain.from_iterable(rest))) < 2:
            raise ValueError(f"all ratings but those of one unit {unit} are equal, expected two values without it")
        without.append((_alpha(rest, level)[0], times))
    mean = math.fsum(a * times for a, times in without) / n
    se = math.sqrt((n - 1) / n * math.fsum(times * (a - mean) ** 2 for a, times in without))
    if se < 1e-12:
        raise ValueError("leaving out any unit gives the same alpha, expected units that differ")
    return se
