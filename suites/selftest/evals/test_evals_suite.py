"""The suite of comparisons end to end on tables of answers: what should hold does, and every planted fault was caught in the run."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.golden import load

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]


def chance(seed: str, item: str) -> float:
    return hashlib.sha256(f"{seed}:{item}".encode()).digest()[0] / 256


def compact(target) -> str:
    return json.dumps(target, ensure_ascii=False, separators=(",", ":"))


def wrong(target) -> str:
    """The last word of the street in a field of its own."""
    street, _, last = target.get("street", "x y").rpartition(" ")
    return compact({**target, "street": street or "x", "unit": last})


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """The records of one run at tier smoke: tuned right on 70% of what fits its answer, the base on 10%."""
    folder = tmp_path_factory.mktemp("suite")
    items = {i["id"]: i["target"] for i in load("addresses", ROOT / "golden").items}
    right = {
        "base": lambda i: chance("base", i) < 0.1,
        "tuned": lambda i: chance("tuned", i) < 0.7,
        "tuned-v2": lambda i: chance("tuned", i) < 0.7 or chance("v2", i) < 0.4,
    }
    subjects = []
    for name, knows in right.items():
        answers = {i: compact(t) if knows(i) else wrong(t) if chance("bad", i) < 0.8 else "Sure!" for i, t in items.items()}
        (folder / f"{name}.json").write_text(json.dumps(answers))
        subjects += ["--subject", f"{name}=fake:{folder / name}.json"]
    subjects += ["--lifecycle", str(nothing_left_out(folder))]
    smoke = run_suite(folder, "smoke", "not canaries and not approved", subjects)
    return smoke | run_suite(folder, "full", "renumbered", subjects)


def nothing_left_out(folder: Path) -> Path:
    """The built-in lifecycle file without what its smoke tier leaves out: here all of it is asked for, of tables, and 100 items."""
    (folder / "fixtures").mkdir()
    for path in (*(ROOT / "fixtures").iterdir(), ROOT / "golden"):
        (folder / path.relative_to(ROOT)).symlink_to(path)
    made = folder / "fixtures" / "lifecycle.toml"
    text, cut = re.subn(r"^leave_out = \[.*?^\]$", "", made.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert cut == 1
    text, counted = re.subn(r"(?<=^\[tiers\.smoke\]\nitems = )\d+", "100", text, flags=re.MULTILINE)
    assert counted == 1
    made.unlink()
    made.write_text(text)
    return made


def run_suite(folder: Path, tier: str, chosen: str, subjects: list[str]) -> dict[str, dict]:
    command = [sys.executable, "-m", "pytest", "suites/evals", "-m", "evals", "-q", "-p", "no:cacheprovider", "--tier", tier, "-k", chosen]
    command += ["--run-dir", str(folder / tier), "--store", str(folder / "store"), *subjects]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-1000:]
    records = [json.loads(p.read_text()) for p in (folder / tier / "evidence").glob("*.json")]
    return {record["claim"]["id"]: record for record in records}


HOLD = (
    "E1.gain[addresses,tuned]", "E3.arms[addresses,tuned]", "E5.blind[addresses]", "E7.gain[addresses]", "E8.listed[addresses,tuned]",
    "E8.stable[addresses,tuned]", "E8.covered[addresses,tuned]", "E9.fixed[addresses,tuned-v2]", "E10.leaked[addresses]",
    "R3.noise[addresses]", "G3.flaky[addresses]",
)  # fmt: skip


@pytest.mark.parametrize("claim", HOLD)
def test_what_is_true_of_the_tables_holds(evidence, claim):
    assert evidence[claim]["verdict"]["outcome"] == "holds", evidence[claim]["verdict"]["sentence"]


@pytest.mark.parametrize("claim", HOLD)
def test_every_planted_fault_was_caught(evidence, claim):
    controls = evidence[claim]["verdict"]["controls"]
    assert any("planted" in c["name"] for c in controls)
    assert all(c["met"] for c in controls), [c["name"] for c in controls if not c["met"]]


def test_rows_made_to_flatter_an_arm_are_refused_for_the_right_reason(evidence):
    found = {c["name"]: c["reason"] for c in evidence["E1.gain[addresses,tuned]"]["verdict"]["controls"]}
    assert found["planted: each right answer of the new arm twice"] == "duplicate_rows"
    assert found["planted: the same, passed off as replicates"] == "duplicate_rows"
    assert found["planted: wrong answers of the new arm dropped"] == "unpaired_items"


def test_a_subject_that_answers_by_heart_is_caught(evidence):
    """A table of answers by item is what a contaminated model comes to: it gives the old numbers to new questions."""
    verdict = evidence["E10.renumbered[addresses]"]["verdict"]
    assert verdict["outcome"] == "fails", verdict["sentence"]
    assert {c["name"]: c["outcome"] for c in verdict["controls"]}["planted: a subject that answers every item by heart"] == "fails"


def test_answers_are_described_before_they_are_scored(evidence):
    record = evidence["E1.gain[addresses,tuned]"]
    text = json.dumps(record)
    assert "new (tuned): of 100 answers truncated" in text
    assert '"psi_aa": 0.0' in text
    assert '"exploratory": true' in text


def test_the_content_of_a_failure_is_in_the_evidence(evidence):
    clusters = evidence["E8.listed[addresses,tuned]"]["measurement"]["conditions"]["clusters"]
    assert clusters[0]["n"] >= clusters[-1]["n"]
    assert {"item", "type", "second", "fields", "input", "target", "text"} <= set(clusters[0]["examples"][0])
