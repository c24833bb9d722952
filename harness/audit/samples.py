"""From findings to samples: one for each row with a finding, one that stands for all the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit.run import Audit
from harness.types import Sample

__all__ = ["per_row", "wanted"]

_LISTED = 20_000  # rows named one by one in evidence; the rest is counted
_TOLD = 5  # findings of one row that its sample tells


def wanted(findings: pa.Table, kinds: Mapping[str, Collection[str] | None]) -> pa.Table:
    """The findings of these checks and kinds (None: all kinds of the check)."""
    masks = []
    for check, names in kinds.items():
        mask = pc.equal(findings.column("check"), check)
        masks.append(mask if names is None else pc.and_(mask, pc.is_in(findings.column("kind"), pa.array(sorted(names), pa.string()))))
    keep = masks[0]
    for mask in masks[1:]:
        keep = pc.or_(keep, mask)
    return findings.filter(keep)


def per_row(audit: Audit, findings: pa.Table, *, flagged: float, known: int = 0) -> tuple[Sample, ...]:
    """A Sample for each row that ``findings`` name, with the value ``flagged``, and one of the other value for all other rows.

    ``known`` is how many rows have findings that a baseline or a waiver covers: they count as others, and stand in a sample
    of their own. Beyond 20,000 rows the rest of the flagged ones share a sample: all are counted, not all are told.
    """
    rows = audit.rows
    order = findings.take(pa.array(np.argsort(findings.column("row").to_numpy(), kind="stable")))
    at, begins, counts = np.unique(order.column("row").to_numpy(), return_index=True, return_counts=True)
    names = [Path(name).name for name in rows.files]
    width = len(str(int(rows.line.max())))  # so that items in order of their names are in order of lines
    samples = []
    for row, begin, count in zip(at[:_LISTED].tolist(), begins.tolist(), counts.tolist(), strict=False):
        told = [_told(audit, finding) for finding in order.slice(begin, min(count, _TOLD)).to_pylist()]
        detail = {"findings": told, **({"further": count - _TOLD} if count > _TOLD else {})}
        kinds = ", ".join(dict.fromkeys(finding["kind"] for finding in told))  # a failed claim names its items in the terminal
        samples.append(Sample(f"{names[rows.file[row]]}:{rows.line[row]:0{width}} (row {row}): {kinds}", flagged, detail=detail))
    if len(at) > _LISTED:
        samples.append(Sample("further rows with findings", flagged, weight=float(len(at) - _LISTED)))
    clean = rows.n - len(at) - known
    if known:
        samples.append(Sample("rows with known findings only", 1.0 - flagged, weight=float(known)))
    if clean:
        samples.append(Sample("rows without findings", 1.0 - flagged, weight=float(clean)))
    return tuple(samples)


def _told(audit: Audit, finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as evidence tells it: a partner by its place in the file."""
    said = {key: value for key, value in finding.items() if value is not None and key not in ("row", "partner", "check")}
    partner = finding["partner"]
    if partner is not None:
        said["partner"] = f"{Path(audit.rows.files[audit.rows.file[partner]]).name}:{audit.rows.line[partner]}"
    return {"check": finding["check"], **said}
