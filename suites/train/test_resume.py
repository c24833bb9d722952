"""R6: a training that was stopped and gone on with in a new process is the training that was not."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, at_most
from harness.plugin import tier_of
from harness.train.drills import FORGETS, Drill
from suites.controls import FAILS, HOLDS
from suites.train import run_margins
from suites.train.drilling import Drilling, device

pytestmark = pytest.mark.train


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``stop``: the steps after which a training is stopped; none at the end of an epoch, where a lost place would not show."""
    metafunc.parametrize("stop", run_margins.SIZES[tier_of(metafunc.config)].stops)


def _claim(tuned: str, stop: int) -> Claim:
    text = f"the training of {tuned}, stopped after step {stop} and gone on with, is the uninterrupted one: loss, rows, adapter, optimizer"
    return Claim(f"R6.resume[{stop}]", text, at_most(run_margins.LOSS_BAND[device()]), estimand="exact")


@pytest.mark.claim(each=_claim)
def test_a_resumed_training_is_the_uninterrupted_one(claim, lesson, tuned, stop):
    """Two epochs with a last batch that is not full, and dropout, so that the random numbers matter."""
    drilling = Drilling(lesson)
    recipe = drilling.recipe(epochs=2, steps=0, dropout=0.1)
    rows = drilling.rows(3 * recipe.batch - 1)
    whole = drilling.run([Drill("whole", recipe, rows), Drill("whole again", recipe, rows)])
    faults = FORGETS if drilling.size.every_fault else FORGETS[:2]
    found = whole | drilling.run(
        [Drill("resumed", recipe, rows, stops=(stop,)), *(Drill(fault, recipe, rows, stops=(stop,), forgets=fault) for fault in faults)]
    )

    def measure(name: str) -> Measurement:
        return drilling.same("training", found[name], found["whole"], resumed_at=found[name]["resumed_at"])

    resumed = measure("resumed")
    claim.check(
        resumed if found["resumed"]["resumed_at"] == stop else _void(resumed, stop),
        controls=[
            Control("A/A: uninterrupted twice", HOLDS, measure("whole again")),
            *(Control(f"planted in the resume: the {fault} is forgotten", FAILS, measure(fault)) for fault in faults),
        ],
    )


def _void(measurement: Measurement, stop: int) -> Measurement:
    """A run that started over shows nothing about going on."""
    said = f"it went on from step {measurement.conditions['resumed_at']}, not from {stop}"
    return Measurement(measurement.metric, measurement.samples, measurement.subjects, measurement.conditions, (said,))
