"""What a run left of each claim: the record of its evidence, and the rows it was judged on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import EvidenceError, HarnessError
from harness.types import Sample

__all__ = ["Kept", "read"]


@dataclass(frozen=True, slots=True)
class Kept:
    """One claim of one run; ``rows`` is empty where nothing was measured."""

    record: Mapping[str, Any]
    rows: tuple[Sample, ...]

    @property
    def verdict(self) -> Mapping[str, Any]:
        """As the judge left it."""
        found: Mapping[str, Any] = self.record["verdict"]
        return found

    @property
    def measurement(self) -> Mapping[str, Any]:
        """Its conditions, subjects, metric; empty where nothing was measured."""
        return self.record["measurement"] or {}

    @property
    def subjects(self) -> dict[str, str]:
        """The digest of each subject by name."""
        return {each["name"]: each["digest"] for each in self.measurement.get("subjects", [])}


def read(run: Path, *, unfinished: bool = False) -> dict[str, Kept]:
    """The claims of ``run`` by id. Of an ``unfinished`` run, what can be read; else EvidenceError names the first file that cannot."""
    found = {}
    for path in sorted((run / "evidence").glob("*.json")):
        try:
            record = evidence.read_json(path)
            found[str(record["claim"]["id"])] = Kept(record, _rows(run, record["measurement"]))
        except (HarnessError, KeyError, TypeError, ValueError) as error:
            if not unfinished:
                raise EvidenceError(f"{path}: not evidence of a claim ({error})") from error
    return found


def _rows(run: Path, measurement: Mapping[str, Any] | None) -> tuple[Sample, ...]:
    if measurement is None:
        return ()
    named = measurement["samples"]
    where = run / named["file"]
    if run.resolve() not in where.resolve().parents:
        raise EvidenceError(f"{named['file']} lies outside the run")
    try:
        text = gzip.decompress(where.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise EvidenceError(f"{where}: cannot be read ({error})") from error
    if evidence.digest(text) != named["sha256"]:
        raise EvidenceError(f"{where}: changed")
    return evidence.rows_from_text(text.decode("utf-8", "surrogatepass"))
