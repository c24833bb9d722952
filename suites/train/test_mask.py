"""T2: the loss covers the answers with their end marks, and nothing else."""

from __future__ import annotations

import pytest

from harness import Claim, Control, identical
from harness.train.invariants import mask
from suites.controls import FAILS
from suites.train import margins

pytestmark = pytest.mark.train

COVERS = {
    "prompt_completion": "the answer, its end mark and what the template writes behind it",
    "messages": "the answer and its end mark",
    "multi_turn": "each answer of the conversation and its end mark",
    "text": "every token, and one end mark that trl adds",
    "packed": "the answer, its end mark and what the template writes behind it",
    "preference": "both answers, their end marks and what the template writes behind them",
}


def _claim(row_format: str) -> Claim:
    text = f"in rows of the form {row_format} the loss covers {COVERS[row_format]}, and nothing else, on every training row"
    return Claim(f"T2.mask[{row_format}]", text, identical())


@pytest.mark.claim(each=_claim)
def test_the_loss_covers_the_answer_alone(claim, lesson, row_format):
    def measure(fault: str = ""):
        rows = lesson.rows[: margins.MUTANT_ROWS] if fault else lesson.rows
        found = lesson.kept(
            "masks",
            {"form": row_format, "fault": fault, "n": len(rows)},
            lambda: mask.covered(lesson.base, rows, lesson.recipe, row_format, fault),
        )
        return lesson.facts("loss_mask", found, form=row_format)

    claim.check(measure(), controls=[Control(f"planted: {fault}", FAILS, measure(fault)) for fault in mask.FAULTS[row_format]])
