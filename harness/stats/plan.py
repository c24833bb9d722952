"""How many units a claim needs, before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

from harness.stats.betting import betting_log_wealth
from harness.stats.intervals import check_alpha
from harness.stats.paired import noninferiority_region, region_power, staircase_probability, tango_p21
from harness.stats.special import binom_sf, normal_quantile, t_quantile

__all__ = [
    "ProportionPlan",
    "betting_min_n",
    "mcnemar_power",
    "ni_n",
    "ni_power",
    "ni_zero_flip_n",
    "pass_all",
    "proportion_min_n",
    "proportion_n",
    "ratio_k",
    "superiority_n",
]


class ProportionPlan(NamedTuple):
    """``first``: the smallest n with the power; ``stays``: from this n on it is never lost; the k that hold there."""

    first: int
    first_k: int
    stays: int
    stays_k: int


# --- paired binary --------------------------------------------------------------------------------


def ni_n(margin: float, psi: float, alpha: float, power: float, delta1: float = 0.0) -> int:
    """Items for "new is not worse by margin" by the normal formula; a start, see ``ni_power`` for the truth.

    ``psi`` is the expected share of discordant items, ``delta1`` the true difference. A negative margin
    plans for superiority by at least -margin.

    Assumes: -margin < delta1, |delta1| <= psi <= 1.
    Fails when: used as exact: the power at this n is .80-.85 for .80.
    Reference: section 4 of the statistics reference (Tango's constrained variance).
    """
    _check_plan(alpha, power)
    p12, p21 = _cells(psi, delta1)
    delta0 = -margin
    if not -1 < delta0 < delta1:
        raise ValueError(f"margin = {margin}, delta1 = {delta1}; expected -1 < -margin < delta1")
    if delta0 > 0:
        free = 2 * tango_p21(p21, p12, 1, -delta0) - delta0 * (1 + delta0)
    else:
        free = 2 * tango_p21(p12, p21, 1, delta0) + delta0 * (1 - delta0)
    spread = normal_quantile(1 - alpha) * math.sqrt(free)
    spread += normal_quantile(power) * math.sqrt(psi - delta1 * delta1)
    return math.ceil((spread / (delta1 - delta0)) ** 2)


def ni_zero_flip_n(margin: float, alpha: float) -> int:
    """The items below which not even zero flips can prove the margin, whatever the valid test.

    Assumes: 0 < margin < 1.
    Fails when: taken as sufficient; at alpha = .025 the exact rule needs a few more.
    Reference: (1 - margin)^n <= alpha.
    """
    return proportion_min_n(1 - margin, alpha)


def ni_power(n: int, margin: float, psi: float, alpha: float, delta1: float = 0.0) -> float:
    """The exact power of the exact non-inferiority rule with n items.

    Assumes: |delta1| <= psi <= 1, n <= 5000.
    Reference: ``noninferiority_region``.
    """
    return region_power(noninferiority_region(n, -margin, alpha), *_cells(psi, delta1))


def mcnemar_power(n: int, psi: float, d: float, alpha: float) -> float:
    """The exact power of the exact McNemar test with n items, when new is truly better by d.

    Assumes: |d| <= psi <= 1.
    Reference: sum over m of Bin(m; n, psi) P(Bin(m, (1 + d/psi)/2) >= critical b).
    """
    check_alpha(alpha)
    if n < 1:
        raise ValueError(f"n = {n}, expected n >= 1")
    return staircase_probability(_mcnemar_starts(n, alpha))(*_cells(psi, d))


def superiority_n(psi: float, d: float, alpha: float, power: float) -> int:
    """The first n from which exact McNemar has the power at n, n + 1, ... n + 11 (power is a saw-tooth in n).

    Assumes: 0 < d <= psi <= 1.
    Reference: normal formula as a start, then exact power.
    """
    _check_plan(alpha, power)
    _cells(psi, d)
    if d <= 0:
        raise ValueError(f"d = {d}, expected d > 0")
    spread = normal_quantile(1 - alpha) * math.sqrt(psi) + normal_quantile(power) * math.sqrt(psi - d * d)
    n = end = max(1, math.ceil((spread / d) ** 2))
    while end < n + 12:
        enough = mcnemar_power(end, psi, d, alpha) >= power
        end += 1
        if not enough:
            n = end
    return n


def _mcnemar_starts(n: int, alpha: float) -> tuple[int, ...]:
    """For each m the smallest b with P(Bin(m, 1/2) >= b) <= alpha, m + 1 where there is none."""
    return _mcnemar_table(alpha, math.ceil(n / 1024) * 1024)[: n + 1]


@lru_cache(maxsize=8)
def _mcnemar_table(alpha: float, n: int) -> tuple[int, ...]:
    starts, b = [], 0
    for m in range(n + 1):
        while b <= m and binom_sf(b, m, 0.5) > alpha:
            b += 1
        starts.append(b)
    return tuple(starts)


# --- a proportion ---------------------------------------------------------------------------------


def proportion_n(p0: float, p1: float, alpha: float, power: float, side: Literal["at_least", "at_most"]) -> ProportionPlan:
    """The n that shows "the proportion is at least (at most) p0" when it truly is p1.

    Assumes: 0 < p0 < 1; p1 above p0 for at_least, below for at_most.
    Fails when: power is lost again beyond three times ``first`` + 100 (not seen).
    Reference: exact binomial test; power is a saw-tooth in n.
    """
    _check_plan(alpha, power)
    if side == "at_most":
        mirrored = proportion_n(1 - p0, 1 - p1, alpha, power, "at_least")
        first, first_k, stays, stays_k = mirrored
        return ProportionPlan(first, first - first_k, stays, stays - stays_k)
    if not 0 < p0 < p1 <= 1:
        raise ValueError(f"p0 = {p0}, p1 = {p1}; expected the true proportion p1 on the good side of p0")
    first = first_k = stays = stays_k = 0
    k, n = 0, 0
    while not first or n <= 3 * first + 100:
        n += 1
        while k <= n and binom_sf(k, n, p0) > alpha:
            k += 1
        if binom_sf(k, n, p1) < power:
            stays = 0
            continue
        if not first:
            first, first_k = n, k
        if not stays:
            stays, stays_k = n, k
    return ProportionPlan(first, first_k, stays, stays_k)


def proportion_min_n(p0: float, alpha: float) -> int:
    """The units below which not even n of n show "at least p0" (or 0 of n "at most 1 - p0").

    Assumes: 0 < p0 < 1.
    Reference: p0^n <= alpha.
    """
    check_alpha(alpha)
    if not 0 < p0 < 1:
        raise ValueError(f"p0 = {p0}, expected 0 < p0 < 1")
    n = max(1, math.ceil(math.log(alpha) / math.log(p0)) - 1)
    while p0**n > alpha:
        n += 1
    return n


# --- bounded means, ratios, families --------------------------------------------------------------


def betting_min_n(value: float, u: float, support: tuple[float, float], alpha: float, gap: float | None = None) -> int:
    """The units that show "the mean is below u" by betting when every unit equals ``value``.

    Assumes: lo <= value < u < hi; needs fewer than a million units.
    Reference: ``bounded_mean_tests``, with its default for ``gap``.
    """
    check_alpha(alpha)
    lo, hi = support
    if not lo <= value < u < hi:
        raise ValueError(f"value = {value}, u = {u}, support = ({lo}, {hi}); expected lo <= value < u < hi")
    gap = (u - lo) / 2 if gap is None else gap
    xs = (u - value for _ in range(1_000_000))
    for n, log_wealth in enumerate(betting_log_wealth(xs, hi - u, gap, (hi - lo) / 2), start=1):
        if math.exp(-log_wealth) <= alpha:
            return n
    raise ValueError(f"value = {value}, u = {u}: a million units are not enough, expected a larger distance")


def ratio_k(sd: float, log_bound: float, alpha: float, power: float, delta1: float = 0.0) -> int:
    """The blocks (at least 4) that show ln(B/A) < log_bound when it truly is delta1; sd from an A/A pilot.

    Assumes: sd > 0, delta1 < log_bound.
    Reference: k >= (t_{1-alpha,k-1} + t_{power,k-1})^2 sd^2 / (log_bound - delta1)^2, iterated.
    """
    _check_plan(alpha, power)
    if not (sd > 0 and log_bound > delta1):
        raise ValueError(f"sd = {sd}, log_bound = {log_bound}, delta1 = {delta1}; expected sd > 0, delta1 < log_bound")
    effect = (log_bound - delta1) / sd
    k = max(4, math.ceil(((normal_quantile(1 - alpha) + normal_quantile(power)) / effect) ** 2))
    while k * effect * effect < (t_quantile(1 - alpha, k - 1) + t_quantile(power, k - 1)) ** 2:
        k += 1
    return k


def pass_all(powers: Iterable[float]) -> float:
    """The chance that independent claims all hold: the product of their powers.

    Assumes: independence; with positive dependence the chance is larger.
    """
    product = math.prod(powers)
    if not 0 <= product <= 1:
        raise ValueError(f"product {product}, expected powers between 0 and 1")
    return product


def _cells(psi: float, delta: float) -> tuple[float, float]:
    if not (0 < psi <= 1 and abs(delta) <= psi):
        raise ValueError(f"psi = {psi}, difference = {delta}; expected 0 < psi <= 1 and |difference| <= psi")
    return (psi + delta) / 2, (psi - delta) / 2


def _check_plan(alpha: float, power: float) -> None:
    check_alpha(alpha)
    if not 0.5 <= power < 1:
        raise ValueError(f"power = {power}, expected 0.5 <= power < 1")
