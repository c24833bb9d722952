"""How a run ends when its disk, its folder or its clock fails: red, with a line that says why, and nothing that looks like proof."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import evidence
from harness.recheck import recheck
from suites.selftest.test_plugin import HEAD, WORKERS, project, the_run, verdicts

pytestmark = pytest.mark.selftest

__all__ = ["project"]  # the fixture

TWO = """
@claims("first")
def test_first(claim):
    claim.check(rate(100, 100))
    BETWEEN

@claims("second")
def test_second(claim):
    claim.check(rate(100, 100))
"""


def run_with(project: pytest.Pytester, between: str, *arguments: str, head: str = "") -> pytest.RunResult:
    project.makepyfile(test_claims=f"{HEAD}\n{head}\n{TWO.replace('BETWEEN', between)}")
    return project.runpytest_subprocess("-p", "no:hypothesispytest", *arguments)


def one_line(result: pytest.RunResult, *words: str) -> None:
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text and "INTERNALERROR" not in text, text
    assert any(all(word in line for word in words) for line in text.splitlines()), text


@WORKERS
def test_a_folder_deleted_while_it_runs_is_red(project, workers):
    result = run_with(project, "import shutil; shutil.rmtree(RUN)", "--run-dir", "here", *workers, head="RUN = 'here'")
    assert result.ret == 1
    one_line(result, "unsealed", "plan.json: missing")
    assert not (project.path / "here" / "bundle.json").exists()


@WORKERS
def test_evidence_deleted_while_it_runs_is_lost(project, workers):
    gone = "import os; os.unlink('here/evidence/first.json')"
    result = run_with(project, gone, "--run-dir", "here", *workers)
    assert result.ret == 1
    one_line(result, "lost", "first")
    assert any("no evidence for the planned claim first" in problem for problem in recheck(project.path / "here").problems)


def test_a_plan_edited_while_it_runs_is_red(project):
    edit = "import pathlib; p = pathlib.Path('here/plan.json'); p.write_text(p.read_text().replace('0.8', '0.7'))"
    result = run_with(project, edit, "--run-dir", "here")
    assert result.ret == 1
    one_line(result, "unsealed", "plan.json was changed while the run went on")


@WORKERS
def test_a_folder_that_cannot_be_made_is_one_line(project, workers):
    """Below /proc nobody can make a folder, root neither: a read-only disk looks the same."""
    result = run_with(project, "pass", "--run-dir", "/proc/nowhere/run", *workers)
    assert result.ret == 1
    one_line(result, "cannot write /proc/nowhere/run")
    assert " passed" not in result.stdout.str()


FULL = """
import resource, signal
from dataclasses import replace
def fill():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
"""


def test_a_disk_that_fills_between_two_claims(project):
    """A limit on the size of a file stands for the full disk: a write stops short with an OSError, like ENOSPC."""
    long = f"{FULL}\nplain = rate\ndef rate(k, n): return replace(plain(k, n), conditions={{'note': 'x' * 20_000}})"
    result = run_with(project, "fill()", "--run-dir", "here", head=long)
    assert result.ret == 1
    text = result.stdout.str()
    assert "cannot write" in text and "free some space" in text and "INTERNALERROR" not in text
    assert list((project.path / "here").rglob(".*")) == [], "nothing half written is left"
    assert verdicts(project.path / "here")["first"]["outcome"] == "holds"


def test_a_disk_with_room_for_evidence_and_none_for_pages(project):
    result = run_with(project, "fill()", "--run-dir", "here", head=FULL)
    assert result.ret == 1
    one_line(result, "unsealed", "cannot write", "free some space")
    run = project.path / "here"
    assert set(verdicts(run)) == {"first", "second"}
    (problem,) = recheck(run).problems
    assert "bundle.json: missing: the run was cut short" in problem


def test_a_really_full_disk(project, tmp_path):
    """The same on a file system of 128 KiB, where this machine lets one be mounted."""
    import subprocess
    import sys

    small = tmp_path / "small"
    small.mkdir()
    project.makepyfile(test_claims=f"{HEAD}\n" + TWO.replace("BETWEEN", f"open({str(small / 'fill')!r}, 'wb').write(bytes(1 << 20))"))
    script = f"mount -t tmpfs -o size=128k none {small} && exec {sys.executable} -m pytest -q -p no:cacheprovider --run-dir {small}/run"
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(small)], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing for us; the tests above show the same with a limit on the size of a file")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=project.path, capture_output=True, text=True)
    assert done.returncode == 1 and "INTERNALERROR" not in done.stdout
    assert "No space left on device" in done.stdout and "unsealed" in done.stdout


def test_a_clock_that_is_set_back_decides_nothing_and_is_said(project):
    back = "import time; real = time.time; time.time = lambda: real() - 3600"
    result = run_with(project, back)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*clock was set back by 3600 s during the run: no verdict rests on it*"])
    assert json.loads((the_run(project) / "run.json").read_text())["clock_step_s"] == pytest.approx(-3600, abs=1)
    assert recheck(the_run(project)).problems == ()


def test_a_clock_that_stays_is_not_spoken_of(project):
    result = run_with(project, "pass")
    assert "clock was set" not in result.stdout.str()
    assert "clock_step_s" not in json.loads((the_run(project) / "run.json").read_text())


def test_what_a_killed_writer_left_is_not_sealed(tmp_path):
    run = tmp_path / "run"
    for name in (
        "evidence/.a.json.x1y2z3w4",
        "samples/.ab.jsonl.gz.q0_q0abc",
        ".plan.json.77",
        ".report.html.abcdefgh",
        ".plan.json.77.abcdefgh",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("half")
    for name in ("evidence/a.json", "logs/.gitignore", ".hidden"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    evidence.sweep(run)
    assert sorted(evidence.bundle_files(run)) == [".hidden", "evidence/a.json", "logs/.gitignore"]
    shutil.rmtree(run)
    evidence.sweep(run)  # a folder that went away is none of its business
