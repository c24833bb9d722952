"""Sentences of which is known what in them is personal data: what the precision of the scan is measured on."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from harness import Subject, golden
from harness.audit import require

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@cache
def _sentences() -> golden.GoldenSet:
    return golden.load("private_sentences", FIXTURES)


def subject() -> Subject:
    """The labelled sentences, as evidence names them."""
    return Subject("private_sentences", "data", "private_sentences.jsonl", _sentences().digest)


@cache
def called() -> tuple[tuple[str, bool], ...]:
    """Each span that the scan confirms as personal data: its sentence and place, and whether what it covers is.

    Right is a span of that kind of which both cover at least half of what they cover together; a national number is any
    that a state gives.
    """
    require()
    from harness.audit import standard
    from harness.audit.private import Private
    from harness.audit.run import Dataset, audit

    sentences = _sentences()
    check = next(check for check in standard.checks(standard.Known()) if isinstance(check, Private))
    found = audit(Dataset("private_sentences", (sentences.path,)), [check], engine="serial")
    said = []
    for finding in found.findings.to_pylist():
        if finding["kind"].startswith("possible "):
            continue
        item = sentences.items[finding["row"]]
        kind = "national" if finding["kind"][2:3] == "-" else finding["kind"]
        right = any(kind == named and _overlap(finding, start, end) for start, end, named in json.loads(item["spans"]))
        said.append((f"{item['id']}, bytes {finding['start']} to {finding['end']}, {finding['kind']}", right))
    return tuple(said)


def _overlap(finding: dict, start: int, end: int) -> bool:
    inside = min(finding["end"], end) - max(finding["start"], start)
    return 2 * inside >= max(finding["end"], end) - min(finding["start"], start)
