"""Datasets of the lifecycle file, audited: what the suite of data claims asks, and what training waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import golden
from harness.config import DataSpec, Settings
from harness.errors import AuditError, ConfigError, MissingNeed, nearest
from harness.progress import Progress
from harness.store import Store, digest_file, digest_json
from harness.types import Subject

if TYPE_CHECKING:
    from harness.audit.model import Check
    from harness.audit.run import Audit, Dataset
    from harness.lifecycle.subjects import Subjects

__all__ = ["Data", "Described"]


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of a dataset: by its manifest if it stands in one, else by the lifecycle file."""

    files: tuple[Path, ...]
    prompt: str
    sha256: Mapping[str, str]  # declared, by file name; empty where nothing is declared
    source: str
    licence: str
    version: str
    changes: str


class Data:
    """The datasets of one run, each audited once."""

    def __init__(self, settings: Settings, store: Store, progress: Progress, subjects: Subjects) -> None:
        self.settings = settings
        self.store = store
        self.progress = progress
        self._subjects = subjects
        self._audits: dict[str, Audit] = {}

    def spec(self, name: str) -> DataSpec:
        """The dataset as the lifecycle file or ``--data`` names it. Raises ConfigError."""
        if name not in self.settings.data:
            raise ConfigError(f"dataset {name!r}: {nearest(name, list(self.settings.data))}")
        return self.settings.data[name]

    def described(self, name: str) -> Described:
        """Where the dataset lies and what is declared of it. Raises ConfigError, GoldenError, AuditError."""
        spec = self.spec(name)
        if not spec.set:
            files = tuple(Path(path) for path in spec.files)
            declared = {files[0].name: spec.sha256} if spec.sha256 and len(files) == 1 else {}
            return Described(files, "{input}", declared, spec.source, spec.licence, spec.version, spec.changes)
        folder, entry_name = Path(spec.set).parent, Path(spec.set).name
        entry = golden.manifest_entry(entry_name, folder)
        path = folder / entry["file"]
        return Described(
            (path,), entry.get("prompt", "{input}"), {path.name: entry["sha256"]}, entry["source"], entry["licence"],
            spec.version or f"sha256:{entry['sha256'][:16]}", spec.changes or entry.get("how_made", ""),
        )  # fmt: skip

    def subject(self, name: str) -> Subject:
        """The dataset as evidence names it: the digest over those of its files."""
        files = self.described(name).files
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise AuditError(f"dataset {name}: no file {missing[0]}; correct [data.{name}] or --data")
        return Subject(name, "data", ", ".join(path.name for path in files), digest_json([digest_file(path) for path in files]))

    def audit(self, name: str) -> Audit:
        """The audit of a dataset with every check that its description allows; facts are kept in the store."""
        if name not in self._audits:
            self._audits[name] = self.run(self.dataset(name), self.checks(name))
        return self._audits[name]

    def run(self, dataset: Dataset, checks: list[Check]) -> Audit:
        """An audit through the engine and the facts of this run."""
        from harness.audit.run import audit

        return audit(dataset, checks, keep=self.store.root / "audit", progress=self.progress)
