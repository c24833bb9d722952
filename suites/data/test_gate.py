"""D5: the gate really blocks: what is planted is stopped, nothing else is, and of real rows there are some to look at."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, identical
from suites.data import margins

pytestmark = pytest.mark.data


def _caught(dataset: str) -> Claim:
    return Claim(f"D5.caught[{dataset}]", f"each defect planted in a copy of {dataset} is found, of every kind that fits it", identical())


@pytest.mark.claim(each=_caught)
def test_every_planted_defect_is_caught(claim, bench, dataset):
    proof = bench.data.proof(dataset)

    def measured(missed: set[int]) -> Measurement:
        samples = [
            Sample(f"{one.kind}, row {one.row}", float(one.row not in missed), detail={"check": one.check, "kinds": list(one.kinds)})
            for one in proof.plan.planted
        ]
        return Measurement("planted_rows", tuple(samples), (bench.data.subject(dataset),), {"dataset": dataset, "proof": proof.to_dict()})

    claim.check(
        measured({one.row for seen in proof.recall.values() for one in seen.missed}),
        controls=[
            Control("A/A: none is missed", ("holds",), measured(set())),
            Control("planted: one is missed", ("fails",), measured({proof.plan.planted[0].row})),
        ],
    )


def _quiet(dataset: str) -> Claim:
    text = f"on a clean twin of {dataset} and beside planted rows there is at most {margins.FALSE_ALARMS * 1e4:g} alarm in 10,000 rows"
    return Claim(f"D5.quiet[{dataset}]", text, at_most(margins.FALSE_ALARMS), estimand="exact_share")


@pytest.mark.claim(each=_quiet)
def test_the_gate_is_quiet_where_nothing_is_planted(claim, bench, dataset):
    proof = bench.data.proof(dataset)
    rows = proof.twin.rows.n + proof.planted.rows.n

    def measured(alarms: int) -> Measurement:
        samples = [Sample("rows with an alarm that nobody planted", 1.0, weight=float(alarms))] if alarms else []
        samples.append(Sample("all other rows", 0.0, weight=float(rows - alarms)))
        return Measurement("false_alarms", tuple(samples), (bench.data.subject(dataset),), {"dataset": dataset})

    alarms = len(set(proof.alarms.column("row").to_pylist())) + len(set(proof.noise.column("row").to_pylist()))
    claim.check(
        measured(alarms),
        controls=[
            Control("A/A: no alarm", ("holds",), measured(0)),
            Control("planted: one alarm in a hundred rows", ("fails",), measured(max(1, rows // 100))),
        ],
    )


def _blocked(cleaned: str) -> Claim:
    text = f"of the rows that {cleaned} was made of at least {margins.BLOCKED} are blocked, with reasons, and no leak among them is in it"
    return Claim(f"D5.blocked[{cleaned}]", text, at_least(margins.BLOCKED), estimand="exact")


@pytest.mark.claim(each=_blocked)
def test_real_rows_are_blocked(claim, bench, cleaned):
    reasons, slipped = bench.data.blocked(cleaned)

    def measured(count: int, slips: int) -> Measurement:
        rows = tuple(Sample(place, float(count), detail={"findings": told}) for place, told in reasons[:50])
        return Measurement(
            "blocked_rows",
            rows or (Sample("no row is blocked", 0.0),),
            (bench.data.subject(cleaned),),
            {"dataset": cleaned, "blocked": count, "slipped": slips},
            invalid=(f"{slips} blocked rows are in the cleaned data",) if slips else (),
        )

    few = Measurement("blocked_rows", (Sample("too few", float(margins.BLOCKED - 1)),))
    claim.check(measured(len(reasons), slipped), controls=[
        Control("A/A: as many as must be", ("holds",), Measurement("blocked_rows", (Sample("enough", float(margins.BLOCKED)),))),
        Control("planted: one too few", ("fails",), few),
    ])  # fmt: skip
