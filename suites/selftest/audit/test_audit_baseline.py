"""An old finding stays old when rows move; a new one is new; what is waived has a reason and an end."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import baseline
from harness.audit.model import FINDINGS, Rows, no_findings
from harness.errors import AuditError
from suites.selftest.audit.making import batch, rows_of

pytestmark = pytest.mark.selftest

TODAY = date(2026, 11, 21)


def dataset(*texts: str) -> Rows:
    """A row for each text; equal texts are copies of one row."""
    distinct = list(dict.fromkeys(texts))
    return rows_of(batch([[("user", "prompt", text)] for text in distinct]), [distinct.index(text) for text in texts])


def findings(*told: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"check": "c", "kind": "k", **finding} for finding in told], schema=FINDINGS)


def prints(table: pa.Table, rows: Rows) -> list[str]:
    return [line.tobytes().hex() for line in baseline.fingerprints(table, rows)]


FINDING = st.fixed_dictionaries(
    {"check": st.sampled_from("ab"), "kind": st.sampled_from("xy"), "row": st.integers(0, 5)},
    optional={
        "partner": st.integers(0, 5),
        "item": st.sampled_from(["", "i", "j"]),
        "message": st.integers(0, 2),
        "start": st.integers(0, 2),
        "end": st.integers(0, 2),
        "score": st.floats(0, 1),
        "detail": st.sampled_from(["", "one", "two"]),
    },
)
TEXTS = st.lists(st.sampled_from("pqrs"), min_size=6, max_size=6)


def said(finding: dict[str, Any], texts: list[str]) -> tuple[Any, ...]:
    """What a fingerprint stands for, in plain Python."""
    bare = all(finding.get(name) is None for name in ("partner", "item", "message"))
    rest = tuple(finding.get(name) for name in ("item", "message", "start", "end"))
    return finding["check"], finding["kind"], texts[finding["row"]], *rest, finding.get("detail") if bare else None


@settings(derandomize=True, deadline=None, max_examples=150)
@given(told=st.lists(FINDING, max_size=12), texts=TEXTS)
def test_two_findings_share_a_fingerprint_exactly_when_they_say_the_same_of_equal_rows(
    told: list[dict[str, Any]], texts: list[str]
) -> None:
    found = prints(findings(*told), dataset(*texts))
    expected = [said(finding, texts) for finding in told]
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(told=st.lists(FINDING, max_size=12), texts=TEXTS, order=st.permutations(range(6)), before=st.integers(0, 3))
def test_rows_that_move_keep_their_fingerprints(told: list[dict[str, Any]], texts: list[str], order: list[int], before: int) -> None:
    place = {row: before + at for at, row in enumerate(order)}
    moved = dataset(*["new"] * before, *(texts[row] for row in order))
    elsewhere = [{**f, "row": place[f["row"]], **({"partner": place[f["partner"]]} if "partner" in f else {})} for f in told]
    assert prints(findings(*told), dataset(*texts)) == prints(findings(*elsewhere), moved)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(old=st.lists(FINDING, max_size=12), now=st.lists(FINDING, max_size=12), texts=TEXTS)
def test_new_and_gone_are_the_differences_of_multisets(old: list[dict[str, Any]], now: list[dict[str, Any]], texts: list[str]) -> None:
    rows = dataset(*texts)
    known = baseline.Baseline.of(findings(*old), rows)
    settled = baseline.settle(findings(*now), rows, known)
    before, after = (Counter(said(finding, texts) for finding in told) for told in (old, now))
    assert Counter(said(now[i], texts) for i in np.flatnonzero(settled.new)) == after - before
    assert sum(entry.known - entry.found for entry in settled.gone) == (before - after).total()
    assert len(settled.gone) == len(before - after)
    again = baseline.settle(findings(*old), rows, known)
    assert not again.new.any() and not again.gone


def test_of_equal_findings_the_last_are_new() -> None:
    one = {"row": 0, "partner": 1}
    known = baseline.Baseline.of(findings(one, one), dataset("a", "b"))
    assert len(known) == 1
    assert baseline.settle(findings(one, one, one), dataset("a", "b"), known).new.tolist() == [False, False, True]


def test_a_row_that_changes_has_a_new_finding_and_the_old_one_is_named_as_gone() -> None:
    rows = dataset("a", "b")
    known = baseline.Baseline.of(findings({"row": 0}, {"row": 1}), rows)
    settled = baseline.settle(findings({"row": 0}, {"row": 1}), dataset("a", "changed"), known)
    assert settled.new.tolist() == [False, True]
    (gone,) = settled.gone
    assert str(gone).startswith(f"c.k: row {rows.digests[1].tobytes().hex()}, 0 of 1 found")
    assert settled.to_dict()["gone"] == [str(gone)]


def test_another_partner_is_no_new_finding() -> None:
    rows = dataset("a", "b", "c")
    known = baseline.Baseline.of(findings({"row": 2, "partner": 0, "detail": "of line 1"}), rows)
    assert not baseline.settle(findings({"row": 2, "partner": 1, "detail": "of line 2"}), rows, known).new.any()


def test_no_findings_and_no_baseline() -> None:
    rows = dataset("a")
    empty = baseline.Baseline.of(no_findings(), rows)
    assert len(empty) == 0
    assert baseline.settle(findings({"row": 0}), rows, empty).new.tolist() == [True]
    assert baseline.settle(findings({"row": 0}), rows).new.tolist() == [True]
    assert not baseline.settle(no_findings(), rows, empty).new.any()
    assert [entry.found for entry in baseline.settle(no_findings(), rows, baseline.Baseline.of(findings({"row": 0}), rows)).gone] == [0]


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["baseline.json", "baseline.json.gz"])
def test_a_baseline_comes_back_and_is_the_same_bytes_whatever_the_order(tmp_path: Path, name: str) -> None:
    rows = dataset("a", "b", "a")
    told = [{"row": 0}, {"row": 1, "item": "i"}, {"row": 2}, {"row": 1, "kind": "other"}]
    baseline.write_baseline(tmp_path / name, baseline.Baseline.of(findings(*told), rows))
    data = (tmp_path / name).read_bytes()
    baseline.write_baseline(tmp_path / name, baseline.Baseline.of(findings(*reversed(told)), rows))
    assert (tmp_path / name).read_bytes() == data and (not name.endswith(".gz") or data[3:8] == bytes(5))  # neither name nor time in it
    back = baseline.read_baseline(tmp_path / name)
    assert sorted(zip(back.name, back.count.tolist(), strict=True)) == [("c.k", 1), ("c.k", 2), ("c.other", 1)]
    settled = baseline.settle(findings(*told), rows, back)
    assert not settled.new.any() and not settled.gone


def test_an_empty_baseline_comes_back(tmp_path: Path) -> None:
    baseline.write_baseline(tmp_path / "b.json", baseline.Baseline.of(no_findings(), dataset("a")))
    assert len(baseline.read_baseline(tmp_path / "b.json")) == 0


KEY = f"{'0' * 32} {'1' * 32}"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("{", "not readable as a baseline"),
        ("[]", "not a baseline"),
        ('{"schema": 2, "findings": {}}', "not a baseline"),
        ('{"schema": 1, "findings": {"c.k": []}}', "c.k: expected an object"),
        (json.dumps({"schema": 1, "findings": {"c.k": {"ab": 1}}}), "c.k: entry 'ab': 1"),
        (json.dumps({"schema": 1, "findings": {"c.k": {KEY: 0}}}), "a count of at least 1"),
        (json.dumps({"schema": 1, "findings": {"c.k": {KEY: True}}}), "a count of at least 1"),
        (json.dumps({"schema": 1, "findings": {"c.k": {KEY.replace("1", "g"): 1}}}), "32 hexadecimal digits"),
        (json.dumps({"schema": 1, "findings": {"c.k": {" " * 32 + KEY[32:]: 1}}}), "32 hexadecimal digits"),
        (json.dumps({"schema": 1, "findings": {"c.k": {KEY: 1}, "c.j": {KEY: 1}}}), "two entries"),
    ],
)
def test_a_broken_baseline_is_refused_by_file_and_entry(tmp_path: Path, data: str, complaint: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(data)
    with pytest.raises(AuditError, match=complaint) as caught:
        baseline.read_baseline(path)
    assert str(path) in str(caught.value)


def test_a_missing_baseline_and_a_broken_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="missing"):
        baseline.read_baseline(tmp_path / "no.json")
    (tmp_path / "b.json.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(AuditError, match="not readable"):
        baseline.read_baseline(tmp_path / "b.json.gz")


# --- waivers --------------------------------------------------------------------------------------


def waivers(tmp_path: Path, text: str, today: date = TODAY) -> tuple[baseline.Waiver, ...]:
    path = tmp_path / "waivers.toml"
    path.write_text(text)
    return baseline.read_waivers(path, today)


def entry(**changes: str) -> str:
    """A waiver that holds; a key set to "" is left out."""
    known = {"check": '"c"', "lines": "[1, 2]", "reason": '"a test"', "expires": "2027-01-31", **changes}
    return "[[waiver]]\n" + "".join(f"{key} = {value}\n" for key, value in known.items() if value)


def test_waivers_accept_by_row_lines_item_and_file(tmp_path: Path) -> None:
    rows = dataclasses.replace(dataset("a", "b", "c", "a"), files=("x/one.jsonl", "two.jsonl"), file=np.array([0, 0, 1, 1], np.int32))
    table = findings({"row": 0}, {"row": 1, "item": "i"}, {"row": 2}, {"row": 3}, {"row": 1, "kind": "j"}, {"row": 1, "check": "d"})
    row = f'"{rows.digests[0].tobytes().hex()}"'
    told = "".join([
        entry(row=row, lines=""), entry(lines="[2, 2]", kind='"j"'), entry(item='"i"', lines=""), entry(file='"two.jsonl"', lines="[1, 9]"),
        entry(check='"nobody"'), entry(lines="[1, 4]", item='"other"'), entry(file='"one.jsonl"', lines="[3, 4]"),
    ])  # fmt: skip
    settled = baseline.settle(table, rows, None, waivers(tmp_path, told))
    assert settled.waiver.tolist() == [0, 2, 3, 0, 1, -1]
    assert settled.matched == (2, 1, 1, 2, 0, 0, 0)
    assert [name.rpartition(" ")[2] for name in settled.unused] == ["5", "6", "7"]
    assert settled.new.tolist() == [False] * 5 + [True]
    said = settled.to_dict()
    assert (said["new"], said["waived"], said["known"]) == (1, 5, 0)
    assert [w["matched"] for w in said["waivers"]] == [2, 1, 1, 2, 0, 0, 0]


def test_a_waived_finding_that_is_known_too_is_not_gone(tmp_path: Path) -> None:
    rows, table = dataset("a"), findings({"row": 0})
    settled = baseline.settle(table, rows, baseline.Baseline.of(table, rows), waivers(tmp_path, entry()))
    assert not settled.gone and not settled.unused and not settled.new.any()
    assert settled.to_dict()["waived"] == 1 and settled.to_dict()["known"] == 0


def test_a_waiver_holds_on_its_last_day_and_is_named_when_it_expired(tmp_path: Path) -> None:
    text = entry() + entry(reason='"second"', expires="2027-02-01")
    assert len(waivers(tmp_path, text, date(2027, 1, 31))) == 2
    with pytest.raises(AuditError, match=r"1 expired: .*waivers.toml, waiver 1 \(c, expired 2027-01-31: a test\)"):
        waivers(tmp_path, text, date(2027, 2, 1))
    with pytest.raises(AuditError, match=r"2 expired: .*waiver 1.*waiver 2"):
        waivers(tmp_path, text, date(2027, 2, 2))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[waiver]", "not readable as TOML"),
        ("[waiver]\ncheck = 1\n", r"expected tables \[\[waiver\]\]"),
        ("[[waivers]]\n", r"expected tables \[\[waiver\]\]"),
        (entry(check=""), "waiver 1: no check"),
        (entry(reason=""), "waiver 1: no reason"),
        (entry(reason='" "'), "waiver 1: reason = ' ', expected text"),
        (entry(expires=""), "waiver 1: no expires"),
        (entry(expires='"2027-01-31"'), "waiver 1: expires = '2027-01-31', expected a date"),
        (entry(expires="2027-01-31T00:00:00"), "expected a date"),
        (entry(lines=""), "nothing of row, lines or item"),
        (entry(lines="[2, 1]"), "waiver 1: lines"),
        (entry(lines="[0, 1]"), "waiver 1: lines"),
        (entry(lines="[true, 2]"), "waiver 1: lines"),
        (entry(lines="3"), "waiver 1: lines"),
        (entry(row='"abc"'), "waiver 1: row = 'abc', expected the 32"),
        (entry(row=f'"{" " * 32}"'), "waiver 1: row"),
        (entry() + entry(lnies="[1, 2]"), "waiver 2: unknown key 'lnies'; did you mean 'lines'"),
    ],
)
def test_a_waiver_that_is_not_well_formed_is_refused_by_entry_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(AuditError, match=complaint) as caught:
        waivers(tmp_path, text)
    assert str(tmp_path / "waivers.toml") in str(caught.value)
