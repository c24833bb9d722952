"""PF1: before anything was learned, the loss, its gradient and the direction of the pairs are what the paper derives."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, within
from harness.lifecycle import preferences
from harness.train.recipe import Recipe
from suites.controls import FAILS, HOLDS
from suites.prefer import margins

pytestmark = pytest.mark.prefer

AGAIN = "A/A: the same configuration and seed once more"


@pytest.fixture
def steps(bench, preferred):
    compare = bench.settings.compare
    said = bench.settings.recipes.get(preferred, {})
    recipe = Recipe(objective="dpo", **{key: said[key] for key in ("beta", "rank", "alpha") if key in said})
    found = bench.preferences.first_steps(compare.tuned, compare.base, recipe, margins.PAIRS[bench.tier.name == "smoke"])
    conditions = {"recipe": asdict(recipe), "dtype": "float32"}
    subjects = (bench.subject(compare.tuned), bench.subject(compare.base))

    def measured(metric: str, name: str) -> Measurement:
        value = found[metric][name]
        values = value if isinstance(value, list) else [value]
        samples = tuple(Sample(f"{name}, {i}", v) for i, v in enumerate(values))
        return Measurement(metric, samples, subjects, conditions)

    return measured


def _loss(preferred: str) -> Claim:
    text = "with policy = reference the first DPO loss of each pair is ln 2"
    return Claim("PF1.loss", text, within(*margins.LN2), estimand="exact")


@pytest.mark.claim(each=_loss)
def test_the_first_loss_is_ln_2(claim, preferred, steps):
    planted = (preferences.ASTRAY, preferences.STALE, preferences.OUTSIDE)
    claim.check(steps("losses", "usual"), controls=_controls(steps, "losses", planted))


def _swap(preferred: str) -> Claim:
    text = "swapping chosen and rejected turns the first gradient round: the cosine of both"
    return Claim("PF1.swap", text, at_most(margins.FLIP), estimand="exact")


@pytest.mark.claim(each=_swap)
def test_swapped_pairs_flip_the_first_gradient(claim, preferred, steps):
    claim.check(steps("flip", "usual"), controls=_controls(steps, "flip", (preferences.BESIDE, preferences.UNREAD)))


def _direction(preferred: str) -> Claim:
    text = "the first gradient is -beta/2 times that of log pi(chosen) - log pi(rejected), derived without trl: relative distance"
    return Claim("PF1.direction", text, at_most(margins.DERIVED), estimand="exact")


@pytest.mark.claim(each=_direction)
def test_the_first_gradient_points_to_the_chosen(claim, preferred, steps):
    planted = (preferences.SWAPPED, preferences.ASTRAY, preferences.BESIDE)
    claim.check(steps("error", "usual"), controls=_controls(steps, "error", planted))


def _controls(steps, metric, planted):
    return [Control(AGAIN, HOLDS, steps(metric, "again")), *(Control(f"planted: {name}", FAILS, steps(metric, name)) for name in planted)]
