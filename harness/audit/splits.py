"""Training and test data that share a group (a document, a user) or a row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from harness.audit.duplicates import canonical_facts, canonical_of, conversations, first_rows, spoken
from harness.audit.model import Batch, Group, Report, Rows, finding_rows, no_findings
from harness.errors import AuditError

__all__ = ["Splits"]


@dataclass(frozen=True)
class Splits:
    """No group and no canonical conversation stands in two splits.

    ``splits``: the name of each split and the indices of its files (``Splits.of`` takes a mapping); without it each file is
    a split. Files in no split are left out, and their rows counted. A class is at home in the split where it stands first: each of
    its rows elsewhere is a finding, its partner the first row at home. A group's name is personal data: findings show a hash.

    Kinds: "group_in_two_splits", "row_in_two_splits". ``finish`` raises AuditError for an index that no file has, a file in
    two splits, or a split without files.
    """

    splits: tuple[tuple[str, tuple[int, ...]], ...] = ()
    name: str = "splits"
    key: Literal["row", "text"] = "text"

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[int]]) -> Splits:
        """From a mapping: ``Splits.of({"train": (0, 1), "test": (2,)})``."""
        return cls(tuple((name, tuple(files)) for name, files in splits.items()))

    @property
    def options(self) -> Mapping[str, Any]:
        return {}  # which file is in which split shapes no fact

    def partial(self, batch: Batch) -> pa.Table:
        return canonical_facts(batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        names, of_file = self._of_files(rows.files)
        split = of_file[rows.file]
        sizes = np.bincount(split[split >= 0], minlength=len(names))
        grouped = rows.group.dictionary_encode()
        groups = grouped.indices.fill_null(-1).to_numpy()[rows.unique]
        summary: dict[str, Any] = {
            "splits": [{"name": name, "rows": int(n)} for name, n in zip(names, sizes, strict=True)],
            "rows_in_no_split": int((split < 0).sum()), "rows_without_group": int((groups < 0).sum()), "groups": len(grouped.dictionary),
        }  # fmt: skip
        if (sizes > 0).sum() < 2:
            return Report(no_findings(), summary | {"not_evaluated": "fewer than two splits have rows"})
        kept = spoken(rows)
        same = first_rows(conversations(rows, canonical_of(facts, rows), kept), group)
        same[np.bincount(rows.row_of[kept], minlength=rows.u) == 0] = -1  # rows that could not be read
        tables = []
        for kind, classes in (("group_in_two_splits", groups), ("row_in_two_splits", same[rows.unique])):
            row, partner = _astray(classes, split)
            detail = [
                f"in {names[here]}, and in {names[home]}" for here, home in zip(split[row].tolist(), split[partner].tolist(), strict=True)
            ]
            if kind == "group_in_two_splits":
                known = {i: _hashed(grouped.dictionary[i].as_py()) for i in np.unique(groups[row]).tolist()}
                detail = [f"group {known[i]} {text}" for i, text in zip(groups[row].tolist(), detail, strict=True)]
            tables.append(finding_rows(self.name, kind, row, partner=partner, detail=detail))
            summary[kind] = {"classes": len(np.unique(classes[row])), "rows": len(row), "by_split": _counts(split[row], names)}
        return Report(pa.concat_tables(tables), summary)

    def _of_files(self, files: Sequence[str]) -> tuple[list[str], Any]:
        """The names of the splits, and the split of each file, -1 for none."""
        if not self.splits:
            return [Path(file).name for file in files], np.arange(len(files))
        found = np.full(len(files), -1)
        for number, (name, members) in enumerate(self.splits):
            if not members:
                raise AuditError(f"split {name!r} has no files; name at least one of 0 to {len(files) - 1}")
            for file in members:
                if not 0 <= file < len(files):
                    raise AuditError(f"split {name!r} names file {file}; the dataset has files 0 to {len(files) - 1}")
                if found[file] >= 0:
                    raise AuditError(
                        f"file {file} ({files[file]}) is in the splits {self.splits[found[file]][0]!r} and {name!r}; expected in one"
                    )
                found[file] = number
        return [name for name, _ in self.splits], found


def _astray(classes: Any, split: Any) -> tuple[Any, Any]:
    """Rows that stand in another split than the first row of their class, and those first rows. -1: no class, or no split."""
    rows = np.flatnonzero((classes >= 0) & (split >= 0))
    first = np.full(int(classes.max(initial=-1)) + 1, -1)
    first[classes[rows[::-1]]] = rows[::-1]
    home = first[classes[rows]]
    away = split[rows] != split[home]
    return rows[away], home[away]


def _hashed(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _counts(split: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": name, "rows": int(n)} for name, n in zip(names, np.bincount(split, minlength=len(names)), strict=True) if n]
