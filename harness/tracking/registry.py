"""Promotion: an alias for the build whose release verdict holds, under the digest that its claims were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EvidenceError, nearest
from harness.report.exports import Bundle
from harness.report.exports.bundle import subjects
from harness.store import digest_file, digest_json, digest_tree

__all__ = ["Promoted", "chosen_digest", "content_digests", "promotable"]


@dataclass(frozen=True, slots=True)
class Promoted:
    """What a promotion stands on: the build, the digest of its content, the release verdict, the seal of the run."""

    build: str
    digest: str
    outcome: str
    seal: str

    @property
    def tags(self) -> Mapping[str, str]:
        """As the registry keeps it."""
        return {"build": self.build, "sha256": self.digest, "release": self.outcome, "seal": self.seal}


def promotable(bundle: Bundle, build: str, weights: Path | None = None) -> Promoted:
    """What may be promoted. EvidenceError, naming what is in the way, where the release verdict of the build does not hold, the
    run measured two contents under its name, or ``weights`` are not the content that was measured."""
    releases = bundle.run.releases
    if build not in releases:
        raise EvidenceError(f"{bundle.path}: no release verdict on {build!r}; {nearest(build, list(releases))}")
    said = releases[build]
    if bundle.run.smoke:
        raise EvidenceError(f"{build}: not promoted: tier smoke measures a subset, and that proves nothing")
    if said.get("outcome") != "holds":
        raise EvidenceError(f"{build}: not promoted: its release verdict is {said.get('outcome')}: {said.get('sentence')}")
    digest = chosen_digest(bundle, build)
    if weights is not None and digest not in content_digests(weights):
        raise EvidenceError(f"{weights}: not the content that was measured as {build} (SHA-256 {digest[:12]}…); not promoted")
    return Promoted(build, digest, "holds", bundle.seal)


def chosen_digest(bundle: Bundle, build: str) -> str:
    """The digest that every claim on the build was measured on; EvidenceError where there are two, or none."""
    found = sorted({s["digest"] for s in subjects(bundle) if s["name"] == build})
    if len(found) != 1:
        raise EvidenceError(f"{bundle.path}: claims on {build} were measured on {len(found)} contents, expected one: {', '.join(found)}")
    return str(found[0])


def content_digests(path: Path) -> set[str]:
    """The digests that a subject of this file or folder may have, as it came from the store or as it was named. EvidenceError if
    it is not there."""
    try:
        if path.is_file():
            digest = digest_file(path)
            return {digest, digest_json({path.name: digest})}
        if path.is_dir():
            return {digest_json(digest_tree(path))}
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read: {error}") from error
    raise EvidenceError(f"{path}: no such file or folder; name the weights that are to be served")
