"""A run that may be exported: sealed, derived again, and what each of its claims means to a gate."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from harness import evidence
from harness.errors import EvidenceError
from harness.recheck import recheck
from harness.report import view
from harness.report.view import ClaimView, RunView

__all__ = [
    "SERVED",
    "Bundle",
    "Standing",
    "as_json",
    "finished",
    "of_evidence",
    "opened",
    "result",
    "seal",
    "sha256",
    "standing",
    "subjects",
]

SERVED = ("http", "https")  # schemes of subjects that are known by their address alone
Standing = Literal["passed", "warned", "failed"]

_HEX = re.compile(r"[0-9a-f]{64}")
_NAMED = 3  # problems in a message


@dataclass(frozen=True, slots=True)
class Bundle:
    """A run and its seal ("" where it is still being written). ``records`` are its evidence files, by their relative path."""

    path: Path
    seal: str
    run: RunView
    records: Mapping[str, Mapping[str, Any]]


def opened(run: Path) -> Bundle:
    """The sealed run in ``run``. EvidenceError if a verdict cannot be derived again, or a byte was changed."""
    if not run.is_dir():
        raise EvidenceError(f"{run}: not a folder; expected the folder of a finished run, like reports/20261121T120000Z-full-1a2b3c")
    # A claim that was planned and left no evidence is no forgery: it is exported as what failed.
    report = recheck(run)
    problems = [p for p in report.problems if "no evidence for the planned claim" not in p]
    if problems or not report.seal:
        more = f", and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise EvidenceError(f"{run}: does not recheck, so nothing is exported: {'; '.join(problems[:_NAMED])}{more}")
    return of_evidence(run, report.seal)


def of_evidence(run: Path, seal: str = "") -> Bundle:
    """The run as it lies there. Whether it is whole, the caller knows."""
    seen = view.load(run)
    return Bundle(run, seal, seen, {c.file: evidence.read_json(run / c.file) for c in seen.claims if c.file})


def seal(run: Path) -> str:
    """The seal as the bundle states it; EvidenceError where it states none. Nothing is checked."""
    said = evidence.read_json(run / evidence.BUNDLE)
    if not sha256(said.get("seal") if isinstance(said, dict) else None):
        raise EvidenceError(f"{run / evidence.BUNDLE}: states no seal; expected the bundle of a finished run")
    return str(said["seal"])


def standing(claim: ClaimView, run: RunView) -> Standing:
    """What a gate makes of a claim, by the rule of the exit status: "warned" is what is shown and stops nothing."""
    if claim.outcome == "holds":
        return "failed" if claim.known_failure else "passed"  # what was expected to fail and holds asks for a change
    if claim.outcome == "fails":
        return "warned" if claim.known_failure else "failed"
    if claim.outcome == "not_evaluated":
        allowed = run.facts.get("allowed_missing")
        return "warned" if isinstance(allowed, list) and claim.reason.partition(":")[2] in allowed else "failed"
    smoke = run.smoke and claim.reason != "control_failed"
    return "warned" if claim.outcome == "inconclusive" and smoke else "failed"


def result(run: RunView) -> Standing:
    """Of the whole run: the worst of its claims, and never better than its exit status."""
    found = {standing(c, run) for c in run.claims}
    if "failed" in found or not run.claims or run.facts.get("exit_status") != 0:
        return "failed"
    return "warned" if "warned" in found or run.smoke else "passed"


def finished(run: RunView) -> datetime | None:
    """When the run ended, as it says itself; None where it does not."""
    try:
        return datetime.fromisoformat(str(run.facts.get("finished")))
    except ValueError:
        return None


def subjects(bundle: Bundle) -> list[Mapping[str, Any]]:
    """What the run speaks about, each once, by name: subjects whose content has a SHA-256. What a server is, nobody can digest."""
    found = {}
    for record in bundle.records.values():
        for subject in (record["measurement"] or {}).get("subjects", ()):
            if sha256(subject.get("digest")) and subject.get("scheme") not in (*SERVED, "fake"):
                found[subject["name"], subject["digest"]] = subject
    return [found[key] for key in sorted(found)]


def sha256(value: object) -> str:
    """The digest, "" for what is none."""
    return value if isinstance(value, str) and _HEX.fullmatch(value) else ""


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON that every reader takes: finite numbers, ASCII alone, so that no surrogate of a model's text breaks it."""
    return json.dumps(_readable(value), ensure_ascii=True, allow_nan=False, indent=1).encode() + b"\n"


def _readable(value: Any) -> Any:
    """The same without lone surrogates: strict readers refuse a JSON text that names one."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_readable(key): _readable(one) for key, one in value.items()}
    return [_readable(one) for one in value] if isinstance(value, (list, tuple)) else value
