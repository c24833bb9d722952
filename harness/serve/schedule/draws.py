"""Random numbers that are the same everywhere: raw words of Philox4x64-10, and inverse distribution functions of them.

The words are those of ``numpy.random.Philox(key=key).random_raw()``; what numpy makes of them has changed between its
versions, the words have not. A stream belongs to a seed and a purpose: another schedule of prompts leaves the arrivals alone.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator

__all__ = ["exponential", "gamma_hazard", "gamma_quantile", "key", "philox", "shuffled", "uniform"]

_M0, _M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_MASK = 0xFFFFFFFFFFFFFFFF


def key(seed: int, purpose: str) -> int:
    """The 128-bit key of the stream that ``seed`` gives to one purpose ("arrivals", "prompts", ...)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:16], "little")


def philox(stream: int) -> Iterator[int]:
    """64-bit words without end.

    Reference: Salmon et al. (2011), Philox4x64 with 10 rounds; the counter starts at 1, as numpy's does.
    """
    first, second = stream & _MASK, stream >> 64
    keys = [((first + i * _W0) & _MASK, (second + i * _W1) & _MASK) for i in range(10)]
    counter = 0
    while True:
        counter += 1
        a, b, c, d = counter & _MASK, counter >> 64 & _MASK, 0, 0
        for k0, k1 in keys:
            low, high = a * _M0, c * _M1
            a, b, c, d = (high >> 64) ^ b ^ k0, high & _MASK, (low >> 64) ^ d ^ k1, low & _MASK
        yield a
        yield b
        yield c
        yield d


def uniform(words: Iterator[int]) -> Iterator[float]:
    """Numbers strictly between 0 and 1, each of the upper 52 bits of a word."""
    return (((word >> 12) + 0.5) * 2.0**-52 for word in words)


def exponential(words: Iterator[int]) -> Iterator[float]:
    """Independent gaps of mean 1."""
    log = math.log
    return (-log(u) for u in uniform(words))


def shuffled(n: int, words: Iterator[int]) -> list[int]:
    """The numbers 0 to n - 1 in random order: sorted by one word each (ties, of chance n^2 / 2^65, keep their order)."""
    return [i for _, i in sorted((next(words), i) for i in range(n))]


# --- gamma ------------------------------------------------------------------------------------------


def gamma_hazard(x: float, shape: float) -> float:
    """-ln P(X > x) for a gamma variable of this shape and scale 1: exponential with mean 1 if x is such a variable.

    Reference: the series below shape + 1, Lentz's continued fraction above.
    """
    if x <= 0:
        return 0.0
    front = shape * math.log(x) - x - math.lgamma(shape)
    if x < shape + 1:
        return -math.log1p(-min(math.exp(front) * _series(x, shape), 1 - 2.0**-53))
    return -front - math.log(_fraction(x, shape))


def gamma_quantile(shape: float) -> Callable[[float], float]:
    """The inverse of P(X <= x) for one shape from .01 to 1000, to about 1e-7 relative.

    ln x as a function of the logit of the probability is nearly straight below and nearly logarithmic above: a cubic
    through 1,500 exact points with exact slopes.
    """
    step, reach = 1 / 20, 37.0
    at = [-reach + i * step for i in range(int(2 * reach / step) + 1)]
    points = _points(at, shape)

    def quantile(prob: float) -> float:
        t = math.log(prob / (1 - prob)) if prob < 0.5 else -math.log((1 - prob) / prob)
        i = min(max(bisect_right(at, t) - 1, 0), len(at) - 2)
        (y0, slope0), (y1, slope1) = points[i], points[i + 1]
        s = (t - at[i]) / step
        rest = 1 - s
        return math.exp(rest * rest * ((1 + 2 * s) * y0 + s * step * slope0) + s * s * ((1 + 2 * rest) * y1 - rest * step * slope1))

    return quantile


def _points(at: list[float], shape: float) -> list[tuple[float, float]]:
    """(ln x, its slope) at each logit, by Newton's method from the point before on the nearer tail."""
    gone = math.lgamma(shape)
    y = (at[0] + math.lgamma(shape + 1)) / shape  # far below, P = x^shape / Gamma(shape + 1)
    points, slope, before = [], 1 / shape, at[0]
    for t in at:
        y += slope * (t - before)
        low, high = 1 / (1 + math.exp(-t)), 1 / (1 + math.exp(t))
        for _ in range(40):
            x = math.exp(y)
            density = math.exp(shape * y - x - gone)  # of ln x
            ratio = _series(x, shape) if x < shape + 1 else _fraction(x, shape)  # the nearer tail over the density
            error = math.log(density * ratio / low) * ratio if x < shape + 1 else -math.log(density * ratio / high) * ratio
            y -= error
            if abs(error) < 1e-14 * max(1.0, abs(y)):
                break
        slope = low * high / math.exp(shape * y - math.exp(y) - gone)
        points.append((y, slope))
        before = t
    return points


def _series(x: float, shape: float) -> float:
    term = total = 1 / shape
    n = shape
    while term > total * 1e-17:
        n += 1
        term *= x / n
        total += term
    return total


def _fraction(x: float, shape: float) -> float:
    b, c = x + 1 - shape, 1e300
    d = value = 1 / b
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        value *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return value
