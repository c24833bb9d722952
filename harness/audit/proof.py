"""The audit proves itself on a dataset: quiet on a clean twin of it, and no planted defect goes unseen.

Three copies are made of the user's own rows and audited with the checks that the data are audited with. The *twin* holds
rows without a blocking finding, drawn by their digests; the *planted* copy has a few defects of every kind put in; the
*flooded* one many of the kinds that a claim bounds as a share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.audit import outputs, plant, rows
from harness.audit.run import Audit, Dataset
from harness.audit.standard import Known
from harness.errors import AuditError

__all__ = ["FLOODED", "Proof", "prove"]

FLOODED = ("exact_duplicate", "canonical_duplicate", "near_duplicate", "over_long")
"""Kinds whose share of all rows is bounded."""

_MOST = 500  # rows of the twin: the smallest defect is one row in all of them
_FLOOD = 0.12  # of the twin, for each kind: above every bound, beside the other floods


@dataclass(frozen=True)
class Proof:
    """What the audit said of copies of which is known what is wrong with them."""

    twin: Audit
    planted: Audit
    flooded: Audit
    plan: plant.Plan
    recall: Mapping[str, plant.Recall]
    alarms: pa.Table  # findings of the planted copy that nobody planted
    noise: pa.Table  # blocking findings of the twin

    @property
    def proven(self) -> bool:
        """Something was planted, every planted row was found, and nothing else."""
        found = bool(self.recall) and all(seen.found == seen.planted for seen in self.recall.values())
        return found and not self.alarms.num_rows and not self.noise.num_rows

    def to_dict(self) -> dict[str, Any]:
        """As JSON: by kind planted and found, what could not be planted and why, false alarms."""
        return {
            "kinds": {kind: {"planted": seen.planted, "found": seen.found} for kind, seen in self.recall.items()},
            "not_planted": dict(self.plan.left_out), "false_alarms": self.alarms.num_rows, "rows": self.planted.rows.n,
            "twin": {"rows": self.twin.rows.n, "findings": self.noise.num_rows},
        }  # fmt: skip

    def text(self) -> str:
        """For a terminal."""
        lines = [f"{'found':>7} {'of':>5}  planted"]
        lines += [f"{seen.found:>7} {seen.planted:>5}  {kind}{_missed(seen)}" for kind, seen in self.recall.items()]
        lines += [f"{'-':>7} {'-':>5}  {kind}: {why}" for kind, why in self.plan.left_out.items()]
        alarms, noise = self.alarms.num_rows, self.noise.num_rows
        lines.append(f"false alarms: {alarms} in {self.planted.rows.n} rows; in the clean twin {noise} in {self.twin.rows.n}")
        return "\n".join(lines)


def _missed(seen: plant.Recall) -> str:
    return f"  missed: lines {', '.join(str(one.line) for one in seen.missed[:5])}" if seen.missed else ""


def prove(
    dataset: Dataset,
    known: Known,
    run: Callable[[Dataset], Audit],
    *,
    audited: Audit | None = None,
    each: int = 20,
    policy: Mapping[str, str] = outputs.POLICY,
) -> Proof:
    """Plants ``each`` defects of every kind that fits the data. ``run`` audits with the checks in question; ``audited`` is its
    audit of the dataset, if there is one. Raises AuditError if every row of the dataset is blocked: nothing is left to plant in.
    """
    found = audited or run(dataset)
    with tempfile.TemporaryDirectory(prefix="harness-proof-") as scratch:
        folder = Path(scratch)
        files = _twin(found, folder / "twin", policy)
        if not files or (known.splits and len(files) < len(dataset.files)):  # splits name files by number
            raise AuditError(
                f"dataset {dataset.name}: a finding blocks every row of {'a file' if files else 'it'}, so that there is no clean row "
                "to plant defects in; mend the rows, or allow findings that are meant"
            )
        given: dict[str, Any] = {"shape": dataset.shape, "references": known.apart_from, "context": known.context if known.tokenizer else 0}
        plan = plant.plant(files, folder / "planted", each=each, **given)
        flood = max(5, round(_FLOOD * min(_MOST, found.rows.n)))
        flooded = plant.plant(files, folder / "flooded", each=flood, kinds=FLOODED, **given)
        twin, planted, drowned = (
            run(replace(dataset, name=f"{dataset.name}.{name}", files=tuple(paths)))
            for name, paths in (("twin", files), ("planted", plan.files), ("flooded", flooded.files))
        )
    noise = twin.findings.filter(pa.array(outputs.blocking(twin.findings, policy)))
    blocking = planted.findings.filter(pa.array(outputs.blocking(planted.findings, policy)))
    return Proof(
        twin, planted, drowned, plan, plant.recall(plan, planted.findings), plant.false_alarms(plan, blocking, twin.findings), noise
    )


def _twin(found: Audit, folder: Path, policy: Mapping[str, str]) -> list[Path]:
    """Writes rows that no finding blocks into ``folder``, a file for each file with such a row; about _MOST, drawn by digest."""
    folder.mkdir(parents=True)
    blocked: Any = np.zeros(found.rows.n, bool)
    stops = outputs.blocking(found.findings, policy) | (found.findings.column("check").to_numpy() == "leakage")  # however weakly proven
    findings = found.findings.filter(pa.array(stops))
    for column in ("row", "partner"):  # a row is no clean one beside its copy in another split
        named = findings.column(column).drop_null().to_numpy()
        blocked[named] = True
    clean = np.flatnonzero(~blocked)
    drawn = clean[np.argsort(found.rows.digests[found.rows.unique[clean], 0], kind="stable")]
    _, firsts = np.unique(found.rows.file[drawn], return_index=True)
    keep: Any = np.zeros(found.rows.n, bool)
    keep[drawn[:_MOST]] = keep[drawn[firsts]] = True  # of each file at least one
    return _written(found, keep, folder)


def _written(found: Audit, keep: Any, folder: Path) -> list[Path]:
    paths = [folder / f"{number}-{Path(name).name.split('.')[0]}.jsonl" for number, name in enumerate(found.rows.files)]
    streams = [path.open("wb") for path in paths]
    row = 0
    try:
        for chunk in rows.read(found.dataset.files):
            for i in np.flatnonzero(keep[row : row + len(chunk.raw)]).tolist():
                streams[chunk.file].write(chunk.raw[i].replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
            row += len(chunk.raw)
    finally:
        for stream in streams:
            stream.close()
    return [path for path in paths if path.stat().st_size]
