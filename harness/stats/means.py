"""Clustered means and token-weighted ratios with Student's t: asymptotic, and guarded against skewness.

The unit is the document, or the source of several documents, or the item decoded several times: never the token,
never the rerun.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from harness.stats.intervals import check_alpha
from harness.stats.paired import Tests
from harness.stats.special import t_cdf, t_quantile

__all__ = ["Direction", "MeanResult", "cluster_mean", "ratio_estimator", "replicate_means", "t_test_p"]

Item = TypeVar("Item", bound=Hashable)
Direction = Literal["below", "above"]


class MeanResult(NamedTuple):
    """An estimate, its clustered standard error and limits; ``df`` = clusters - 1.

    ``skewness`` is that of the clusters' summed residuals; se = 0 means that nothing can be decided.
    """

    estimate: float
    se: float
    low: float
    high: float
    df: int
    skewness: float

    @property
    def guard_ok(self) -> bool:
        """Whether t may decide: at least 30 clusters, at least 121 skewness^2 of them, and some variance."""
        clusters = self.df + 1
        return self.se > 0 and clusters >= 30 and clusters >= 121 * self.skewness**2


def cluster_mean(values: Sequence[float], clusters: Sequence[Hashable], alpha: float) -> MeanResult:
    """The mean over items with its clustered standard error; each limit one-sided at ``alpha``.

    Assumes: clusters are independent, items within one need not be.
    Fails when: few or skewed clusters (see ``guard_ok``); rare spikes escape the guard.
    Reference: Liang & Zeger (1986) with factor C/(C-1); Miller (2024), arXiv 2411.00640.
    """
    return ratio_estimator(values, [1.0] * len(values), clusters, alpha)


def ratio_estimator(numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable], alpha: float) -> MeanResult:
    """Sum of numerators over sum of denominators, with clustered standard error and limits.

    With log-likelihood differences over token counts this is ln(PPL_new / PPL_old).

    Assumes: clusters are independent; denominators > 0.
    Fails when: few or skewed clusters (see ``guard_ok``).
    Reference: linearised ratio, Cochran (1977) 6.3, with factor C/(C-1).
    """
    check_alpha(alpha)
    _check_units(numerators, denominators, clusters)
    total = math.fsum(denominators)
    estimate = math.fsum(numerators) / total
    groups: dict[Hashable, list[float]] = {}
    for x, t, cluster in zip(numerators, denominators, clusters, strict=True):
        groups.setdefault(cluster, []).append(x - estimate * t)
    residuals = [math.fsum(group) for group in groups.values()]
    count = len(residuals)
    if count < 2:
        raise ValueError(f"{count} cluster, expected at least 2")
    tiny = 1e-12 * max(map(abs, numerators))
    if all(abs(x - estimate * t) <= tiny for x, t in zip(numerators, denominators, strict=True)):
        residuals = [0.0] * count  # all units equal: rounding may not pass for variance
    se = math.sqrt(count / (count - 1) * math.fsum(e * e for e in residuals)) / total
    half = t_quantile(1 - alpha, count - 1) * se
    return MeanResult(estimate, se, estimate - half, estimate + half, count - 1, _skewness(residuals))


def replicate_means(values: Iterable[tuple[Item, float]]) -> dict[Item, float]:
    """The mean of each item's reruns, in the order in which items appear: the units of every test that follows.

    Assumes: reruns of one item are equally good; they need be neither independent nor equally many.
    Fails when: a value is not finite (ValueError).
    Reference: 3.5 of the statistics reference. Items x reruns taken as independent understate the error.
    """
    reruns: dict[Item, list[float]] = {}
    for item, value in values:
        if not math.isfinite(value):
            raise ValueError(f"value {value} of item {item!r}, expected a finite number")
        reruns.setdefault(item, []).append(value)
    return {item: math.fsum(group) / len(group) for item, group in reruns.items()}


def t_test_p(estimate: float, se: float, df: float, theta0: float, direction: Direction = "below") -> Tests:
    """p-values of "the parameter is below (or above) theta0".

    Assumes: (estimate - parameter) / se is Student t with df degrees of freedom; se > 0.
    Fails when: se = 0 (ValueError), or the clusters are few or skewed.
    """
    if not (0 < se < math.inf and math.isfinite(estimate) and math.isfinite(theta0)):
        raise ValueError(f"estimate = {estimate}, se = {se}, theta0 = {theta0}; expected finite numbers and se > 0")
    t = (estimate - theta0) / se
    under, over = t_cdf(t, df), t_cdf(-t, df)
    return Tests(under, over) if direction == "below" else Tests(over, under)


def _skewness(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    second = math.fsum((x - mean) ** 2 for x in values) / len(values)
    third = math.fsum((x - mean) ** 3 for x in values) / len(values)
    return third / second**1.5 if second > 0 else 0.0


def _check_units(numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable]) -> None:
    if not len(numerators) == len(denominators) == len(clusters) > 0:
        raise ValueError(
            f"{len(numerators)} numerators, {len(denominators)} denominators, {len(clusters)} clusters; "
            "expected equally many and at least one"
        )
    if not all(map(math.isfinite, numerators)):
        raise ValueError("a value is not finite, expected finite numbers only")
    if not all(0 < t < math.inf for t in denominators):
        raise ValueError(f"smallest denominator {min(denominators)}, expected finite numbers > 0")
