"""Plan, evidence, seal, recheck: any changed byte is refused, and the file is named."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness.recheck
from harness import Claim, Control, Measurement, Sample, at_least, evidence, non_inferior
from harness.__main__ import main
from harness.errors import EvidenceError
from harness.judge import judge
from harness.recheck import recheck

pytestmark = pytest.mark.selftest


def rate(k: int, n: int) -> Measurement:
    detail = {"text": "line\u2028separator, \x85 and \ud800 alone"}
    return Measurement("rate", tuple(Sample(f"i{i}", float(i < k), detail=detail if i == 0 else {}) for i in range(n)))


def paired(c: int, n: int) -> Measurement:
    rows = tuple(Sample(f"i{i}", float(arm == "old" or i >= c), arm) for i in range(n) for arm in ("new", "old"))
    return Measurement("accuracy", rows)


def make(run: Path) -> Path:
    claims = {
        "a.rate[x,y]": (Claim("a.rate[x,y]", "t", at_least(0.8)), rate(95, 100), ()),
        "b.ni": (Claim("b.ni", "t", non_inferior(0.05)), paired(2, 300), (Control("planted", ("fails",), paired(40, 300)),)),
    }
    plan = {"tier": "full", "claims": [{"claim": evidence.claim_to_json(c), "expect": "holds"} for c, _, _ in claims.values()]}
    digest = evidence.seal_plan(run, plan)
    notes = {"expect": "holds"}
    for claim, measurement, controls in claims.values():
        verdict = judge(claim, measurement, controls=controls)
        assert verdict.outcome == "holds"
        evidence.write_evidence(
            run,
            claim,
            verdict,
            plan_digest=digest,
            tier="full",
            measurement=measurement,
            controls=controls,
            provenance={},
            notes=notes,
        )
    evidence.write_atomic(run / "run.json", evidence.canonical({"exit_status": 0, "lost": []}))
    evidence.seal_bundle(run)
    return run


def reseal(run: Path) -> None:
    """What a careful cheat does: the seal is made anew, so that only the derivation can tell."""
    evidence.seal_bundle(run)


def test_an_untouched_bundle_derives_again(tmp_path):
    report = recheck(make(tmp_path / "run"))
    assert report.problems == ()
    assert report.verdicts == {"a.rate[x,y]": "holds", "b.ni": "holds"}


def test_every_flipped_byte_is_refused_and_the_file_is_named(tmp_path):
    run = make(tmp_path / "run")
    tried = 0
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for at in range(0, len(data), max(1, len(data) // 25)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
            problems = recheck(run).problems
            assert any(path.name in p for p in problems), (path, at)
            tried += 1
        path.write_bytes(data)
    assert tried > 100
    assert recheck(run).problems == ()


def test_missing_and_added_files_are_named(tmp_path):
    run = make(tmp_path / "run")
    (run / "extra.txt").write_text("hello")
    assert any("extra.txt: not part" in p for p in recheck(run).problems)
    (run / "extra.txt").unlink()
    (run / "evidence" / "b.ni.json").unlink()
    problems = recheck(run).problems
    assert any("b.ni.json: missing" in p for p in problems)
    assert any("no evidence for the planned claim b.ni" in p for p in problems)


def test_a_linked_folder_is_no_evidence(tmp_path):
    run = make(tmp_path / "run")
    (run / "more").symlink_to("/etc")
    assert any("more: not part" in p for p in recheck(run).problems)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_never_opened(tmp_path, what, sealed):
    run = make(tmp_path / "run")
    path = run / "evidence" / "b.ni.json"
    path.unlink()
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": lambda p: p.mkdir()}[what](path)
    if sealed:
        reseal(run)
    assert any("b.ni.json" in p for p in recheck(run).problems)


@pytest.mark.parametrize("sealed", [False, True])
def test_rows_that_unpack_to_more_than_memory_holds_are_refused(tmp_path, monkeypatch, sealed):
    monkeypatch.setattr(harness.recheck, "LARGEST", 1 << 20)
    run = make(tmp_path / "run")
    path = next((run / "samples").glob("*"))
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    if sealed:
        reseal(run)
    assert any(path.name in p and "unpacks to more than 1 MiB" in p for p in recheck(run).problems)


def test_rows_with_something_behind_their_end_are_refused(tmp_path):
    run = make(tmp_path / "run")
    path = next((run / "samples").glob("*"))
    path.write_bytes(path.read_bytes() + gzip.compress(b"{}"))
    reseal(run)
    assert any(path.name in p and "stands behind its end" in p for p in recheck(run).problems)


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_bytes(evidence.canonical(record))


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("a wider margin", lambda r: r["claim"]["bound"].update(limit=0.10), "not the one in the sealed plan"),
        ("a better verdict", lambda r: r["verdict"].update(estimate=0.01), "cannot be derived again: estimate"),
        ("a lost control", lambda r: r.update(controls=[]), "cannot be derived again"),
        ("another plan", lambda r: r.update(plan="0" * 64), "under another plan"),
        ("no measurement", lambda r: r.update(measurement=None), "without a measurement"),
        ("another tier", lambda r: r.update(tier="smoke"), "planned as 'full'"),
        ("other notes", lambda r: r["notes"].update(expect="fails"), "notes differ from the plan: expect"),
        (
            "a verdict dropped",
            lambda r: r.update(measurement=None, verdict={**r["verdict"], "outcome": "inconclusive", "reason": "straddles"}),
            "without a measurement",
        ),
        ("fewer rows", lambda r: r["measurement"]["samples"].update(rows=599), "600 rows, expected 599"),
        ("a file elsewhere", lambda r: r["measurement"]["samples"].update(file="../../etc/hostname"), "outside the bundle"),
    ],
)
def test_a_careful_cheat_is_caught_by_derivation(tmp_path, what, change, said):
    run = make(tmp_path / "run")
    edit(run / "evidence" / "b.ni.json", change)
    reseal(run)
    assert any("b.ni.json" in p and said in p for p in recheck(run).problems), what


def test_changed_rows_are_caught_even_when_sealed_anew(tmp_path):
    run = make(tmp_path / "run")
    record = json.loads((run / "evidence" / "b.ni.json").read_text())
    path = run / record["measurement"]["samples"]["file"]
    rows = gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(rows.replace('"value":0.0', '"value":1.0', 1).encode("utf-8", "surrogatepass"), mtime=0))
    reseal(run)
    assert any(": changed" in p for p in recheck(run).problems)


def test_a_changed_margin_in_the_plan_orphans_its_evidence(tmp_path):
    run = make(tmp_path / "run")
    edit(run / "plan.json", lambda plan: plan["claims"][1]["claim"]["bound"].update(limit=0.2))
    reseal(run)
    assert sum("under another plan" in p for p in recheck(run).problems) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda run: edit(run / "run.json", lambda r: r.update(lost=["b.ni"])),
            "run.json: lost = ['b.ni'], but by plan and evidence it is []",
        ),
        (lambda run: edit(run / "run.json", lambda r: r.update(tier="smoke")), "run.json: tier = 'smoke'"),
        (lambda run: edit(run / "run.json", lambda r: r.update(exit_status=True)), "run.json: exit_status = True"),
        (lambda run: (run / "run.json").write_text("[]\n"), "run.json: not how a run ended"),
        (lambda run: (run / "run.json").unlink(), "run.json: not how a run ended"),
        (lambda run: (run / "samples" / "more.jsonl.gz").write_bytes(b""), "more.jsonl.gz: rows that no evidence names"),
        (lambda run: spaced(run / "plan.json"), "plan.json: not a sealed plan (not in the form"),
        (lambda run: twice(run / "evidence" / "b.ni.json"), "b.ni.json: not in the form in which it was written"),
    ],
    ids=["lost", "tier", "status", "list", "gone", "rows", "spaces", "twice"],
)
def test_what_is_edited_beside_the_verdicts_is_named(tmp_path, change, said):
    run = make(tmp_path / "run")
    change(run)
    reseal(run)
    assert any(said in problem for problem in recheck(run).problems), recheck(run).problems


def spaced(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


def twice(path: Path) -> None:
    """A key that stands twice: a reader sees the first, a program the last."""
    path.write_text(path.read_text().replace('"tier": "full"', '"tier": "smoke",\n "tier": "full"'))


def test_green_needs_claims_that_came_to_what_was_expected(tmp_path):
    claim = Claim("c", "t", at_least(0.8))
    run = tmp_path / "run"
    digest = evidence.seal_plan(run, {"tier": "full", "claims": [{"claim": evidence.claim_to_json(claim), "expect": "holds"}]})
    found = rate(50, 100)
    told = {"plan_digest": digest, "tier": "full", "provenance": {}, "notes": {"expect": "holds"}}
    evidence.write_evidence(run, claim, judge(claim, found), measurement=found, **told)
    for status, problems in ((1, 0), (0, 1)):
        evidence.write_atomic(run / "run.json", evidence.canonical({"exit_status": status}))
        reseal(run)
        assert len(recheck(run).problems) == problems
    assert "exit_status = 0, but the run cannot have ended so: c" in recheck(run).problems[0]


def test_a_run_without_a_seal_is_derived_as_far_as_it_came(tmp_path):
    run = make(tmp_path / "run")
    (run / "bundle.json").unlink()
    report = recheck(run)
    assert set(report.verdicts.values()) == {"holds"} and len(report.problems) == 1
    assert "bundle.json: missing: the run was cut short" in report.problems[0]


def test_a_seal_told_elsewhere_catches_a_bundle_made_anew(tmp_path, capsys):
    run = make(tmp_path / "run")
    seal = json.loads((run / "bundle.json").read_text())["seal"]
    assert main(["recheck", str(run), "--seal", seal]) == 0
    assert "identical; 2 verdicts derived again (2 holds)" in capsys.readouterr().out
    assert main(["recheck", str(run), "--seal", "0" * 64]) == 1


def test_workers_with_another_plan_are_refused(tmp_path):
    first = evidence.seal_plan(tmp_path, {"claims": []})
    assert evidence.seal_plan(tmp_path, {"claims": []}) == first
    with pytest.raises(EvidenceError, match="planned differently"):
        evidence.seal_plan(tmp_path, {"claims": [1]})


def test_evidence_refuses_numbers_that_are_not_finite():
    with pytest.raises(EvidenceError, match="not finite"):
        evidence.canonical({"x": float("nan")})


def test_names_of_claims_never_collide():
    names = ["a.b", "a/b", "a b".replace(" ", "_"), "a:b", "a[b]", "a(b)", "../a", ".a", "a" * 300, "a" * 301]
    paths = {evidence.evidence_path(Path("run"), name) for name in names}
    assert len(paths) == len(names)
    assert {p.parent.as_posix() for p in paths} == {"run/evidence"}


def test_a_full_disk_keeps_nothing_half(tmp_path):
    """A limit on file size stands for the full disk: the write stops short in the same way."""
    target = tmp_path / "evidence.json"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from harness import evidence\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "evidence.write_atomic(Path(sys.argv[1]), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert "EvidenceError: cannot write" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.json"]
    assert target.read_bytes() == b"old"


def test_recheck_runs_on_the_standard_library_alone(tmp_path):
    """In an interpreter that can see nothing but the standard library and a copy of the package."""
    run = make(tmp_path / "run")
    shutil.copytree(Path(evidence.__file__).parent, tmp_path / "alone" / "harness")
    code = "import sys; from harness.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path / 'alone')!r}); {code}",
        "recheck",
        str(run),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stdout


def test_the_committed_example_derives_again():
    example = Path(__file__).parents[2] / "reports" / "example"
    report = recheck(example)
    assert report.problems == ()
    assert len(report.verdicts) >= 40
