"""What is logged of a run: parameters, metrics, files, each under a name that MLflow takes; and what differs from it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import evidence
from harness.report.datasets import told
from harness.report.exports import Bundle
from harness.report.exports.bundle import sha256, subjects
from harness.report.view import ClaimView, finite

__all__ = ["Difference", "Logged", "differences", "name_of", "of_bundle"]

_LONGEST = 6000  # characters of a parameter, as MLflow takes them
_NAME = 250


@dataclass(frozen=True, slots=True)
class Logged:
    """Parameters; metrics, each a series (most of one value); SHA-256 of each file, by its path in the run."""

    params: Mapping[str, str]
    metrics: Mapping[str, tuple[float, ...]]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was done and logged otherwise; ``None`` where one of the two has it not."""

    item: str
    done: object
    logged: object

    def __str__(self) -> str:
        return f"{self.item}: done {_said(self.done)}, logged {_said(self.logged)}"


def _said(value: object) -> str:
    return "not at all" if value is None else repr(value)[:100]


def of_bundle(bundle: Bundle) -> Logged:
    """What a run did, out of its files.

    Parameters: plan, code, machine, packages, the digest of each golden set, scorer and subject, the recipes. Metrics: estimate,
    interval and n of each claim, training curves step by step. Files: all of a sealed run, else the plan and the evidence.
    """
    params = {key: _short(value) for key, value in _params(bundle) if value not in (None, "")}
    metrics = {key: series for claim in bundle.run.claims for key, series in _metrics(claim)}
    return Logged(params, metrics, _files(bundle))


def differences(done: Logged, logged: Logged) -> list[Difference]:
    """Everything that is not the same, by name; a number must be the same to its last bit."""
    pairs: list[tuple[str, Mapping[str, object], Mapping[str, object]]] = [
        ("parameter", done.params, logged.params), ("metric", done.metrics, logged.metrics), ("file", done.files, logged.files),
    ]  # fmt: skip
    return [
        Difference(f"{kind} {name}", ours.get(name), theirs.get(name))
        for kind, ours, theirs in pairs
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def name_of(text: str) -> str:
    """A name that MLflow takes (letters, digits, ``_ - . / :`` and blanks), never the same for two."""
    parts = [part for part in re.split(r"[\[\],/]+", text) if part]
    safe = "/".join(re.sub(r"[^A-Za-z0-9_.:-]+|\.{2,}", "_", part).strip(".") or "_" for part in parts)[: _NAME - 40]
    plain = re.fullmatch(r"[^\[\],/]+(\[[^\[\],/]+(,[^\[\],/]+)*\])?", text) is not None
    return safe if plain and _back(safe) == text else f"{safe}-{evidence.digest(text.encode('utf-8', 'surrogatepass'))[:8]}"


def _back(safe: str) -> str:
    first, *rest = safe.split("/")
    return f"{first}[{','.join(rest)}]" if rest else first


def _params(bundle: Bundle) -> Iterable[tuple[str, object]]:
    run = bundle.run
    yield from (("seal", bundle.seal), ("plan", run.plan_digest), ("lifecycle", run.lifecycle), ("tier", run.tier))
    yield from (("harness", run.plan.get("harness")), ("exit_status", run.facts.get("exit_status")))
    for kind in ("code", "machine", "packages"):
        yield from ((f"{kind}.{name_of(str(key))}", value) for key, value in (run.provenance.get(kind) or {}).items())
    for kind in ("golden", "scorers"):
        yield from ((f"{kind}.{name_of(str(key))}", value) for key, value in (run.plan.get(kind) or {}).items())
    seen: dict[str, int] = {}
    for subject in subjects(bundle):
        nth = seen[subject["name"]] = seen.get(subject["name"], 0) + 1
        yield f"subject.{name_of(subject['name'])}{f'.{nth}' if nth > 1 else ''}", subject["digest"]
    yield from ((f"recipe.{name_of(c.id)}", told(c)["recipe"]) for c in run.claims if told(c).get("recipe"))
    yield from ((f"outcome.{name_of(c.id)}", c.outcome) for c in run.claims)
    yield from ((f"release.{name_of(build)}", said.get("outcome")) for build, said in run.releases.items())


def _short(value: object) -> str:
    """A text as it is, anything else as JSON; what is too long by its digest, so that a change of it is seen."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    text = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return text if len(text) <= _LONGEST else f"SHA-256 {evidence.digest(text.encode())}"


def _metrics(claim: ClaimView) -> Iterable[tuple[str, tuple[float, ...]]]:
    name = name_of(claim.id)
    for key in ("estimate", "low", "high", "n"):
        value = finite(claim.verdict.get(key))
        if value is not None:
            yield f"{name}/{key}", (float(value),)
    curve = told(claim).get("curve")
    if isinstance(curve, Sequence) and curve and all(isinstance(x, float) and math.isfinite(x) for x in curve):
        yield f"{name}/curve", tuple(curve)


def _files(bundle: Bundle) -> dict[str, str]:
    """Of a sealed run what its bundle lists, and the bundle itself; of one under way what is finished."""
    if bundle.seal:
        listed: dict[str, Any] = evidence.read_json(bundle.path / evidence.BUNDLE)["files"]
        kept = {name: digest for name, digest in listed.items() if sha256(digest)}
        return {**kept, evidence.BUNDLE: evidence.digest((bundle.path / evidence.BUNDLE).read_bytes())}
    names = [evidence.PLAN, *(c.file for c in bundle.run.claims if c.file)]
    return {name: evidence.digest((bundle.path / name).read_bytes()) for name in names}
