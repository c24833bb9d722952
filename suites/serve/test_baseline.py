"""L1 against what was approved: each objective that held still holds. Numbers of another day are not compared."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.plugin import settings_of
from harness.records import Load
from suites import controls
from suites.serve import baseline

pytestmark = pytest.mark.serve


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``approved``: each server with an approved verdict that the lifecycle file still names."""
    if "approved" in metafunc.fixturenames:
        settings = settings_of(metafunc.config)
        metafunc.parametrize("approved", [name for name in baseline.approved(settings) if name in settings.serve])


def _claim(approved: str) -> Claim:
    return Claim(f"L1.approved[{approved}]", f"every objective of {approved} is decided as it was approved", identical())


@pytest.mark.claim(each=_claim)
def test_what_was_approved_still_holds(claim, bench, approved):
    said, served, kept = baseline.approved(bench.settings)[approved], bench.serving.spec(approved), bench.serving.promised(approved)
    slow = Load(kept.load.header, tuple(_slower(r) for r in kept.load.records))

    def measured(load, verdicts) -> Measurement:
        now = baseline.verdicts(load, served)
        rows, open_ = [], []
        for name, outcome in verdicts.items():
            found = now.get(name)
            if found is not None and found.outcome == "inconclusive":
                open_.append(f"{found.reason}: {name}: {found.sentence}")
            detail = {
                "approved": outcome,
                "found": found.outcome if found else "not promised any more",
                "on": said["day"],
                "machine": said["machine"],
            }
            rows.append(Sample(name, float(found is not None and found.outcome == outcome), detail=detail))
        return Measurement("approved_verdicts", tuple(rows), (bench.serving.subject(approved),), {"seen_s": said["seen_s"]}, tuple(open_))

    claim.check(
        measured(kept.load, said["verdicts"]),
        controls=[
            Control(
                "planted in the records: a hundred times as slow", controls.FAILS, measured(slow, dict.fromkeys(said["verdicts"], "holds"))
            )
        ],
    )


def _slower(record):
    """The record with every time after the send a hundred times as long."""
    times = {name: value * 100 for name in ("first", "last", "end", "gap") if (value := getattr(record, name)) is not None}
    return record._replace(**times)
