"""DO1 to DO4: a dossier's reproduction, bisect, minimality and test are right, on planted defects; and none is made of nothing.

Nine projects with a defect whose cause is known: a slip among other changes, two changes that are wrong together only, one beside
a commit that cannot be run, a crash behind another defect, one that a merge brought, one that fails in two of five runs, a pair of
flags, of settings, of lines. What the dossier says is run again here by other code.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import Claim, Control, Measurement, Subject, identical
from harness.store import digest_file
from suites.controls import FAILS, HOLDS
from suites.dossier import looked_at, planted

pytestmark = pytest.mark.dossier


def measured(what, rows) -> Measurement:
    here = Path(planted.__file__)
    subject = Subject("planted projects", "fake", f"suites/dossier/{here.name}", digest_file(here))
    return Measurement(what, tuple(rows), (subject,), {"python": ".".join(map(str, sys.version_info[:2]))})


@pytest.mark.claim(Claim("DO1.reproduction", "each reproduction fails before the fix and passes after it, in runs of its own", identical()))
def test_a_reproduction_fails_before_the_fix_and_passes_after_it(claim, dossiers):
    def of(some, **kwargs) -> Measurement:
        return measured("reproductions", looked_at.reproduction(some, **kwargs))

    for each in dossiers:
        (each.out / "empty.sh").write_text("#!/bin/sh\nexit 0\n")
    claim.check(
        of(dossiers),
        controls=[
            Control("A/A: reproduced once more", HOLDS, of(dossiers[:2])),
            Control("planted: scripts that reproduce nothing", FAILS, of(dossiers[:2], script=lambda d: "empty.sh")),
        ],
    )


@pytest.mark.claim(
    Claim("DO1.clean", "of a project without a defect, or with one at both ends, the dossier says so and names no cause", identical())
)
def test_no_cause_is_invented(claim, twins):
    def of(some) -> Measurement:
        rows = [
            looked_at.row(each, f"it says {each.case.outcome}", each.record["outcome"] == each.case.outcome and "found" not in each.record)
            for each in some
        ]
        return measured("clean_twins", rows)

    inventive = [replace(twins[0], record={**twins[0].record, "outcome": "found", "found": {}})]
    claim.check(
        of(twins), controls=[Control("A/A: once more", HOLDS, of(twins)), Control("planted: one names a cause", FAILS, of(inventive))]
    )


@pytest.mark.claim(Claim("DO2.bisect", "the parent passes, the commit fails, taken back it passes, and it is the planted one", identical()))
def test_the_bisect_is_right(claim, dossiers):
    histories = [each for each in dossiers if each.case.of_commits]

    def named(each):
        found = each.record["found"]
        return found["commit"]["id"], found["parent"]["id"]

    def planted_one(each):
        line = planted.git(each.case.folder, "log", "--format=%H %s").splitlines()
        commit = next(row.partition(" ")[0] for row in line if row.partition(" ")[2] == each.case.truth[0])
        return commit, f"{commit}^"

    def one_too_early(each):
        _, parent = named(each)
        return parent, f"{parent}^"

    def of(some, places) -> Measurement:
        return measured("bisects", looked_at.bisected(some, places))

    claim.check(
        of(histories, named),
        controls=[
            Control("A/A: the commit that was planted", HOLDS, of(histories[:2], planted_one)),
            Control("planted: one commit too early", FAILS, of(histories[:2], one_too_early)),
        ],
    )


@pytest.mark.claim(Claim("DO3.minimal", "without any one piece of a reproduction the test passes, and with them it fails", identical()))
def test_a_reproduction_is_minimal(claim, dossiers):
    def of(some, **kwargs) -> Measurement:
        return measured("pieces", looked_at.minimal(some, **kwargs))

    flags = [each for each in dossiers if each.case.name == "flags"]
    claim.check(
        of(dossiers),
        controls=[
            Control("A/A: once more", HOLDS, of(flags)),
            Control("planted: one flag more than is needed", FAILS, of(flags, more=lambda d: ("--metrics",))),
        ],
    )


@pytest.mark.claim(Claim("DO4.test", "each regression test fails on the broken side and passes once that is mended", identical()))
def test_a_regression_test_stays(claim, dossiers):
    def of(some, **kwargs) -> Measurement:
        return measured("regression_tests", looked_at.kept_test(some, **kwargs))

    for each in dossiers[:1]:
        (each.out / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    claim.check(
        of(dossiers),
        controls=[
            Control("A/A: once more", HOLDS, of(dossiers[:1])),
            Control("planted: a test that asserts nothing", FAILS, of(dossiers[:1], name=lambda d: "test_nothing.py")),
        ],
    )
