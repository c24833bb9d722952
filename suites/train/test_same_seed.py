"""R2: the same data, recipe and seed give the same training, to the bit where the machine can."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, at_most
from suites.controls import FAILS, HOLDS
from suites.train import run_margins
from suites.train.drilling import Drilling, device

pytestmark = pytest.mark.train


def _claim(adapter_method: str) -> Claim:
    text = f"two trainings by {adapter_method} with the same data, recipe and seed: loss of each step, rows, adapter, optimizer"
    return Claim(f"R2.curve[{adapter_method}]", text, at_most(run_margins.LOSS_BAND[device()]), estimand="exact")


@pytest.mark.claim(each=_claim)
def test_the_same_seed_gives_the_same_training(claim, lesson, adapter_method):
    """Each in a fresh process with a hash seed of its own."""
    drilling = Drilling(lesson)
    found = drilling.by_method(adapter_method)

    def measure(name: str) -> Measurement:
        return drilling.same("training", found[name], found["first"])

    others = [name for name in ("another seed", "rows in another order") if name in found]
    claim.check(
        measure("twin"),
        controls=[
            Control("A/A: the first against itself", HOLDS, measure("first")),
            *(Control(f"planted in the training: {name}", FAILS, measure(name)) for name in others),
        ],
    )
