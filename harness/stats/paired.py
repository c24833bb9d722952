"""Paired binary scores: superiority (McNemar) and non-inferiority (Tango's score, exact unconditional).

Throughout, of n items b are right only in the new arm and c only in the old one; p12 and p21 are
their probabilities and delta = p12 - p21. A non-inferiority claim with margin M is "delta > -M"
(delta0 = -M); superiority by at least d is "delta > d" (delta0 = +d).

The exact p is the supremum, over the nuisance parameter, of the probability of a region
R = {(b, c): Z(b, c) >= cutoff}. On the line m = b + c such a region is b >= starts[m], because Z
rises with b there [1]. It is *monotone* (b more or c fewer never leaves it) iff
starts[m] <= starts[m+1] <= starts[m] + 1, which is checked for every region used. P(R) then rises in p12
and falls in p21, so the supremum lies on the boundary line delta = delta0, and on a piece
p12 in [l, h] of it P(R) is at most P(R; p12 = h, p21 = l - delta0). Bisecting pieces brackets it.

[1] Let delta0 = -D, r = 1 + D, p the constrained estimate of p21, N = b - c + nD, V = n(2p - Dr) its variance.
With m fixed dp/db has the sign of r - 2p >= 0. Where N < 0, |N| falls and V rises: Z = N/sqrt(V) rises. Where
N >= 0, Z rises iff 4(2p - Dr)(p - gD) > (N/n) D (r - 2p) with g = cr/(2np) in [0, 1], N/n = 2(p - D)(1 - g)/(1 - D)
- 2pg/r + D; both sides are linear in g and the inequality holds at g = 0 and g = 1. For delta0 > 0 swap the arms.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

from harness.stats.intervals import Interval, check_alpha, wilson
from harness.stats.special import binom_cdf, binom_pmf, binom_sf, bisect, normal_quantile

__all__ = [
    "Bracket",
    "ExactTests",
    "Region",
    "Tests",
    "equivalence",
    "mcnemar",
    "mcnemar_midp",
    "newcombe",
    "noninferiority",
    "noninferiority_region",
    "region_power",
    "staircase_probability",
    "tango_interval",
    "tango_p21",
    "tango_z",
]


class Tests(NamedTuple):
    """Two one-sided p-values: ``p_hold`` tests "the claim is false", ``p_fail`` "the claim is true"."""

    p_hold: float
    p_fail: float


class Bracket(NamedTuple):
    """A number known to lie between two computed ones. Decide with ``upper``."""

    lower: float
    upper: float


class ExactTests(NamedTuple):
    """Exact p-values as brackets. ``monotone`` False: no proof of the supremum, brackets are (0, 1)."""

    p_hold: Bracket
    p_fail: Bracket
    monotone: bool


class Region(NamedTuple):
    """Where the exact rule holds: b >= starts[b + c]. ``size`` is the supremum of its probability at delta0."""

    n: int
    delta0: float
    alpha: float
    z_crit: float
    starts: tuple[int, ...]
    size: Bracket


# --- superiority ---------------------------------------------------------------------------------


def mcnemar(b: int, c: int) -> Tests:
    """Exact conditional p-values of "new is better than old".

    Assumes: independent items; given b + c, b ~ Bin(b + c, 1/2) where the arms are equal.
    Fails when: items are clustered. b + c = 0 gives p = 1.
    Reference: McNemar (1947), exact form; attainable only if 2^-(b+c) <= alpha.
    """
    _check_table(b, c, max(b + c, 1))
    return Tests(binom_sf(b, b + c, 0.5), binom_sf(c, b + c, 0.5))


def mcnemar_midp(b: int, c: int) -> Tests:
    """Mid-p values of "new is better than old": of the table seen, half its probability counts. Opt-in.

    Assumes: as ``mcnemar``, and at least 200 items.
    Fails when: taken as exact: at alpha = .025 its size reaches .028 with 200 items, .033 with 50.
    Reference: Fagerland, Lydersen & Laake (2013), BMC Medical Research Methodology 13:91.
    """
    exact, half = mcnemar(b, c), binom_pmf(b, b + c, 0.5) / 2
    return Tests(exact.p_hold - half, exact.p_fail - half)


# --- Tango's score and the intervals shown --------------------------------------------------------


def tango_p21(b: float, c: float, n: float, delta0: float) -> float:
    """The maximum-likelihood estimate of p21 subject to p12 - p21 = delta0.

    Assumes: b, c >= 0, b + c <= n, -1 < delta0 <= 0 (for delta0 > 0 swap the arms); counts or probabilities (n = 1).
    Reference: Tango (1998).
    """
    linear = -b - c + (2 * n - b + c) * delta0
    constant = -c * delta0 * (1 - delta0)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    return min(max((root - linear) / (4 * n), -delta0), (1 - delta0) / 2)


def tango_z(b: int, c: int, n: int, delta0: float) -> float:
    """The score statistic Z for delta = delta0; large when delta is above. Asymptotic p_hold is ``normal_sf(Z)``.

    Assumes: n independent items, -1 < delta0 < 1.
    Fails when: used to decide: its size exceeds alpha at every n from 50 to 500 (up to .069 at .05).
    Reference: Tango (1998), Statistics in Medicine 17:891.
    """
    _check_table(b, c, n)
    _check_delta(delta0)
    return _z(b, c, n, delta0)


def _z(b: int, c: int, n: int, delta0: float) -> float:
    if delta0 > 0:
        return -_z(c, b, n, -delta0)
    distance = b - c - n * delta0
    if distance == 0:
        return 0.0
    variance = n * (2 * tango_p21(b, c, n, delta0) + delta0 * (1 - delta0))
    if variance <= 0:  # delta0 within rounding of -1
        return math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango_interval(b: int, c: int, n: int, alpha: float, algorithm: Literal["roots", "quartic"] = "roots") -> Interval:
    """Score limits of delta, two-sided at 1 - 2 alpha. For display: the exact p decides.

    Assumes: n independent items.
    Fails when: asymptotic; can exclude the margin while the exact p exceeds alpha.
    Reference: Tango (1998) by bisection of Z; Yang, Sun & Hardin (2013) as roots of a quartic.
    """
    _check_table(b, c, n)
    check_alpha(alpha)
    z = normal_quantile(1 - alpha)
    if b + c == 0:
        return Interval(-z * z / (n + z * z), z * z / (n + z * z))
    if b == n:
        return Interval((n - z * z) / (n + z * z), 1.0)
    if c == n:
        return Interval(-1.0, (z * z - n) / (n + z * z))
    if algorithm == "quartic":
        roots = _quartic_roots(_tango_quartic(b, c, n, Fraction(z) ** 2))
        return Interval(min(roots), max(roots))
    estimate, edge = (b - c) / n, math.nextafter(1, 0)
    low = bisect(lambda d: _z(b, c, n, d) - z, -edge, estimate)
    return Interval(low, bisect(lambda d: _z(b, c, n, d) + z, estimate, edge))


def _tango_quartic(b: int, c: int, n: int, g: Fraction) -> tuple[Fraction, ...]:
    """Exact coefficients, highest first, of the quartic whose outer roots are the limits (g = z^2)."""
    lead = n * n + g * n
    slope = g * (2 * n - b + c) / 2 - 2 * n * (b - c) - g * n
    base = (b - c) ** 2 - g * (b + c) / 2
    k = g * g / 4
    return (
        lead * lead,
        2 * lead * slope,
        slope * slope + 2 * lead * base - k * ((2 * n - b + c) ** 2 - 8 * n * c),
        2 * slope * base - k * (8 * n * c - 2 * (b + c) * (2 * n - b + c)),
        base * base - k * (b + c) ** 2,
    )


def _quartic_roots(coefficients: Sequence[Fraction]) -> list[float]:
    """The real roots of a quartic: Durand-Kerner, then Newton steps with exact residuals."""
    a = [float(value / coefficients[0]) for value in coefficients]
    roots = [(0.4 + 0.9j) ** k for k in range(4)]
    for _ in range(200):
        for i, x in enumerate(roots):
            others = math.prod(x - y for j, y in enumerate(roots) if j != i)
            roots[i] -= ((((x + a[1]) * x + a[2]) * x + a[3]) * x + a[4]) / others
    return [_polish(coefficients, x.real) for x in roots if abs(x.imag) < 1e-5]


def _polish(coefficients: Sequence[Fraction], x: float) -> float:
    """Three Newton steps; near other roots only exact arithmetic keeps the digits."""
    for _ in range(3):
        exact, value, slope = Fraction(x), Fraction(0), Fraction(0)
        for coefficient in coefficients:
            slope = slope * exact + value
            value = value * exact + coefficient
        x = float(exact - value / slope) if slope else x
    return x


def newcombe(a: int, b: int, c: int, d: int, alpha: float, method: Literal[8, 10] = 10) -> Interval:
    """Hybrid-score limits of delta, two-sided at 1 - 2 alpha (a both right, d both wrong). For display.

    Assumes: a + b + c + d independent items.
    Reference: Newcombe (1998), Statistics in Medicine 17:2635, methods 10 (corrected phi) and 8.
    """
    n = a + b + c + d
    _check_table(b, c, n)
    if min(a, d) < 0:
        raise ValueError(f"a = {a}, d = {d}, expected counts >= 0")
    p1, p2 = (a + b) / n, (a + c) / n
    l1, u1 = wilson(a + b, n, alpha)
    l2, u2 = wilson(a + c, n, alpha)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    cross = float(a * d - b * c)
    if method == 10 and cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(product) if product else 0.0
    below, above = (p1 - l1, u2 - p2), (u1 - p1, p2 - l2)
    theta = (b - c) / n
    return Interval(theta - _hybrid(*below, phi), theta + _hybrid(*above, phi))


def _hybrid(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


# --- the exact unconditional test -----------------------------------------------------------------


def noninferiority(b: int, c: int, n: int, delta0: float, *, decide_at: float | None = None, slack: float | None = None) -> ExactTests:
    """Exact unconditional p-values of "delta > delta0", as rigorous brackets at most ``slack`` wide.

    With ``decide_at`` a bracket is refined until it lies on one side of that level, or is ``slack`` wide.
    ``slack`` defaults to 1e-6 with ``decide_at``, else to 1e-4, 1e-3 above n = 2000.

    Assumes: n independent items, n <= 5000, -1 < delta0 < 1 and not 0.
    Fails when: a region is not monotone (never seen); then ``monotone`` is False and p_hold is (0, 1).
    Reference: Tango's ordering; Barnard's convexity (Hsueh, Liu & Chen 2001); supremum by best-first bisection.
    """
    slack = _slack(n, decide_at, slack)
    return _exact_tests(b, c, n, delta0, (slack, decide_at), (slack, decide_at))


def equivalence(b: int, c: int, n: int, margin: float, *, decide_at: float | None = None, slack: float | None = None) -> ExactTests:
    """Exact p-values of "-margin < delta < margin" as rigorous brackets; ``decide_at`` and ``slack`` as in ``noninferiority``.

    Both sides must be shown: p_hold is the larger p of "delta > -margin" and "delta < margin". Either side refutes: p_fail
    is twice the smaller p of "delta >= margin" and "delta <= -margin", so that each side is decided at half the level.
    b = c = 0 can hold; b = n and c = n never do, and refute once n suffices.

    Assumes: as ``noninferiority``; n >= 1 and 0 < margin < 1. Without a margin there is no claim of equality, only ``mcnemar``.
    Fails when: as ``noninferiority``; a difference that is not significant is not thereby equivalent.
    Reference: two one-sided tests, Schuirmann (1987); Liu, Hsueh, Hsieh & Chen (2002) for paired binary data.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin = {margin}, expected 0 < margin < 1; for no margin use mcnemar")
    slack = _slack(n, decide_at, slack)
    hold, fail = (slack, decide_at), (slack / 2, None if decide_at is None else decide_at / 2)
    sides = [_exact_tests(*arms, n, -margin, hold, fail) for arms in ((b, c), (c, b))]
    p_hold = Bracket(*map(max, zip(*(side.p_hold for side in sides), strict=True)))
    refuted = Bracket(*map(min, zip(*(side.p_fail for side in sides), strict=True)))
    p_fail = Bracket(*(min(1.0, 2 * p) for p in refuted))
    return ExactTests(p_hold, p_fail, all(side.monotone for side in sides))


def _slack(n: int, decide_at: float | None, slack: float | None) -> float:
    if slack is None:
        slack = 1e-6 if decide_at is not None else _display_slack(n)
    if not 1e-7 <= slack < 1:
        raise ValueError(f"slack = {slack}, expected 1e-7 <= slack < 1")
    return slack


_Until = tuple[float, float | None]  # how far a bracket is refined: its slack, and the level it decides at


def _exact_tests(b: int, c: int, n: int, delta0: float, hold_until: _Until, fail_until: _Until) -> ExactTests:
    _check_table(b, c, n)
    _check_exact(n, delta0)
    z = _z(b, c, n, delta0)
    hold = _starts(n, delta0, z - 1e-10)
    fail = _starts(n, -delta0, -z - 1e-10)  # {Z <= z} with the arms swapped
    if not (_monotone(hold) and _monotone(fail)):
        return ExactTests(Bracket(0.0, 1.0), Bracket(0.0, 1.0), False)
    return ExactTests(_supremum(hold, delta0, *hold_until), _supremum(fail, -delta0, *fail_until), True)


@lru_cache(maxsize=256)
def noninferiority_region(n: int, delta0: float, alpha: float) -> Region:
    """All tables for which ``noninferiority`` holds at ``alpha``, and the size of that rule.

    Assumes: as ``noninferiority``.
    Fails when: no table at all can hold; the region is then empty and ``z_crit`` above every Z.
    Reference: bisection over the values of Z, since p is non-increasing in Z.
    """
    _check_exact(n, delta0)
    check_alpha(alpha)

    def rejects(starts: Sequence[int]) -> bool:
        if not _monotone(starts):
            raise ValueError(f"n = {n}, delta0 = {delta0}: a rejection region is not monotone, expected monotone")
        return _supremum(starts, delta0, 1e-6, alpha).upper <= alpha

    z_low, z_high = -1.0, _z(n, 0, n, delta0) + 1.0
    while z_high - z_low > 2e-3:
        middle = (z_low + z_high) / 2
        if rejects(_starts(n, delta0, middle - 1e-10)):
            z_high = middle
        else:
            z_low = middle
    candidates = _values_between(n, delta0, z_low, z_high)
    first, last = 0, len(candidates)  # candidates[last:] are known to be rejected
    while first < last:
        middle_index = (first + last) // 2
        if rejects(_starts(n, delta0, candidates[middle_index] - 1e-10)):
            last = middle_index
        else:
            first = middle_index + 1
    z_crit = candidates[last] if last < len(candidates) else z_high
    starts = _starts(n, delta0, z_crit - 1e-10)
    shown = _supremum(starts, delta0, _display_slack(n), None)
    decided = _supremum(starts, delta0, 1e-6, alpha)
    size = Bracket(max(shown.lower, decided.lower), min(shown.upper, decided.upper))
    return Region(n, delta0, alpha, z_crit, tuple(starts), size)


def region_power(region: Region, p12: float, p21: float) -> float:
    """The probability that the exact rule holds when the cell probabilities are p12 and p21.

    Assumes: p12, p21 >= 0 and p12 + p21 <= 1.
    Reference: sum over m of Bin(m; n, p12 + p21) P(Bin(m, p12/(p12 + p21)) >= starts[m]), to 1e-12.
    """
    return staircase_probability(region.starts)(p12, p21)


def _display_slack(n: int) -> float:
    return 1e-4 if n <= 2000 else 1e-3


def _starts(n: int, delta0: float, cutoff: float) -> list[int]:
    """For each m = b + c the smallest b with Z >= cutoff, m + 1 where there is none."""
    starts, b = [], 0
    for m in range(n + 1):
        while b <= m and _z(b, m - b, n, delta0) < cutoff:
            b += 1
        while b > 0 and _z(b - 1, m - b + 1, n, delta0) >= cutoff:
            b -= 1
        starts.append(b)
    return starts


def _monotone(starts: Sequence[int]) -> bool:
    return all(0 <= after - before <= 1 for before, after in pairwise(starts))


def _values_between(n: int, delta0: float, z_low: float, z_high: float) -> list[float]:
    """The values of Z in [z_low, z_high), in order."""
    lows, highs = _starts(n, delta0, z_low), _starts(n, delta0, z_high)
    return sorted(_z(b, m - b, n, delta0) for m, (low, high) in enumerate(zip(lows, highs, strict=True)) for b in range(low, high))


def _supremum(starts: Sequence[int], delta0: float, slack: float, decide_at: float | None) -> Bracket:
    """The supremum of P(R) over p12 - p21 = delta0, bracketed by best-first splitting."""
    probability = staircase_probability(starts)
    rounding = 1e-9

    def piece(left: float, right: float) -> tuple[float, float, float]:
        return -(probability(right, left - delta0) + rounding), left, right

    heap = [piece(max(0.0, delta0), (1 + delta0) / 2)]
    lower = 0.0
    while True:
        upper = min(1.0, -heap[0][0])
        decided = decide_at is not None and (lower > decide_at or upper <= decide_at)
        if decided or upper - lower <= slack + 2 * rounding:
            return Bracket(lower, upper)
        _, left, right = heapq.heappop(heap)
        middle = (left + right) / 2
        inside = probability(middle, middle - delta0) - rounding
        lower = max(lower, inside)
        goal = max(lower + slack, decide_at or 0.0)  # as many parts as should bring each below this
        parts = min(64, max(2, math.ceil(1.1 * (upper - inside) / (goal - inside))))
        cuts = [left + (right - left) * i / parts for i in range(parts)] + [right]
        for ends in pairwise(cuts):
            heapq.heappush(heap, piece(*ends))


def staircase_probability(starts: Sequence[int]) -> Callable[[float, float], float]:
    """A function (p12, p21) -> P(b >= starts[b + c]) for a trinomial (b, c), to 1e-12.

    Only the m = b + c within Bernstein's bound of its mean are visited. The tail of b given m is computed once, in
    the middle, and carried from m to m + 1 by P(Bin(m+1, t) >= s) = P(Bin(m, t) >= s) + t P(Bin(m, t) = s - 1).

    Assumes: starts[m] <= starts[m+1] <= starts[m] + 1, starts[0] in {0, 1}.
    """
    n = len(starts) - 1
    first = sum(start == 0 for start in starts)  # the rows m < first are wholly inside
    rows = [_row(m, n, starts) for m in range(n)]

    def probability(p12: float, p21: float) -> float:
        psi = min(1.0, p12 + p21)
        share = p12 / psi if psi else 0.0
        reach = math.log(4e13) / 3
        reach += math.sqrt(reach * reach + 6 * reach * n * psi * (1 - psi))
        low, high = max(0, math.ceil(n * psi - reach)), min(n, math.floor(n * psi + reach))
        if high < first:
            return 1.0
        middle = min(high, max(low, first, round(n * psi)))
        chance = binom_pmf(starts[middle] - 1, middle, share)
        if chance < 1e-250 or not (psi < 1 and 0 < share < 1):  # the recurrence would underflow
            terms = (binom_pmf(m, n, psi) * binom_sf(starts[m], m, share) for m in range(low, high + 1))
            return math.fsum(terms)
        weight = binom_pmf(middle, n, psi)
        tail = binom_sf(starts[middle], middle, share)
        above = _upwards(rows[middle:high], psi, share, weight, tail, chance)
        below = _downwards(rows[max(low, first) : middle], psi, share, weight, tail, chance)
        inside = binom_cdf(first - 1, n, psi) if low < first else 0.0
        return min(1.0, above + below + inside)

    return probability


class _Row(NamedTuple):
    """What turns the row m into the row m + 1."""

    rises: bool  # starts[m + 1] = starts[m] + 1
    ratio: float  # of the chances of b = starts - 1, up to the factor t (rises) or 1 - t
    gain: float  # what the tail gains, in units of t times the chance
    odds: float  # of the weights of m, up to the factor psi / (1 - psi)


def _row(m: int, n: int, starts: Sequence[int]) -> _Row:
    start, odds = starts[m], (n - m) / (m + 1)
    if starts[m + 1] > start:
        return _Row(True, (m + 1) / start, -(m + 1 - start) / start, odds) if start else _Row(True, 0.0, 0.0, odds)
    return _Row(False, (m + 1) / (m + 2 - start), 1.0, odds)


def _upwards(rows: Sequence[_Row], psi: float, share: float, weight: float, tail: float, chance: float) -> float:
    """Sum of weight times tail, from the given row on."""
    odds, rest, total = psi / (1 - psi), 1 - share, weight * tail
    for rises, ratio, gain, step in rows:
        tail += gain * share * chance
        chance *= ratio * (share if rises else rest)
        weight *= step * odds
        total += weight * tail
    return total


def _downwards(rows: Sequence[_Row], psi: float, share: float, weight: float, tail: float, chance: float) -> float:
    """Sum of weight times tail over the rows before the given one."""
    odds, rest, total = psi / (1 - psi), 1 - share, 0.0
    for rises, ratio, gain, step in reversed(rows):
        chance /= ratio * (share if rises else rest)
        tail -= gain * share * chance
        weight /= step * odds
        total += weight * tail
    return total


def _check_table(b: int, c: int, n: int) -> None:
    if n < 1 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"b = {b}, c = {c}, n = {n}; expected n >= 1, b, c >= 0 and b + c <= n")


def _check_delta(delta0: float) -> None:
    if not -1 < delta0 < 1:
        raise ValueError(f"delta0 = {delta0}, expected -1 < delta0 < 1")


def _check_exact(n: int, delta0: float) -> None:
    _check_delta(delta0)
    if delta0 == 0:
        raise ValueError("delta0 = 0, expected a margin; for no margin use mcnemar")
    if not 1 <= n <= 5000:
        raise ValueError(f"n = {n}, expected 1 <= n <= 5000; above, use the asymptotic tango_z")
