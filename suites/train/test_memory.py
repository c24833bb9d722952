"""T9: peak memory within the declared figure; and what QLoRA saves, in weights.

Weights are counted exactly as they lie in memory. The peak of a whole process is shown beside them: on a CPU QLoRA's is no
lower, since activations and logits decide it, so no saving of the peak is claimed.
"""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_most
from suites.controls import FAILS, HOLDS, planted
from suites.train import run_margins
from suites.train.drilling import Drilling, device

pytestmark = pytest.mark.train


def _peak_claim(adapter_method: str) -> Claim:
    text = f"a training by {adapter_method} stays within {run_margins.PEAK / 1e9:g} GB, at its peak"
    return Claim(f"T9.peak[{adapter_method}]", text, at_most(run_margins.PEAK), estimand="exact")


@pytest.mark.claim(each=_peak_claim)
def test_the_peak_is_within_the_figure(claim, lesson, adapter_method):
    """Of fresh processes, since a peak cannot be taken back; on CUDA of what torch's allocator gave out."""
    drilling = Drilling(lesson)
    found = drilling.by_method(adapter_method)

    def measure(*names: str) -> Measurement:
        rows = tuple(Sample(name, float(found[name]["peak_bytes"])) for name in names)
        return Measurement(
            "peak_bytes", rows, lesson.subjects, {"device": device(), "batch": drilling.size.batch, "steps": drilling.size.steps}
        )

    fat = [Control(f"planted in the training: {run_margins.FAT} times the rows a step", FAILS, measure("fat"))] if "fat" in found else []
    twice = Measurement("peak_bytes", (Sample("twice the figure", 2 * claim.claim.bound.limit),))
    claim.check(
        measure("first", "twin"),
        controls=[Control("A/A: the same training again", HOLDS, measure("twin")), planted("twice the figure", twice), *fat],
    )


def _saves_claim(tuned: str) -> Claim:
    text = f"QLoRA keeps the base's weights in at most {run_margins.SAVES:.0%} of the bytes that bf16 takes"
    return Claim("T9.saves[qlora]", text, at_most(run_margins.SAVES), estimand="exact")


@pytest.mark.claim(each=_saves_claim)
def test_qlora_saves_weights(claim, lesson, tuned):
    drilling = Drilling(lesson)
    plain, quantized = drilling.by_method("lora")["first"], drilling.by_method("qlora")
    peaks = {"lora": plain["peak_bytes"], "qlora": quantized["first"]["peak_bytes"]}

    def measure(result: dict) -> Measurement:
        detail = {"new": result["weights_bytes"], "old": plain["weights_bytes"]}
        row = Sample("weights in memory", result["weights_bytes"] / plain["weights_bytes"], detail=detail)
        conditions = {"peak_bytes": peaks, "peak_ratio": peaks["qlora"] / peaks["lora"], "device": device()}
        return Measurement("weights_ratio", (row,), lesson.subjects, conditions)

    claim.check(
        measure(quantized["first"]),
        controls=[
            Control("A/A: the same training again", HOLDS, measure(quantized["twin"])),
            Control("planted in the training: bf16 posing as QLoRA", FAILS, measure(plain)),
        ],
    )
