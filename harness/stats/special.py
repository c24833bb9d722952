"""Binomial, beta, Student and normal tails, accurate far into the tails, in scalar arithmetic.

The binomial probabilities use Loader's saddle-point form: logarithms of factorials never cancel
against each other, so that n = 5000 is as accurate as n = 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

__all__ = [
    "beta_quantile",
    "betainc",
    "binom_cdf",
    "binom_pmf",
    "binom_sf",
    "bisect",
    "normal_quantile",
    "normal_sf",
    "t_cdf",
    "t_quantile",
]


def binom_pmf(k: int, n: int, p: float) -> float:
    """P(X = k) for X ~ Bin(n, p), to about 1e-13 relative.

    Assumes: n >= 0, 0 <= p <= 1; 0 outside 0 <= k <= n.
    Reference: Loader (2000), Fast and accurate computation of binomial probabilities.
    """
    _check_binomial(n, p)
    return _mass(k, n - k, p, 1 - p) if 0 <= k <= n else 0.0


def binom_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Bin(n, p), relative accuracy kept in the far tail.

    Assumes: n >= 0, 0 <= p <= 1; any integer k.
    Reference: P(X <= k) = I_{1-p}(n - k, k + 1).
    """
    _check_binomial(n, p)
    if k < 0:
        return 0.0
    return 1.0 if k >= n else _betainc(n - k, k + 1, 1 - p, p)


def binom_sf(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Bin(n, p): **at least** k, where scipy's sf(k) means more than k.

    Assumes: n >= 0, 0 <= p <= 1; any integer k.
    Reference: P(X >= k) = I_p(k, n - k + 1).
    """
    _check_binomial(n, p)
    if k <= 0:
        return 1.0
    return 0.0 if k > n else _betainc(k, n - k + 1, p, 1 - p)


def betainc(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    Assumes: a, b > 0 and 0 <= x <= 1.
    Fails when: 1 - x matters beyond double precision; ask for I_{1-x}(b, a) instead.
    Reference: DiDonato & Morris (1992), ACM TOMS 18 (continued fraction); prefactor after Loader (2000).
    """
    if not (0 < a < math.inf and 0 < b < math.inf and 0 <= x <= 1):
        raise ValueError(f"a = {a}, b = {b}, x = {x}; expected a, b > 0 and 0 <= x <= 1")
    return _betainc(a, b, x, 1 - x)


def beta_quantile(prob: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = prob.

    Assumes: a, b > 0 and 0 <= prob <= 1.
    Reference: bisection of ``betainc`` down to adjacent floats.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"prob = {prob}, expected 0 <= prob <= 1")
    return bisect(lambda x: betainc(a, b, x) - prob, 0.0, 1.0)


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with ``df`` degrees of freedom, accurate in the left tail.

    Assumes: df > 0, t not NaN. For a right tail ask for t_cdf(-t).
    Reference: P(T <= -|t|) = I_{df/(df+t^2)}(df/2, 1/2) / 2.
    """
    if not 0 < df < math.inf or math.isnan(t):
        raise ValueError(f"t = {t}, df = {df}; expected a number and 0 < df < inf")
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    tail = 0.5 * _betainc(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))
    return tail if t < 0 else 1 - tail


def t_quantile(prob: float, df: float) -> float:
    """The t with P(T <= t) = prob.

    Assumes: 0 < prob < 1, df > 0.
    Reference: bisection of ``t_cdf`` in the left tail, where it is accurate.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob = {prob}, expected 0 < prob < 1")
    tail = min(prob, 1 - prob)
    far = -1.0
    while t_cdf(far, df) > tail:
        far *= 2
    root = bisect(lambda t: t_cdf(t, df) - tail, far, 0.0)
    return root if prob <= 0.5 else -root


def normal_quantile(prob: float) -> float:
    """The z with P(N(0,1) <= z) = prob.

    Assumes: 0 < prob < 1.
    Reference: Wichura (1988), AS 241, as in the standard library.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob = {prob}, expected 0 < prob < 1")
    return NormalDist().inv_cdf(prob)


def normal_sf(z: float) -> float:
    """P(N(0,1) > z), accurate in the right tail.

    Assumes: z is not NaN.
    """
    if math.isnan(z):
        raise ValueError("z is NaN, expected a number")
    return 0.5 * math.erfc(z / math.sqrt(2))


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """The point between low and high where f changes sign, to the last representable digit.

    Assumes: low <= high; f is monotone there, rising or falling. Without a change of sign: the end where f is nearer to 0.
    """
    at_low, at_high = f(low), f(high)
    if at_low == 0 or at_high == 0 or (at_low > 0) == (at_high > 0):
        return low if abs(at_low) <= abs(at_high) else high
    while low < (middle := (low + high) / 2) < high:
        value = f(middle)
        if value == 0:
            return middle
        if (value > 0) == (at_low > 0):
            low = middle
        else:
            high = middle
    return low


def _check_binomial(n: int, p: float) -> None:
    if n < 0 or not 0 <= p <= 1:
        raise ValueError(f"n = {n}, p = {p}; expected n >= 0 and 0 <= p <= 1")


def _mass(a: float, b: float, x: float, y: float) -> float:
    """Gamma(a+b+1) / (Gamma(a+1) Gamma(b+1)) x^a y^b with y = 1 - x: the binomial mass, a and b real."""
    n = a + b
    if a == 0 or b == 0:
        other = x if a == 0 else y
        return math.exp(n * math.log1p(-other)) if other < 1 else float(n == 0)
    if x == 0 or y == 0:
        return 0.0
    exponent = _stirling(n) - _stirling(a) - _stirling(b) - _deviance(a, n * x) - _deviance(b, n * y)
    return math.exp(exponent) * math.sqrt(n / (2 * math.pi * a * b))


def _stirling(n: float) -> float:
    """ln Gamma(n+1) minus Stirling's formula."""
    if n < 16:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
    s = 1 / (n * n)
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - (1 / 1188 - 691 / 360360 * s) * s) * s) * s) * s) / n


def _deviance(k: float, mean: float) -> float:
    """k ln(k/mean) + mean - k, without cancellation where k is near the mean."""
    if abs(k - mean) >= 0.1 * (k + mean):
        return k * math.log(k / mean) + mean - k
    v = (k - mean) / (k + mean)
    total, term, j = (k - mean) * v, 2 * k * v, 1
    while True:
        term *= v * v
        step = total + term / (2 * j + 1)
        if step == total:
            return total
        total, j = step, j + 1


def _betainc(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b) where y = 1 - x is given too, so that neither end loses digits."""
    if x == 0 or y == 0:
        return 0.0 if x == 0 else 1.0
    power = _mass(a, b, x, y) * a * b / (a + b)
    if x * (a + b) < a:
        return power / _fraction(a, b, x, y)
    return 1 - power / _fraction(b, a, y, x)


def _fraction(a: float, b: float, x: float, y: float) -> float:
    """The continued fraction of the incomplete beta function for x < a/(a+b) (modified Lentz).

    Reference: DiDonato & Morris (1992), ACM TOMS 18, equation 9, with no cancellation near x = 1.
    """
    value = a * (a * y - b * x + 1) / (a + 1)
    c, d, change, m = value, 0.0, 0.0, 0
    while abs(change - 1) > 1e-15:
        m += 1
        s = a + 2 * m
        top = (a + m - 1) * (a + b + m - 1) * m * (b - m) * x * x / ((s - 1) * (s - 1))
        rest = m + m * (b - m) * x / (s - 1) + (a + m) * (a * y - b * x + 1 + m * (1 + y)) / (s + 1)
        d = 1 / (rest + top * d)
        c = rest + top / c
        change = c * d
        value *= change
    return value
