"""CD1, R1, R9: what a report claims comes out again, elsewhere too, and a report that was doctored is named.

On a small repository of somebody's (``suites.capstone.small``), so that whole defences, clone and all, take seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, identical, provenance
from harness.recheck import recheck
from harness.store import digest_file, digest_json
from suites.capstone import doctored, margins, small
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.capstone

# Another machine in what it lets a program see: threads, order of sets, language, time.
ELSEWHERE = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "COLUMNS": "40"}
_STANDS = ("agrees", "differs within explainable variance")


@pytest.fixture(scope="module")
def defences(bench):
    """Every defence of this module, kept by the code that defends, measures and judges."""
    code = [path for folder in ("harness", "suites/capstone") for path in sorted((small.ROOT / folder).rglob("*.py"))]
    inputs = {
        "code": digest_json({path.relative_to(small.ROOT).as_posix(): digest_file(path) for path in code}),
        "packages": provenance.packages(),
    }
    return bench.cached("defences", inputs, lambda: _defended(bench.progress))


def _defended(progress) -> dict[str, Any]:
    shaken = {
        "clean": {}, "noise": {"SMALL_NOISE": str(margins.NOISE)}, "loss": {"SMALL_LOSS": str(margins.LOSS)}, "elsewhere": ELSEWHERE,
    }  # fmt: skip
    steps = len(shaken) + 2 * len(doctored.DOCTORINGS)
    with tempfile.TemporaryDirectory(prefix="small-") as folder:
        report = small.run(small.make(Path(folder) / "repository"), "report")
        found: dict[str, Any] = {"command": _commanded(report), "doctored": {}}
        for done, (name, more) in enumerate(shaken.items()):
            progress("defences", done, steps)
            status, record, _ = small.defend(report, **more)
            found[name] = {"status": status, "sentence": record["sentence"], "claims": _kept(record)}
        for done, (how, anew) in enumerate(((h, a) for h in doctored.DOCTORINGS for a in (False, True)), start=len(shaken)):
            progress("defences", done, steps)
            found["doctored"][f"{how}, {'sealed anew' if anew else 'as it is'}"] = _named(report, how, anew=anew)
        progress("defences", steps, steps)
    return found


def _kept(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = ("claim", "outcome", "why", "inside")
    return [
        {**{key: each[key] for key in keys}, "verdicts": [each["report"]["outcome"], each["rerun"]["outcome"]]} for each in record["claims"]
    ]


def _named(report: Path, how: str, *, anew: bool) -> dict[str, Any]:
    run, named = doctored.doctored(report, how, anew=anew)
    status, _, said = small.defend(run)
    return {"status": status, "expected": named, "named": named in said, "derives_again": not recheck(run).problems}


def _commanded(report: Path) -> dict[str, bool]:
    """One command in a clean clone: what it leaves."""
    with tempfile.TemporaryDirectory(prefix="clone-") as folder:
        clone = Path(folder) / "clone"
        small.git(report, "clone", "-q", "--no-hardlinks", str(report.parents[1]), str(clone))
        run = small.run(clone, "one")
        page = (run / "report.html").read_text("utf-8")
        return {
            "a report": "tickets.accuracy" in page,
            "every verdict derived again": not recheck(run).problems,
            "as many verdicts": len(recheck(run).verdicts) == len(recheck(report).verdicts),
            "the tree as it was": not small.git(clone, "status", "--porcelain"),
        }


def _outcomes(defence: Mapping[str, Any]) -> Measurement:
    rows = (Sample(each["claim"], float(each["outcome"] in _STANDS), detail=each) for each in defence["claims"])
    status = Sample("exit status", float(defence["status"] == 0))
    return Measurement("stands", (*rows, status), conditions={"sentence": defence["sentence"]})


@pytest.mark.claim(
    Claim("CD1.rerun", "measured again in a clean clone, each claim of a report agrees or differs as R3 explains", identical())
)
def test_a_report_comes_out_again(claim, defences):
    claim.check(
        _outcomes(defences["clean"]),
        controls=[
            Control(f"A/A: {margins.NOISE} answers change either way, as R3 allows", HOLDS, _outcomes(defences["noise"])),
            Control(f"planted: {margins.LOSS} answers lost, all one way", FAILS, _outcomes(defences["loss"])),
        ],
    )


def _all_named(found: Iterable[tuple[str, Mapping[str, Any]]]) -> Measurement:
    rows = (Sample(how, float(each["named"] and each["status"] == 1), detail=each) for how, each in found)
    return Measurement("named", tuple(rows))


@pytest.mark.claim(Claim("CD1.doctored", "a defence names what was done to a doctored report, though it was sealed anew", identical()))
def test_a_doctored_report_is_named(claim, defences):
    found = defences["doctored"]
    clean = Sample("not doctored", float(defences["clean"]["status"] == 0))
    derived = (Sample(how, float(not each["derives_again"])) for how, each in found.items())
    claim.check(
        _all_named(found.items()),
        controls=[
            Control("A/A: the clean twin is not named", HOLDS, Measurement("named", (clean,))),
            Control("planted: a defence that derives again and measures nothing", FAILS, Measurement("named", tuple(derived))),
        ],
    )


def _machine(defence: Mapping[str, Any]) -> Measurement:
    """Whether the verdict is the same, and each estimate inside the other's interval where there is one."""
    rows = (
        Sample(each["claim"], float(each["verdicts"][0] == each["verdicts"][1] and all(each["inside"] or [True])), detail=each)
        for each in defence["claims"]
    )
    return Measurement("same_verdict", tuple(rows), conditions={"environment": ELSEWHERE})


@pytest.mark.claim(Claim("R9.machine", "with other threads, language, time and order of sets the verdicts are the same", identical()))
def test_elsewhere_the_verdicts_are_the_same(claim, defences):
    claim.check(
        _machine(defences["elsewhere"]),
        controls=[
            Control("A/A: the same environment", HOLDS, _machine(defences["clean"])),
            Control("planted: a machine that gets answers wrong", FAILS, _machine(defences["loss"])),
        ],
    )


@pytest.mark.claim(Claim("R1.one_command", "one command in a clean clone yields a report that derives again", identical()))
def test_one_command_yields_the_report(claim, defences):
    def measure(found: Mapping[str, bool]) -> Measurement:
        return Measurement("yields", tuple(Sample(what, float(there)) for what, there in found.items()))

    found = defences["command"]
    claim.check(
        measure(found),
        controls=[
            Control("A/A: what it left, looked at again", HOLDS, measure(dict(found))),
            Control("planted: a command that leaves no report", FAILS, measure({**found, "a report": False})),
        ],
    )
