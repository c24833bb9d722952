"""Derives every verdict of a run again, offline, with the standard library alone.

What is checked, in this order, each failure naming its file:

1. the seal: each file has the digest in ``bundle.json``, none is missing, none was added;
2. the plan: each evidence file carries the plan's digest, and its claim stands in the plan unchanged;
3. completeness: each planned claim has exactly one evidence file;
4. the rows: each sidecar has the digest and the number of rows its evidence names, and the rows of a load follow from
   the record of its requests;
5. the verdict: judged again from plan and rows, it has the same bytes;
6. the release verdict of each build, from the families of the plan and those verdicts;
7. what changed since the approved baselines that the plan seals (``harness.baselines``);
8. the end: the exit status and the lost claims of ``run.json``, from plan and evidence; no rows that no evidence names.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import baselines, evidence, records
from harness.errors import EvidenceError, HarnessError
from harness.judge import judge, release
from harness.recheck import ending
from harness.types import Control, Family, Measurement, Verdict

__all__ = ["Report", "measured", "recheck", "releases", "seal_of", "told"]


@dataclass(frozen=True, slots=True)
class Report:
    """``problems`` is empty exactly when all was derived again; ``verdicts`` by claim id."""

    seal: str
    verdicts: Mapping[str, str]
    problems: tuple[str, ...]


LARGEST = 1 << 29  # bytes of the rows, or of the record of requests, of one measurement


def recheck(run: Path, *, seal: str | None = None) -> Report:
    """Checks the bundle in ``run``; with ``seal``, also that it is the one you were told of."""
    if not any((run / name).is_file() for name in (evidence.BUNDLE, evidence.PLAN)):
        return Report("", {}, (f"{run}: no {evidence.BUNDLE} here; expected the folder of a finished run",))
    problems: list[str] = []
    found = _check_seal(run, problems)
    if seal is not None and seal != found:
        problems.append(f"{run / evidence.BUNDLE}: sealed as {found}, expected {seal}")
    try:
        plan = _read(run / evidence.PLAN)
        planned = {c["claim"]["id"]: c for c in plan["claims"]}
        tier = plan["tier"]
    except (EvidenceError, KeyError, TypeError) as error:
        return Report(found, {}, (*problems, f"{run / evidence.PLAN}: not a sealed plan ({error})"))
    plan_digest = evidence.digest((run / evidence.PLAN).read_bytes())
    verdicts: dict[str, Verdict] = {}
    read: list[dict[str, Any]] = []
    for path in sorted((run / "evidence").glob("*.json")):
        try:
            record = _read(path)
            claim_id, verdict = _check_evidence(run, path, record, plan_digest, tier, planned)
        except (HarnessError, KeyError, TypeError, ValueError) as error:
            problems.append(f"{path}: {error}")
            continue
        if claim_id in verdicts:
            problems.append(f"{path}: a second evidence file for {claim_id}")
        verdicts[claim_id] = verdict
        read.append(record)
    if not verdicts and (run / "requests.bin").is_file():
        problems.append(f"{run}: records of requests and no verdict: what one machine of several kept; see harness load --merge")
    else:
        problems += [f"{run}: no evidence for the planned claim {name}" for name in sorted(set(planned) - set(verdicts))]
    problems += _check_releases(run, plan, verdicts)
    if len(read) == len(planned):  # else a claim is missing, which is said above
        problems += _check_end(run, plan, read)
    if not problems:  # on evidence that is what it says
        problems += baselines.check(run, plan, read, measured(run))
    return Report(found, {name: verdict.outcome for name, verdict in verdicts.items()}, tuple(problems))


def _read(path: Path) -> Any:
    """JSON in the one form in which it is written: a key that stands twice says one thing to a reader, another to a program."""
    data = evidence.read_json(path)
    if path.read_bytes() != evidence.canonical(data):
        raise EvidenceError("not in the form in which it was written (keys sorted, each once, no other space): it was edited")
    return data


def _check_end(run: Path, plan: Mapping[str, Any], read: Sequence[Mapping[str, Any]]) -> list[str]:
    path = run / "run.json"
    try:
        problems = [f"{path}: {doubt}" for doubt in ending.doubts(plan, read, _read(path))]
    except (HarnessError, KeyError, TypeError, AttributeError) as error:
        problems = [f"{path}: not how a run ended ({error})"]
    if any(record["verdict"]["outcome"] == "error" for record in read):
        return problems  # what raised may have left rows behind
    measured = [m for r in read for m in (r["measurement"], *(c["measurement"] for c in r["controls"])) if m]
    named = {m[kind]["file"] for m in measured for kind in ("samples", "raw") if kind in m}
    there = {f"{folder}/{path.name}" for folder in ("samples", "raw") for path in (run / folder).glob("*")}
    return problems + [f"{run / name}: rows that no evidence names: a measurement was taken out" for name in sorted(there - named)]


def told(run: Path, report: Report) -> tuple[list[str], int]:
    """What is printed of a report, and the exit status."""
    outcomes = list(report.verdicts.values())
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
    lines = [f"REFUSED  {problem}" for problem in report.problems]
    if lines:
        found = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        return [*lines, f"{run}: {found}; {len(outcomes)} verdicts were derived again ({counts or 'none'})"], 1
    return [f"{run}: identical; {len(outcomes)} verdicts derived again ({counts}); seal {report.seal}"], 0


def seal_of(run: Path) -> tuple[str, list[str]]:
    """The seal of ``run`` and what is wrong with it; nothing is derived again."""
    problems: list[str] = []
    return _check_seal(run, problems), problems


def measured(run: Path) -> Callable[[Mapping[str, Any]], Measurement]:
    """What an evidence record of this run measured, with its rows."""
    return lambda record: _measurement(run, record["measurement"])


def releases(plan: Mapping[str, Any], verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """The release verdict of each build that the plan names, as ``release.json`` keeps it."""
    families = {
        build: [Family(entry["name"], entry["rule"], tuple(entry["claims"])) for entry in entries]
        for build, entries in plan.get("releases", {}).items()
    }
    # By way of JSON, in which there are no tuples.
    return {build: json.loads(json.dumps(asdict(release(known, verdicts)))) for build, known in families.items()}


def _check_releases(run: Path, plan: Mapping[str, Any], verdicts: Mapping[str, Verdict]) -> list[str]:
    path = run / evidence.RELEASE
    if not plan.get("releases"):
        return [f"{path}: a release verdict, but the plan names no release"] if path.exists() else []
    try:
        kept, again = _read(path), releases(plan, verdicts)
        changed = sorted(build for build in {*kept, *again} if kept.get(build) != again.get(build))
    except (HarnessError, KeyError, TypeError, AttributeError) as error:
        return [f"{path}: {error}"]
    return [f"{path}: the release verdict of {', '.join(changed)} cannot be derived again"] if changed else []


def _check_seal(run: Path, problems: list[str]) -> str:
    path = run / evidence.BUNDLE
    if not path.exists():
        problems.append(f"{path}: missing: the run was cut short or its seal taken away, so it is not a sealed one")
        return ""
    try:
        raw = path.read_bytes()
        bundle = json.loads(raw)
        body = {"schema": bundle["schema"], "files": bundle["files"]}
        found = evidence.digest(evidence.canonical(body))
        if raw != evidence.canonical({**body, "seal": found}):
            problems.append(f"{path}: its own digest does not match; the seal was changed")
        sealed: dict[str, str] = bundle["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: not a seal ({error})")
        return ""
    present = evidence.bundle_files(run)
    problems += [f"{run / name}: missing" for name in sorted(set(sealed) - set(present))]
    problems += [f"{run / name}: not part of the sealed bundle" for name in sorted(set(present) - set(sealed))]
    for name in sorted(set(sealed) & set(present)):
        if sealed[name] != present[name]:
            problems.append(f"{run / name}: changed (SHA-256 {present[name][:12]}…, sealed {sealed[name][:12]}…)")
    return found


def _check_evidence(
    run: Path, path: Path, record: Mapping[str, Any], plan_digest: str, tier: str, planned: Mapping[str, Any]
) -> tuple[str, Verdict]:
    claim = evidence.claim_from_json(record["claim"])
    if record["plan"] != plan_digest:
        raise EvidenceError("it was made under another plan")
    entry = planned.get(claim.id, {})
    if entry.get("claim") != record["claim"]:
        raise EvidenceError(f"the claim {claim.id} is not the one in the sealed plan (margin, alpha, n or text changed)")
    if record["tier"] != tier:
        raise EvidenceError(f"tier {record['tier']!r}, but the run was planned as {tier!r}")
    said = {"test": "test", "bound_from": "source", "expect": "expect", "why": "why", "risk": "risk"}
    told = {note: (record["notes"].get(note, ""), entry.get(key, "")) for note, key in said.items() if key in entry or note == "risk"}
    changed = [note for note, (here, planned_) in told.items() if here != planned_]
    if changed:
        raise EvidenceError(f"its notes differ from the plan: {', '.join(changed)}")
    if path != evidence.evidence_path(run, claim.id):
        raise EvidenceError(f"the evidence of {claim.id} does not lie where it belongs")
    kept = record["verdict"]
    if record["measurement"] is None:
        unmeasured = kept["outcome"] in ("not_evaluated", "error") or kept["reason"] in ("min_n", "unattainable")
        if not unmeasured:
            raise EvidenceError(f"verdict {kept['outcome']!r} ({kept['reason']}) without a measurement")
        return claim.id, evidence.verdict_from_json(kept)
    controls = [Control(c["name"], tuple(c["expect"]), _measurement(run, c["measurement"])) for c in record["controls"]]
    again = evidence.verdict_to_json(judge(claim, _measurement(run, record["measurement"]), controls=controls))
    if evidence.canonical(again) != evidence.canonical(kept):
        fields = [name for name in again if again[name] != kept.get(name)]
        raise EvidenceError(f"the verdict cannot be derived again: {', '.join(fields)} differ (now {again['sentence']!r})")
    return claim.id, evidence.verdict_from_json(kept)


def _measurement(run: Path, data: Mapping[str, Any]) -> Measurement:
    samples = evidence.rows_from_text(_unpacked(run, data["samples"]).decode("utf-8", "surrogatepass"))
    if len(samples) != data["samples"]["rows"]:
        raise EvidenceError(f"{data['samples']['file']}: {len(samples)} rows, expected {data['samples']['rows']}")
    raw = _unpacked(run, data["raw"]) if "raw" in data else b""
    if not raw and "derived" in data["conditions"]:
        raise EvidenceError(f"{data['samples']['file']}: derived from requests, and their record was taken away")
    measurement = evidence.measurement_from_json(data, samples, raw)
    if raw and records.derive(raw, measurement.conditions) != samples:
        raise EvidenceError(f"{data['samples']['file']}: its rows do not follow from the requests in {data['raw']['file']}")
    return measurement


def _unpacked(run: Path, entry: Mapping[str, Any]) -> bytes:
    """The text of a sidecar, as its evidence names it."""
    where = run / entry["file"]
    if run.resolve() not in where.resolve().parents:
        raise EvidenceError(f"{entry['file']} lies outside the bundle")
    if where.is_symlink() or not where.is_file():
        raise EvidenceError(f"{where}: missing, or no plain file")
    try:
        text = _inflated(where.read_bytes())
    except (OSError, EOFError, EvidenceError, zlib.error) as error:
        raise EvidenceError(f"{where}: cannot be read ({error})") from error
    if evidence.digest(text) != entry["sha256"]:
        raise EvidenceError(f"{where}: changed")
    return text


def _inflated(packed: bytes) -> bytes:
    """What one gzip member holds; no more than LARGEST of it, for a stranger's file may unpack to more than there is memory."""
    unpacker = zlib.decompressobj(wbits=31)
    text = unpacker.decompress(packed, LARGEST)
    if unpacker.unconsumed_tail:
        raise EvidenceError(f"it unpacks to more than {LARGEST >> 20} MiB, which no measurement needs")
    if not unpacker.eof or unpacker.unused_data:
        raise EOFError("cut off, or something stands behind its end")
    return text
