"""Every row of the pytest table: event, evidence, what pytest shows, exit status; with and without workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import evidence
from harness.recheck import recheck

pytestmark = pytest.mark.selftest

HEAD = """
import pytest
from harness import Claim, Control, Measurement, Sample, at_least, identical
from harness.errors import MissingNeed

def rate(k, n):
    return Measurement("rate", tuple(Sample(f"i{i}", float(i < k)) for i in range(n)))

def claims(name, **more):
    return pytest.mark.claim(Claim(name, "four in five are right", at_least(0.8), **more))
"""

MINIMAL = '[subjects]\nr = "fake:x"\n[quant]\nreferences = ["r"]\nbuilds = []\nsets = []\ntexts = ""\n'

BODIES = {
    "holds": "claim.check(rate(100, 100))",
    "fails": "claim.check(rate(50, 100))",
    "inconclusive": "claim.check(rate(82, 100))",
    "not_evaluated": "raise MissingNeed('vllm', 'not installed', 'pip install vllm')",
    "error": "raise RuntimeError('the engine fell over')",
    "never": "pass",
    "skipped": "pytest.skip('not today')",
    "twice": "claim.check(rate(100, 100)); claim.check(rate(100, 100))",
    "control": "claim.check(rate(100, 100), controls=[Control('planted', ('fails',), rate(100, 100))])",
}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:benchmark -p no:randomly")
    return pytester


def write(project: pytest.Pytester, *names: str) -> None:
    tests = [f"@claims({name!r})\ndef test_{name}(claim):\n    {BODIES[name]}\n" for name in names]
    project.makepyfile(test_claims=HEAD + "\n".join(tests))


def the_run(project: pytest.Pytester) -> Path:
    (run,) = (project.path / "reports").iterdir()
    return run


def verdicts(run: Path) -> dict[str, dict]:
    records = [json.loads(p.read_text()) for p in (run / "evidence").glob("*.json")]
    return {r["claim"]["id"]: r["verdict"] for r in records}


def lines_of_verdicts(result: pytest.RunResult) -> list[str]:
    section = "\n".join(result.outlines).partition(" claims =")[2].splitlines()
    return [line for line in section if line.startswith(("holds ", "fails ", "inconclusive ", "not_evaluated ", "error "))]


WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["n0", "n2"])
ROWS = [
    # name, tier, outcome in evidence, word of pytest -v, exit status
    ("holds", "full", "holds", "PASSED", 0),
    ("fails", "full", "fails", "FAILED", 1),
    ("fails", "smoke", "fails", "FAILED", 1),
    ("inconclusive", "full", "inconclusive", "INCONCLUSIVE", 1),
    ("inconclusive", "smoke", "inconclusive", "INCONCLUSIVE", 0),
    ("not_evaluated", "full", "not_evaluated", "NOT EVALUATED", 8),
    ("error", "full", "error", "FAILED", 1),
    ("never", "full", "error", "FAILED", 1),
    ("skipped", "full", "error", "FAILED", 1),
    ("twice", "full", "holds", "FAILED", 1),
    ("control", "smoke", "inconclusive", "INCONCLUSIVE", 1),
]


@pytest.mark.parametrize(("name", "tier", "outcome", "word", "status"), ROWS)
def test_each_row_of_the_table(project, name, tier, outcome, word, status):
    write(project, name)
    result = project.runpytest_subprocess("-v", "--tier", tier)
    assert result.ret == status
    result.stdout.fnmatch_lines([f"*test_{name} {word}*"])
    assert verdicts(the_run(project))[name]["outcome"] == outcome
    assert recheck(the_run(project)).problems == ()


@WORKERS
@pytest.mark.parametrize(
    "body", ["try:\n        claim.check(rate(50, 100))\n    except BaseException:\n        pass", "marked"], ids=["caught", "xfail"]
)
def test_the_evidence_decides_not_what_the_test_made_of_it(project, body, workers):
    mark = "" if body.startswith("try") else "@pytest.mark.xfail\n"
    code = body if mark == "" else "claim.check(rate(50, 100))"
    project.makepyfile(test_claims=f"{HEAD}\n{mark}@claims('c')\ndef test_c(claim):\n    {code}\n")
    result = project.runpytest_subprocess(*workers)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["unheeded * c: *"])
    assert recheck(the_run(project)).problems == ()


def test_a_score_that_is_no_number_is_refused_and_kept(project):
    rows = "Measurement('m', (Sample('a', float('nan')), Sample('b', 1.0, at=float('inf'))))"
    project.makepyfile(test_claims=f"{HEAD}\n@claims('c')\ndef test_c(claim):\n    claim.check({rows})\n")
    assert project.runpytest_subprocess().ret == 1
    assert verdicts(the_run(project))["c"]["reason"] == "non_finite"
    assert recheck(the_run(project)).problems == ()


@WORKERS
def test_all_rows_together(project, workers):
    names = [name for name in BODIES if name != "twice"]
    write(project, *names)
    result = project.runpytest_subprocess(*workers)
    found = verdicts(the_run(project))
    assert sorted(found) == sorted(names)
    assert result.ret == 1
    report = recheck(the_run(project))
    assert report.problems == ()
    assert len(lines_of_verdicts(result)) == len(names)


def test_workers_change_nothing(project):
    write(project, *[name for name in BODIES if name != "twice"])
    bundles = []
    for workers in ((), ("-n", "2")):
        assert project.runpytest_subprocess("--run-dir", f"run{len(workers)}", *workers).ret == 1
        run = project.path / f"run{len(workers)}"
        bundles.append(
            {p.relative_to(run).as_posix(): p.read_bytes() for p in (*run.glob("evidence/*"), *run.glob("samples/*"), run / "plan.json")}
        )
    assert bundles[0] == bundles[1]


@WORKERS
def test_missing_may_be_allowed_by_name(project, workers):
    write(project, "holds", "not_evaluated")
    assert project.runpytest_subprocess(*workers, "--allow-missing", "llamacpp").ret == 8
    result = project.runpytest_subprocess(*workers, "--allow-missing", "vllm")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 not evaluated*"])


def test_the_way_to_get_it_is_shown(project):
    write(project, "not_evaluated")
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*not installed. To get it: pip install vllm*", "*--allow-missing vllm*"])


def test_a_crashed_worker_loses_no_claim_in_silence(project):
    project.makepyfile(
        test_claims=HEAD
        + """
import os
@claims("dies")
def test_dies(claim):
    os._exit(3)

@claims("lives")
def test_lives(claim):
    claim.check(rate(100, 100))
"""
    )
    result = project.runpytest_subprocess("-n", "1", "--max-worker-restart", "1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["lost*dies*left no evidence*"])
    assert any("no evidence for the planned claim dies" in p for p in recheck(the_run(project)).problems)


def test_expected_failures_are_strict(project):
    write(project, "holds", "fails", "inconclusive")
    lifecycle = Path("fixtures/lifecycle.toml")
    project.mkdir("fixtures")
    rules = "".join(f'[claims.{name}]\nexpect = "fails"\nwhy = "known"\n' for name in ("holds", "fails", "inconclusive"))
    (project.path / lifecycle).write_text(MINIMAL + rules)
    result = project.runpytest_subprocess("-v")
    result.stdout.fnmatch_lines(
        ["*test_holds FAILED*", "*test_fails XFAIL*", "*test_inconclusive INCONCLUSIVE*", "*remove the expectation*"]
    )
    assert result.ret == 1


def test_margin_from_the_lifecycle_file_is_used_and_said(project):
    write(project, "inconclusive")
    project.mkdir("fixtures")
    (project.path / "fixtures/lifecycle.toml").write_text(MINIMAL + '[claims.inconclusive]\nbound = {kind = "at_least", limit = 0.7}\n')
    assert project.runpytest_subprocess().ret == 0
    record = json.loads((the_run(project) / "evidence/inconclusive.json").read_text())
    assert record["claim"]["bound"]["limit"] == 0.7
    assert record["notes"]["bound_from"] == "lifecycle"


def test_too_small_a_set_is_said_before_anything_is_measured(project):
    project.makepyfile(
        """
import pytest
from harness import Claim, non_inferior

@pytest.mark.claim(Claim("small", "not worse", non_inferior(0.05)))
def test_small(claim):
    claim.needs(40)
    raise AssertionError("measured all the same")
"""
    )
    result = project.runpytest_subprocess()
    assert result.ret == 1
    found = verdicts(the_run(project))["small"]
    assert (found["reason"], found["n_needed"]) == ("unattainable", 59)
    result.stdout.no_fnmatch_line("*measured all the same*")


def test_two_claims_of_one_name_are_refused(project):
    project.makepyfile(test_claims=HEAD + '@claims("same")\ndef test_a(claim): pass\n@claims("same")\ndef test_b(claim): pass\n')
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'same' stands twice*test_a*test_b*"])
    result = project.runpytest_subprocess("-n", "2")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*'same' stands twice*test_a*test_b*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_bound_of_a_claim_that_nobody_makes_is_refused_before_time_is_spent(project, args):
    write(project, "inconclusive")
    (project.path / "fixtures").mkdir()
    bound = '[claims.{}]\nbound = {{kind = "at_least", limit = 0.7}}\n'
    (project.path / "fixtures/lifecycle.toml").write_text(MINIMAL + bound.format("inconclusiv"))
    result = project.runpytest_subprocess(*args)
    assert result.ret not in (0, 8)
    assert "no test makes 'inconclusiv' (did you mean 'inconclusive'?)" in result.stdout.str() + result.stderr.str()
    assert not list(project.path.glob("reports/*/evidence/*"))
    result = project.runpytest_subprocess("-k", "incon", *args)  # a part: the name may be of another
    assert result.ret == 1
    if not args:  # pytest prints no header of workers' collections
        assert "no claim of this run is called 'inconclusiv'" in result.stdout.str()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tier", ""), "argument --tier: it is empty"),
        (("--subject", " "), "argument --subject: it is empty"),
        (("--lifecycle", "release.toml"), "[[release]] is asked of each build, and there is none"),
        (("test_claims.py", "--lifecycle", "slip.toml"), "no test makes 'hold' (did you mean 'holds'?)"),  # all that is there was named
        ((".", "--lifecycle", "slip.toml"), "no test makes 'hold' (did you mean 'holds'?)"),
    ],
)
def test_what_would_be_ignored_in_silence_is_refused(project, args, said):
    write(project, "holds")
    project.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:benchmark -p no:randomly\ntestpaths = test_claims.py")
    (project.path / "release.toml").write_text('[[release]]\nname = "guardrails"\nclaims = ["holds"]\n')
    (project.path / "slip.toml").write_text('[claims.hold]\nbound = {kind = "at_least", limit = 0.9}\n')
    result = project.runpytest_subprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert not (project.path / "reports").exists()


def test_what_shaped_the_run_is_said_before_it_starts(project):
    write(project, "holds")
    result = project.runpytest_subprocess("--tier", "smoke", "--allow-missing", "vllm")
    result.stdout.fnmatch_lines(["lifecycle:*tier: smoke*evidence:*", "allowed to be missing: vllm"])


def test_a_run_folder_is_never_mixed(project):
    write(project, "holds")
    assert project.runpytest_subprocess("--run-dir", "here").ret == 0
    result = project.runpytest_subprocess("--run-dir", "here")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not an empty folder*"])


def test_unknown_key_and_scheme_name_the_nearest(project):
    write(project, "holds")
    project.mkdir("fixtures")
    (project.path / "fixtures/lifecycle.toml").write_text("[lifecycle]\nnmae = 'x'\n")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown key 'nmae'*did you mean 'name'*"])
    (project.path / "fixtures/lifecycle.toml").unlink()
    result = project.runpytest_subprocess("--subject", "mine=ggfu:x")
    result.stderr.fnmatch_lines(["*unknown scheme 'ggfu'*did you mean 'gguf'*"])


def test_nothing_happens_without_a_claim(project):
    project.makepyfile("def test_plain(): pass")
    result = project.runpytest_subprocess()
    assert result.ret == 0
    assert not (project.path / "reports").exists()
    result.stdout.no_fnmatch_line("*claims*")


def test_collecting_and_importing_load_nothing_heavy(project):
    write(project, "holds")
    heavy = "{'torch', 'numpy', 'scipy', 'transformers', 'llama_cpp', 'aiohttp'}"
    project.makeconftest(f"import sys\ndef pytest_unconfigure(): assert not {heavy} & set(sys.modules)")
    assert project.runpytest_subprocess("--collect-only", "-q", "-p", "no:hypothesispytest").ret == 0
    code = f"import sys, harness, harness.plugin, harness.lifecycle, harness.report; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_was_finished_stays_valid(project, how):
    project.makepyfile(
        test_claims=HEAD
        + """
import pathlib, time
@claims("done")
def test_a(claim):
    claim.check(rate(100, 100))

@claims("cut")
def test_b(claim):
    pathlib.Path("started").touch()
    time.sleep(60)
"""
    )
    # A job started in the background ignores SIGINT, and so would its children: give it back.
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (project.path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait() != 0
    run = the_run(project)
    record = json.loads((run / "evidence/done.json").read_text())
    assert record["verdict"]["outcome"] == "holds"
    assert record["plan"] == evidence.digest((run / "plan.json").read_bytes())
    report = recheck(run)
    assert report.verdicts.get("done", "holds") == "holds"
    assert report.problems  # a run that was cut short is never taken for a whole one


def test_a_strangers_claim_in_ten_lines(project):
    """The example of the package's own docstring, with a fake engine in place of a model."""
    project.mkdir("golden")
    sets = project.path / "golden"
    rows = "".join(json.dumps({"id": f"t{i}", "input": f"case {i}", "target": {"n": str(i)}}) + "\n" for i in range(150))
    (sets / "tickets.jsonl").write_text(rows)
    sha = evidence.digest(rows.encode())
    (sets / "manifest.toml").write_text(
        f'[tickets]\nfile = "tickets.jsonl"\nkind = "json_extraction"\nn = 150\nsha256 = "{sha}"\nunit = "item"\n'
        'fields = ["id", "input", "target"]\nsource = "us"\nlicence = "MIT"\napproved_by = "me"\nhow_made = "by hand"\n'
    )
    answers = {f"t{i}": json.dumps({"n": str(i)}) for i in range(150)}
    (project.path / "answers.json").write_text(json.dumps(answers))
    project.makepyfile(
        test_one="""
import pytest
from harness import Claim, at_least, evals

@pytest.mark.claim(Claim("tickets.accuracy", "answers 80% of our tickets", at_least(0.80), min_n=150))
def test_tickets(claim, engine, golden):
    claim.check(evals.exact_match(engine("mine"), golden("tickets")))
""",
        test_three="""
import pytest
from harness import Claim, Measurement, Sample, at_least

@pytest.mark.claim(Claim("mine.alone", "asks no subject", at_least(0.5), min_n=60))
def test_alone(claim):
    claim.check(Measurement("right", tuple(Sample(f"i{i}", 1.0) for i in range(60))))
""",
        test_two="""
import pytest
from harness import Claim, Control, Measurement, evals, non_inferior

@pytest.mark.claim(Claim("tickets.not_worse", "mine loses fewer than 5 points", non_inferior(0.05), min_n=150))
def test_not_worse(claim, engine, golden):
    new, old, again = (evals.exact_match(engine(name), golden("tickets")).samples for name in ("mine", "old", "old"))
    nothing = evals.pair(again, old)
    claim.check(
        Measurement("accuracy", evals.pair(new, old)),
        controls=[
            Control("the old one against itself", ("holds",), Measurement("accuracy", nothing)),
            Control("a loss of 20 points", ("fails",), Measurement("accuracy", evals.plant_loss(nothing, 0.20, "tickets"))),
        ],
    )
""",
    )
    result = project.runpytest_subprocess("--subject", "mine=fake:answers.json", "--subject", "old=fake:answers.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*holds*tickets.accuracy*", "*holds*tickets.not_worse*"])
    slip = project.runpytest_subprocess("--subject", "mnie=fake:answers.json", "--run-dir", "slip", "test_three.py")
    assert slip.ret == 1
    slip.stdout.fnmatch_lines(["*stranger*mnie: named by --subject, and no evidence*"])
    mine = ("--subject", "mine=fake:answers.json", "test_one.py")
    unread = project.runpytest_subprocess("--data", "rows=nowhere.jsonl", "--run-dir", "unread", *mine)
    assert unread.ret == 1
    unread.stdout.fnmatch_lines(["*stranger*rows: named by --data, and there is no *nowhere.jsonl*"])
    unread = project.runpytest_subprocess("--data", "rows=answers.json", "--run-dir", "there", *mine)
    assert unread.ret == 1
    unread.stdout.fnmatch_lines(["*stranger*rows: named by --data, and no evidence of this run names it*"])
    two = project.runpytest_subprocess(*mine, "--subject", "odl=fake:answers.json", "--run-dir", "two")
    assert two.ret == 1
    two.stdout.fnmatch_lines(["*stranger*odl: named by --subject, and no evidence of this run names it*"])
    record = json.loads((the_run(project) / "evidence/tickets.accuracy.json").read_text())
    assert record["measurement"]["subjects"][0]["digest"] == evidence.digest(json.dumps(answers).encode())
