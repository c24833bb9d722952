"""T10: a kill at any file boundary leaves what is gone on with to the same end, or refused by name; never another result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from harness import Claim, Control, Measurement, Sample, identical, provenance
from harness.lifecycle.subjects import threads
from harness.train import kills
from harness.train.drills import require
from harness.train.recipe import Recipe
from harness.train.trainer import versions
from suites.controls import FAILS, HOLDS
from suites.selftest import tiny_model

pytestmark = pytest.mark.train

STEP = 1  # raised by hand when what harness/train/kills measures changes
SHOTS = {"killed": ("killed", "killed and cut"), "torn": kills.TEARS}
TEXTS = {
    "killed": "a training killed at any file boundary, the file under way cut too, goes on to the same adapter or is refused by name",
    "torn": "a training any file of which is missing, empty, halved or altered goes on to the same adapter or is refused by name",
}
ROWS = [([{"role": "user", "content": f"the {i}"}], "fox" if i % 2 else "dog") for i in range(8)]
RECIPE = Recipe(rank=4, alpha=8, lr=2e-2, epochs=2, batch=4, max_length=64, dropout=0.1, save_every=2)  # 4 steps, 2 epochs
STOP = 3  # within an epoch: checkpoints of two steps lie there then


def _claim(tuned: str, harm: str) -> Claim:
    return Claim(f"T10.kill[{harm}]", TEXTS[harm], identical())


@pytest.mark.parametrize("harm", SHOTS)
@pytest.mark.claim(each=_claim)
def test_no_kill_changes_the_result(claim, bench, tuned, harm):
    """On a tiny model: files are written by the same code, whatever is in them."""

    def shots(*, careless: bool) -> dict:
        inputs = {
            "step": STEP, "rows": ROWS, "recipe": RECIPE.same(), "save_every": RECIPE.save_every, "stop": STOP, "careless": careless,
            "versions": versions(), "cpu": provenance.machine()["cpu"],
        }  # fmt: skip
        return bench.cached("kills", inputs, lambda: _matrix(bench, careless))

    def measure(found: dict, harms: tuple[str, ...]) -> Measurement:
        rows = tuple(_sample(shot) for shot in found["shots"] if shot["harm"] in harms)
        return Measurement(
            "resumed", rows, conditions={"boundaries": found["boundaries"], "adapter": found["reference"], "recipe": RECIPE.same()}
        )

    honest = shots(careless=False)
    claim.check(
        measure(honest, SHOTS[harm]),
        controls=[
            Control("A/A: nothing is done to it", HOLDS, measure(honest, ("nothing",))),
            Control("planted in the code: written in place, any checkpoint taken", FAILS, measure(shots(careless=True), SHOTS[harm])),
        ],
    )


def _matrix(bench, careless: bool) -> dict:
    require([RECIPE])
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        base = tiny_model.build(Path(folder))
        return kills.matrix(base, ROWS, RECIPE, bench.progress, stop=STOP, at_once=threads(), careless=careless)


def _sample(shot: dict) -> Sample:
    """Right where it came to the same end or was refused by name; and, if it was to be killed, was."""
    good = shot["outcome"] in ("identical", "refused") and shot["killed"] == shot["harm"].startswith("killed")
    return Sample(f"{shot['at']}: {shot['harm']}", float(good), detail=shot)
