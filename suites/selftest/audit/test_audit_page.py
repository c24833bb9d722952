"""The committed page is the one that the committed measurements make, and they show what is claimed of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suites.selftest.audit import at_scale, page

pytestmark = pytest.mark.selftest

FOLDER = Path(__file__).resolve().parents[3] / "reports" / "data"


def test_the_page_is_made_of_the_measurements():
    assert (FOLDER / "README.md").read_text("utf-8") == page.render(FOLDER)


def kept(name: str):
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def test_every_engine_left_the_same_digest():
    assert len({run["digest"] for run in kept("engines").values()}) == 1


def test_the_audit_of_changed_rows_says_what_an_audit_from_nothing_says():
    runs = kept("again")
    assert runs["one per cent changed"]["digest"] == runs["the same, from nothing"]["digest"]
    assert runs["unchanged"]["digest"] == runs["full"]["digest"]


def test_planted_defects_were_found_and_nothing_else():
    run = kept("planted")
    assert all(seen["found"] >= 0.99 * seen["planted"] for seen in run["kinds"].values()) and len(run["kinds"]) >= 12
    assert run["false_alarms"] <= 1e-4 * run["rows"]


def test_a_changed_copy_has_the_edits_it_tells(tmp_path):
    before, after = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]} for i in range(400)]
    before.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = at_scale.changed(before, after, share=0.2)
    lines = after.read_text().splitlines()
    assert sum(counted.values()) == 400
    assert len(lines) == 400 - counted["removed"] + counted["added"]
    assert sum("Revised" in line for line in lines) == counted["edited"]
