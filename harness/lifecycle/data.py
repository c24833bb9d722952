"""Datasets of the lifecycle file, audited: what the suite of data claims asks, and what training waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import golden
from harness.audit import require
from harness.config import DataSpec, Settings
from harness.errors import AuditError, ConfigError, MissingNeed, SubjectError, nearest
from harness.progress import Progress
from harness.store import Store, digest_file, digest_json
from harness.types import Subject

if TYPE_CHECKING:
    from harness.audit.baseline import Settled
    from harness.audit.model import Check
    from harness.audit.proof import Proof
    from harness.audit.run import Audit, Dataset
    from harness.audit.standard import Known
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
        self._known: dict[str, Known] = {}
        self._proofs: dict[str, Proof] = {}

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
            spec.version or f"1.0.0+{entry['sha256'][:12]}", spec.changes or entry.get("how_made", ""),
        )  # fmt: skip

    def subject(self, name: str) -> Subject:
        """The dataset as evidence names it: the digest over those of its files."""
        files = self.described(name).files
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise AuditError(f"dataset {name}: no file {missing[0]}; correct [data.{name}] or --data")
        return Subject(name, "data", ", ".join(path.name for path in files), digest_json([digest_file(path) for path in files]))

    def dataset(self, name: str) -> Dataset:
        """The dataset as the audit reads it."""
        require()
        from harness.audit import forms, run

        spec = self.spec(name)
        return run.Dataset(name, self.described(name).files, forms.Shape(spec.form, spec.id, spec.group, spec.label))

    def known(self, name: str) -> Known:
        """What is known of a dataset: decides which checks can be asked."""
        if name not in self._known:
            self._known[name] = self._knowledge(name)
        return self._known[name]

    def _knowledge(self, name: str) -> Known:
        from harness.audit import standard
        from harness.audit.leakage import References

        spec, described = self.spec(name), self.described(name)
        apart = tuple(References.of_golden(golden.load(set_name, self.settings.golden)) for set_name in spec.apart_from)
        if strange := sorted({path for paths in spec.splits.values() for path in paths} - set(spec.files)):  # --data names other files
            raise ConfigError(
                f"dataset {name}: [data.{name}] puts {strange[0]} into a split, and it is not audited; give --data another name"
            )
        splits = {split: [spec.files.index(path) for path in paths] for split, paths in spec.splits.items()}
        size = sum(path.stat().st_size for path in described.files if path.is_file())
        tokenizer = None
        if spec.tokenizer:
            with contextlib.suppress(MissingNeed):  # then lengths are in words; the claim in tokens says what is missing
                tokenizer = self._subjects.resolve(spec.tokenizer)[1]
        return standard.Known(
            apart, tokenizer, spec.context, described.prompt, splits or None, spec.languages, many=size > standard.MANY * 500
        )

    def audit(self, name: str) -> Audit:
        """The audit of a dataset with every check that its description allows; facts of rows are kept in the store."""
        if name not in self._audits:
            from harness.audit import standard

            self._audits[name] = self.run(self.dataset(name), standard.checks(self.known(name)))
        return self._audits[name]

    def raw(self, name: str) -> Audit:
        """The audit of what a dataset was before it was cleaned, with the same checks."""
        from harness.audit import forms, run, standard

        spec = self.spec(name)
        folder, entry = Path(spec.raw).parent, Path(spec.raw).name
        files = (folder / golden.manifest_entry(entry, folder)["file"],)
        return self.run(
            run.Dataset(entry, files, forms.Shape(spec.form, spec.id, spec.group, spec.label)), standard.checks(self.known(name))
        )

    def blocked(self, name: str) -> tuple[list[tuple[str, list[str]]], int]:
        """Rows that were blocked when the dataset was cleaned: (where, reasons) of each; and how many leaks are in it all the same."""
        import pyarrow as pa

        from harness.audit import outputs

        raw, cleaned = self.raw(name), self.audit(name)
        findings = raw.findings.filter(pa.array(outputs.blocking(raw.findings, self.policy(name))))
        reasons: dict[int, list[str]] = {}
        leaks: set[int] = set()
        for row, check, kind in zip(*(findings.column(column).to_pylist() for column in ("row", "check", "kind")), strict=True):
            reasons.setdefault(row, []).append(f"{check}.{kind}")
            leaks |= {row} if check == "leakage" else set()
        said = {_said(cleaned, row) for row in range(cleaned.rows.n)}
        places = [(f"{Path(raw.rows.files[raw.rows.file[row]]).name}:{raw.rows.line[row]}", reasons[row]) for row in sorted(reasons)]
        return places, sum(_said(raw, row) in said for row in leaks)

    def run(self, dataset: Dataset, checks: Sequence[Check]) -> Audit:
        """An audit that keeps its facts in the store. Raises MissingNeed where the libraries are not here."""
        from harness.audit import run

        return run.audit(dataset, checks, keep=self.store.root / "audit", progress=self.progress)

    def settled(self, name: str, audit: Audit) -> Settled:
        """Which findings are new, by the baseline and the waivers of the dataset."""
        from harness.audit import baseline

        spec = self.spec(name)
        accepted = baseline.read_baseline(Path(spec.baseline)) if spec.baseline else None
        waivers = baseline.read_waivers(Path(spec.waivers), datetime.now(UTC).date()) if spec.waivers else ()
        return baseline.settle(audit.findings, audit.rows, accepted, waivers)

    def policy(self, name: str) -> dict[str, str]:
        """Which findings keep a row out: those of the table, but what the dataset allows."""
        from harness.audit import outputs, standard

        return outputs.policy_of(dict.fromkeys(self.spec(name).allow, "remark"), {c.name for c in standard.checks(self.known(name))})

    def proof(self, name: str) -> Proof:
        """Known defects planted in a copy of the dataset, and its clean twin, audited with the same checks."""
        if name not in self._proofs:
            from harness.audit import proof, standard

            known = self.known(name)
            self._proofs[name] = proof.prove(
                self.dataset(name),
                known,
                lambda dataset: self.run(dataset, standard.checks(known)),
                audited=self.audit(name),
                policy=self.policy(name),
            )
        return self._proofs[name]

    def gate(self, subject: str, rows: Path | None = None) -> None:
        """Raises SubjectError if a row of what ``subject`` is trained on would be blocked; ``rows``: a set it is known to read."""
        for spec in self.settings.data.values():
            if spec.used_by == subject or (rows is not None and spec.set == str(rows)):
                self._gate(spec.name)

    def _gate(self, name: str) -> None:
        """One such row is one too many; of duplicates and long rows a claim bounds the share."""
        require()
        import numpy as np

        from harness.audit import outputs

        audit = self.audit(name)
        blocking = outputs.blocking(audit.findings, self.policy(name)) & self.settled(name, audit).new
        blocking &= ~np.isin(audit.findings.column("check").to_pylist(), ("duplicates", "near", "lengths"))
        if not blocking.any():
            return
        first = audit.findings.slice(int(blocking.argmax()), 1).to_pylist()[0]
        raise SubjectError(
            f"dataset {name}: {int(blocking.sum())} findings keep rows out of training, first: "
            f"line {audit.rows.line[first['row']]}, {first['check']}.{first['kind']}. "
            f"See: python -m harness data audit {audit.rows.files[0]}; clean it, or waive them with a reason"
        )


def _said(audit: Audit, row: int) -> bytes:
    """What a row says: the digests of its texts, in order."""
    distinct = audit.rows.unique[row]
    texts = audit.rows.text[audit.rows.starts[distinct] : audit.rows.starts[distinct + 1]]
    return bytes(audit.rows.text_digests[texts].tobytes())
