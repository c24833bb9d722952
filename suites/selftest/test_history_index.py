"""The index of runs: as good as reading them, never better; and the ways in which files, clocks and the index itself may be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3

import pytest

from harness import evidence
from harness.__main__ import main
from harness.history import index, reading, trends
from suites.selftest.test_history import CLAIMS, make

pytestmark = pytest.mark.selftest


@pytest.fixture
def runs(tmp_path):
    return [make(tmp_path / "runs", i, {CLAIMS[0]: 0.9, CLAIMS[1]: 0.8}) for i in range(4)]


@pytest.fixture
def base(tmp_path):
    return tmp_path / "cache" / index.NAME


@pytest.fixture
def reads(monkeypatch):
    """The folders that are read, and not taken from the index."""
    seen = []
    monkeypatch.setattr(index, "read", lambda run: seen.append(run.name) or reading.read(run))
    return seen


def edit(run, name, change, *, seal=True):
    path = run / name if (run / name).exists() else next((run / "evidence").glob(name))
    body = evidence.read_json(path)
    change(body)
    path.write_text(json.dumps(body))
    if seal:
        evidence.seal_bundle(run)


def test_a_run_that_did_not_change_is_not_read_again(runs, base, reads):
    first, notes = index.seen(runs, base)
    assert (len(reads), notes) == (4, [])
    again, _ = index.seen(runs[::-1], base)
    assert len(reads) == 4
    assert again[::-1] == first == [reading.read(run) for run in runs]
    some, _ = index.seen(runs, base, [CLAIMS[1]])
    assert {said.claim for one in some for said in one.said} == {CLAIMS[1]}


def test_the_same_folder_by_another_name_is_the_same(runs, base, reads, monkeypatch):
    index.seen(runs, base)
    monkeypatch.chdir(runs[0].parent)
    found, _ = index.seen([type(run)(run.name) for run in runs], base)
    assert len(reads) == 4
    assert [str(one.run) for one in found] == [run.name for run in runs]


def test_what_changed_is_read_again_even_if_size_and_time_are_forged(runs, base, reads):
    index.seen(runs, base)
    path = next((runs[2] / "evidence").glob("*"))
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"holds"', b'"fails"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    found, _ = index.seen(runs, base)
    assert reads[4:] == [runs[2].name]
    assert [bool(one.problem) for one in found] == [False, False, True, False]
    assert "seal is broken" in found[2].problem


def test_a_deleted_run_leaves(runs, base):
    index.seen(runs, base)
    shutil.rmtree(runs[1])
    found, _ = index.seen([runs[0]], base)
    assert len(found) == 1
    with sqlite3.connect(base) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)
        assert connection.execute("SELECT count(DISTINCT run) FROM said").fetchone() == (3,)
    connection.close()


def spoil(base, how):
    if how == "no database":
        base.write_bytes(b"what is this" * 1000)
    elif how == "torn":
        base.write_bytes(base.read_bytes()[: base.stat().st_size // 2])
    elif how == "overwritten":
        data = bytearray(base.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        base.write_bytes(data)
    else:
        with sqlite3.connect(base) as connection:
            connection.execute("UPDATE runs SET facts = 'x'" if how == "facts" else "PRAGMA user_version = 99")
        connection.close()


@pytest.mark.parametrize("how", ["no database", "torn", "overwritten", "facts"])
def test_a_damaged_index_is_made_again_and_said(runs, base, reads, how):
    good, _ = index.seen(runs, base)
    spoil(base, how)
    found, (note,) = index.seen(runs, base)
    assert found == good
    assert "thrown away and made again" in note
    assert index.seen(runs, base) == (good, [])
    assert len(reads) == 8


def test_an_index_of_another_version_is_made_again(runs, base, reads):
    good, _ = index.seen(runs, base)
    spoil(base, "version")
    assert index.seen(runs, base) == (good, [])
    assert len(reads) == 8


def test_without_a_place_for_the_index_each_run_is_read(runs, tmp_path, reads):
    (tmp_path / "file").write_text("")
    found, (note,) = index.seen(runs, tmp_path / "file" / "history.sqlite")
    assert len(found) == len(reads) == 4
    assert "cannot be used" in note
    (tmp_path / "folder.sqlite").mkdir()
    assert "cannot be used" in index.seen(runs, tmp_path / "folder.sqlite")[1][0]


def test_an_index_that_another_process_holds_is_done_without(runs, base, monkeypatch):
    index.seen(runs, base)
    monkeypatch.setattr(index, "_BUSY", 0.05)
    holder = sqlite3.connect(base, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    found, (note,) = index.seen(runs, base)
    holder.close()
    assert len(found) == 4
    assert "locked" in note


# --- what must not stand beside the rest --------------------------------------------------------


def test_a_half_deleted_run_is_named(runs, base):
    shutil.rmtree(runs[0] / "evidence")
    (runs[1] / "run.json").unlink()
    (runs[2] / evidence.BUNDLE).unlink()
    found, _ = index.seen(runs, base)
    kept, left_out = trends.usable(found)
    assert [one.run for one in kept] == runs[3:]
    assert [str(run) in text for run, text in zip(runs, left_out, strict=False)] == [True] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.9", True, [1]])
def test_a_number_that_is_none_leaves_its_claim_out_by_name(runs, base, value):
    edit(runs[0], "*a-*.json", lambda body: body["verdict"].update(estimate=value))
    for where in (base, base, None):  # read, from the index, without one
        found, _ = index.seen(runs, where)
        kept, left_out = trends.usable(found)
        assert len(kept) == 4
        assert [len(one.said) for one in kept] == [1, 2, 2, 2]
        assert len(left_out) == 1
        assert "is no finite number" in left_out[0]


@pytest.mark.parametrize("finished", ["yesterday", "", 7, None, "2026-01-01T00:00:00+99:00"])
def test_an_instant_that_is_none_is_named(runs, finished):
    edit(runs[0], "run.json", lambda body: body.update(finished=finished))
    assert "not a finished run" in reading.read(runs[0]).problem


def test_instants_are_compared_as_instants_and_ties_by_name(tmp_path):
    runs = [make(tmp_path, i, {CLAIMS[0]: 0.9}) for i in range(3)]
    for run, finished in zip(runs, ["2026-01-01T12:00:00+02:00", "2026-01-01T09:00:00-01:00", "2026-01-01T10:00:00"], strict=True):
        edit(run, "run.json", lambda body, finished=finished: body.update(finished=finished))
    for order in (runs, runs[::-1]):
        kept, _ = trends.usable([reading.read(run) for run in order])
        assert {one.finished for one in kept} == {"2026-01-01T10:00:00+00:00"}
        assert [one.run for one in kept] == runs


def test_a_clock_that_went_backwards_is_named(tmp_path):
    run = make(tmp_path, 1, {CLAIMS[0]: 0.9})  # finished on 2026-01-01
    late = shutil.copytree(run, tmp_path / "20260102T000000Z-full-abcdef")
    early = shutil.copytree(run, tmp_path / "20251231T235959Z-full-abcdef")
    assert "its clock went backwards" in reading.read(late).problem
    assert reading.read(early).problem == ""


def test_another_lifecycle_and_smoke_never_stand_beside_the_rest(tmp_path):
    runs = [make(tmp_path, i, {CLAIMS[0]: 0.9}, tier="smoke" if i == 1 else "full", lifecycle=f"l{i // 2}") for i in range(4)]
    kept, left_out = trends.usable([reading.read(run) for run in runs])
    assert [one.run for one in kept] == runs[2:]
    assert [word in " ".join(left_out) for word in ("smoke", "of lifecycle 'l0'")] == [True, True]


HOSTILE = ["{", "[]", "null", '"x"', "3", "{}", "[[]]", '{"a": ' * 5000]


@pytest.mark.parametrize("name", ["plan.json", "run.json", "bundle.json", "evidence"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_files_that_are_not_what_they_should_be_never_raise(runs, base, name, text):
    path = next((runs[0] / "evidence").glob("*")) if name == "evidence" else runs[0] / name
    path.write_text(text)
    if name != "bundle.json":
        evidence.seal_bundle(runs[0])
    found, _ = index.seen(runs[:2], base)
    assert found[0].problem or found[0].notes
    assert found[1].problem == ""


def test_the_verb_by_way_of_its_index(runs, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HARNESS_STORE", str(base.parent))
    folders = [str(run) for run in runs]
    assert main(["history", *folders]) == 0
    assert base.is_file()
    first = capsys.readouterr().out
    assert main(["history", *folders]) == 0
    assert main(["history", *folders, "--no-index"]) == 0
    assert main(["history", *folders, "--rebuild"]) == 0
    assert capsys.readouterr().out == 3 * first
    (tmp_path / "mine.sqlite").write_text("of somebody else")
    assert main(["history", *folders, "--rebuild", "--index", str(tmp_path / "mine.sqlite")]) == 1
    assert (tmp_path / "mine.sqlite").read_text() == "of somebody else"
    capsys.readouterr()
    base.write_bytes(b"x" * 9999)
    assert main(["history", *folders, "--csv", str(tmp_path / "h.csv")]) == 0
    assert "thrown away" in capsys.readouterr().err
    rows = (tmp_path / "h.csv").read_text().splitlines()
    assert len(rows) == 9
    assert rows[1].startswith("run-000,2026-01-01T00:00:00+00:00,Q1.rate[a],holds,")
    assert main(["history", *folders, "--claim", "nobody"]) == 1
    assert "no claim begins with nobody" in capsys.readouterr().err
