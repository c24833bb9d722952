"""Findings as SARIF 2.1.0 (OASIS standard, errata 01), which code hosts and editors show beside the lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from harness.audit.baseline import Settled, fingerprints
from harness.audit.model import Rows
from harness.audit.outputs.policy import POLICY, action, blocking, help_of, names
from harness.audit.writing import plain, shown_names

__all__ = ["LIMIT", "sarif"]

LIMIT = 25_000  # results of one run that code hosts accept
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(
    rows: Rows,
    findings: pa.Table,
    *,
    settled: Settled | None = None,
    policy: Mapping[str, str] = POLICY,
    version: str = "0",
    limit: int | None = LIMIT,
) -> bytes:
    """A SARIF log of one run.

    What blocks is an error, else a note; known and waived findings are suppressed, with the reason. Of more than ``limit``
    findings new and blocking ones come first, and the log says how many of how many it shows. A region is the line of the
    row and its bytes in the (uncompressed) file; a place inside a message stands in the properties.
    """
    import orjson

    findings = findings.combine_chunks()
    n = findings.num_rows
    blocks = blocking(findings, policy)
    old = np.zeros(n, bool) if settled is None else ~settled.new
    shown = np.lexsort((np.arange(n), ~blocks, old))[: n if limit is None else limit]
    coded = names(findings)
    rules = coded.dictionary.to_pylist()
    prints = fingerprints(findings, rows)
    files = [quote(name) for name in shown_names(rows.files)]
    told = findings.take(pa.array(shown)).to_pylist()
    rule_of = coded.indices.to_numpy()
    results = [
        _result(rows, files, finding, int(rule_of[i]), rules, bool(blocks[i]), prints[i].tobytes().hex(), _suppressions(settled, int(i)))
        for i, finding in zip(shown.tolist(), told, strict=True)
    ]
    said = f"{len(shown)} of {n} findings shown" + ("" if len(shown) == n else ": new and blocking ones first; the CSV file has them all")
    notice = {"level": "note" if len(shown) == n else "warning", "message": {"text": said}}
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "lifecycle-harness", "version": version, "rules": [_rule(name, policy) for name in rules]}},
            "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": [notice]}],
            "artifacts": [{"location": {"uri": uri}} for uri in files],
            "results": results,
            "properties": {"findings": n, "shown": len(shown)},
        }],
    }  # fmt: skip
    return bytes(orjson.dumps(log, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _rule(name: str, policy: Mapping[str, str]) -> dict[str, Any]:
    text = {"text": help_of(name)}
    return {
        "id": name,
        "shortDescription": {"text": _text(name)},
        "help": text,
        "defaultConfiguration": {"level": _level(action(policy, name) == "block")},
    }


def _level(blocks: bool) -> str:
    return "error" if blocks else "note"


def _result(
    rows: Rows,
    files: list[str],
    finding: Mapping[str, Any],
    rule: int,
    rules: list[str],
    blocks: bool,
    fingerprint: str,
    suppressions: list[dict[str, str]],
) -> dict[str, Any]:
    said = [rules[rule]]
    said += [f"score {finding['score']:g}"] if finding["score"] is not None else []
    said += [finding[name] for name in ("item", "detail") if finding[name]]
    result: dict[str, Any] = {
        "ruleId": rules[rule],
        "ruleIndex": rule,
        "level": _level(blocks),
        "message": {"text": _text(": ".join([said[0], "; ".join(said[1:])] if said[1:] else said))},
        "locations": [_location(rows, files, finding["row"])],
        "partialFingerprints": {"contentDigest/v1": fingerprint},
        "suppressions": suppressions,
    }
    if finding["partner"] is not None:
        result["relatedLocations"] = [
            {"id": 0, **_location(rows, files, finding["partner"]), "message": {"text": "the other row of the pair"}}
        ]
    inside = {name: finding[name] for name in ("message", "start", "end", "num", "den", "score") if finding[name] is not None}
    return {**result, "properties": {"row": finding["row"], **inside}}


def _location(rows: Rows, files: list[str], row: int) -> dict[str, Any]:
    file, line, offset = int(rows.file[row]), int(rows.line[row]), int(rows.offset[row])
    place: dict[str, Any] = {"artifactLocation": {"uri": files[file], "index": file}}
    kinds = {suffix.lower() for suffix in PurePath(rows.files[file]).suffixes}
    region: dict[str, int] = {}
    if kinds & {".jsonl", ".ndjson", ".csv", ".tsv"}:  # elsewhere ``line`` counts rows
        region["startLine"] = line
    if offset >= 0 and not kinds & {".csv", ".tsv"}:  # of a CSV row ``size`` is that of its JSON
        region |= {"byteOffset": offset, "byteLength": int(rows.size[row])}
    if region:
        place["region"] = region
    return {"physicalLocation": place, "logicalLocations": [{"name": f"row {row}", "kind": "member"}]}


def _suppressions(settled: Settled | None, i: int) -> list[dict[str, str]]:
    """Why the result is not new; an empty list says that it is."""
    if settled is None or settled.new[i]:
        return []
    waiver = settled.waiver[i]
    why = plain(settled.waivers[waiver].reason) if waiver >= 0 else "known: in the baseline"
    return [{"kind": "external", "status": "accepted", "justification": why}]


def _text(text: str) -> str:
    """Braces and brackets in a message are placeholders and links (SARIF 3.11.5, 3.11.6): written as themselves."""
    return plain(text).replace("{", "{{").replace("}", "}}").replace("[", "\\[").replace("]", "\\]")
