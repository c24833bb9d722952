"""Changes of one byte and forgeries: some here, 20,000 and all in reports/statistics/tamper.csv and forgeries.csv."""

from __future__ import annotations

import csv

import pytest

from suites.capstone import clip, forgeries, tampering
from suites.selftest.quality import tamper

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A clip of the example: its light claims."""
    return clip.clip(tamper.EXAMPLE, tmp_path_factory.mktemp("clip") / "run", clip.varied(tamper.EXAMPLE))


def test_a_clip_is_a_whole_run(small):
    assert forgeries.problems(small) == []
    outcomes = {record["verdict"]["outcome"] for record in clip.records(small)}
    assert {"holds", "fails", "inconclusive", "not_evaluated"} <= outcomes
    estimands = {record["claim"]["estimand"] for record in clip.records(small)}
    assert len(estimands) >= 10


def test_a_changed_byte_is_named_and_put_back(small):
    before = tampering.evidence.bundle_files(small)
    found = list(tampering.tampered(small, 400, seed=1, at_once=20))
    assert all(change.named for change in found) and len(found) == 400
    assert {change.kind for change in found} == set(tampering.KINDS)
    assert any(change.file == "bundle.json" for change in found)
    assert tampering.evidence.bundle_files(small) == before and forgeries.problems(small) == []


def test_nothing_is_named_where_nothing_was_changed(small):
    assert not any(change.named for change in tampering.tampered(small, 100, seed=2, at_once=20, harmless=True))


@pytest.mark.parametrize("forgery", [*forgeries.SEEN[::7], *forgeries.KNOWING[::5]], ids=lambda forgery: forgery.name)
def test_a_forgery_is_named_by_its_line(small, tmp_path, forgery):
    found = forgeries.forged(small, tmp_path / "forged", forgery)
    if forgery.named:
        assert any(forgery.named in problem for problem in found)
        return
    quoted = tampering.seal_of(small)[0]
    assert found == []
    assert any(f"expected {quoted}" in problem for problem in tamper.recheck(tmp_path / "forged", seal=quoted).problems)


def test_the_committed_tables_are_clean():
    rows = list(csv.DictReader((tamper.OUT / "tamper.csv").read_text().splitlines()))
    assert sum(int(row["made"]) for row in rows) >= 20_000 and {row["undetected"] for row in rows} == {"0"}
    assert {row["change"] for row in rows} == set(tampering.KINDS)
    assert {"bundle.json", "plan.json", "run.json", "report.html", "evidence/*", "samples/*", "raw/*"} <= {row["file"] for row in rows}
    told = list(csv.DictReader((tamper.OUT / "forgeries.csv").read_text().splitlines()))
    assert [row["forgery"] for row in told] == [forgery.name for forgery in forgeries.everything()]
    assert {row["named"] for row in told} == {"True"}
    assert sum(row["seen"] == "derivation" for row in told) >= 40
