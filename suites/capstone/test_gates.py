"""CD3, ST1, ST3: the gates of a finished run worked in that very run, and every claim of it left its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, evidence, identical
from suites.capstone import clip
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.capstone

Record = dict[str, Any]


def _decided(record: Record) -> bool:
    return record["verdict"]["outcome"] in ("holds", "fails") and record["measurement"] is not None


def _can_refuse(record: Record) -> bool:
    """A control shows that the gate can say no: what was planted must not hold."""
    return any("holds" not in control["expect"] for control in record["verdict"]["controls"])


def _can_hold(record: Record) -> bool:
    """A control shows that the gate can say yes, or the claim itself does: it holds in the same run, through the same code."""
    return record["verdict"]["outcome"] == "holds" or any(control["expect"] == ["holds"] for control in record["verdict"]["controls"])


def _measured(rows: Iterable[tuple[str, bool, dict[str, Any]]], **conditions: Any) -> Measurement:
    return Measurement("as expected", tuple(Sample(name, float(good), detail=detail) for name, good, detail in rows), (), conditions)


def _controls_of(records: Sequence[Record]) -> Measurement:
    rows = ((r["claim"]["id"], _can_refuse(r) and _can_hold(r), {"refuses": _can_refuse(r), "holds": _can_hold(r)}) for r in records)
    both = sum(any(c["expect"] == ["holds"] for c in r["verdict"]["controls"]) and _can_refuse(r) for r in records)
    return _measured(rows, with_both_as_controls=both, of=len(records))


def _without(records: Sequence[Record], which: Callable[[Record], bool]) -> list[Record]:
    """The records, the first without the controls that are ``which``."""
    first, *rest = records
    left = [control for control in first["verdict"]["controls"] if not which(control)]
    return [{**first, "verdict": {**first["verdict"], "controls": left}}, *rest]


_CD3 = Claim("CD3.controls", "next to every decided claim the same run shows that its gate can hold and that it can refuse", identical())


@pytest.mark.claim(_CD3)
def test_every_gate_has_its_controls(claim, capstone_run):
    records = [record for record in clip.records(capstone_run) if _decided(record)]
    sound = [record for record in records if _can_refuse(record) and _can_hold(record)]
    claim.check(
        _controls_of(records),
        controls=[
            Control("A/A: the claims that have theirs", HOLDS, _controls_of(sound)),
            Control("planted: one planted regression struck", FAILS, _controls_of(_without(sound, lambda c: "holds" not in c["expect"]))),
        ],
    )


def _mutants(records: Sequence[Record], expected: bool) -> Measurement:
    """Each control of each class of claims: did the gate say of it what was known beforehand? ``expected``: as it was written down."""
    rows = []
    for record in records:
        for i, control in enumerate(record["verdict"]["controls"]):
            said = control["outcome"] in control["expect"]
            detail = {
                "claim": record["claim"]["id"],
                "control": control["name"],
                "outcome": control["outcome"],
                "expect": control["expect"],
            }
            rows.append((f"{record['claim']['id']}/{i}", said is expected, detail))
    classes = {record["claim"]["id"].partition("[")[0] for record in records}
    return _measured(rows, classes=len(classes), controls=len(rows))


_ST1 = Claim("ST1.mutants", "every gate that decided caught what was planted beside it and was quiet on its clean twin", identical())


@pytest.mark.claim(_ST1)
def test_every_gate_catches_its_mutant(claim, capstone_run):
    """Of claims that were decided: a gate that did not prove itself is inconclusive, and says nothing."""
    records = [record for record in clip.records(capstone_run) if _decided(record) and record["verdict"]["controls"]]
    blind = [_blinded(record) for record in records[:20]]
    claim.check(
        _mutants(records, True),
        controls=[
            Control("A/A: the gates of which each control was met", HOLDS, _mutants(records[:20], True)),
            Control("planted: gates that hold whatever they are shown", FAILS, _mutants(blind, True)),
        ],
    )


def _blinded(record: Record) -> Record:
    controls = [{**control, "outcome": "holds"} for control in record["verdict"]["controls"]]
    return {**record, "verdict": {**record["verdict"], "controls": controls}}


_ST3 = Claim("ST3.ledger", "every claim that was planned has one evidence file, and what was not measured is not green", identical())


@pytest.mark.claim(_ST3)
def test_every_planned_claim_left_one_evidence_file(claim, capstone_run):
    planned = [entry["claim"]["id"] for entry in evidence.read_json(capstone_run / evidence.PLAN)["claims"]]
    found = list(clip.records(capstone_run))

    def ledger(records: Sequence[Record]) -> Measurement:
        ids = [record["claim"]["id"] for record in records]
        green = {r["claim"]["id"] for r in records if r["measurement"] is None and r["verdict"]["outcome"] in ("holds", "fails")}
        names = sorted({*planned, *ids})
        return _measured(
            (name, planned.count(name) == ids.count(name) == 1 and name not in green, {"files": ids.count(name)}) for name in names
        )

    whole = ledger(found)
    claim.check(
        whole,
        controls=[
            Control("A/A: the claims that have theirs", HOLDS, replace(whole, samples=tuple(s for s in whole.samples if s.value))),
            Control("planted: one evidence file lost", FAILS, ledger(found[1:])),
            Control("planted: one that stands twice", FAILS, ledger([*found, found[0]])),
            Control("planted: one that was not measured and is green", FAILS, ledger([{**found[0], "measurement": None}, *found[1:]])),
        ],
    )
