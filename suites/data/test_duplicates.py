"""D1: rows are not there twice, nor nearly so."""

from __future__ import annotations

import pytest

from harness import Claim, at_most
from suites.data import checks, margins

pytestmark = pytest.mark.data


def _claim(name: str, what: str, limit: float):
    def made(dataset: str) -> Claim:
        text = f"of the rows of {dataset} at most {limit:.0%} {what}"
        return Claim(f"D1.{name}[{dataset}]", text, at_most(limit), estimand="exact_share")

    return made


def _check(claim, bench, dataset, kinds) -> None:
    claim.check(checks.measured(bench, dataset, kinds, share=True), controls=checks.controls(bench, dataset, kinds, share=True))


@pytest.mark.claim(each=_claim("exact", "are equal to an earlier one", margins.EXACT))
def test_few_rows_are_equal(claim, bench, dataset):
    _check(claim, bench, dataset, {"duplicates": ("exact",)})


@pytest.mark.claim(each=_claim("canonical", "are equal to an earlier one but for case, punctuation and spacing", margins.EXACT))
def test_few_rows_are_equal_but_for_form(claim, bench, dataset):
    _check(claim, bench, dataset, {"duplicates": ("canonical",)})


@pytest.mark.claim(each=_claim("near", "share four fifths of their word triples with a row that stays", margins.NEAR))
def test_few_rows_are_nearly_equal(claim, bench, dataset):
    _check(claim, bench, dataset, {"near": None})
