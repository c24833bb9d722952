"""Reports that were tampered with, unsealed and sealed anew: what a defence must name, each by what was done to it.

``sealed_anew`` does what somebody with the harness could do: judge the changed rows and claims again, render the pages, seal. What
comes out derives again byte for byte; only measuring again shows it.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import evidence, report
from harness.defence.kept import read
from harness.judge import judge
from harness.types import Control
from suites.capstone import small

Edit = Callable[[dict[str, Any]], None]


def copied(run: Path, name: str) -> Path:
    """A copy beside the report, in the same repository."""
    return Path(shutil.copytree(run, run.with_name(name)))


def sealed_anew(run: Path) -> Path:
    """Judged, rendered and sealed again, as if it had come so out of a run."""
    plan_digest = evidence.digest((run / evidence.PLAN).read_bytes())
    for path in sorted((run / "evidence").glob("*.json")):
        record = evidence.read_json(path)
        record["plan"] = plan_digest
        if record["measurement"] is not None:
            claim, measurement = evidence.claim_from_json(record["claim"]), _measurement(run, record["measurement"])
            controls = [Control(c["name"], tuple(c["expect"]), _measurement(run, c["measurement"])) for c in record["controls"]]
            record["verdict"] = evidence.verdict_to_json(judge(claim, measurement, controls=controls))
        evidence.write_atomic(path, evidence.canonical(record))
    used = {record["measurement"]["samples"]["file"] for record in map(evidence.read_json, (run / "evidence").glob("*.json"))}
    used |= {
        c["measurement"]["samples"]["file"] for path in (run / "evidence").glob("*.json") for c in evidence.read_json(path)["controls"]
    }
    for path in (run / "samples").iterdir():  # rows that nothing names any more would give it away
        if path.relative_to(run).as_posix() not in used:
            path.unlink()
    report.write(run)
    evidence.seal_bundle(run)
    return run


def _measurement(run: Path, data: dict[str, Any]) -> Any:
    text = gzip.decompress((run / data["samples"]["file"]).read_bytes()).decode()
    return evidence.measurement_from_json(data, evidence.rows_from_text(text))


def _edit(run: Path, claim: str, change: Edit) -> None:
    path = evidence.evidence_path(run, claim)
    record = evidence.read_json(path)
    change(record)
    evidence.write_atomic(path, evidence.canonical(record))


def _edit_plan(run: Path, change: Edit) -> None:
    plan = evidence.read_json(run / evidence.PLAN)
    change(plan)
    evidence.write_atomic(run / evidence.PLAN, evidence.canonical(plan))


def _rows(run: Path, claim: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Puts other rows under a claim; what ``change`` makes None of is left out."""

    def put(record: dict[str, Any]) -> None:
        named = record["measurement"]["samples"]
        rows = [json.loads(line) for line in gzip.decompress((run / named["file"]).read_bytes()).decode().splitlines()]
        text = "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for each in rows if (row := change(each)) is not None)
        sha = evidence.digest(text.encode())
        file = f"samples/{sha}.jsonl.gz"
        evidence.write_atomic(run / file, gzip.compress(text.encode(), mtime=0))
        record["measurement"]["samples"] = {"file": file, "sha256": sha, "rows": len(text.splitlines())}

    _edit(run, claim, put)


# --- what may be done to a report ---------------------------------------------------------------------


def number_edited(run: Path) -> str:
    """A better number on the page; the evidence stays."""
    page = run / "report.html"
    estimate = f"{read(run)['tickets.accuracy'].verdict['estimate']:.4g}"
    text = page.read_text("utf-8")
    assert estimate in text
    page.write_text(text.replace(estimate, "0.9123"), "utf-8")
    return "report.html"


def margin_widened(run: Path) -> str:
    """Eight points may be lost, where two were claimed."""
    wide = {"kind": "non_inferior", "limit": 0.08}
    _edit(run, "tickets.strict", lambda record: record["claim"].update(bound=wide))

    def planned(plan: dict[str, Any]) -> None:
        for entry in plan["claims"]:
            if entry["claim"]["id"] == "tickets.strict":
                entry["claim"]["bound"] = wide

    _edit_plan(run, planned)
    return "bound non_inferior(0.08) in the report, non_inferior(0.02) in the code"


def items_dropped(run: Path) -> str:
    """Every third item that was answered wrongly is gone."""
    wrong = [s.item for s in read(run)["tickets.accuracy"].rows if s.value == 0][::3]
    _rows(run, "tickets.accuracy", lambda row: None if row["item"] in wrong else row)
    return f"items are missing: {len(wrong)} of {small.N} rows are not in the report"


def scorer_changed(run: Path) -> str:
    """A scorer that lets twelve wrong answers pass, of the arm that is to look well."""
    right = {s.item for s in read(run)["tickets.not_worse"].rows if s.arm == "new" and s.value == 1}
    passed: set[str] = set()

    def lenient(row: dict[str, Any]) -> dict[str, Any]:
        if row["arm"] == "new" and row["item"] not in right and len(passed) < 12:
            passed.add(row["item"])
            row["value"] = 1.0
        return row

    _rows(run, "tickets.not_worse", lenient)
    return "12 rows of arm new changed, 0 up and 12 down: they go one way"


def digest_changed(run: Path) -> str:
    """The plan names other code that scores than was run."""
    _edit_plan(run, lambda plan: plan["scorers"].update({"evals/scorers/choice.py": "0" * 64}))
    return "the code that scores and decides is not what the report's plan names: evals/scorers/choice.py"


def fix_reverted(run: Path) -> str:
    """Measured with a fix, and said to be of a commit in which it is undone."""
    repository = run.parents[1]
    before = small.git(repository, "rev-parse", "HEAD")
    scoring = repository / "scoring.py"
    kept = scoring.read_text("utf-8")
    try:
        # the defect that the fix had mended: numbers above a hundred were never right
        scoring.write_text(kept.replace("== target)", '== target and int(target["n"]) < 100)'), "utf-8")
        reverted = small.commit(repository, "the fix undone")
    finally:
        small.git(repository, "reset", "-q", "--hard", before)
    for claim in read(run):
        _edit(run, claim, lambda record: record["provenance"]["code"].update(commit=reverted))
    return "the verdict is the opposite: holds in the report, fails here"


# Each, and the file whose bytes are others then: what is named while the seal is the old one.
DOCTORINGS: dict[str, tuple[Callable[[Path], str], str]] = {
    "number edited on the page": (number_edited, "report.html"),
    "margin widened": (margin_widened, "plan.json"),
    "items dropped": (items_dropped, "evidence/tickets.accuracy.json"),
    "scorer changed": (scorer_changed, "evidence/tickets.not_worse.json"),
    "scorer's digest changed": (digest_changed, "plan.json"),
    "fix reverted": (fix_reverted, "evidence/tickets.accuracy.json"),
}


def doctored(run: Path, how: str, *, anew: bool) -> tuple[Path, str]:
    """A doctored copy of ``run``, and what a defence must say of it; with ``anew`` the whole derives again, byte for byte."""
    edit, file = DOCTORINGS[how]
    copy = copied(run, f"{sorted(DOCTORINGS).index(how)}-{'anew' if anew else 'as-it-is'}")
    named = edit(copy)
    if not anew:
        return copy, f"{file}: changed"
    if how == "number edited on the page":  # judged and rendered again, it would be gone
        evidence.seal_bundle(copy)
        return copy, named
    return sealed_anew(copy), named
