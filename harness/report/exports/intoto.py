"""An in-toto Statement v1 with a test result (https://in-toto.io/attestation/test-result/v0.1): what was tested, by what, how it ended.

It is a statement, not yet an attestation: sign it with the tool of your forge (cosign attest-blob, actions/attest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import evidence
from harness.errors import EvidenceError
from harness.report.exports.bundle import Bundle, as_json, result, sha256, standing, subjects

__all__ = ["PREDICATE", "STATEMENT", "in_toto"]

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def in_toto(bundle: Bundle) -> bytes:
    """The statement. Its subjects are the artifacts and datasets that claims were measured on, and the seal file of the run.

    A test is named by its claim. ``warnedTests`` are claims that stop nothing: known failures, what may be missing, what smoke
    did not decide. EvidenceError where no subject has a digest: a statement about nothing is none.
    """
    run = bundle.run
    named = [_subject(one) for one in subjects(bundle)]
    if not named:
        raise EvidenceError(
            f"{bundle.path}: no claim names a subject with a SHA-256, and an in-toto statement is about such; nothing was written"
        )
    of = {c.id: standing(c, run) for c in run.claims}
    return as_json({
        "_type": STATEMENT,
        "subject": [_file(bundle, evidence.BUNDLE), *named],
        "predicateType": PREDICATE,
        "predicate": {
            "result": result(run).upper(),
            "configuration": _configuration(bundle),
            **{f"{kind}Tests": sorted(c for c, found in of.items() if found == kind) for kind in ("passed", "warned", "failed")},
        },
    })  # fmt: skip


def _subject(subject: Mapping[str, Any]) -> dict[str, Any]:
    """A digest of a folder or of several files is the SHA-256 over their names and digests, which the annotation says."""
    said = {"scheme": subject["scheme"], "digest": "SHA-256 of the content; of several files: of the JSON of their digests"}
    return {"name": subject["name"], "digest": {"sha256": subject["digest"]}, "annotations": said}


def _file(bundle: Bundle, name: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": evidence.digest((bundle.path / name).read_bytes())}, "annotations": {"seal": bundle.seal}}


def _configuration(bundle: Bundle) -> list[dict[str, Any]]:
    """The sealed plan, and the golden sets and scorers that it fixes, as resource descriptors."""
    run = bundle.run
    plan = {
        "name": evidence.PLAN, "digest": {"sha256": run.plan_digest}, "mediaType": "application/json",
        "annotations": {"seal": bundle.seal, "tier": run.tier, "lifecycle": run.lifecycle, **_commit(bundle)},
    }  # fmt: skip
    fixed = [
        {"name": f"{kind}/{name}", "digest": {"sha256": digest}}
        for kind in ("golden", "scorers")
        for name, digest in sorted((run.plan.get(kind) or {}).items())
        if sha256(digest)
    ]
    return [plan, *fixed]


def _commit(bundle: Bundle) -> dict[str, str]:
    commit = (bundle.run.provenance.get("code") or {}).get("commit")
    return {"gitCommit": str(commit)} if commit else {}
