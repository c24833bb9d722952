"""Near duplicates from what the last audit kept: whatever came, went or moved since, the report is that of an audit from nothing."""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import join, kept, model, run, vocabulary
from harness.audit.duplicates import Duplicates
from harness.audit.near import Near

from .making import batch, rows_of

pytestmark = pytest.mark.selftest

WORD = st.sampled_from(["a", "b", "c", "d", "e", "f"])
TEXT = st.lists(WORD, max_size=9).map(" ".join)
PROMPT = st.sampled_from(["a b c d e", "be kind a b", "F e d", ""])
ROW = st.builds(lambda s, u, a: [("system", "prompt", s), ("user", "prompt", u), ("assistant", "answer", a)], PROMPT, TEXT, TEXT)
CHECKS = st.builds(
    Near, k=st.integers(1, 2), threshold=st.sampled_from(["4/5", "1/2", "1/4"]), common=st.sampled_from([1, 2, 3, 5, 1000]),
    parts=st.sampled_from([1, 3]),
)  # fmt: skip
EDIT = st.tuples(st.sampled_from(["delete", "insert", "copy", "move", "word"]), st.integers(0, 99), st.integers(0, 99), ROW)


def edited(rows, edits):
    """The rows after a script of edits; never none."""
    rows = [list(row) for row in rows]
    for kind, i, j, row in edits:
        i, j = i % len(rows), j % len(rows)
        if kind == "delete" and len(rows) > 1:
            del rows[i]
        elif kind == "insert":
            rows.insert(i, row)
        elif kind == "copy":
            rows.insert(j, rows[i])
        elif kind == "move":
            rows.insert(j, rows.pop(i))
        elif kind == "word":
            role, part, text = rows[i][-1]
            rows[i] = [*rows[i][:-1], (role, part, f"{text} {row[1][2][:1]}x")]
    return rows


def audited(check, rows, kept):
    """Through numbered facts; equal rows are one distinct row with several places."""
    distinct = list(dict.fromkeys(map(tuple, rows)))
    made = batch([list(row) for row in distinct])
    seen = rows_of(made, [distinct.index(tuple(row)) for row in rows])
    facts = model.numbered(model.merge([check.partial(made)], "text"), "text", seen.text_digests)
    return check.finish(facts, seen, model.Group(model.in_turn, kept))


def same(one, other):
    return one.findings.equals(other.findings) and one.summary == other.summary


@settings(derandomize=True, deadline=None, max_examples=150)
@given(CHECKS, st.lists(ROW, min_size=1, max_size=12), st.lists(st.lists(EDIT, max_size=6), min_size=1, max_size=4))
def test_any_script_of_edits_is_reported_as_from_nothing(check, rows, scripts):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_CHANGED", 0)  # never too much
        assert same(audited(check, rows, Path(folder)), audited(check, rows, None))
        for edits in scripts:
            rows = edited(rows, edits)
            expected = audited(check, rows, None)
            with patch.context() as only_from_kept:
                only_from_kept.setattr(vocabulary, "_anew", None)
                assert same(audited(check, rows, Path(folder)), expected)


def words(numbers):
    return " ".join(f"w{n}" for n in numbers)


def chain(n, first=0):
    return [[("user", "prompt", words(range(4 * i, 4 * i + 60))), ("assistant", "answer", "yes")] for i in range(first, first + n)]


def counting(monkeypatch):
    """How often everything was numbered anew."""
    made, anew = [], vocabulary._anew
    monkeypatch.setattr(vocabulary, "_anew", lambda spoken: made.append(len(spoken.keys)) or anew(spoken))
    return made


def test_shingles_cross_the_limit_both_ways_and_chains_break_and_join(tmp_path, monkeypatch):
    check, rows = Near(common=20), chain(60)
    audited(check, rows, tmp_path)
    made = counting(monkeypatch)
    without = [*rows[:30], *rows[33:]]
    broken = audited(check, without, tmp_path)
    assert broken.summary["clusters"] == 2 and made == []
    assert same(broken, audited(check, without, None))
    template = [*rows, *([("user", "prompt", words([*range(100, 130), 1000 + i]))] for i in range(8))]  # 15 hold it, then 23
    crossed = audited(check, template, tmp_path)
    assert crossed.summary["template"]["shingles"] > broken.summary["template"]["shingles"]
    assert same(crossed, audited(check, template, None))
    made.clear()
    assert same(audited(check, rows, tmp_path), audited(check, rows, None)) and made == [61]  # that of the audit from nothing


def test_so_much_that_changed_is_numbered_anew_and_kept(tmp_path, monkeypatch):
    check = Near()
    audited(check, chain(40), tmp_path)
    made = counting(monkeypatch)
    audited(check, chain(40, 2), tmp_path)
    assert made == []
    audited(check, chain(40, 20), tmp_path)
    assert made == [41]  # more than a fifth is new
    audited(check, chain(40, 21), tmp_path)
    assert made == [41]


def test_what_is_damaged_is_made_again(tmp_path, monkeypatch):
    check, rows = Near(), chain(40)
    first = audited(check, rows, tmp_path)
    files = sorted(tmp_path.glob("*/*"))
    assert len(files) == 7
    made = counting(monkeypatch)
    for path in files:
        whole = path.read_bytes()
        for bad in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"{}"):
            path.write_bytes(bad)
            made.clear()
            assert same(audited(check, rows, tmp_path), first), path
            assert made == [41], path
    made.clear()
    assert same(audited(check, rows, tmp_path), first) and made == []


def test_a_folder_that_cannot_be_written_costs_no_more_than_time(tmp_path):
    place = tmp_path / "file"
    place.write_text("no folder")
    assert same(audited(Near(), chain(5), place), audited(Near(), chain(5), None)) and place.read_text() == "no folder"


def test_arrays_are_kept_as_they_are(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.uint64).reshape(3, 2), "b": np.zeros((0, 2), np.int32)}
    kept.write(tmp_path / "x", arrays)
    kept.write(tmp_path / "x", arrays)  # over what is there
    back = kept.read(tmp_path / "x", ["a", "b"])
    assert {name: (array.dtype, array.tolist()) for name, array in back.items()} == {n: (a.dtype, a.tolist()) for n, a in arrays.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and kept.read(tmp_path / "y", ["a"]) is None
    assert kept.read(tmp_path / "x", ["a"]) is None


def test_an_audit_of_changed_data_numbers_only_what_changed(tmp_path, monkeypatch):
    """Through the engine: facts, kept numbers, checks that finish at once; the same digest as from nothing."""
    rng = np.random.default_rng(5)
    rows = [{"messages": [{"role": r, "content": t} for (r, _, t) in row]} for row in chain(300)]
    place = tmp_path / "rows.jsonl"

    def audited(keep, engine="serial"):
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run.audit(run.Dataset("rows", (place,)), [Duplicates(), Near(common=12)], engine=engine, keep=keep).digest

    keep = tmp_path / "keep"
    before = audited(keep)
    for i in rng.choice(300, 6, replace=False).tolist():
        rows[i] = {"messages": [*rows[i]["messages"][:-1], {"role": "assistant", "content": f"no {i}"}]}
    del rows[7], rows[100]
    rows.insert(3, rows[50])
    fresh = audited(None)
    with monkeypatch.context() as only_from_kept:
        only_from_kept.setattr(vocabulary, "_anew", None)
        assert audited(keep) == fresh != before
        assert audited(keep, "processes") == fresh
    assert audited(None, "processes") == fresh


def test_large_lists_are_taken_without_their_values_and_keys_are_looked_up_once(monkeypatch):
    names = np.array([[i, i * 7] for i in range(6)], np.uint64)
    lists = pa.array([[1], [], [2, 3], [4], [5, 6, 7], [8]], pa.large_list(pa.uint64()))
    whole = pa.table({"text": model.digest_array(names), "values": lists})
    pieces = pa.concat_tables([whole.slice(3), whole.slice(0, 0), whole.slice(0, 4)])  # in pieces, cut, the fourth twice
    asked, seen = names[[5, 3, 0, 2]], {}
    taken = model.numbered(pieces, "text", asked, seen)
    assert taken.column("text").to_pylist() == [0, 1, 2, 3]
    assert taken.column("values").to_pylist() == [[8], [4], [1], [2, 3]] and taken.column("values").num_chunks == 1
    monkeypatch.setattr(model, "lookup", None)
    assert model.numbered(pieces.select(["text"]), "text", asked, seen).column("text").to_pylist() == [0, 1, 2, 3]


def test_the_least_pair_of_a_large_cluster_is_the_first_of_all_that_are_least():
    """What distances to the first few rule out, against every pair in turn: the same fraction, not only the same number."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        sets = [set(rng.choice(40, rng.integers(18, 36), replace=False).tolist()) for _ in range(30)]
        pairs = [(len(sets[i] & sets[j]), len(sets[i] | sets[j])) for i in range(30) for j in range(i)]
        smallest = min(Fraction(*pair) for pair in pairs)
        made = join.ranked(sets)
        nums, dens = join.least(made, np.arange(30), np.array([0, 30]))
        assert (nums[0], dens[0]) == next(pair for pair in pairs if Fraction(*pair) == smallest)
