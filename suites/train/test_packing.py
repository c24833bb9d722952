"""T3: what is packed into one sequence stays apart."""

from __future__ import annotations

import pytest

from harness import Claim, Control, at_most
from harness.train.invariants import packing
from suites.controls import FAILS
from suites.train import margins

pytestmark = pytest.mark.train


def _claim(tuned: str) -> Claim:
    text = f"packed, each training row of {tuned} gets the logits that it gets alone: largest difference, in float32"
    return Claim("T3.packing", text, at_most(margins.ROUNDING), estimand="exact")


@pytest.mark.claim(each=_claim)
def test_packed_rows_do_not_see_each_other(claim, lesson, tuned):
    rows = lesson.rows[: margins.PACKED_ROWS]
    found = lesson.kept("packing", {"n": len(rows)}, lambda: packing.leaks(lesson.base, rows, lesson.recipe))
    planted = [Control(f"planted: {fault}", FAILS, lesson.facts("logit_difference", found[fault])) for fault in packing.FAULTS]
    claim.check(lesson.facts("logit_difference", found[""], dtype="float32"), controls=planted)
