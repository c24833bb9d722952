"""What changed between two versions of a dataset, exactly; and which line a lock no longer fits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import manifest
from harness.audit.manifest import RULES, WHAT
from harness.audit.model import Rows, digests_of
from harness.errors import AuditError
from suites.selftest.audit.making import batch, rows_of

pytestmark = pytest.mark.selftest

Row = tuple[str, str, str | None, str]  # prompt, answer, id, what else the bytes hold; "" for no message


def rows(data: list[Row], name: str = "data.jsonl") -> Rows:
    distinct = list(dict.fromkeys(data))
    talks = [[("user", "prompt", row[0])] * bool(row[0]) + [("assistant", "answer", row[1])] * bool(row[1]) for row in distinct]
    made = batch(talks, id=[row[2] for row in distinct], label=[row[3] for row in distinct])
    return dataclasses.replace(rows_of(made, [distinct.index(row) for row in data]), files=(name,))


def diff(a: list[Row], b: list[Row]) -> manifest.Diff:
    return manifest.diff(manifest.index(rows(a)), manifest.index(rows(b)))


def oracle(a: list[Row], b: list[Row]) -> dict[str, Any]:
    """How many rows, and which contents, each word stands for: by the rules, word by word. Which of equal rows is meant is left open."""
    same = Counter(a) & Counter(b)
    free_a, free_b = list((Counter(a) - same).elements()), list((Counter(b) - same).elements())
    keys = (
        lambda row: (row[0], row[1]) if row[0] or row[1] else None,
        lambda row: (row[2], row[0]) if row[2] and row[0] else None,
        lambda row: row[2],
        lambda row: row[0] or None,
    )
    changed: Counter[str] = Counter()
    for rule, key in zip(RULES, keys, strict=True):
        left_a, left_b = Counter(map(key, free_a)), Counter(map(key, free_b))
        common = Counter({k: n for k, n in (left_a & left_b).items() if k is not None})
        changed[rule] = common.total()
        yield_a, yield_b = common.copy(), common.copy()
        free_a = [row for row in free_a if not _take(yield_a, key(row))]
        free_b = [row for row in free_b if not _take(yield_b, key(row))]
    return {"same": same.total(), "changed": +changed, "removed": len(free_a), "added": len(free_b)}


def _take(left: Counter[Any], key: Any) -> bool:
    left[key] -= 1
    return left[key] >= 0


def in_order(a: list[Any], b: list[Any]) -> int:
    """The length of a longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


ROW = st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from(["", "x", "y"]), st.sampled_from([None, "1", "2"]), st.sampled_from("ab"))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(a=st.lists(ROW, min_size=1, max_size=8), b=st.lists(ROW, min_size=1, max_size=8))
def test_every_row_is_accounted_for_by_the_rules(a: list[Row], b: list[Row]) -> None:
    said = diff(a, b)
    pairs = said.changed.tolist()
    assert said.kept <= in_order(a, b)
    assert all(a[i] == b[j] for i, j in said.moved.tolist()) and said.same == (a == b)
    keys = {
        "same content": lambda row: (row[0], row[1]), "same id and prompt": lambda row: (row[2], row[0]),
        "same id": lambda row: row[2], "same prompt": lambda row: row[0],
    }  # fmt: skip
    for (i, j), rule, what in zip(pairs, said.rule, said.what, strict=True):
        assert a[i] != b[j] and keys[RULES[rule]](a[i]) == keys[RULES[rule]](b[j])
        assert WHAT[what] == WHAT[(a[i][1] != b[j][1]) + 2 * (a[i][0] != b[j][0])]
    rows_a = [*(i for i, _ in pairs), *said.removed.tolist(), *said.moved[:, 0].tolist()]
    rows_b = [*(j for _, j in pairs), *said.added.tolist(), *said.moved[:, 1].tolist()]
    assert len(rows_a) == len(set(rows_a)) == len(a) - said.kept and len(rows_b) == len(set(rows_b)) == len(b) - said.kept
    kept = [[row for i, row in enumerate(rows) if i not in named] for rows, named in ((a, rows_a), (b, rows_b))]
    assert kept[0] == kept[1]
    assert said.kept + len(said.moved) == oracle(a, b)["same"]


OWN = st.tuples(st.sampled_from(["", *"pqrst"]), st.sampled_from(["", "x", "y"]), st.sampled_from([None, *"12345"]), st.sampled_from("ab"))
OWNS = st.lists(OWN, min_size=1, max_size=6, unique_by=(lambda row: row[0], lambda row: row[2]))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(a=OWNS, b=OWNS)
def test_a_diff_counts_what_its_rules_say(a: list[Row], b: list[Row]) -> None:
    """With prompts and ids of their own nothing is left open: counts are those of the rules, taken in turn."""
    said, expected = diff(a, b), oracle(a, b)
    rules = Counter(RULES[rule] for rule in said.rule)
    assert (rules, len(said.removed), len(said.added)) == (expected["changed"], expected["removed"], expected["added"])
    assert said.kept == in_order(a, b)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(texts=st.text("abcdef", min_size=2, max_size=30), data=st.data())
def test_rows_that_are_only_removed_or_added_move_nothing(texts: str, data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)).filter(any))
    a: list[Row] = [(text, "x", None, "a") for text in texts]
    b = [row for row, kept in zip(a, keep, strict=True) if kept]
    for said in (diff(a, b), diff(b, a)):
        assert said.kept == len(b) and not len(said.moved) and not len(said.changed)
        assert len(said.removed) + len(said.added) == len(a) - len(b)


def test_where_alignment_is_too_much_work_rows_are_still_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_CELLS", 4)
    a: list[Row] = [(text, "x", None, "a") for text in "xyzabcabcabcz"]
    b: list[Row] = [(text, "x", None, "a") for text in "xybcabcaabccccz"]
    said = diff(a, b)
    assert said.kept + len(said.moved) == (Counter(a) & Counter(b)).total() and said.kept >= 3


@settings(derandomize=True, deadline=None, max_examples=40)
@given(data=st.data(), n=st.integers(2, 40))
def test_random_edits_are_counted_exactly(data: st.DataObject, n: int) -> None:
    """Rows of their own, so that what was done to them can be told apart."""
    before: list[Row] = [(f"prompt {i}", f"answer {i}", None, "a") for i in range(n)]
    deeds = data.draw(st.lists(st.sampled_from(["keep", "keep", "remove", "answer", "rewrite"]), min_size=n, max_size=n))
    after: list[Row] = []
    for row, deed in zip(before, deeds, strict=True):
        if deed != "remove":
            after.append({"keep": row, "answer": (row[0], "other", None, "a"), "rewrite": (*row[:3], "b")}[deed])
    for k in range(data.draw(st.integers(0, 5))):
        after.insert(data.draw(st.integers(0, len(after))), (f"new {k}", "answer", None, "a"))
    if not after:
        after.append(("new", "answer", None, "a"))
    said, count = diff(before, after).counts(), Counter(deeds)
    assert said["removed"] == count["remove"] and said["changed_answers"] == count["answer"]
    assert said["changed"] == count["answer"] + count["rewrite"] and said["kept"] == count["keep"] and said["moved"] == 0
    assert said["added"] == sum(row[0].startswith("new") for row in after)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(order=st.permutations(range(9)))
def test_as_few_rows_move_as_can_be(order: list[int]) -> None:
    before: list[Row] = [(f"p{i}", "x", None, "a") for i in range(9)]
    said = diff(before, [before[i] for i in order])
    assert said.kept == in_order(list(range(9)), order) and said.kept + len(said.moved) == 9
    assert all(order[j] == i for i, j in said.moved.tolist())


def test_the_first_of_two_copies_taken_out_moves_nothing() -> None:
    a: list[Row] = [(p, "x", None, "a") for p in "pqprs"]
    said = diff(a, a[1:])
    assert said.counts() | {"removed": 1, "moved": 0, "kept": 4} == said.counts() and said.removed.tolist() == [0]


def test_anchors_tell_copies_apart_even_where_nothing_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_CELLS", 0)
    a, b = ([(text, "x", None, "a") for text in texts] for texts in ("axbxcxdye", "abxcxye"))
    assert diff(a, b).counts() | {"kept": 7, "moved": 0, "removed": 2} == diff(a, b).counts()


def test_renumbered_rows_are_other_bytes_not_changed_prompts() -> None:
    a: list[Row] = [(f"p{i}", f"x{i}", str(i), "a") for i in range(5)]
    b: list[Row] = [("new", "y", "0", "a"), *((p, x, str(int(i) + 1), e) for p, x, i, e in a if i)]
    said = diff(a, b)
    assert len(said.added) == 1 and not len(said.removed)
    assert [WHAT[w] for w in said.what] == ["other bytes"] * 5 and not len(said.answers)


def test_a_diff_is_told_in_words_and_as_json() -> None:
    a: list[Row] = [("p", "x", None, "a"), ("q", "x", None, "a"), ("r", "x", "7", "a"), ("s", "x", None, "a"), ("t", "x", None, "a")]
    b: list[Row] = [("q", "y", None, "a"), ("changed", "x", "7", "a"), a[4], a[3], ("u", "x", None, "a"), ("v", "x", None, "a")]
    said = manifest.diff(manifest.index(rows(a, "old.jsonl")), manifest.index(rows(b, "new.jsonl")))
    assert said.to_dict() == {
        "counts": {
            "rows_before": 5, "rows_after": 6, "kept": 1, "moved": 1, "added": 2, "removed": 1, "changed": 2, "changed_answers": 1,
        },
        "added": [{"file": "new.jsonl", "lines": [[5, 6]]}],
        "removed": [{"file": "old.jsonl", "lines": [[1, 1]]}],
        "moved": [{"from": "old.jsonl:4", "to": "new.jsonl:4"}],
        "changed": [
            {"from": "old.jsonl:2", "to": "new.jsonl:1", "by": "same prompt", "what": "answer"},
            {"from": "old.jsonl:3", "to": "new.jsonl:2", "by": "same id", "what": "prompt"},
        ],
    }  # fmt: skip
    assert json.loads(json.dumps(said.to_dict())) == said.to_dict()
    assert said.text(most=1) == (
        "5 rows before, 6 after, 1 kept as they were\n"
        "2 added\n  + new.jsonl:5\n  ... and 1 more\n"
        "1 removed\n  - old.jsonl:1\n"
        "2 changed, of these 1 answers to the same prompt\n  ~ old.jsonl:2 -> new.jsonl:1: answer (same prompt)\n  ... and 1 more\n"
        "1 moved\n  old.jsonl:4 -> new.jsonl:4\n"
    )
    assert diff(a, a).text() == "the same 5 rows in the same order\n"


def test_a_prompt_is_its_roles_and_texts_in_order() -> None:
    talk = [("system", "prompt", "s"), ("user", "prompt", "u")]
    made = rows_of(batch([
        [*talk, ("assistant", "answer", "x")], [*talk, ("assistant", "answer", "y"), ("assistant", "meta", "m")],
        [*talk[::-1], ("assistant", "answer", "x")], [("user", "prompt", "s"), talk[1], ("assistant", "answer", "x")],
        [*talk, ("assistant", "rejected", "x")], [("user", "meta", "m")],
    ]))  # fmt: skip
    table = manifest.index(made)
    prompt, answer = (table.column(name).to_pylist() for name in ("prompt", "answer"))
    assert prompt[0] == prompt[1] == prompt[4] and len({*prompt[:4], prompt[5]}) == 4 and prompt[5] is None
    assert answer[0] == answer[2] == answer[3] and len(set(answer)) == 4 and answer[5] is None


def test_names_of_rows_are_not_kept(tmp_path: Path) -> None:
    table = manifest.index(rows([("p", "x", "jane.doe@example.org", "a")]))
    manifest.write_index(tmp_path / "rows.parquet", table)
    assert b"jane" not in (tmp_path / "rows.parquet").read_bytes()
    assert manifest.read_index(tmp_path / "rows.parquet").equals(table)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for name in ("x.parquet", "none.parquet"):
        with pytest.raises(AuditError, match="not the index of a dataset"):
            manifest.read_index(tmp_path / name)


# --- the lock -------------------------------------------------------------------------------------


def locked(
    folder: Path, n: int, *, change: int | None = None, name: str = "data.jsonl", tail: bytes = b""
) -> tuple[manifest.Manifest, Any]:
    """A file of n rows, its manifest and its index; row ``change`` says something else."""
    folder.mkdir(exist_ok=True)
    data: list[Row] = [(f"p{i}" if i != change else "changed", "x", None, "a") for i in range(n)]
    (folder / name).write_bytes("".join(f"{row}\n" for row in data).encode() + tail)
    made = rows(data, str(folder / name))
    return manifest.Manifest.of(made), manifest.index(made)


def test_a_lock_holds_bytes_rows_and_a_root_over_shards(tmp_path: Path) -> None:
    made, table = locked(tmp_path, 2 * manifest.SHARD + 1)
    (file,) = made.files.values()
    data = (tmp_path / "data.jsonl").read_bytes()
    assert list(made.files) == ["data.jsonl"]
    assert (file.sha256, file.bytes, file.rows) == (hashlib.sha256(data).hexdigest(), len(data), 2 * manifest.SHARD + 1)
    digests = digests_of(table.column("row"))
    cuts = (0, manifest.SHARD, 2 * manifest.SHARD, 2 * manifest.SHARD + 1)
    shards = [hashlib.sha256(digests[a:b].tobytes()) for a, b in pairwise(cuts)]
    assert file.shards == tuple(shard.hexdigest() for shard in shards)
    assert file.root == hashlib.sha256(b"".join(shard.digest() for shard in shards)).hexdigest()
    manifest.write_lock(tmp_path / "data.lock", made)
    assert manifest.read_lock(tmp_path / "data.lock") == made
    again, _ = locked(tmp_path / "elsewhere", 2 * manifest.SHARD + 1)
    assert again == made and again.digest == made.digest


@pytest.mark.parametrize(("n", "m", "change"), [(90, 90, 50), (90, 90, 0), (90, 89, None), (32, 33, None), (10, 90, 3)])
def test_a_changed_file_is_named_with_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, m: int, change: int | None
) -> None:
    monkeypatch.setattr(manifest, "SHARD", 32)
    was, known = locked(tmp_path / "a", n)
    now, found = locked(tmp_path / "b", m, change=change)
    first = min(n, m) if change is None else change
    (said,) = manifest.verify(was, now)
    shard = first // manifest.SHARD
    assert f"first difference in rows {shard * 32 + 1} to {min((shard + 1) * 32, max(n, m))}" in said
    assert was.files["data.jsonl"].sha256 in said and now.files["data.jsonl"].sha256 in said
    (said,) = manifest.verify(was, now, known, found)
    assert said.endswith(f"first difference in line {first + 1}")


def test_the_same_rows_in_other_bytes_and_other_files_are_named(tmp_path: Path) -> None:
    was, _ = locked(tmp_path / "a", 3)
    assert manifest.verify(was, was) == []
    spaced, _ = locked(tmp_path / "b", 3, tail=b"\n")
    (said,) = manifest.verify(was, spaced)
    assert said.endswith("the rows are the same, the bytes around them differ")
    other, _ = locked(tmp_path / "c", 3, name="other.jsonl")
    assert manifest.verify(was, other) == ["data.jsonl: not there, but locked", "other.jsonl: there, but not locked"]


def test_files_are_named_from_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    for place in ("train/a.jsonl", "eval/a.jsonl"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_bytes(b"{}\n")
    made = dataclasses.replace(
        rows([("p", "x", None, "a"), ("q", "x", None, "a")]),
        files=(str(tmp_path / "train/a.jsonl"), str(tmp_path / "eval/a.jsonl")),
        file=np.array([0, 1], np.int32),
    )
    assert list(manifest.Manifest.of(made).files) == ["train/a.jsonl", "eval/a.jsonl"]
    assert set(manifest.index(made).column("file").to_pylist()) == {"train/a.jsonl", "eval/a.jsonl"}


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[]",
        "3",
        '{"schema": 9, "files": {}}',
        '{"schema": 1}',
        '{"schema": 1, "files": {"a": {"sha256": ""}}}',
        '{"schema": 1, "files": []}',
    ],
)
def test_what_is_no_lock_is_refused(tmp_path: Path, data: str) -> None:
    path = tmp_path / "data.lock"
    path.write_text(data)
    with pytest.raises(AuditError) as caught:
        manifest.read_lock(path)
    assert str(path) in str(caught.value) and "again" in str(caught.value)


def test_a_file_that_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        manifest.Manifest.of(rows([("p", "x", None, "a")], str(tmp_path / "gone.jsonl")))
