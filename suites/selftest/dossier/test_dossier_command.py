"""``python -m harness dossier``: what it writes, goes on from, refuses; each outcome with its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from harness.__main__ import main
from harness.dossier import pages
from suites.dossier import planted

pytestmark = pytest.mark.selftest


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs the verb in a folder; returns its exit status, its output and its record."""

    def asked(folder, *argv: str, out: str = "out"):
        monkeypatch.chdir(folder)
        status = main(["dossier", *argv, "--out", str(tmp_path / out)])
        said = capsys.readouterr()
        path = tmp_path / out / "dossier.json"
        return status, said.out + said.err, json.loads(path.read_text()) if path.is_file() else {}

    return asked


def test_flags_leave_a_script_that_fails_a_test_that_fails_and_a_record(ask, tmp_path):
    case = planted.make(planted.of_flags, tmp_path)
    status, said, record = ask(case.folder, *case.argv)
    assert status == 0 and tuple(record["found"]["pieces"]) == case.truth
    assert "at most" in said and "FOUND: 2 of 15 flags" in said
    out = tmp_path / "out"
    assert subprocess.run(["sh", str(out / "repro.sh")], cwd=case.folder).returncode == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "asked.json", "dossier.html", "dossier.json", "dossier.md", "repro.sh", "runs.jsonl", "test_regression.py",
    ]  # fmt: skip
    assert all(proof["holds"] for proof in record["proofs"].values()) and sorted(record["proofs"]) == ["DO1", "DO3", "DO4"]
    for step in record["steps"]:
        if step["stage"] == "minimal":
            assert step["outcome"] == ("fail" if {4, 9} <= set(step["kept"]) else "pass")

    again, said, once_more = ask(case.folder, *case.argv)  # nothing but the regression test is run again
    assert again == 0 and once_more["reused"] == once_more["runs"]
    assert [step["outcome"] for step in once_more["steps"]] == [step["outcome"] for step in record["steps"]]


def test_a_search_that_was_killed_goes_on_where_it_was(ask, tmp_path):
    case = planted.make(planted.of_items, tmp_path)
    ask(case.folder, *case.argv)
    book = tmp_path / "out" / "runs.jsonl"
    lines = book.read_text().splitlines(keepends=True)
    book.write_text("".join(lines[:10]) + lines[10][:30])  # cut off in the middle of a line
    status, _, record = ask(case.folder, *case.argv)
    assert status == 0 and tuple(record["found"]["pieces"]) == case.truth
    assert len(lines) - 12 <= record["runs"] - record["reused"] <= len(lines) - 10


def test_a_history_is_searched_without_a_trace_in_the_repository(ask, tmp_path):
    case = planted.make(planted.pair, tmp_path)
    before = sorted((path.relative_to(case.folder), path.stat().st_mtime_ns) for path in case.folder.rglob("*"))
    status, _, record = ask(case.folder, *case.argv)
    assert status == 0 and record["found"]["commit"]["subject"] == "change 7" and len(record["found"]["hunks"]) == 2
    assert before == sorted((path.relative_to(case.folder), path.stat().st_mtime_ns) for path in case.folder.rglob("*"))
    done = subprocess.run(["sh", str(tmp_path / "out" / "repro.sh")], cwd=case.folder)
    assert done.returncode == 1
    assert planted.git(case.folder, "worktree", "list").count("\n") == 0


def test_a_pytest_test_written_today_is_put_into_each_commit(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # none is needed, and they take time
    folder = tmp_path / "project"
    folder.mkdir()
    planted.git(folder, "init", "-q")
    for number, body in enumerate(("return sum(items)", "return sum(items)\n\n\nraise ImportError", "return sum(items[1:])")):
        (folder / "price.py").write_text(f"def total(items):\n    {body}\n")
        planted.git(folder, "add", "-A")
        planted.git(folder, "commit", "-q", "-m", f"change {number}")
    (folder / "test_price.py").write_text("def test_total():\n    from price import total\n\n    assert total([1, 2]) == 3\n")
    argv = ("--test", "test_price.py::test_total -p no:lifecycle", "--good", "HEAD~2", "--whole-commit", "--checks", "1")
    status, _, record = ask(folder, *argv, "--bad", "HEAD")
    assert status == 0 and record["failure"] == "AssertionError"
    assert record["found"]["commit"]["subject"] == "change 2"
    assert [each["subject"] for each in record["found"]["or_else"]] == ["change 1"]  # it fails to import: that says nothing
    assert (tmp_path / "out" / "carried" / "test_price.py").is_file()


def test_settings_go_into_the_file_wherever_the_command_names_it(ask, tmp_path):
    (tmp_path / "good.toml").write_text("a = 1\n[b]\nc = 'it''s'\nd = 2\n".replace("'it''s'", '"it\'s"'))
    (tmp_path / "bad.toml").write_text('a = 2\n[b]\nc = "x y"\nd = 3\n')
    (tmp_path / "read.sh").write_text('! grep -q \'b.c = "x y"\' "${1#--config=}"\n')
    argv = ("--command", "sh read.sh --config={config} ''", "--good-config", "good.toml", "--bad-config", "bad.toml")
    status, _, record = ask(tmp_path, *argv)
    assert status == 0 and record["found"]["pieces"] == ['b.c: "it\'s" -> "x y"']
    assert subprocess.run(["sh", str(tmp_path / "out" / "repro.sh")], cwd=tmp_path).returncode == 1
    assert "--config=\"$room/config.toml\" ''" in (tmp_path / "out" / "repro.sh").read_text()


@pytest.mark.parametrize("build", [planted.no_flags, planted.always, planted.otherwise])
def test_no_cause_is_invented(ask, tmp_path, build):
    case = planted.make(build, tmp_path)
    status, said, record = ask(case.folder, *case.argv)
    assert (status, record["outcome"]) == (1, case.outcome)
    assert "found" not in record and "reproduction" not in record and not (tmp_path / "out" / "test_regression.py").exists()
    assert case.outcome.upper() in said


def test_a_fix_that_mends_nothing_is_no_fix(ask, tmp_path):
    case = planted.make(planted.pair, tmp_path)
    status, _, record = ask(case.folder, *case.argv, "--fix", "HEAD", "--whole-commit")
    assert (status, record["outcome"]) == (1, "not_shown") and not record["proofs"]["DO1"]["holds"] and record["proofs"]["DO2"]["holds"]


def test_what_a_command_prints_is_shown_as_text(ask, tmp_path):
    (tmp_path / "hostile.sh").write_text("printf '</pre><script>alert(1)</script>\\033[31m```\\n'; [ $# -eq 0 ]\n")
    status, _, record = ask(tmp_path, "--command", "sh hostile.sh {flags}", "--flags=--<b>|x --y")
    page, text = (tmp_path / "out" / "dossier.html").read_text(), (tmp_path / "out" / "dossier.md").read_text()
    assert status == 0 and "<script" not in page and "&lt;script" in page and "\x1b" not in page + text
    assert text.count("```") % 2 == 0 and record["found"]["of"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "given: none"),
        (("--items", "a", "--flags=-x"), "given: --flags, --items"),
        (("--bad", "HEAD"), "--good is missing"),
        (("--good-config", "a.toml"), "both are needed"),
        (("--flags=-x",), "one of them"),
        (("--flags=-x", "--command", "sh x"), "must say where they go"),
        (("--flags=", "--command", "sh x {flags}"), "there is none"),
        (("--flags='", "--command", "sh x {flags}"), "No closing quotation"),
        (("--items", "absent", "--command", "sh x {items}"), "cannot be read"),
        (("--good-config", "a.yaml", "--bad-config", "a.yaml", "--command", "sh x {config}"), "cannot be read|expected a .toml"),
        (("--good", "HEAD", "--command", "sh x"), "git rev-parse"),
        (("--flags=-x", "--command", "sh x {flags}", "--error", "0"), "expected a probability"),
        (("--flags=-x", "--command", "sh x {flags}", "--checks", "0"), "at least 1"),
        (("--flags=-x", "--command", "sh x {flags}", "--limit", "nan"), "above 0"),
        (("--flags=-x", "--command", "sh x {flags}", "--message", "("), "--message"),
        (("--flags=-x", "--command", "sh x {flags}", "--carry", "y"), "about commits"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(ask, tmp_path, argv, message):
    status, said, record = ask(tmp_path, *argv)
    assert status == 2 and said.startswith("error: ") and len(said.splitlines()) == 1 and not record
    import re

    assert re.search(message, said), said


def test_a_folder_of_another_question_is_left_alone(ask, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    status, said, _ = ask(tmp_path, "--command", "sh x {flags}", "--flags=-x")
    assert status == 2 and "name a new folder" in said and [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]


def test_its_module_is_light():
    code = "import sys, harness.dossier.command; print(sorted({'numpy', 'pytest', 'torch', 'harness.report'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_test_it_writes_reads_as_python_whatever_stands_in_the_file():
    import ast

    text = pages.command_test(["echo", "ü\U0001f600'\"\\\n{x}"], 3, 60)
    assert ast.literal_eval(ast.parse(text).body[3].value) == ["echo", "ü\U0001f600'\"\\\n{x}"]


def test_sigterm_ends_the_command_and_takes_the_worktrees_away(tmp_path):
    """And what was run is kept: the same command line goes on."""
    case = planted.make(planted.slip, tmp_path)
    (tmp_path / "room").mkdir()
    (tmp_path / "slow.sh").write_text(f"touch {tmp_path}/started; sleep 600; touch {tmp_path}/late\n")
    argv = [
        sys.executable,
        "-m",
        "harness",
        "dossier",
        "--command",
        f"sh {tmp_path}/slow.sh",
        "--good",
        "HEAD~3",
        "--out",
        f"{tmp_path}/out",
    ]
    process = subprocess.Popen(
        argv, cwd=case.folder, env={**os.environ, "TMPDIR": str(tmp_path / "room")}, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in said
    assert not list((tmp_path / "room").iterdir())
    assert subprocess.run(["pgrep", "-f", f"{tmp_path}/slow.sh"], capture_output=True).stdout == b""
