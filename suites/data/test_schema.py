"""D6: rows are what a trainer expects: readable, complete, in order, of clean characters, and never two answers to one prompt."""

from __future__ import annotations

import pytest

from harness import Claim, identical
from suites.data import checks

pytestmark = pytest.mark.data


def _claim(name: str, text: str):
    def made(dataset: str = "", answered: str = "") -> Claim:
        return Claim(f"D6.{name}[{dataset or answered}]", f"{text} ({dataset or answered})", identical())

    return made


def _check(claim, bench, dataset, kinds) -> None:
    claim.check(checks.measured(bench, dataset, kinds), controls=checks.controls(bench, dataset, kinds))


@pytest.mark.claim(each=_claim("schema", "every row is readable, its roles are in order, and nothing that must be said is missing"))
def test_rows_are_well_formed(claim, bench, dataset):
    _check(claim, bench, dataset, {"schema": None})


@pytest.mark.claim(each=_claim("characters", "no row holds control characters, broken encoding or hidden directions"))
def test_characters_are_sound(claim, bench, dataset):
    _check(claim, bench, dataset, {"characters": None})


@pytest.mark.claim(each=_claim("conflicts", "no prompt has two different answers"))
def test_no_prompt_has_two_answers(claim, bench, answered):
    _check(claim, bench, answered, {"conflicts": None})
