"""A reference damaged on purpose: what the path that a build goes must stop. What is planted in scores: ``suites.controls``."""

from __future__ import annotations

from harness.types import Control, Measurement
from suites.controls import NOT_HOLDS

# One matrix damaged a little: 3% noise, a square block turned over, the zero point of one group a step off.
ONE_MATRIX = "blk.12.attn_q.weight"
ONE_MATRIX_DAMAGED = (f"noise-tensor:{ONE_MATRIX}:0.03", f"transpose-block:{ONE_MATRIX}:64", f"zero-point:{ONE_MATRIX}:1")


def drowned(reference: str) -> str:
    """The reference with block 12 drowned in noise of three times its own spread."""
    return f"damaged:{reference}:noise-layer:12:3"


def damaged(measurement: Measurement) -> Control:
    """A really damaged copy of the reference through the whole path: must not hold."""
    return Control("planted in the model: block 12 drowned in noise", NOT_HOLDS, measurement)
