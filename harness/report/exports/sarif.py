"""The data's findings of a run as SARIF 2.1.0 (OASIS standard, errata 01), which code hosts and editors show beside the lines.

Out of the evidence alone: the rows that a claim counted against its data, and the data claims that do not hold. An audit of the
files themselves writes all its findings (``python -m harness data audit FILE --out FOLDER``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from harness.report.datasets import datasets_of, flagged
from harness.report.exports.bundle import Bundle, as_json, standing
from harness.report.text import clean, shorten
from harness.report.view import ClaimView, RunView, family_title

__all__ = ["LIMIT", "sarif"]

LIMIT = 25_000  # results of one run that code hosts accept
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROW = re.compile(r"(?P<file>.+?):(?P<line>[1-9][0-9]{0,8}) \(row [0-9]+\): ", re.DOTALL)
_TEXT = 1000  # characters of a message


def sarif(bundle: Bundle) -> bytes:
    """A SARIF log: claims about data that stop the run first, then each row with findings. Cut at ``LIMIT``, saying of how many."""
    found = sorted(_results(bundle.run), key=lambda r: r["level"] != "error")
    shown = found[:LIMIT]
    rules = sorted({result["ruleId"] for result in shown})
    for result in shown:
        result["ruleIndex"] = rules.index(result["ruleId"])
    audited = bool(datasets_of(bundle.run))  # an empty log must not read as: looked, and nothing found
    said = f"{len(shown)} of {len(found)} results shown" if audited else "no claim of this run is about data: nothing was looked at"
    notice = {"level": "note" if audited and shown == found else "warning", "message": {"text": said}}
    driver = {"name": "lifecycle-harness", "version": str(bundle.run.plan.get("harness") or "0"), "rules": [_rule(r) for r in rules]}
    return as_json({
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver},
            "invocations": [{"executionSuccessful": not bundle.run.cut_short, "toolExecutionNotifications": [notice]}],
            "results": shown,
            "properties": {"seal": bundle.seal, "plan": bundle.run.plan_digest, "results": len(found)},
        }],
    })  # fmt: skip


def _results(run: RunView) -> Iterable[dict[str, Any]]:
    for dataset in datasets_of(run):
        for claim in dataset.claims:
            stands = standing(claim, run)
            if stands != "passed":
                yield _claim(claim, "error" if stands == "failed" else "warning")
            if claim.name != "caught":  # there the findings are in copies, where they were planted
                yield from (_row(claim, item, finding, stands) for item, findings in flagged(claim) for finding in findings)


def _claim(claim: ClaimView, level: str) -> dict[str, Any]:
    text = f"{claim.id} {claim.outcome}: {claim.sentence}"
    return {"ruleId": claim.id.partition("[")[0], "level": level, "message": {"text": _text(text)}, "locations": _files(claim)}


def _row(claim: ClaimView, item: str, finding: Mapping[str, Any], stands: str) -> dict[str, Any]:
    """One finding of one row. It is an error only where its claim stops the run: within its margin it is a note."""
    name = f"{finding.get('check')}.{finding.get('kind')}"
    told = [str(finding[key]) for key in ("item", "partner", "detail") if finding.get(key)]
    text = f"{name}: {'; '.join(told)}" if told else name
    result = {"ruleId": name, "level": "error" if stands == "failed" else "note", "message": {"text": _text(f"{text} ({claim.id})")}}
    where = _ROW.match(item)
    place = _place(where["file"], int(where["line"])) if where else {"logicalLocations": [{"name": _text(item), "kind": "member"}]}
    return {**result, "locations": [place]}


def _files(claim: ClaimView) -> list[dict[str, Any]]:
    """The files of the dataset that the claim speaks about."""
    listed = next((s.get("location") for s in claim.measurement.get("subjects") or () if s.get("scheme") == "data"), "")
    return [_place(name) for name in str(listed).split(", ") if name]


def _place(file: str, line: int | None = None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(clean(file))}}
    return {"physicalLocation": {**place, "region": {"startLine": line}} if line else place}


def _rule(name: str) -> dict[str, Any]:
    title = family_title(name.partition(".")[0])
    return {"id": name, "shortDescription": {"text": _text(title or name)}}


def _text(text: str) -> str:
    """Braces and brackets in a message are placeholders and links (SARIF 3.11.5, 3.11.6): written as themselves."""
    return shorten(text, _TEXT).replace("{", "{{").replace("}", "}}").replace("[", "\\[").replace("]", "\\]")
