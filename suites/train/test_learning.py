"""T7: one batch can be learned by heart."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_most
from harness.train.invariants import learning
from suites.controls import FAILS
from suites.train import margins

pytestmark = pytest.mark.train


def _claim(tuned: str) -> Claim:
    text = f"the recipe of {tuned} learns one batch by heart: its loss after {margins.STEPS} steps, in nats per token of the answers"
    return Claim("T7.overfit", text, at_most(margins.LEARNED), estimand="exact")


@pytest.mark.claim(each=_claim)
def test_one_batch_is_learned_by_heart(claim, lesson, tuned):
    rows = sorted(lesson.rows, key=lambda row: (len(row[0][0]["content"]) + len(row[1]), row[1]))[: margins.BATCH]  # the shortest

    def measure(fault: str = "") -> Measurement:
        inputs = {"n": len(rows), "steps": margins.STEPS, "fault": fault}
        curve = lesson.kept("by-heart", inputs, lambda: learning.by_heart(lesson.base, rows, lesson.recipe, margins.STEPS, fault))
        row = Sample(f"the loss at step {len(curve)}", curve[-1], detail={"curve": curve})
        return Measurement("loss", (row,), lesson.subjects, {"recipe": lesson.recipe.same(), "rows": len(rows)})

    claim.check(measure(), controls=[Control(f"planted: {fault}", FAILS, measure(fault)) for fault in learning.FAULTS])
