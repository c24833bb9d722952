"""What a run leaves behind: a sealed plan, one file per claim, raw rows, and a seal over all.

    RUN/plan.json                  claims, bounds, alphas, golden and scorer digests: before the first sample
    RUN/evidence/<claim>.json      claim + subjects + conditions + verdict + provenance
    RUN/samples/<sha256>.jsonl.gz  raw rows, named by the digest of the text inside
    RUN/raw/<sha256>.bin.gz        what rows of a load were derived from: 64 bytes a request (harness.records)
    RUN/release.json               may each build go out: families of claims, decided together
    RUN/changes.json               what changed since the approved baselines (harness.baselines)
    RUN/run.json                   when, where, how long, exit status
    RUN/summary.md report.html     rendered from the above
    RUN/bundle.json                digest of each file, and of itself

Standard library only: ``recheck`` (``harness.recheck``) reads it on any machine. JSON is canonical
(sorted keys, finite numbers only) and each file is written beside its place and moved there.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from harness import bounds
from harness.errors import EvidenceError
from harness.types import Claim, Control, Measurement, Sample, Subject, Verdict

__all__ = [
    "BUNDLE",
    "PLAN",
    "RELEASE",
    "canonical",
    "claim_from_json",
    "claim_to_json",
    "digest",
    "evidence_path",
    "measurement_from_json",
    "measurement_to_json",
    "read_json",
    "rows_from_text",
    "rows_to_text",
    "seal_bundle",
    "seal_plan",
    "sweep",
    "verdict_from_json",
    "verdict_to_json",
    "write_atomic",
    "write_evidence",
]

SCHEMA = 1
PLAN = "plan.json"
BUNDLE = "bundle.json"
RELEASE = "release.json"
_STAGED = re.compile(r"\..+\.(json|md|html|gz)(\.[a-z0-9_]+)+")  # what write_atomic and seal_plan name a file that is not finished


def canonical(value: Any) -> bytes:
    """``value`` as the one JSON text it has here: sorted keys, indented, no NaN, newline at the end."""
    try:
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise EvidenceError(f"evidence refuses a number that is not finite: {error}; use null and a reason") from error
    return text.encode("utf-8", "backslashreplace") + b"\n"


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and moves there, so that a kill leaves the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp makes it private; evidence is to be read
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way = "free some space" if full else "see that its folder is one and can be written, or name another"
        raise EvidenceError(f"cannot write {path}: {error}. The verdict is not kept; {way}, and rerun") from error


def read_json(path: Path) -> Any:
    """A JSON file of a bundle; EvidenceError names the file if it cannot be read."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise EvidenceError(f"{path}: no plain file, but a link, a folder, a pipe or a device; it is not opened")
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise EvidenceError(f"{path}: missing from the bundle") from None
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{path}: not readable as JSON ({error}); the file was changed or cut off") from error


# --- words to JSON and back -------------------------------------------------------------------


def claim_to_json(claim: Claim) -> dict[str, Any]:
    """A claim as the plan seals it."""
    return {
        "id": claim.id, "text": claim.text, "bound": claim.bound.to_dict(), "estimand": claim.estimand,
        "alpha": claim.alpha, "min_n": claim.min_n, "support": list(claim.support) if claim.support else None,
        "psi": claim.psi, "expected": claim.expected, "slo": claim.slo, "looks": claim.looks, "items": claim.items,
        "tags": list(claim.tags),
    }  # fmt: skip


def claim_from_json(data: Mapping[str, Any]) -> Claim:
    """The claim a plan or an evidence file holds."""
    known = dict(data)
    known["bound"] = bounds.from_dict(dict(known["bound"]), f"claim {known.get('id')}")
    known["support"] = tuple(known["support"]) if known["support"] else None
    known["tags"] = tuple(known["tags"])
    return Claim(**known)


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Every field of a verdict."""
    return json.loads(json.dumps(asdict(verdict), allow_nan=False))  # type: ignore[no-any-return]


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """The verdict an evidence file holds."""
    return Verdict(**{**data, "controls": tuple(data["controls"])})


_ROW = tuple(field.name for field in fields(Sample))
_ROW_DEFAULTS: dict[str, Any] = {
    "arm": "one", "status": "ok", "weight": 1.0, "cluster": None, "replicate": 0, "at": None, "detail": {},
}  # fmt: skip


def rows_to_text(samples: Iterable[Sample]) -> str:
    """One JSON object a line, fields at their default left out."""
    lines = []
    for sample in samples:
        row = {key: _kept(value) for key in _ROW if (value := getattr(sample, key)) != _ROW_DEFAULTS.get(key, ...)}
        lines.append(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return "".join(line + "\n" for line in lines)


def rows_from_text(text: str) -> tuple[Sample, ...]:
    """The samples of a sidecar. Lines end with a line feed alone: model text may hold other breaks."""
    return tuple(Sample(**_told(json.loads(line))) for line in text.split("\n") if line)


def _kept(value: Any) -> Any:
    """A number that JSON does not know is kept as its name: the judge refuses it, and the row must show why."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(value) if key in ("value", "weight", "at") and isinstance(value, str) else value for key, value in row.items()}


def measurement_to_json(measurement: Measurement, samples: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A measurement whose rows lie in the sidecar that ``samples`` names, and what they were derived from in that of ``raw``."""
    return {
        **({"raw": dict(raw)} if raw else {}),
        "metric": measurement.metric,
        "subjects": [asdict(s) for s in measurement.subjects],
        "conditions": dict(measurement.conditions),
        "invalid": list(measurement.invalid),
        "notes": list(measurement.notes),
        "samples": dict(samples),
    }


def measurement_from_json(data: Mapping[str, Any], samples: tuple[Sample, ...], raw: bytes = b"") -> Measurement:
    """The measurement an evidence file describes, with its rows."""
    subjects = tuple(Subject(**s) for s in data["subjects"])
    return Measurement(data["metric"], samples, subjects, data["conditions"], tuple(data["invalid"]), tuple(data["notes"]), raw)


# --- writing a run ----------------------------------------------------------------------------


def seal_plan(run: Path, plan: Mapping[str, Any]) -> str:
    """Writes the plan before the first sample and returns its digest.

    Workers of one run each arrive with the plan: the first writes, the others must bring the
    same bytes. EvidenceError if they do not.
    """
    data = canonical({"schema": SCHEMA, **plan})
    path = run / PLAN
    staged = path.with_name(f".{PLAN}.{os.getpid()}")
    write_atomic(staged, data)
    try:
        os.link(staged, path)  # fails if it exists: exactly one writer
    except FileExistsError:
        if path.read_bytes() != data:
            raise EvidenceError(f"{path}: this run was planned differently by another worker; nothing is measured") from None
    except OSError as error:  # a file system without links, or one that went away
        raise EvidenceError(f"cannot write {path}: {error}; name another folder with --run-dir") from error
    finally:
        staged.unlink(missing_ok=True)
    return digest(data)


def evidence_path(run: Path, claim_id: str) -> Path:
    """Where the evidence of a claim lies: readable, safe as a file name, never two on one."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", claim_id).strip("-.")[:100]
    exact = safe == claim_id
    return run / "evidence" / (f"{safe}.json" if exact else f"{safe}-{digest(claim_id.encode())[:8]}.json")


def _write_samples(run: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    text = rows_to_text(samples).encode("utf-8", "surrogatepass")
    sha = digest(text)
    return {"file": _write_packed(run / "samples" / f"{sha}.jsonl.gz", text), "sha256": sha, "rows": len(samples)}


def _write_raw(run: Path, raw: bytes) -> dict[str, Any] | None:
    sha = digest(raw)
    return {"file": _write_packed(run / "raw" / f"{sha}.bin.gz", raw), "sha256": sha} if raw else None


def _write_packed(path: Path, data: bytes) -> str:
    if not path.exists():
        write_atomic(path, gzip.compress(data, mtime=0))
    return f"{path.parent.name}/{path.name}"


def write_evidence(
    run: Path,
    claim: Claim,
    verdict: Verdict,
    *,
    plan_digest: str,
    tier: str,
    measurement: Measurement | None,
    controls: Sequence[Control] = (),
    provenance: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> Path:
    """One claim's evidence, complete on disk before this returns. Raises EvidenceError."""

    def kept(m: Measurement) -> dict[str, Any]:
        return measurement_to_json(m, _write_samples(run, m.samples), _write_raw(run, m.raw))

    record = {
        "schema": SCHEMA,
        "plan": plan_digest,
        "tier": tier,
        "claim": claim_to_json(claim),
        "verdict": verdict_to_json(verdict),
        "measurement": None if measurement is None else kept(measurement),
        "controls": [{"name": c.name, "expect": list(c.expect), "measurement": kept(c.measurement)} for c in controls],
        "provenance": dict(provenance),
        "notes": dict(notes),
    }
    path = evidence_path(run, claim.id)
    write_atomic(path, canonical(record))
    return path


def sweep(run: Path) -> None:
    """Takes away what a writer that was killed left beside its place: it is no evidence, and must not be sealed as if it were."""
    for path in [path for folder in (run, *(run / name for name in ("evidence", "samples", "raw"))) for path in folder.glob(".*")]:
        if path.is_file() and _STAGED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def golden_digests(value: Any) -> Iterable[str]:
    """Digests of golden sets anywhere among the conditions; "+limit=300" says that a part was asked."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "golden" and isinstance(inner, str):
                yield inner.partition("+")[0]
            else:
                yield from golden_digests(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from golden_digests(inner)


def bundle_files(run: Path) -> dict[str, str]:
    """Digest of each file of the bundle but the seal itself, by relative path."""
    files = sorted(p for p in run.rglob("*") if (p.is_symlink() or not p.is_dir()) and p != run / BUNDLE)
    return {p.relative_to(run).as_posix(): _digest_of(p) for p in files}


def _digest_of(path: Path) -> str:
    """A link, a pipe or a device is no part of evidence: it is listed as what it is, so that it is never sealed, opened or overlooked."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "no plain file"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal_bundle(run: Path) -> str:
    """Seals all that lies in ``run``; returns the digest to quote elsewhere."""
    body = {"schema": SCHEMA, "files": bundle_files(run)}
    seal = digest(canonical(body))
    write_atomic(run / BUNDLE, canonical({**body, "seal": seal}))
    return seal
