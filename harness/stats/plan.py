"""How many units a claim needs, and what a number of units can show, before anything is measured.

For each gate the n for a power, the power of an n, and the smallest effect that an n detects (MDE). Exact where the
gate is exact; a name ending in ``_normal`` or a docstring says where it is an approximation or a simulation.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

from harness.stats.betting import betting_log_wealth
from harness.stats.intervals import check_alpha
from harness.stats.paired import _starts, _supremum, noninferiority_region, region_power, staircase_probability, tango_p21
from harness.stats.special import beta_quantile, binom_cdf, binom_pmf, binom_sf, bisect, normal_quantile, normal_sf, t_quantile

__all__ = [
    "ProportionPlan",
    "agreement_bound",
    "agreement_n",
    "betting_min_n",
    "betting_stops",
    "corrected_se",
    "equivalence_n",
    "equivalence_power",
    "kappa_spread",
    "mcnemar_power",
    "mean_n",
    "ni_exact_n",
    "ni_loss_passed",
    "ni_loss_refuted",
    "ni_margin",
    "ni_n",
    "ni_power",
    "ni_power_normal",
    "ni_zero_flip_n",
    "pass_all",
    "proportion_min_n",
    "proportion_n",
    "proportion_power",
    "proportion_truth",
    "ratio_k",
    "superiority_gain",
    "superiority_n",
    "t_effect",
    "t_n",
    "t_power",
]

Side = Literal["at_least", "at_most"]


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
    null, true = _ni_spreads(margin, psi, delta1)
    spread = normal_quantile(1 - alpha) * null
    spread += normal_quantile(power) * true
    return math.ceil((spread / (delta1 + margin)) ** 2)


def ni_power_normal(n: int, margin: float, psi: float, alpha: float, delta1: float = 0.0) -> float:
    """The power of the non-inferiority rule with n items by the normal formula; ``ni_n`` the other way round.

    Assumes: as ``ni_n``.
    Fails when: used as exact: up to 5 points off. For n where the exact power takes too long.
    Reference: section 4 of the statistics reference.
    """
    check_alpha(alpha)
    _check_n(n)
    null, true = _ni_spreads(margin, psi, delta1)
    if true == 0:
        return float((delta1 + margin) * math.sqrt(n) >= normal_quantile(1 - alpha) * null)
    return normal_sf((normal_quantile(1 - alpha) * null - (delta1 + margin) * math.sqrt(n)) / true)


def _ni_spreads(margin: float, psi: float, delta1: float) -> tuple[float, float]:
    """sqrt(n) times the standard error of the difference, at the margin (Tango's) and in truth."""
    p12, p21 = _cells(psi, delta1)
    delta0 = -margin
    if not -1 < delta0 < delta1:
        raise ValueError(f"margin = {margin}, delta1 = {delta1}; expected -1 < -margin < delta1")
    if delta0 > 0:
        free = 2 * tango_p21(p21, p12, 1, -delta0) - delta0 * (1 + delta0)
    else:
        free = 2 * tango_p21(p12, p21, 1, delta0) + delta0 * (1 - delta0)
    return math.sqrt(free), math.sqrt(psi - delta1 * delta1)


def ni_exact_n(margin: float, psi: float, alpha: float, power: float, delta1: float = 0.0) -> int:
    """The first n from which the exact rule has the power at n, n + 1, ... n + 11 (power is a saw-tooth in n).

    Assumes: as ``ni_n``; that n lies above three quarters of the normal formula's (lowest seen: .92) and below 5000.
    Fails when: slow above n = 1000 (seconds there, minutes at 5000); take ``ni_n`` then.
    Reference: the smallest region of Tango's order with that power must have size <= alpha.
    """
    start = ni_n(margin, psi, alpha, power, delta1) * 3 // 4
    chance = _ni_chance(psi, delta1)
    return _first_run(lambda n: _enough(n, -margin, alpha, power, chance), max(1, start))


def ni_margin(n: int, psi: float, alpha: float, power: float, delta1: float = 0.0) -> float | None:
    """The smallest margin, a multiple of .0001, that n items show with the power; None if there is none below 1.

    Assumes: as ``ni_power``; the power rises with the margin.
    Reference: bisection of the exact power.
    """
    _check_plan(alpha, power)
    _check_n(n)
    chance = _ni_chance(psi, delta1)
    low, high = max(0, math.floor(-1e4 * delta1)), 10_000  # ten-thousandths; high always counts as enough
    while high - low > 1:
        middle = (low + high) // 2
        if _enough(n, -middle / 1e4, alpha, power, chance):
            high = middle
        else:
            low = middle
    return high / 1e4 if high < 10_000 else None


def ni_loss_passed(n: int, margin: float, psi: float, alpha: float, power: float) -> float | None:
    """The largest true loss that the exact rule with n items still passes with the power; None if not even no loss.

    Assumes: as ``ni_power``; the loss comes out of the psi that change either way.
    Reference: bisection; the power falls in the loss.
    """
    _check_plan(alpha, power)
    if ni_power(n, margin, psi, alpha) < power:
        return None
    return bisect(lambda loss: ni_power(n, margin, psi, alpha, -loss) - power, 0.0, min(margin, psi))


def ni_loss_refuted(n: int, margin: float, psi: float, alpha: float, power: float) -> float | None:
    """The smallest true loss with which n items show "worse by more than the margin"; None if no loss does.

    Assumes: as ``ni_power``; psi of the items change either way, all of them for the worse where the loss exceeds psi.
    Reference: the exact rule with the arms swapped and delta0 = margin; bisection.
    """
    _check_plan(alpha, power)
    region = noninferiority_region(n, margin, alpha)

    def surplus(loss: float) -> float:
        gained, lost = _cells(max(psi, loss), -loss)
        return region_power(region, lost, gained) - power

    return bisect(surplus, margin, 1.0) if surplus(1.0) >= 0 else None


def _ni_chance(psi: float, delta1: float) -> Callable[[Sequence[int]], float]:
    """The probability of the region b >= starts[b + c], as a function of starts."""
    cells = _cells(psi, delta1)
    return lambda starts: staircase_probability(starts)(*cells)


def _enough(n: int, delta0: float, alpha: float, power: float, chance: Callable[[Sequence[int]], float]) -> bool:
    """Whether the exact rule has the power: whether some region {Z >= z} has both the power and a size <= alpha.

    Halves the interval of z: at its lower end the size is too large, at its upper end the power is missing.
    """
    low, high = -1.0, math.sqrt(n * (1 - delta0) / (1 + delta0)) + 1  # above the largest Z there is
    rows_low, rows_high = _starts(n, delta0, low), _starts(n, delta0, high)
    while rows_low != rows_high and high - low > 1e-9:
        middle = (low + high) / 2
        rows = _starts(n, delta0, middle)
        if rows == rows_high or chance(rows) < power:
            high, rows_high = middle, rows
        elif rows != rows_low and _supremum(rows, delta0, 1e-6, alpha).upper <= alpha:
            return True
        else:
            low, rows_low = middle, rows
    return False


def _first_run(enough: Callable[[int], bool], start: int) -> int:
    """The first n >= start with enough at n ... n + 11, looked for from the end, so that most n are skipped."""
    enough, first = lru_cache(maxsize=None)(enough), start
    while lacking := next((n for n in range(first + 11, first - 1, -1) if not enough(n)), None):
        first = lacking + 1
    return first


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
    _check_n(n)
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
    start = max(1, math.ceil((spread / d) ** 2))
    return _first_run(lambda n: mcnemar_power(n, psi, d, alpha) >= power, start)


def superiority_gain(n: int, psi: float, alpha: float, power: float) -> float | None:
    """The smallest true gain that exact McNemar shows with n items and the power; None if not even psi is enough.

    Assumes: 0 < psi <= 1; the gain is at most psi.
    Reference: bisection of ``mcnemar_power``, which rises with the gain.
    """
    _check_plan(alpha, power)
    if mcnemar_power(n, psi, psi, alpha) < power:
        return None
    return bisect(lambda d: mcnemar_power(n, psi, d, alpha) - power, 0.0, psi)


def equivalence_power(n: int, margin: float, psi: float, alpha: float, delta1: float = 0.0) -> float:
    """The exact power of "neither worse nor better by the margin" with n items, both one-sided tests at alpha.

    Assumes: as ``ni_power``.
    Reference: the sum over the tables in both regions, starts[m] <= b <= m - starts[m].
    """
    return _both_sides(psi, delta1)(noninferiority_region(n, -margin, alpha).starts)


def equivalence_n(margin: float, psi: float, alpha: float, power: float) -> int:
    """The first n from which equivalence is shown with the power at n, n + 1, ... n + 11, when there is no difference.

    Assumes: as ``equivalence_power``; that n lies above three quarters of the start and below 5000.
    Fails when: slow above n = 1000, as ``ni_exact_n``.
    Reference: each side at power (1 + power) / 2 by the normal formula as a start, then exact power.
    """
    _check_plan(alpha, power)
    start = ni_n(margin, psi, alpha, (1 + power) / 2) * 3 // 4
    chance = _both_sides(psi, 0.0)
    return _first_run(lambda n: _enough(n, -margin, alpha, power, chance), max(1, start))


def _both_sides(psi: float, delta1: float) -> Callable[[Sequence[int]], float]:
    """The probability of starts[b + c] <= b <= b + c - starts[b + c], as a function of starts."""
    share = _cells(psi, delta1)[0] / psi

    def chance(starts: Sequence[int]) -> float:
        n = len(starts) - 1
        both = [(m, start) for m, start in enumerate(starts) if 2 * start <= m]
        terms = (binom_pmf(m, n, psi) * (binom_sf(s, m, share) - binom_sf(m - s + 1, m, share)) for m, s in both)
        return min(1.0, math.fsum(terms))

    return chance


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


def proportion_n(p0: float, p1: float, alpha: float, power: float, side: Side) -> ProportionPlan:
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


def proportion_min_n(p0: float, alpha: float, misses: int = 0) -> int:
    """The units below which not even all but ``misses`` of them show "at least p0" (or that many "at most 1 - p0").

    Assumes: 0 < p0 < 1, misses >= 0.
    Reference: P(Bin(n, 1 - p0) <= misses) <= alpha; without misses p0^n <= alpha. MLPerf's early stopping.
    """
    check_alpha(alpha)
    if not (0 < p0 < 1 and misses >= 0):
        raise ValueError(f"p0 = {p0}, misses = {misses}; expected 0 < p0 < 1 and misses >= 0")

    def shown(n: int) -> bool:
        return (binom_cdf(misses, n, 1 - p0) if misses else p0**n) <= alpha

    high = 1
    while not shown(high):
        high *= 2
    return bisect_left(range(high), True, key=shown)


def proportion_power(n: int, p0: float, p1: float, alpha: float, side: Side) -> float:
    """The exact power of the exact binomial test of "at least (at most) p0" with n units, when it truly is p1.

    Assumes: 0 < p0 < 1, 0 <= p1 <= 1.
    Reference: P(Bin(n, p1) >= k), k the smallest with P(Bin(n, p0) >= k) <= alpha.
    """
    if side == "at_most":
        return proportion_power(n, 1 - p0, 1 - p1, alpha, "at_least")
    return binom_sf(_critical(n, p0, alpha), n, p1)


def proportion_truth(n: int, p0: float, alpha: float, power: float, side: Side) -> float | None:
    """The true proportion closest to p0 for which n units show "at least (at most) p0" with the power; None without one.

    Assumes: 0 < p0 < 1.
    Reference: P(Bin(n, p1) >= k) = I_p1(k, n - k + 1), solved for p1.
    """
    _check_plan(alpha, power)
    if side == "at_most":
        mirrored = proportion_truth(n, 1 - p0, alpha, power, "at_least")
        return None if mirrored is None else 1 - mirrored
    k = _critical(n, p0, alpha)
    return beta_quantile(power, k, n - k + 1) if k <= n else None


def _critical(n: int, p0: float, alpha: float) -> int:
    """The smallest k that shows "at least p0", n + 1 where there is none."""
    check_alpha(alpha)
    _check_n(n)
    if not 0 < p0 < 1:
        raise ValueError(f"p0 = {p0}, expected 0 < p0 < 1")
    return bisect_left(range(n + 1), True, key=lambda k: binom_sf(k, n, p0) <= alpha)


# --- bounded means by betting ----------------------------------------------------------------------


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


def betting_stops(
    xs: Sequence[float],
    weights: Sequence[float],
    lower: float,
    gap: float,
    half_range: float,
    alpha: float,
    n_max: int,
    replicates: int,
    seed: str,
) -> tuple[int, ...]:
    """When betting decides, in ``replicates`` simulated series, sorted; n_max + 1 where it does not within n_max units.

    Units take the values ``xs`` with the chances ``weights``; ``lower``, ``gap``, ``half_range`` as ``betting_p``.
    The share <= n is the power of n units, looked at once or after each; quantiles are the n for a power.

    Assumes: the weights sum to 1. A simulation: the same seed gives the same stops, on every platform.
    """
    check_alpha(alpha)
    if len(xs) != len(weights) or min(weights, default=-1.0) < 0 or abs(math.fsum(weights) - 1) > 1e-9:
        raise ValueError(f"{len(xs)} values, weights {list(weights)}; expected as many weights >= 0 that sum to 1")
    if min(n_max, replicates) < 1:
        raise ValueError(f"n_max = {n_max}, replicates = {replicates}; expected both >= 1")
    chance = random.Random(int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big"))
    steps = list(accumulate(weights))[:-1]

    def stop() -> int:
        series = (xs[bisect_right(steps, chance.random())] for _ in range(n_max))
        capital = enumerate(betting_log_wealth(series, lower, gap, half_range), start=1)
        return next((n for n, log_wealth in capital if math.exp(-log_wealth) <= alpha), n_max + 1)

    return tuple(sorted(stop() for _ in range(replicates)))


# --- means and ratios by Student's t ---------------------------------------------------------------


def t_power(k: int, effect: float, alpha: float) -> float:
    """The power of the one-sided t test with k units, when the truth lies ``effect`` standard deviations on the good side.

    For clustered means k counts clusters, for run ratios blocks (effect in sd of the log ratio); sd from a pilot.

    Assumes: normal units, k >= 2; exact then (to 1e-8 for k >= 4), else an approximation.
    Reference: noncentral t, as the mean over s = S/sigma of P(N(effect sqrt(k), 1) > t s), by the midpoint rule.
    """
    check_alpha(alpha)
    if not (k >= 2 and math.isfinite(effect)):
        raise ValueError(f"k = {k}, effect = {effect}; expected k >= 2 and a finite effect")
    df, shift, critical, parts = k - 1, effect * math.sqrt(k), t_quantile(1 - alpha, k - 1), 500
    low, high = max(0.0, 1 - 6.5 / math.sqrt(df)), 1 + 6.5 / math.sqrt(df)
    step = (high - low) / parts
    scale = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    middles = (low + (i + 0.5) * step for i in range(parts))
    terms = (math.exp(scale + (df - 1) * math.log(s) - df * s * s / 2) * normal_sf(critical * s - shift) for s in middles)
    return min(1.0, step * math.fsum(terms))


def t_effect(k: int, alpha: float, power: float) -> float:
    """The smallest effect, in standard deviations, that k units show with the power.

    Assumes: as ``t_power``.
    Reference: bisection of ``t_power``, which rises with the effect.
    """
    _check_plan(alpha, power)
    high = 1.0
    while t_power(k, high, alpha) < power:
        high *= 2
    return bisect(lambda effect: t_power(k, effect, alpha) - power, 0.0, high)


def t_n(effect: float, alpha: float, power: float) -> int:
    """The units (clusters, blocks) that show an effect of so many standard deviations with the power.

    Assumes: as ``t_power``, effect > 0.
    Reference: normal formula as a start, then ``t_power``, which rises with k.
    """
    _check_plan(alpha, power)
    if effect <= 0:
        raise ValueError(f"effect = {effect}, expected effect > 0")
    k = max(2, math.ceil(((normal_quantile(1 - alpha) + normal_quantile(power)) / effect) ** 2))
    while t_power(k, effect, alpha) < power:
        k += 1
    return k


def mean_n(
    delta: float,
    omega2: float,
    alpha: float,
    power: float,
    noise: tuple[float, float] = (0.0, 0.0),
    reruns: tuple[int, int] = (1, 1),
) -> int:
    """The items that detect a difference ``delta`` of two paired means, each item run several times in either arm.

    ``omega2`` is the variance, over items, of the difference of expected scores; ``noise`` the variance of one run in
    the two arms, ``reruns`` how many runs each item gets.

    Assumes: independent items. One-sided: alpha = .025 for a two-sided 5 %. Normal approximation, see ``t_n``.
    Reference: Miller (2024), arXiv 2411.00640: (z + z)^2 (omega^2 + sA^2/KA + sB^2/KB) / delta^2.
    """
    _check_plan(alpha, power)
    if not (delta > 0 and omega2 >= 0 and min(noise) >= 0 and omega2 + sum(noise) > 0 and min(reruns) >= 1):
        raise ValueError(
            f"delta = {delta}, omega2 = {omega2}, noise = {noise}, reruns = {reruns}; expected delta, a variance > 0, reruns >= 1"
        )
    variance = omega2 + noise[0] / reruns[0] + noise[1] / reruns[1]
    return math.ceil((normal_quantile(1 - alpha) + normal_quantile(power)) ** 2 * variance / delta**2)


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


# --- agreement and corrected judges ----------------------------------------------------------------


def kappa_spread(kappa: float, base: float) -> float:
    """sqrt(n) times the standard error of Cohen's kappa, for two raters who both say yes to a share ``base``.

    Assumes: two categories, equal margins; the kappa is one that this base rate allows.
    Reference: Fleiss, Cohen & Everitt (1969) on the expected table.
    """
    chance = base * base + (1 - base) * (1 - base)
    apart = (1 - kappa) * (1 - chance) / 2  # of either kind
    if not (0 < base < 1 and kappa < 1 and apart <= min(base, 1 - base)):
        raise ValueError(f"kappa = {kappa}, base = {base}; expected 0 < base < 1 and a kappa below 1 that it allows")
    yes = (base - apart) * (1 - 2 * base * (1 - kappa)) ** 2
    no = (1 - base - apart) * (1 - 2 * (1 - base) * (1 - kappa)) ** 2
    variance = yes + no + 2 * apart * (1 - kappa) ** 2 - (kappa - chance * (1 - kappa)) ** 2
    return math.sqrt(variance) / (1 - chance)


def agreement_n(truth: float, bound: float, spread: float, alpha: float, power: float) -> int:
    """The units that show an agreement (kappa, alpha) above ``bound`` with the power, when it truly is ``truth``.

    ``spread`` is sqrt(n) times its standard error: ``kappa_spread``, or from a pilot.

    Assumes: -1 < bound < truth < 1. Normal approximation on the scale of the deciding bound.
    Fails when: used as exact: at n = 100 the gate has up to 8 points more power than planned.
    Reference: (z + z)^2 spread^2 / ((1 - truth^2) (atanh truth - atanh bound))^2.
    """
    _check_plan(alpha, power)
    if not (-1 < bound < truth < 1 and spread > 0):
        raise ValueError(f"truth = {truth}, bound = {bound}, spread = {spread}; expected -1 < bound < truth < 1 and spread > 0")
    scale = spread / (1 - truth * truth)
    distance = math.atanh(truth) - math.atanh(bound)
    return math.ceil(((normal_quantile(1 - alpha) + normal_quantile(power)) * scale / distance) ** 2)


def agreement_bound(n: int, truth: float, spread: float, alpha: float, power: float) -> float:
    """The highest bound that n units show with the power; ``agreement_n`` the other way round.

    Assumes: as ``agreement_n``; power .5 is what a typical sample shows.
    """
    _check_plan(alpha, power)
    _check_n(n)
    if not (-1 < truth < 1 and spread > 0):
        raise ValueError(f"truth = {truth}, spread = {spread}; expected -1 < truth < 1 and spread > 0")
    z = normal_quantile(1 - alpha) + normal_quantile(power)
    return math.tanh(math.atanh(truth) - z * spread / (1 - truth * truth) / math.sqrt(n))


def corrected_se(n: int, m: int, sd: float, correlation: float) -> float:
    """The standard error of a judge-corrected mean (PPI++) with n judged items and m labelled ones.

    ``sd`` is that of one labelled value, ``correlation`` that of label and judge, from a pilot.

    Assumes: the best weight, as ``lambda`` estimates it; m >= 2, 0 <= correlation <= 1.
    Fails when: flips among the labels are few: the gate's corrections cost up to 4 points of the power planned with it.
    Reference: Angelopoulos et al. (2023), PPI++: sd^2/m (1 - correlation^2 n/(n + m)).
    """
    if not (n >= 0 and m >= 2 and sd > 0 and 0 <= correlation <= 1):
        raise ValueError(
            f"n = {n}, m = {m}, sd = {sd}, correlation = {correlation}; expected n >= 0, m >= 2, sd > 0, 0 <= correlation <= 1"
        )
    return sd * math.sqrt((1 - correlation**2 * n / (n + m)) / m)


# --- families --------------------------------------------------------------------------------------


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


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n = {n}, expected n >= 1")


def _check_plan(alpha: float, power: float) -> None:
    check_alpha(alpha)
    if not 0.5 <= power < 1:
        raise ValueError(f"power = {power}, expected 0.5 <= power < 1")
