"""D7: splits share no group and no row."""

from __future__ import annotations

import pytest

from harness import Claim, identical
from suites.data import checks

pytestmark = pytest.mark.data


def _claim(split: str) -> Claim:
    return Claim(f"D7.disjoint[{split}]", f"no group (document, user) and no row of {split} stands in two splits", identical())


@pytest.mark.claim(each=_claim)
def test_splits_are_disjoint(claim, bench, split):
    claim.check(checks.measured(bench, split, {"splits": None}), controls=checks.controls(bench, split, {"splits": None}))
