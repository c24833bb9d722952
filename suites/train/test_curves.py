"""T8: the training loss fell, and rows that were held out are predicted better too, whatever the seed.

Both by the exact sign test: the unit is a seed, or a step of the last fifth beside its counterpart of the first. Few units
with a skewed spread carry no t interval, and signs need none.
"""

from __future__ import annotations

from statistics import fmean

import pytest

from harness import Claim, Control, Measurement, Sample, at_least
from harness.train.drills import Drill
from suites import trained
from suites.controls import FAILS
from suites.train import run_margins
from suites.train.drilling import Drilling

pytestmark = pytest.mark.train

HOT = 1000  # times the learning rate of the recipe: what is learned then is lost again at once


def _generalises_claim(tuned: str) -> Claim:
    text = f"by the recipe of {tuned} a held-out loss falls by {run_margins.GAIN:g} nats a token or more, for more than half of all seeds"
    return Claim("T8.generalises", text, at_least(0.5), estimand="proportion", alpha=0.05, min_n=len(run_margins.SEEDS), expected=0.999)


@pytest.mark.claim(each=_generalises_claim)
def test_what_is_learned_generalises(claim, lesson, tuned):
    drilling = Drilling(lesson)
    size = drilling.size

    def drilled(**changes) -> list[dict]:
        recipes = [drilling.recipe(seed=seed, **{"steps": size.seed_steps, **changes}) for seed in run_margins.SEEDS]
        rows, held = drilling.rows(size.batch * size.seed_steps), drilling.held_out(size.held_out)
        return list(drilling.run([Drill(f"seed {r.seed}", r, rows, held) for r in recipes]).values())

    def measure(results: list[dict], old: str = "before", new: str = "after") -> Measurement:
        samples = tuple(_gained(seed, result, old, new) for seed, result in zip(run_margins.SEEDS, results, strict=True))
        return Measurement(
            "held_out_loss", samples, lesson.subjects, {"recipe": drilling.recipe(steps=size.seed_steps).same(), "held_out": size.held_out}
        )

    results, hot = drilled(), []
    if size.every_fault:
        diverged = measure(drilled(steps=2, lr=HOT * lesson.recipe.lr))
        hot = [Control(f"planted in the training: {HOT} times the learning rate", FAILS, diverged)]
    claim.check(
        measure(results),
        controls=[
            Control("A/A: the base against itself has gained nothing", FAILS, measure(results, new="before")),
            Control("planted in the scores: arms swapped", FAILS, measure(results, old="after", new="before")),
            *hot,
        ],
    )


def _gained(seed: int, result: dict, old: str, new: str) -> Sample:
    """1 if the loss on the held-out rows fell; with the gap between the last steps and the held-out rows."""
    held = result.get("held_out")
    if held is None:  # it failed: no gain
        return Sample(f"seed {seed}", None, status="failed", detail={"cause": result["cause"]})
    before, after, train = fmean(held[old]), fmean(held[new]), fmean(result["loss"][-3:])
    detail = {"before": before, "after": after, "train": train, "gap": after - train, "curve": result["loss"]}
    return Sample(f"seed {seed}", float(after <= before - run_margins.GAIN), detail=detail)


def _fell_claim(recorded: str) -> Claim:
    text = f"the last fifth of the loss curve of {recorded} lies below the first, at more than half of its steps"
    return Claim(f"T8.fell[{recorded}]", text, at_least(0.5), estimand="proportion", alpha=0.05, min_n=5, expected=0.999)


@pytest.mark.claim(each=_fell_claim)
def test_the_training_loss_fell(claim, bench, recorded):
    curve = bench.trained(recorded).report["loss"]
    part = max(1, len(curve) // run_margins.FIFTHS)

    def measure(losses: list[float], **conditions) -> Measurement:
        pairs = zip(losses[:part], losses[-part:], strict=True)
        samples = tuple(
            Sample(f"step {i + 1} of a fifth", float(new < old), detail={"first": old, "last": new}) for i, (old, new) in enumerate(pairs)
        )
        return Measurement("training_loss", samples, (bench.subject(recorded),), {"curve": losses, "steps": len(losses), **conditions})

    claim.check(
        measure(curve, **trained.told(bench, recorded)),
        controls=[
            Control("A/A: the first fifth against itself has not fallen", FAILS, measure([*curve[:part], *curve[:part]])),
            Control("planted in the scores: the curve backwards", FAILS, measure(curve[::-1])),
        ],
    )
