"""SIGKILL at any moment of a run loses nothing that was finished: some kills here, two hundred in reports/statistics/kills.csv."""

from __future__ import annotations

import csv

import pytest

from suites.selftest.quality import kills

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize("number", range(4))  # half of them with two workers
def test_what_was_reported_finished_stays(number):
    found = kills.one(number)
    assert found.bad == 0, found


def test_the_committed_table_is_whole_and_clean():
    rows = list(csv.DictReader(kills.PAGE.read_text().splitlines()))
    assert [int(row["kill"]) for row in rows] == list(range(200))
    assert {row["workers"] for row in rows} == {"0", "2"} and {row["shot"] for row in rows} == {"process", "controller", "worker"}
    assert {row[name] for row in rows for name in ("lost", "unreadable", "orphans", "litter")} == {"0"}
    assert sum(int(row["reported"]) for row in rows) > 1000
    assert not any(row["sealed"] == "True" and row["status"] == "0" and int(row["reported"]) < kills.CLAIMS for row in rows)


def test_a_lost_claim_would_be_seen(tmp_path):
    """The look at what is left is no formality: a claim that was reported and whose evidence is gone or damaged counts."""
    (tmp_path / "test_claims.py").write_text(kills.SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    kills._started(tmp_path, 0, "none").wait(120)
    assert kills._looked_at(tmp_path) == (kills.CLAIMS, 0, 0) and kills._ends(tmp_path) == (0, True)
    first, second, *_ = sorted((tmp_path / "run" / "evidence").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-40])
    (tmp_path / "run" / "evidence" / "half").touch()
    assert kills._looked_at(tmp_path) == (kills.CLAIMS, 2, 2) and kills._ends(tmp_path) == (1, True)
