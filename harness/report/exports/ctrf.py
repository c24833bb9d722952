"""CTRF, the Common Test Report Format 0.0 (https://ctrf.io), which dashboards and bots of forges read."""

from __future__ import annotations

from typing import Any

from harness.report.exports.bundle import Bundle, as_json, finished, standing
from harness.report.text import one_line
from harness.report.view import ClaimView, RunView

__all__ = ["ctrf"]

_SPEC = "0.0.0"


def ctrf(bundle: Bundle) -> bytes:
    """A CTRF report, a test for each planned claim.

    ``passed`` holds, ``failed`` is what makes the exit status 1 or 8. What stops nothing is ``skipped`` where it was not measured,
    else ``other``: a known failure, an undecided claim at tier smoke. ``rawStatus`` is the outcome itself.
    """
    run = bundle.run
    tests = [_test(claim, run) for claim in run.claims]
    counts = {status: sum(t["status"] == status for t in tests) for status in ("passed", "failed", "skipped", "pending", "other")}
    return as_json({
        "reportFormat": "CTRF",
        "specVersion": _SPEC,
        "runId": bundle.seal,
        "generatedBy": f"lifecycle-harness {run.plan.get('harness', '')}".rstrip(),
        "results": {
            "tool": {"name": "pytest", "extra": {"plugin": "lifecycle-harness"}},
            "summary": {"tests": len(tests), **counts, **_times(run), "extra": _extra(bundle)},
            "tests": tests,
            "environment": _environment(run),
        },
    })  # fmt: skip


def _times(run: RunView) -> dict[str, int]:
    """Milliseconds. A run keeps when it ended and how long its stages took; without an end both are 0, the form's own epoch."""
    ended, seconds = finished(run), run.facts.get("seconds")
    stop = round(ended.timestamp() * 1000) if ended else 0
    took = sum(s for s in seconds.values() if isinstance(s, (int, float))) if isinstance(seconds, dict) else 0
    return {"start": stop - round(took * 1000), "stop": stop}


def _extra(bundle: Bundle) -> dict[str, Any]:
    run = bundle.run
    said = {name: one.get("outcome") for name, one in run.releases.items()}
    status = run.facts.get("exit_status")
    return {"seal": bundle.seal, "plan": run.plan_digest, "tier": run.tier, "exitStatus": status, "releases": said}


def _environment(run: RunView) -> dict[str, Any]:
    code, machine = run.provenance.get("code") or {}, run.provenance.get("machine") or {}
    found = {
        "reportName": one_line(run.lifecycle),
        "testEnvironment": run.tier,
        "commit": code.get("commit"),
        "osPlatform": machine.get("system"),
        "extra": {"dirty": code.get("dirty"), "machine": machine, "packages": run.provenance.get("packages") or {}},
    }
    return {key: value for key, value in found.items() if value}


def _test(claim: ClaimView, run: RunView) -> dict[str, Any]:
    stands = standing(claim, run)
    status = {"passed": "passed", "failed": "failed"}.get(stands, "skipped" if claim.outcome == "not_evaluated" else "other")
    where = str(claim.notes.get("test") or "")
    test: dict[str, Any] = {
        "name": claim.id,
        "testId": claim.id,
        "status": status,
        "rawStatus": claim.outcome,
        "duration": 0,  # the form asks for one; evidence of one claim keeps none, ``extra`` says so
        "message": claim.sentence or claim.reason or claim.outcome,
        "suite": [part for part in (claim.family, claim.name) if part] or [claim.id],
        "tags": [claim.family],
        "extra": {
            "claim": claim.text, "demand": claim.demand, "estimate": claim.estimate, "low": claim.low, "high": claim.high, "n": claim.n,
            "evidence": claim.file, "known": claim.notes.get("why") or "", "durationKept": False,
        },
    }  # fmt: skip
    return {**test, "filePath": where.partition("::")[0]} if where else test
