"""Exports: other tools read them, each claim is in them with what it came to, and nothing hostile gets through.

The schema of CTRF 0.0 is the file of the npm package ctrf 0.3.0 (MIT, Matthew Poulton-White; licence beside it).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from harness import evidence
from harness.__main__ import main
from harness.bounds import at_least, at_most, identical
from harness.errors import ClaimError, EvidenceError, MissingNeed
from harness.judge import not_evaluated
from harness.report import exports
from harness.types import Claim, Control, Measurement, Sample, Subject, Verdict
from suites.selftest.report.reading import HOSTILE

pytestmark = pytest.mark.selftest

SCHEMA = json.loads((Path(__file__).parent / "ctrf-schema-0.0.json").read_text("utf-8"))
NASTY = f"{HOSTILE} ]]> \x0b\ufffe\ud800 {{0}} [1](2) \U0001f600"
FORMS = ("ctrf", "junit", "in-toto", "sarif")
MODEL = Subject("mine", "gguf", "mine.gguf", "ab" * 32)
STANDING = {
    "holds": "passed", "fails": "failed", "open": "failed", "known": "warned", "mended": "failed", "absent": "failed",
    "allowed": "warned", "broke": "failed", "lost": "failed",
}  # fmt: skip


def rate(k: int, n: int = 100, *subjects: Subject) -> Measurement:
    return Measurement("m", tuple(Sample(f"i-{i}", float(i < k)) for i in range(n)), subjects or (MODEL,))


def every_outcome(folder, name: str = "run", text: str = "a share"):
    run = folder(name)
    run.add(Claim("T1.holds", text, at_least(0.8)), rate(100))
    run.add(Claim("T1.fails", text, at_least(0.8)), rate(10))
    run.add(Claim("T1.open", text, at_least(0.8)), rate(82))
    run.add(Claim("T1.known", text, at_least(0.8)), rate(10), expect="fails", why="since March")
    run.add(Claim("T1.mended", text, at_least(0.8)), rate(100), expect="fails", why="since March")
    for name, need in (("absent", "vllm"), ("allowed", "gpu")):
        claim = Claim(f"T1.{name}", text, at_least(0.8))
        run.add(claim, verdict=not_evaluated(claim, need, str(MissingNeed(need, "not here", "pip install it"))))
    run.add(Claim("T1.broke", text, at_least(0.8)), verdict=Verdict("error", "exception", text, alpha=0.05))
    run.add(Claim("T1.lost", text, at_least(0.8)))
    return run


def bundle(run, **facts) -> exports.Bundle:
    path = run.close(**{"exit_status": 1, "allowed_missing": ["gpu"], **facts})
    return exports.of_evidence(path, evidence.seal_bundle(path))


def ctrf(of: exports.Bundle) -> dict:
    report = json.loads(exports.ctrf(of))
    jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(report)
    return report


# --- what each claim came to ----------------------------------------------------------------------


def test_the_schema_refuses_what_is_no_report(folder):
    report = ctrf(bundle(every_outcome(folder)))
    report["results"]["tests"][0]["status"] = "fine"
    with pytest.raises(jsonschema.ValidationError, match="fine"):
        jsonschema.validate(report, SCHEMA)


def test_every_planned_claim_is_a_test_and_only_what_holds_passes(folder):
    of = bundle(every_outcome(folder))
    report = ctrf(of)["results"]
    status = {test["name"].partition(".")[2]: test["status"] for test in report["tests"]}
    said = {"passed": "passed", "failed": "failed"}
    assert status == {name: said.get(stands, "skipped" if name == "allowed" else "other") for name, stands in STANDING.items()}
    assert {key: report["summary"][key] for key in ("tests", *Counter(status.values()))} == {"tests": 9, **Counter(status.values())}
    predicate = json.loads(exports.in_toto(of))["predicate"]
    listed = {name.partition(".")[2]: kind for kind in ("passed", "warned", "failed") for name in predicate[f"{kind}Tests"]}
    assert listed == STANDING
    assert predicate["result"] == "FAILED"


@pytest.mark.parametrize(
    ("tier", "facts", "said"),
    [
        ("full", {"exit_status": 0}, "PASSED"), ("full", {"exit_status": 1}, "FAILED"), ("smoke", {"exit_status": 0}, "WARNED"),
        ("full", {"run_json": False}, "FAILED"),
    ],
)  # fmt: skip
def test_a_run_is_never_better_than_its_exit_status(folder, tier, facts, said):
    run = folder(tier=tier)
    run.add(Claim("T1.holds", "a share", at_least(0.8)), rate(100))
    of = bundle(run, **facts)
    assert json.loads(exports.in_toto(of))["predicate"]["result"] == said


def test_what_smoke_leaves_open_is_a_warning_and_a_broken_gate_is_not(folder):
    run = folder(tier="smoke")
    run.add(Claim("T1.open", "a share", at_least(0.8)), rate(82))
    run.add(Claim("T1.gate", "a share", at_least(0.8)), rate(100), controls=[Control("A/A", ("holds",), rate(10))])
    seen = bundle(run).run
    assert {c.id: exports.standing(c, seen) for c in seen.claims} == {"T1.open": "warned", "T1.gate": "failed"}


def test_numbers_are_those_of_the_evidence(folder):
    of = bundle(every_outcome(folder))
    records = {r["claim"]["id"]: r for r in of.records.values()}
    tests = {test["name"]: test for test in ctrf(of)["results"]["tests"]}
    cases = {case.get("name"): case for case in ElementTree.fromstring(exports.junit(of)).iter("testcase")}
    assert set(tests) == set(cases) == {*records, "T1.lost"}
    for name, record in records.items():
        verdict, extra, told = record["verdict"], tests[name]["extra"], properties(cases[name])
        for key in ("estimate", "low", "high", "n"):
            assert extra[key] == verdict[key]
            assert told.get(f"harness.{key}") == (None if verdict[key] is None else str(verdict[key]))
        assert told["harness.outcome"] == tests[name]["rawStatus"] == verdict["outcome"]
        assert told["harness.seal"] == of.seal


def properties(of: ElementTree.Element) -> dict[str, str]:
    return {one.get("name", ""): one.get("value", "") for one in of.findall("properties/property")}


def test_junit_counts_what_it_holds(folder):
    (suite,) = ElementTree.fromstring(exports.junit(bundle(every_outcome(folder)))).iter("testsuite")
    found = Counter(child.tag for case in suite.iter("testcase") for child in case if child.tag != "properties")
    counted = {"failure": int(suite.get("failures", "")), "skipped": int(suite.get("skipped", ""))}
    assert (
        dict(found)
        == counted
        == dict(Counter({"failed": "failure", "warned": "skipped"}.get(s) for s in STANDING.values() if s != "passed"))
    )


# --- in-toto --------------------------------------------------------------------------------------


def test_a_statement_names_artifacts_and_the_sealed_run(folder):
    run = folder()
    server = Subject("served", "http", "http://127.0.0.1:1/v1", "cd" * 32)
    run.add(Claim("T1.holds", "a share", at_least(0.8)), rate(100, 100, MODEL, server, Subject("odd", "gguf", "x", "no digest")))
    of = bundle(run)
    statement = json.loads(exports.in_toto(of))
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1", "https://in-toto.io/attestation/test-result/v0.1",
    )  # fmt: skip
    named = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert named == {"bundle.json": evidence.digest((of.path / "bundle.json").read_bytes()), "mine": "ab" * 32}
    configuration = {one["name"]: one["digest"]["sha256"] for one in statement["predicate"]["configuration"]}
    assert configuration["plan.json"] == evidence.digest((of.path / "plan.json").read_bytes())
    assert configuration["golden/addresses"] == "2f" * 32
    assert statement["predicate"]["configuration"][0]["annotations"]["seal"] == of.seal


def test_a_statement_about_nothing_is_refused(folder):
    run = folder()
    run.add(Claim("T1.holds", "a share", at_least(0.8)), rate(100, 100, Subject("served", "http", "http://x", "cd" * 32)))
    with pytest.raises(EvidenceError, match="no claim names a subject with a SHA-256"):
        exports.in_toto(bundle(run))


# --- SARIF ----------------------------------------------------------------------------------------


def data_run(folder, *, limit_met: bool, item: str = "train set.jsonl:7 (row 6): near"):
    run = folder()
    finding = {"check": "near", "kind": "near", "partner": "train set.jsonl:2", "detail": NASTY}
    rows = (Sample(item, float(limit_met), detail={"findings": [finding]}), *(Sample(f"r{i}", float(not limit_met)) for i in range(99)))
    subject = Subject("train", "data", "train set.jsonl", "ef" * 32)
    claim = Claim("D1.near[train]", "few rows", at_most(0.5) if limit_met else identical(), estimand="exact_share" if limit_met else None)
    run.add(claim, Measurement("m", rows, (subject,), {"dataset": "train", "rows": 100}))
    return run


@pytest.mark.parametrize("limit_met", [True, False])
def test_rows_with_findings_stand_at_their_line(folder, limit_met):
    (run,) = json.loads(exports.sarif(bundle(data_run(folder, limit_met=limit_met))))["runs"]
    row = next(r for r in run["results"] if r["ruleId"] == "near.near")
    place = row["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == ("train%20set.jsonl", {"startLine": 7})
    assert row["level"] == ("note" if limit_met else "error")
    assert [r["ruleId"] for r in run["results"] if r["level"] == "error"] == ([] if limit_met else ["D1.near", "near.near"])
    assert all(run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    assert "{" not in row["message"]["text"].replace("{{", "")
    assert re.search(r"(?<!\\)\[", row["message"]["text"]) is None


def test_a_row_that_names_no_line_keeps_its_name(folder):
    (run,) = json.loads(exports.sarif(bundle(data_run(folder, limit_met=True, item="a row somewhere"))))["runs"]
    assert run["results"][0]["locations"] == [{"logicalLocations": [{"name": "a row somewhere", "kind": "member"}]}]


# --- hostile text ---------------------------------------------------------------------------------


def test_hostile_text_breaks_no_format(folder):
    run = every_outcome(folder, text=NASTY)
    run.add(Claim("T1.\x01<b>\u202e]]>", NASTY, at_least(0.8)), rate(10, 100, Subject(NASTY, "gguf", NASTY, "aa" * 32)))
    of = bundle(run)
    ctrf(of)
    for made in (exports.ctrf(of), exports.in_toto(of), exports.sarif(of)):
        text = made.decode("ascii")
        assert re.search(r"(?<!\\)\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])", text) is None  # no lone surrogate, which strict readers refuse
        json.loads(text)
    parsed = ElementTree.fromstring(exports.junit(of))
    assert any(case.get("name") == "T1.#x01<b>\u202e]]>" for case in parsed.iter("testcase"))


def test_the_same_bundle_gives_the_same_bytes(folder):
    path = bundle(every_outcome(folder)).path
    made = [[getattr(exports, name.replace("-", "_"))(exports.of_evidence(path, "s")) for name in FORMS] for _ in range(2)]
    assert made[0] == made[1]


def test_a_log_of_a_run_without_data_claims_says_that_nothing_was_looked_at(folder):
    log = json.loads(exports.sarif(bundle(every_outcome(folder))))
    (notice,) = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert notice == {"level": "warning", "message": {"text": "no claim of this run is about data: nothing was looked at"}}


# --- the verb -------------------------------------------------------------------------------------


@pytest.fixture
def good(folder) -> Path:
    run = folder()
    run.add(Claim("T1.holds", "a share", at_least(0.8)), rate(100))
    return bundle(run, exit_status=0).path


def test_the_verb_writes_what_is_asked_for(good, tmp_path, capsys):
    files = [tmp_path / f"out.{name}" for name in FORMS]
    assert main(["export", str(good), *(x for name, path in zip(FORMS, files, strict=True) for x in (f"--{name}", str(path)))]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in files]
    assert json.loads(files[0].read_text())["runId"] == evidence.read_json(good / "bundle.json")["seal"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("changed", ["plan.json", "run.json", "evidence/T1.holds.json", "bundle.json"])
def test_a_run_that_does_not_recheck_is_refused(good, tmp_path, capsys, changed):
    path = good / changed
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    assert main(["export", str(good), "--ctrf", str(tmp_path / "c.json")]) == 1
    assert "does not recheck, so nothing is exported" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_forged_verdict_that_was_sealed_anew_is_refused(good, tmp_path, capsys):
    path = good / "evidence" / "T1.holds.json"
    path.write_bytes(evidence.canonical({**(record := evidence.read_json(path)), "verdict": {**record["verdict"], "estimate": 0.99}}))
    evidence.seal_bundle(good)
    assert main(["export", str(good), "--junit", str(tmp_path / "j.xml")]) == 1
    assert "cannot be derived again: estimate differ" in capsys.readouterr().err


def test_a_wrong_command_line_is_status_two(good, tmp_path, capsys):
    assert main(["export", str(good)]) == 2
    assert "nothing is asked for" in capsys.readouterr().err
    assert main(["export", str(good), "--ctrf", str(good / "ctrf.json")]) == 2
    assert "whose seal it would break" in capsys.readouterr().err
    assert main(["export", str(good), "--ctrf", str(tmp_path / "a"), "--junit", str(tmp_path / "a")]) == 2
    assert "into one file" in capsys.readouterr().err


def test_no_run_and_no_room_are_errors(good, tmp_path, capsys):
    assert main(["export", str(tmp_path / "none"), "--ctrf", str(tmp_path / "c")]) == 1
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "empty"), "--ctrf", str(tmp_path / "c")]) == 1
    assert "does not recheck" in capsys.readouterr().err
    assert main(["export", str(good), "--ctrf", str(tmp_path / "no" / "such" / "c.json")]) == 1
    assert "cannot write" in capsys.readouterr().err


# --- pytest's own JUnit ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["n0", "n2"])
def test_junitxml_holds_the_numbers_of_each_claim(pytester, workers):
    pytester.makepyfile(
        test_it="""
import pytest
from harness import Claim, Measurement, Sample, at_least

@pytest.mark.claim(Claim("a.\\x02<", "a share \\x01\\ud800", at_least(0.5)))
def test_a(claim):
    claim.check(Measurement("m", tuple(Sample(str(i), 1.0) for i in range(50))))
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--run-dir", "run", "--junitxml", "junit.xml", *workers)
    assert result.ret == 0
    (record,) = [evidence.read_json(path) for path in (pytester.path / "run" / "evidence").iterdir()]
    (case,) = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    told = properties(case)
    assert {key: told[f"harness.{key}"] for key in ("outcome", "plan")} == {"outcome": "holds", "plan": record["plan"]}
    assert [told[f"harness.{key}"] for key in ("estimate", "low", "high", "n")] == [
        str(record["verdict"][key]) for key in ("estimate", "low", "high", "n")
    ]
    assert told["harness.claim"] == "a.#x02<"


def test_a_claim_that_no_file_can_be_named_after_is_refused():
    with pytest.raises(ClaimError, match="half a character"):
        Claim("a.\ud800", "a share", at_least(0.5))
