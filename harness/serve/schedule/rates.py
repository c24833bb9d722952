"""A ramp of the arrival rate, and its inverse: how many arrivals are expected by when, and when so many are.

``numbers`` are those of a ramp's schedule: r0 and r1 per second, linear or geometric over ``seconds``, after ``warmup_s`` at r0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["expected", "expected_inside", "instant"]


def expected_inside(numbers: Mapping[str, Any], t: float) -> float:
    """Arrivals expected in the first ``t`` seconds of the window."""
    r0, r1, over = numbers["r0"], numbers["r1"], numbers["seconds"]
    if numbers["how"] == "linear" or r0 == r1:
        return float(r0 * t + (r1 - r0) * t * t / (2 * over))
    steep = math.log(r1 / r0)
    return float(r0 * over / steep * math.expm1(steep * t / over))


def expected(numbers: Mapping[str, Any], t: float) -> float:
    """Arrivals expected in the first ``t`` seconds of the run."""
    warm, over = numbers["warmup_s"], numbers["seconds"]
    inside = min(max(t - warm, 0.0), over)
    return float(numbers["r0"] * min(t, warm) + expected_inside(numbers, inside) + numbers["r1"] * max(t - warm - over, 0.0))


def instant(numbers: Mapping[str, Any], total: float) -> float:
    """The inverse of ``expected``."""
    r0, r1, over, warm = numbers["r0"], numbers["r1"], numbers["seconds"], numbers["warmup_s"]
    if total <= r0 * warm:
        return float(total / r0)
    inside, most = total - r0 * warm, expected_inside(numbers, over)
    if inside >= most:
        return float(warm + over + (inside - most) / r1)
    if numbers["how"] == "linear" or r0 == r1:
        return float(warm + 2 * inside / (r0 + math.sqrt(max(0.0, r0 * r0 + 2 * (r1 - r0) / over * inside))))
    steep = math.log(r1 / r0)
    return float(warm + over / steep * math.log1p(steep * inside / (r0 * over)))
