"""T4, T5 and the gradients of T7: an adapter begins as nothing, is as large as declared, and alone is trained."""

from __future__ import annotations

import pytest

from harness import Claim, Control, at_most, identical
from harness.train.invariants import adapters
from suites.controls import FAILS
from suites.train import margins

pytestmark = pytest.mark.train


def _identity(adapter_method: str) -> Claim:
    text = f"a fresh {adapter_method} adapter leaves the logits of the base as they were: largest difference, in float32"
    return Claim(f"T4.identity[{adapter_method}]", text, at_most(margins.ROUNDING), estimand="exact")


@pytest.mark.claim(each=_identity)
def test_a_fresh_adapter_changes_nothing(claim, lesson, adapter_method):
    _check(claim, lesson, adapter_method, "identity")


def _count(adapter_method: str) -> Claim:
    more = " and its output" if adapter_method == "dora" else ""
    text = (
        f"{adapter_method} trains rank times the sum of input and output{more} for each linear layer that config.json declares, and no more"
    )
    return Claim(f"T5.count[{adapter_method}]", text, identical())


@pytest.mark.claim(each=_count)
def test_it_has_the_parameters_that_are_declared(claim, lesson, adapter_method):
    _check(claim, lesson, adapter_method, "count")


def _base(adapter_method: str) -> Claim:
    return Claim(
        f"T5.base[{adapter_method}]", f"training by {adapter_method} leaves every tensor of the base as it was, bit by bit", identical()
    )


@pytest.mark.claim(each=_base)
def test_the_base_stays_as_it_was(claim, lesson, adapter_method):
    _check(claim, lesson, adapter_method, "base")


def _gradients(adapter_method: str) -> Claim:
    text = f"by {adapter_method} gradient reaches every parameter of the adapter on every target, and nothing else"
    return Claim(f"T7.gradients[{adapter_method}]", text, identical())


@pytest.mark.claim(each=_gradients)
def test_gradient_reaches_the_adapter_alone(claim, lesson, adapter_method):
    _check(claim, lesson, adapter_method, "gradients")


def _check(claim, lesson, method, what):
    rows = lesson.rows[: margins.ADAPTER_ROWS]
    recipe = lesson.by(method)
    facts = lesson.kept("adapter", {"method": method, "n": len(rows)}, lambda: adapters.drill(lesson.base, rows, recipe))
    planted = [key for key in facts if key.startswith(f"{what}: ")]
    claim.check(
        lesson.facts(what, facts[what], method=method, dtype="float32"),
        controls=[Control(f"planted: {key.partition(': ')[2]}", FAILS, lesson.facts(what, facts[key])) for key in planted],
    )
