"""Judge-corrected differences: many items scored by a judge, few by humans too (prediction-powered inference)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.stats.intervals import Interval, check_alpha
from harness.stats.paired import Tests
from harness.stats.special import normal_quantile, t_cdf, t_quantile

__all__ = ["Corrected", "corrected_tests", "lee_interval", "ppi_difference"]


class Corrected(NamedTuple):
    """A mean difference as humans would judge it, its standard error and limits; ``lam`` is the weight of the judge.

    ``skewness`` is that of the estimate. n items were scored by the judge alone, m by humans too.
    """

    estimate: float
    se: float
    low: float
    high: float
    df: float
    lam: float
    skewness: float
    n: int
    m: int


def ppi_difference(
    unlabelled: Sequence[float], labelled_judge: Sequence[float], labelled_human: Sequence[float], alpha: float
) -> Corrected:
    """The mean of new - old as humans would score it, from paired differences; each limit one-sided at ``alpha``.

    ``unlabelled`` are the judge's differences on items without human labels; ``labelled_judge`` and ``labelled_human``
    those of judge and humans on the labelled items, in one order. The judge may err, and more in one arm than the other.

    The estimate is that of PPI++. Its limits are Student's t with two corrections. Few flips show too small a variance by
    chance: one more residual of size s joins theirs, s^2 = sum d^4 / sum d^2 over the human differences (1 if all are
    -1, 0 or 1). And what skewness is left is taken out by Hall's transformation.

    Assumes: the labelled items are a random sample of all; the two sets are disjoint; both arms of an item are labelled.
    Fails when: m < 100, or the human differences do not vary (ValueError). Asymptotic: a one-sided 95 % limit covers .94 at
    least with 5 expected flips among the labelled items, and more with fewer.
    Reference: PPI++ of Angelopoulos, Duchi & Zrnic (2023), arXiv 2311.01453; the added square after Bonett & Price (2012);
    Hall (1992), On the removal of skewness by transformation, J. R. Statist. Soc. B 54.
    """
    check_alpha(alpha)
    n, m = len(unlabelled), len(labelled_human)
    if n < 2 or m < 100 or len(labelled_judge) != m:
        raise ValueError(
            f"{n} unlabelled items, {len(labelled_judge)} labelled by the judge, {m} by humans; "
            "expected at least 2, and equally many and at least 100 labelled ones"
        )
    if not all(map(math.isfinite, (*unlabelled, *labelled_judge, *labelled_human))):
        raise ValueError("a difference is not finite, expected finite numbers only")
    if len(set(labelled_human)) < 2:
        raise ValueError("the human differences do not vary, expected at least two different ones")
    lam = _weight(unlabelled, labelled_judge, labelled_human)
    judge, rest = _moments(unlabelled), _moments([h - lam * f for h, f in zip(labelled_human, labelled_judge, strict=True)])
    more = math.fsum(d**4 for d in labelled_human) / math.fsum(d**2 for d in labelled_human)
    estimate = lam * judge.mean + rest.mean
    se = math.sqrt(lam**2 * judge.squares / (n * (n - 1)) + (rest.squares + more) / ((m + 1) * m))
    skewness = (lam**3 * judge.cubes / n**3 + rest.cubes / (m + 1) ** 3) / se**3
    q = t_quantile(1 - alpha, m)
    low, high = estimate - se * _from_symmetric(q, skewness), estimate - se * _from_symmetric(-q, skewness)
    return Corrected(estimate, se, low, high, m, lam, skewness, n, m)


def corrected_tests(result: Corrected, bound: float) -> Tests:
    """p-values of "the difference is above bound": at most alpha exactly where the limits at alpha are beyond it.

    Assumes: as ``ppi_difference``; bound is finite.
    """
    if not math.isfinite(bound):
        raise ValueError(f"bound = {bound}, expected a finite number")
    t = _to_symmetric((result.estimate - bound) / result.se, result.skewness)
    return Tests(t_cdf(-t, result.df), t_cdf(t, result.df))


def lee_interval(p: float, n: int, tnr: float, m0: int, tpr: float, m1: int, alpha: float) -> Interval:
    """Limits of a rate of which a judge with known errors reports the share p of n; each one-sided at ``alpha``.

    ``tnr`` was found on m0 truly negative items, ``tpr`` on m1 truly positive ones. A second opinion, never decides:
    it is wider than the humans' labels alone unless the judge is very good.

    Assumes: the judge errs on the n items as on the m0 and m1.
    Fails when: the judge is no better than chance: tpr + tnr <= 1 (ValueError).
    Reference: Rogan & Gladen (1978); Lee et al., LLM-judge-reporting.
    """
    check_alpha(alpha)
    if min(n, m0, m1) < 1 or not all(0 <= rate <= 1 for rate in (p, tnr, tpr)) or tpr + tnr <= 1:
        raise ValueError(f"p = {p} of {n}, tnr = {tnr} of {m0}, tpr = {tpr} of {m1}; expected rates of n >= 1, tpr + tnr > 1")
    z2 = normal_quantile(1 - alpha) ** 2
    share, q0, q1 = (n * p + z2 / 2) / (n + z2), (m0 * tnr + 1) / (m0 + 2), (m1 * tpr + 1) / (m1 + 2)
    v0, v1, youden = q0 * (1 - q0) / (m0 + 2), q1 * (1 - q1) / (m1 + 2), q0 + q1 - 1
    if youden <= 0:
        raise ValueError(f"tnr = {tnr} of {m0}, tpr = {tpr} of {m1}: smoothed sum {q0 + q1}, expected above 1")
    theta = (share + q0 - 1) / youden
    centre = theta + 2 * z2 * (theta * v1 - (1 - theta) * v0)
    half = math.sqrt(z2 * (share * (1 - share) / (n + z2) + (1 - theta) ** 2 * v0 + theta**2 * v1)) / youden
    return Interval(min(max(centre - half, 0.0), 1.0), min(max(centre + half, 0.0), 1.0))


class _Moments(NamedTuple):
    """A mean, and the sums of the squares and cubes of the deviations from it."""

    mean: float
    squares: float
    cubes: float


def _moments(values: Sequence[float]) -> _Moments:
    mean = math.fsum(values) / len(values)
    return _Moments(mean, math.fsum((x - mean) ** 2 for x in values), math.fsum((x - mean) ** 3 for x in values))


def _weight(unlabelled: Sequence[float], judge: Sequence[float], human: Sequence[float]) -> float:
    """The weight of the judge that makes the variance least; 0, the humans alone, for a judge whose answers do not vary."""
    n, m = len(unlabelled), len(judge)
    if len({*unlabelled, *judge}) < 2:
        return 0.0
    mean_human, mean_judge = math.fsum(human) / m, math.fsum(judge) / m
    covariance = math.fsum((h - mean_human) * (f - mean_judge) for h, f in zip(human, judge, strict=True)) / (m - 1)
    variance = _moments([*unlabelled, *judge]).squares / (n + m - 1)
    return min(max(covariance / ((1 + m / n) * variance), 0.0), 1.0)


def _to_symmetric(t: float, skewness: float) -> float:
    """Hall's cubic transformation: of a studentised mean with this skewness, about symmetric; rises with t."""
    a = skewness / 3
    return t + a * t * t + a * a * t**3 / 3 + skewness / 6


def _from_symmetric(x: float, skewness: float) -> float:
    """The inverse of ``_to_symmetric``: a t^3/3 + ... is ((1 + a t)^3 - 1) / (3 a)."""
    a = skewness / 3
    if abs(a) < 1e-9:
        return x
    cube = 1 + 3 * a * (x - skewness / 6)
    return (math.copysign(abs(cube) ** (1 / 3), cube) - 1) / a
