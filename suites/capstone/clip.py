"""A clip of a run: some of its claims, with their own rows, as a whole run that rechecks; and a run that somebody made over.

What is studied on a few claims of every kind is cheap enough to be studied often.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import evidence, report
from harness.judge import judge
from harness.recheck import ending, releases
from harness.types import Control, Measurement

_SLOW = ("paired_mean", "relative_score")  # a third of a second each to derive; other claims show all else that these show


def varied(run: Path) -> list[str]:
    """Claims of ``run`` that show every estimand but the slow ones, every outcome and every kind of evidence, the lightest first."""
    chosen: list[str] = []
    seen: set[object] = set()
    for record in sorted(records(run), key=lambda record: (_weight(run, record), record["claim"]["id"])):
        shown = _shows(record)
        if shown - seen and record["claim"]["estimand"] not in _SLOW:
            seen |= shown
            chosen.append(record["claim"]["id"])
    return chosen


def clip(run: Path, out: Path, claims: Collection[str]) -> Path:
    """Writes the run of these ``claims`` alone into ``out``: plan, rows, release verdicts, pages and seal of its own."""
    plan = evidence.read_json(run / evidence.PLAN)
    body = {key: value for key, value in plan.items() if key != "schema"}
    body["claims"] = [entry for entry in plan["claims"] if entry["claim"]["id"] in claims]
    body["releases"] = _left(plan.get("releases", {}), claims)
    evidence.seal_plan(out, body)
    for record in records(run):
        if record["claim"]["id"] in claims:
            for name in files(record):
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(run / name, out / name)
            evidence.write_atomic(evidence.evidence_path(out, record["claim"]["id"]), evidence.canonical(record))
    made_over(out)
    return out


def made_over(run: Path) -> str:
    """What a forger does who knows everything: each verdict judged again from what now lies there, all else after it, and a new seal."""
    plan = evidence.read_json(run / evidence.PLAN)
    digest = evidence.digest((run / evidence.PLAN).read_bytes())
    entries = {entry["claim"]["id"]: entry for entry in plan["claims"]}
    for path in sorted((run / "evidence").glob("*.json")):
        record = evidence.read_json(path)
        entry = entries[record["claim"]["id"]]
        record.update(plan=digest, claim=entry["claim"], tier=plan["tier"])
        record["notes"].update(expect=entry["expect"], why=entry["why"], test=entry["test"], bound_from=entry["source"])
        if record["measurement"] is not None:
            claim = evidence.claim_from_json(record["claim"])
            controls = [Control(c["name"], tuple(c["expect"]), measured(run, c["measurement"])) for c in record["controls"]]
            record["verdict"] = evidence.verdict_to_json(judge(claim, measured(run, record["measurement"]), controls=controls))
        evidence.write_atomic(path, evidence.canonical(record))
    found = list(records(run))
    verdicts = {record["claim"]["id"]: evidence.verdict_from_json(record["verdict"]) for record in found}
    red = [*ending.lost(plan, found), *ending.unheeded(found)]
    facts = {
        "exit_status": 1 if red else 8,
        "finished": "2026-11-22T00:00:00+00:00",
        "lost": [],
        "tier": plan["tier"],
        "allowed_missing": [],
    }
    evidence.write_atomic(run / "run.json", evidence.canonical(facts))
    if plan["releases"]:
        evidence.write_atomic(run / evidence.RELEASE, evidence.canonical(releases(plan, verdicts)))
    return rendered(run)


def rendered(run: Path) -> str:
    """The pages again, and a new seal, which is returned."""
    report.write(run)
    return evidence.seal_bundle(run)


def records(run: Path) -> Iterator[dict[str, Any]]:
    """The evidence files of a run, in the order of their names."""
    return (evidence.read_json(path) for path in sorted((run / "evidence").glob("*.json")))


def measurements(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured for a claim and its controls."""
    return [m for m in (record["measurement"], *(control["measurement"] for control in record["controls"])) if m]


def files(record: Mapping[str, Any]) -> set[str]:
    """The sidecars that an evidence file names."""
    return {m[kind]["file"] for m in measurements(record) for kind in ("samples", "raw") if kind in m}


def measured(run: Path, data: Mapping[str, Any]) -> Measurement:
    """A measurement with the rows that lie in its sidecar."""
    return evidence.measurement_from_json(data, evidence.rows_from_text(unpacked(run, data["samples"]).decode("utf-8", "surrogatepass")))


def unpacked(run: Path, entry: Mapping[str, Any]) -> bytes:
    """What is inside a sidecar."""
    return gzip.decompress((run / entry["file"]).read_bytes())


def _left(planned: Mapping[str, Any], claims: Collection[str]) -> dict[str, Any]:
    """The families of each build with these claims alone; a build whose gating families are all empty is left out."""
    builds = {}
    for build, families in planned.items():
        rest = [{**family, "claims": kept} for family in families if (kept := [name for name in family["claims"] if name in claims])]
        if any(family["rule"] != "exploratory" for family in rest):
            builds[build] = rest
    return builds


def _weight(run: Path, record: Mapping[str, Any]) -> int:
    return len(evidence.canonical(record)) + sum((run / name).stat().st_size for name in files(record))


def _shows(record: Mapping[str, Any]) -> set[object]:
    claim, verdict, found = record["claim"], record["verdict"], record["measurement"]
    shown = {claim["estimand"], verdict["outcome"], ("bound", claim["bound"]["kind"]), ("expect", record["notes"].get("expect"))}
    shown |= {("invalid", bool(found["invalid"])), ("raw", "raw" in found), ("items", bool(claim["items"]))} if found else {"unmeasured"}
    return shown | {("looks", claim["looks"] > 1), ("slo", claim["slo"] is not None), ("controls", bool(record["controls"]))}
