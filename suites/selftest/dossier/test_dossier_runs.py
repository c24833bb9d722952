"""Runs: how each counts, that nothing of one is left, and a book that survives what a kill leaves of it."""

from __future__ import annotations

import time

import pytest

from harness.dossier.places import hunks
from harness.dossier.runs import Book, Raw, execute, outcome_of, pytest_report
from harness.errors import EvidenceError

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "passed"),
        ("exit 1", "exit 1"),
        ("exit 125", "unresolved: exit 125"),
        ("no-such-command", "unresolved: exit 127"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("kill -9 $$", "SIGKILL"),
    ],
)
def test_an_exit_status_in_a_word(tmp_path, script, said):
    assert execute(["sh", "-c", script], tmp_path, 60).said == said


def test_what_cannot_be_started_or_ends_too_late_cannot_tell(tmp_path):
    assert execute([str(tmp_path / "absent")], tmp_path, 60).said.startswith("unresolved: cannot be started")
    assert execute(["sh", "-c", "sleep 600"], tmp_path, 0.2).said == "unresolved: it took longer than 0.2 s"


def test_nothing_of_a_run_is_left_when_it_ends(tmp_path):
    raw = execute(["sh", "-c", "(sleep 2; touch late) & echo started"], tmp_path, 60)
    assert raw.said == "passed" and raw.tail == "started\n"
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_the_end_of_an_output_of_any_size_and_kind_is_kept(tmp_path):
    raw = execute(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377end'"], tmp_path, 60)
    assert len(raw.tail) == 4000 and raw.tail.endswith("x\ufffdend")


def test_only_the_failure_that_is_looked_for_counts():
    def raw(said, tail=""):
        return Raw(1, said, tail, 0.0)

    assert outcome_of(raw("exit 1"), "") == outcome_of(raw("exit 1"), "exit 1") == "fail"
    assert outcome_of(raw("exit 2"), "exit 1") == outcome_of(raw("unresolved: exit 125"), "") == "unresolved"
    assert outcome_of(raw("exit 1", "wrong total: 3"), "exit 1", r"total: \d") == "fail"
    assert outcome_of(raw("exit 1", "no network"), "exit 1", r"total: \d") == "unresolved"
    assert outcome_of(raw("passed", "no network"), "exit 1", r"total: \d") == "pass"


CLAIM = (
    '<properties><property name="harness" value="{&quot;claim&quot;: &quot;E1&quot;, &quot;outcome&quot;: &quot;%s&quot;}"/></properties>'
)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("<testcase/>", "passed"),
        ("", "unresolved: no test was collected"),
        ('<testcase/><testcase><failure message="assert 1 == 2"/></testcase>', "AssertionError"),
        ('<testcase><failure message="ValueError: x"/></testcase>', "ValueError"),
        ('<testcase><failure message="price.Wrong: x"/></testcase>', "price.Wrong"),
        ('<testcase><error message="fixture"/></testcase>', "unresolved: error: fixture"),
        ('<testcase><skipped message="no GPU"/></testcase>', "unresolved: skipped: no GPU"),
        (f"<testcase>{CLAIM % 'holds'}</testcase>", "passed"),
        (f'<testcase>{CLAIM % "fails"}<failure message="E1: fails"/></testcase>', "E1 fails"),
        (f'<testcase>{CLAIM % "inconclusive"}<failure message="E1: n"/></testcase>', "unresolved: E1 inconclusive"),
        (f"<testcase>{CLAIM % 'not_evaluated'}<skipped/></testcase>", "unresolved: E1 not_evaluated"),
    ],
)
def test_what_pytest_reports(tmp_path, inside, said):
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{inside}</testsuite></testsuites>")
    assert pytest_report(tmp_path / "junit.xml")(1, "") == said


def test_a_report_that_is_none(tmp_path):
    assert pytest_report(tmp_path / "absent.xml")(3, "").startswith("unresolved: pytest ended with 3")
    (tmp_path / "cut.xml").write_text("<testsuites><test")
    assert pytest_report(tmp_path / "cut.xml")(3, "").startswith("unresolved")


def test_a_book_holds_what_was_run_and_forgets_what_cannot_be_read(tmp_path):
    path, made = tmp_path / "runs.jsonl", []

    def make():
        made.append(1)
        return Raw(1, "exit 1", "tail \u2028 ü", 0.5)

    first = Book(path)
    assert first.run("a", make) == first.run("a", make) == Book(path).run("a", make) and len(made) == 1
    path.write_text(path.read_text() + '{"key": "b", "status": 0}\n[]\nno json\n{"key": "c", "sta')
    again = Book(path)
    again.run("b", make), again.run("c", make)
    assert len(made) == 3 and (again.made, again.reused) == (2, 0)
    third = Book(path)
    assert [third.run(key, make).said for key in "abc"] == ["exit 1"] * 3 and len(made) == 3


def test_a_book_that_cannot_be_kept_says_so(tmp_path):
    with pytest.raises(EvidenceError, match="cannot be written"):
        Book(tmp_path / "absent" / "runs.jsonl").run("a", lambda: Raw(0, "passed", "", 0.0))
    (tmp_path / "runs.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(EvidenceError, match="cannot be read"):
        Book(tmp_path / "runs.jsonl")


def test_a_patch_falls_into_hunks_that_make_it_up_again():
    patch = (
        b"diff --git a/x.py b/x.py\nindex 1..2 100644\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n@@ -9 +9,2 @@ def f():\n-c\n+@@ d\n+e\n"
        b"diff --git a/new b/new\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+n\n"
        b"diff --git a/pic b/pic\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZ\n\n"
    )
    found = hunks(patch)
    assert [name for name, _, _ in found] == ["x.py:1", "x.py:9", "new", "pic"]
    assert found[0][1] + found[0][2] + found[1][2] + found[2][2] + found[3][2] == patch
    assert hunks(b"") == []
