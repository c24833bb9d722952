"""What is planted by turning something round: the pairs, or the arms."""

from __future__ import annotations

from harness.types import Control, Measurement
from suites.controls import NOT_HOLDS


def turned_round(real: Measurement, nothing: float, turned: Measurement) -> list[Control]:
    """The same with chosen and rejected, or the arms, swapped: must not hold.

    None where the mean is no better than ``nothing``: the mirror image of a loss is a gain, and swapping plants no fault in it.
    """
    values = [(s.value or 0.0) * (-1 if s.arm == "old" else 1) for s in real.samples]
    better = sum(values) > nothing * len({s.item for s in real.samples})
    return [Control("planted: swapped", NOT_HOLDS, turned)] if better else []
