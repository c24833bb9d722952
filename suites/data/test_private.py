"""D4: nothing personal and no secret ships; and the scan that says so finds what is planted and little else."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, identical
from suites.data import checks, labelled, margins

pytestmark = pytest.mark.data

KINDS = {"private": None}
CANARIES = ("email", "phone", "card", "iban", "secret")


def _clean(dataset: str) -> Claim:
    return Claim(f"D4.private[{dataset}]", f"no row of {dataset} holds a confirmed personal identifier or secret", identical())


@pytest.mark.claim(each=_clean)
def test_nothing_private_ships(claim, bench, dataset):
    claim.check(checks.measured(bench, dataset, KINDS), controls=checks.controls(bench, dataset, KINDS))


def _found(dataset: str) -> Claim:
    text = f"of the identifiers and secrets planted in a copy of {dataset} at least {margins.RECALL:.0%} are found"
    return Claim(f"D4.canaries[{dataset}]", text, at_least(margins.RECALL), min_n=59, expected=0.999)


@pytest.mark.claim(each=_found)
def test_planted_canaries_are_found(claim, bench, dataset):
    proof = bench.data.proof(dataset)

    def measured(missed: set[int]) -> Measurement:
        asked = [one for one in proof.plan.planted if one.kind in CANARIES]
        samples = [Sample(f"{one.kind}, row {one.row}", float(one.row not in missed)) for one in asked]
        told = {"dataset": dataset, "proof": proof.to_dict()}
        return Measurement("canaries_found", tuple(samples), (bench.data.subject(dataset),), told)

    rows = [one.row for one in proof.plan.planted if one.kind in CANARIES]
    claim.check(
        measured({one.row for kind in CANARIES if kind in proof.recall for one in proof.recall[kind].missed}),
        controls=[
            Control("A/A: none is missed", ("holds",), measured(set())),
            Control("planted: every fifth is missed", ("fails",), measured(set(rows[::5]))),
        ],
    )


PRECISION = Claim(
    "D4.precision",
    f"of what the scan calls personal data in labelled sentences at least {margins.PRECISION:.0%} are",
    at_least(margins.PRECISION),
    min_n=59,
    expected=0.99,
)


@pytest.mark.claim(PRECISION)
def test_what_is_called_private_is(claim, bench):
    called = labelled.called()
    wrong = {item for item, right in called if not right}

    def measured(doubted: set[str]) -> Measurement:
        samples = tuple(Sample(item, float(item not in doubted)) for item, _ in called)
        return Measurement("called_private", samples, (labelled.subject(),), {"called": len(called)})

    claim.check(
        measured(wrong),
        controls=[
            Control("A/A: all that is called is", ("holds",), measured(set())),
            Control("planted: every fifth is none", ("fails",), measured({item for item, _ in called[::5]})),
        ],
    )
