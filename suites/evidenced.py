"""Which evidence claims about evidence speak of: this run's, as far as it is, else the committed example's.

The stages card and track come after those that measure, so in one process the evidence of this run is there. Several workers
know of no order: there, and where this run measured nothing of the model, it is the example.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness import Subject, evidence
from harness.errors import MissingNeed
from harness.recheck import releases
from harness.report import exports
from harness.report.exports.card import of_model
from harness.store import digest_json


@dataclass(frozen=True)
class Evidenced:
    """Evidence about one model: the run as exports read it, and the same as a subject of claims."""

    bundle: exports.Bundle
    name: str
    here: bool  # of this very run

    @property
    def subject(self) -> Subject:
        """The digest is that over the evidence about the model, whatever else the run holds."""
        files = {c.file: evidence.digest((self.bundle.path / c.file).read_bytes()) for c in of_model(self.bundle.run, self.name) if c.file}
        return Subject(self.name, "evidence", "this run" if self.here else "reports/example", digest_json(files))


class Evidences:
    """The evidence there is, each run read once: before the first claim about it."""

    def __init__(self, here: Path | None, example: Path) -> None:
        self.places = [(path, path == here) for path in (here, example) if path is not None and (path / evidence.PLAN).is_file()]
        self.read: dict[Path, exports.Bundle] = {}

    def of(self, name: str) -> Evidenced:
        """The evidence about a model. MissingNeed where nothing was measured of it."""
        for path, here in self.places:
            if path not in self.read:
                self.read[path] = exports.of_evidence(path, "" if here else exports.seal(path))
            if any(c.file and c.measurement for c in of_model(self.read[path].run, name)):
                return Evidenced(self.read[path], name, here)
        raise self._missing(f"is about {name}")

    def released(self) -> tuple[exports.Bundle, bool]:
        """The evidence of a run that decides on releases, and whether it is this one. MissingNeed where none does."""
        for path, here in self.places:
            if path not in self.read:
                self.read[path] = exports.of_evidence(path, "" if here else exports.seal(path))
            run = self.read[path].run
            if here and run.plan.get("releases") and any(c.measurement for c in run.claims):  # not yet written, but what it rests on is
                records = self.read[path].records.values()
                verdicts = {r["claim"]["id"]: evidence.verdict_from_json(r["verdict"]) for r in records}
                return replace(self.read[path], run=replace(run, releases=releases(run.plan, verdicts))), here
            if run.releases:
                return self.read[path], here
        raise self._missing("decides on a release")

    def _missing(self, what: str) -> MissingNeed:
        how = "let the claims about it run before, in one process: pytest, or pytest --only quant,card,track"
        return MissingNeed("evidence", f"no evidence of this run, and none of reports/example, {what}", how)


@pytest.fixture(scope="session")
def evidences(request) -> Evidences:
    """The evidence of this run and of the example."""
    from harness.plugin import run_folder

    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) <= 1
    here = run_folder(request.config) if alone else None
    return Evidences(here, request.config.rootpath / "reports" / "example")
