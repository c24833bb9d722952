"""``harness defend`` on a small repository: a clone measures, old stands beside new, the report stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from harness import evidence
from harness.__main__ import main
from harness.defence import defending, rerun
from suites.capstone import doctored, small

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    repository = small.make(tmp_path_factory.mktemp("small") / "repository")
    return small.run(repository, "one")


def test_what_was_measured_comes_out_again(report, tmp_path):
    """In a clone at the report's commit, whatever became of the tree since; the report keeps its bytes."""
    repository, before = report.parent.parent, evidence.bundle_files(report)
    tests = (repository / "test_claims.py").read_text()
    (repository / "test_claims.py").write_text("raise RuntimeError('the tree of today')\n")
    try:
        status, record, said = small.defend(report, "--keep", str(tmp_path / "keep"))
    finally:
        (repository / "test_claims.py").write_text(tests)
    assert status == 0, said
    assert record["counts"] == {"agrees": 6, "differs within explainable variance": 0, "contradicts": 0, "not rerun": 0}
    assert record["pages"] == {"report.html": "this harness", "summary.md": "this harness"}
    assert "STANDS: of 6 claims 6 agree" in said
    assert evidence.bundle_files(report) == before


def test_only_what_was_asked_for(report):
    status, record, said = small.defend(report, "--only", "tickets.asked,R3")
    assert status == 0, said
    assert sorted(each["claim"] for each in record["claims"]) == ["R3.noise[tickets]", "tickets.asked"]


def test_noise_is_explained_and_a_loss_is_not(report):
    status, record, said = small.defend(report, SMALL_NOISE="6")
    assert (status, record["counts"]["contradicts"]) == (0, 0), said
    assert record["counts"]["differs within explainable variance"] >= 1
    status, record, said = small.defend(report, "--only", "tickets.accuracy", SMALL_LOSS="9")
    assert (status, record["counts"]["contradicts"]) == (1, 1), said
    assert "they go one way" in said


def test_it_goes_on_where_it_was_cut_short(report, tmp_path):
    keep = tmp_path / "keep"
    status, first, said = small.defend(report, "--keep", str(keep))
    assert status == 0, said
    run = keep / "runs" / "001"
    for name in ("tickets.length", "tickets.asked"):  # what a kill leaves: fewer files, and no seal
        (run / "evidence" / f"{name}.json").unlink()
    (run / "bundle.json").unlink()
    status, again, said = small.defend(report, "--keep", str(keep))
    assert status == 0, said
    assert "4 were measured before the defence was cut short; 2 are left" in said
    assert again["counts"] == first["counts"]
    assert len(list((keep / "runs" / "002" / "evidence").glob("*.json"))) == 2


def test_an_interrupted_defence_ends_its_pytest(report, tmp_path):
    keep = tmp_path / "keep"
    command = [sys.executable, "-m", "harness", "defend", str(report), "--keep", str(keep)]
    slow = small.environment(tmp_path / "store", SMALL_WAIT="600")
    process = subprocess.Popen(command, cwd=report.parent, env=slow, stdout=subprocess.PIPE, text=True)
    while not (keep / "runs" / "001" / "plan.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(keep) in _command(pid)]
    assert not (keep / "out").exists()


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as stream:
            return stream.read()
    except OSError:
        return ""


def test_a_test_that_is_gone_contradicts(report):
    """In a clone of the commit it must be there; the claim of a report whose code has no such test is nobody's."""
    repository = report.parent.parent
    text = (repository / "test_claims.py").read_text()
    before = small.git(repository, "rev-parse", "HEAD")
    (repository / "test_claims.py").write_text(text.partition('@pytest.mark.claim(Claim("tickets.length"')[0])
    try:
        later = small.commit(repository, "one claim less")
    finally:
        small.git(repository, "reset", "-q", "--hard", before)
    status, record, said = small.defend(report, "--commit", later, "--only", "tickets.length", "--only", "tickets.asked")
    assert status == 1
    assert "tickets.length  no test of this code makes it" in said
    assert record["counts"]["agrees"] == 1


def test_with_the_present_tree_a_claim_that_was_changed_since_is_no_contradiction(report):
    tests = report.parent.parent / "test_claims.py"
    text = tests.read_text()
    tests.write_text(text.replace("at_most(20.0)", "at_most(30.0)"))
    try:
        status, record, said = small.defend(report, "--here", "--only", "tickets.length,tickets.asked")
    finally:
        tests.write_text(text)
    assert status == 0, said
    assert record["measured_with"]["here"] is True
    assert record["counts"]["agrees"] == record["counts"]["not rerun"] == 1
    assert "bound at_most(20) in the report, at_most(30) in the code" in said


# --- bad input: one line, and nothing measured ------------------------------------------------------


def refused(capsys, *arguments: str) -> str:
    assert main(["defend", *arguments]) == 1
    return capsys.readouterr().err


def test_no_report(capsys, tmp_path):
    assert "no bundle.json" in refused(capsys, str(tmp_path), "--out", str(tmp_path.parent / "out"))


def test_a_changed_byte_is_refused_before_anything_is_measured(report, tmp_path, capsys):
    copy = shutil.copytree(report, tmp_path / "copy")
    page = (copy / "report.html").read_text()
    (copy / "report.html").write_text(page.replace("n = 300", "n = 900", 1))
    said = refused(capsys, str(copy), "--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out"))
    assert "report.html: changed" in said
    assert not (tmp_path / "keep").exists() and not (tmp_path / "out").exists()


def test_another_seal_than_one_was_told(report, capsys, tmp_path):
    assert "expected 0000" in refused(capsys, str(report), "--seal", "0000", "--out", str(tmp_path / "out"))


def test_an_unknown_claim_or_stage(report, capsys, tmp_path):
    said = refused(capsys, str(report), "--only", "tickets.acuracy", "--out", str(tmp_path / "out"))
    assert "did you mean 'tickets.accuracy'" in said


def test_the_report_is_never_written_to(report, capsys):
    assert "--out" in refused(capsys, str(report), "--out", str(report / "defence"))
    said = refused(capsys, str(report), "--keep", str(report / "keep"), "--out", str(report.parent / "out"))
    assert "--keep" in said and "lies in the report" in said


def test_a_full_disk_is_one_line(report, capsys, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rerun, "same_pages", full)
    said = refused(capsys, str(report), "--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out"))
    assert said.count("\n") == 1 and "No space left on device" in said
    assert not (tmp_path / "out").exists()


def test_a_report_outside_of_any_repository(report, capsys, tmp_path):
    copy = shutil.copytree(report, tmp_path / "copy")
    assert "--repo DIR" in refused(capsys, str(copy), "--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out"))


def test_a_report_that_no_test_made(report, capsys, tmp_path):
    """What ``harness load`` leaves has claims, and no tests that could be run again."""
    copy = shutil.copytree(report, report.with_name("loaded"))
    plan = evidence.read_json(copy / "plan.json")
    for entry in plan["claims"]:
        entry["test"] = "python -m harness load"
    evidence.write_atomic(copy / "plan.json", evidence.canonical(plan))
    for path in (copy / "evidence").glob("*.json"):
        record = evidence.read_json(path)
        record["notes"]["test"] = "python -m harness load"
        evidence.write_atomic(path, evidence.canonical(record))
    doctored.sealed_anew(copy)
    said = refused(capsys, str(copy), "--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out"))
    assert "no claim of this report was made by a test" in said


def test_pages_rendered_anew_make_no_other_defence(report):
    before = defending._evidence_digest(report)
    copy = shutil.copytree(report, report.with_name("rendered"))
    (copy / "summary.md").write_text("of a later harness")
    evidence.seal_bundle(copy)
    assert defending._evidence_digest(copy) == before
    (copy / "evidence" / "tickets.asked.json").write_text("{}")
    evidence.seal_bundle(copy)
    assert defending._evidence_digest(copy) != before


def test_a_commit_that_is_not_here(report, capsys, tmp_path):
    said = refused(capsys, str(report), "--commit", "0" * 40, "--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out"))
    assert "git fetch" in said


def test_the_folder_of_another_defence(report, capsys, tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "of.json").write_text('{"seal": "of another"}')
    assert "keeps the defence of another report" in refused(capsys, str(report), "--keep", str(keep), "--out", str(tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "not an empty folder" in refused(capsys, str(report), "--keep", str(tmp_path / "full"), "--out", str(tmp_path / "out"))


# --- pieces -----------------------------------------------------------------------------------------


def test_models_are_linked_and_answers_are_not(tmp_path):
    source = tmp_path / "source"
    for kind, name in (("trained", "adapter.safetensors"), ("gguf-q8_0", "model.gguf"), ("asked", "value.json"), ("loads", "requests.bin")):
        (source / kind / "key").mkdir(parents=True)
        (source / kind / "key" / "seal.json").write_text(json.dumps({"files": {name: "0"}}))
    (source / "asked" / "torn").mkdir()
    (source / "asked" / "torn" / "seal.json").write_text("{")
    assert rerun.link_models(source, tmp_path / "store") == 2
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["gguf-q8_0", "trained"]
    assert rerun.link_models(source, tmp_path / "store") == 2  # a second time, when it goes on


def test_stages_and_commas():
    assert defending.stage_of_test("suites/data/test_private.py::test_it[x::y]") == "data"
    assert defending.stage_of_test("test_claims.py::test_it") == ""
    assert defending._parts("data,R3.noise[a,b],E1") == ["data", "R3.noise[a,b]", "E1"]
