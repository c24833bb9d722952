"""The audit proves itself: quiet on the twin, loud on what is planted; and says so where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from harness.audit import forms, proof, run, standard
from harness.audit.leakage import References
from harness.audit.samples import per_row, wanted
from harness.errors import AuditError
from suites.selftest.audit import mixed

pytestmark = pytest.mark.selftest

CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"What is number {i} of the {a} {b}?"},
            {"role": "assistant", "content": f"The {b} number {i} is {a}."},
        ]
    }
    for i, (a, b) in enumerate((a, b) for a in mixed.WORDS[:20] for b in mixed.WORDS[40:55])
]


def audited(checks):
    return lambda dataset: run.audit(dataset, checks, engine="serial")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return mixed.write(tmp_path_factory.mktemp("proof") / "train.jsonl", mixed.rows(500))


@pytest.fixture(scope="module")
def known():
    return standard.Known(apart_from=(References.of_rows("held", mixed.items()),), languages=("en",))


@pytest.fixture(scope="module")
def proven(train, known):
    return proof.prove(run.Dataset("train", (train,)), known, audited(standard.checks(known)), each=4)


def test_every_kind_is_planted_and_found(proven):
    assert proven.proven, proven.text()
    assert len(proven.recall) >= 18
    assert {seen.planted for seen in proven.recall.values()} == {4}
    assert set(proven.plan.left_out) == {"over_long", "group_in_two_splits"}


def test_the_twin_is_rows_of_the_data_that_nothing_blocks(proven, train):
    """None of them has a blocking finding in the audit of the whole."""
    assert proven.noise.num_rows == 0
    assert 50 < proven.twin.rows.n <= 500
    lines = set(train.read_bytes().splitlines())
    assert proven.twin.rows.n < len(lines)
    assert proven.planted.rows.n == proven.twin.rows.n + len(proven.plan.inserted)


def test_the_flood_is_above_every_bound(proven):
    """Of each kind whose share is bounded, but those that do not fit."""
    kinds = proven.flooded.findings.select(["check", "kind", "row"]).to_pylist()
    for check, kind in (("duplicates", "exact"), ("duplicates", "canonical"), ("near", "near")):
        rows_of_kind = {one["row"] for one in kinds if (one["check"], one["kind"]) == (check, kind)}
        assert len(rows_of_kind) > 0.05 * proven.flooded.rows.n, kind


def test_a_check_that_sees_nothing_is_told(train, known):
    """The proof can fail: without the scan for private data its canaries are missed."""
    blind = [check for check in standard.checks(known) if check.name != "private"]
    found = proof.prove(run.Dataset("train", (train,)), known, audited(blind), each=2)
    assert not found.proven
    assert found.recall["email"].found == 0
    assert "missed: lines" in found.text()
    assert found.recall["exact_duplicate"].found == 2


def test_a_false_alarm_is_no_proof(proven):
    alarm = proven.planted.findings.slice(0, 1)
    assert not replace(proven, alarms=alarm).proven
    assert not replace(proven, noise=alarm).proven
    assert not replace(proven, recall={}).proven  # of nothing


def test_the_proof_as_json(proven):
    told = json.loads(json.dumps(proven.to_dict()))
    assert told["kinds"]["secret"] == {"planted": 4, "found": 4}
    assert told["false_alarms"] == 0
    assert told["twin"] == {"rows": proven.twin.rows.n, "findings": 0}
    assert proven.text().splitlines()[-1].startswith("false alarms: 0 in ")


def test_a_clean_dataset_is_its_own_twin(tmp_path, known):
    file = mixed.write(tmp_path / "clean.jsonl", [json.dumps(row).encode() for row in CHAT])
    found = proof.prove(run.Dataset("clean", (file,)), known, audited(standard.checks(known)), each=2)
    assert found.twin.rows.n == len(CHAT)
    assert found.proven, found.text()


def test_where_every_row_is_blocked_there_is_no_proof(tmp_path, known):
    file = mixed.write(tmp_path / "bad.jsonl", [b"{", b"null", b"\xff\xfe"])
    with pytest.raises(AuditError, match=r"dataset bad: a finding blocks every row of it"):
        proof.prove(run.Dataset("bad", (file,)), known, audited(standard.checks(known)))


def test_splits_keep_their_files(tmp_path, known, monkeypatch):
    """Splits name files by number: the twin must not renumber them, however few rows are drawn."""
    monkeypatch.setattr(proof, "_MOST", 60)
    good = mixed.write(tmp_path / "train.jsonl", [json.dumps(row).encode() for row in CHAT[:-3]])
    bad = mixed.write(tmp_path / "test.jsonl", [b"{", b"null"])
    rest = mixed.write(tmp_path / "rest.jsonl", [json.dumps({**row, "doc": f"x{i}"}).encode() for i, row in enumerate(CHAT[-3:])])
    split = standard.Known(splits={"train": [0], "test": [1], "rest": [2]})
    dataset = run.Dataset("three", (good, bad, rest), forms.Shape(group="doc"))
    with pytest.raises(AuditError, match="three: a finding blocks every row of a file"):
        proof.prove(dataset, split, audited(standard.checks(split)), each=2)
    assert proof.prove(dataset, known, audited(standard.checks(known)), each=2).twin.rows.n == 60 + 1
    mixed.write(bad, [json.dumps({**CHAT[9], "doc": "z", "more": 1}).encode()])
    mixed.write(good, [json.dumps({**row, "doc": f"d{i}"}).encode() for i, row in enumerate(CHAT[10:-3])])
    found = proof.prove(dataset, split, audited(standard.checks(split)), each=2)
    assert len(found.twin.dataset.files) == 3
    assert found.recall["group_in_two_splits"].found == 2


# --- findings as samples --------------------------------------------------------------------------


def test_a_sample_for_each_row_with_a_finding(proven):
    audit = proven.planted
    found = wanted(audit.findings, {"private": None, "schema": ("unreadable",)})
    assert {*zip(found["check"].to_pylist(), found["kind"].to_pylist(), strict=True)} & {("schema", "no_answer")} == set()
    samples = per_row(audit, found, flagged=0.0)
    flagged = [s for s in samples if s.value == 0.0]
    assert len(flagged) == len(set(found["row"].to_pylist()))
    assert sum(s.weight for s in samples) == audit.rows.n
    assert [s.item for s in flagged] == sorted(s.item for s in flagged)  # by name is by line
    row = sorted(set(found["row"].to_pylist()))[0]
    kinds = list(dict.fromkeys(kind for at, kind in zip(found["row"].to_pylist(), found["kind"].to_pylist(), strict=True) if at == row))
    assert (
        flagged[0].item == f"{audit.dataset.files[0].name}:{audit.rows.line[row]:0{len(str(audit.rows.n))}} (row {row}): {', '.join(kinds)}"
    )


def test_of_many_rows_the_rest_is_counted(proven, monkeypatch):
    audit = proven.planted
    monkeypatch.setattr("harness.audit.samples._LISTED", 3)
    found = wanted(audit.findings, {"private": None})
    n = len(set(found["row"].to_pylist()))
    samples = per_row(audit, found, flagged=1.0)
    assert [s.weight for s in samples] == [1.0, 1.0, 1.0, n - 3, audit.rows.n - n]
    assert [s.value for s in samples] == [1.0] * 4 + [0.0]


def test_known_rows_stand_apart(proven):
    audit = proven.twin
    samples = per_row(audit, audit.findings.slice(0, 0), flagged=1.0, known=7)
    assert [(s.value, s.weight) for s in samples] == [(0.0, 7.0), (0.0, audit.rows.n - 7.0)]


def test_a_row_with_many_findings_tells_five(proven):
    audit = proven.planted
    many = pa.concat_tables([audit.findings.slice(0, 1)] * 8)
    (sample, _) = per_row(audit, many, flagged=1.0)
    assert len(sample.detail["findings"]) == 5
    assert sample.detail["further"] == 3


def test_evidence_tells_no_private_datum(proven):
    """What is planted is in the rows, and nowhere in what is said of them."""
    audit = proven.planted
    samples = per_row(audit, wanted(audit.findings, {"private": None}), flagged=0.0)
    said = json.dumps([s.detail for s in samples])
    assert "@" not in said
