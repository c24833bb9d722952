"""The ratchet: known findings are kept in a file, only new ones fail; what is accepted for a time is waived with a reason.

A finding is known by its *fingerprint*: check, kind, the content of its row, the item it leaks, where in the message it stands.
The place of the row is not in it: rows may move, be added, be removed, and an old finding stays old. Neither is the partner:
which row of a class stands for the others changes when rows move or one is added before them, the finding does not.
"""

from __future__ import annotations

import gzip
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit.keys import dense, lookup
from harness.audit.model import Rows
from harness.audit.writing import whole
from harness.errors import AuditError, EvidenceError, nearest
from harness.evidence import canonical, read_json

__all__ = ["Baseline", "Gone", "Settled", "Waiver", "fingerprints", "nth", "read_baseline", "read_waivers", "settle", "write_baseline"]

SCHEMA = 1


# --- fingerprints ---------------------------------------------------------------------------------


def fingerprints(findings: pa.Table, rows: Rows) -> Any:
    """The fingerprint of each finding: (n, 2) uint64. Equal ones are the same finding of equal rows.

    ``detail`` counts only where nothing else says what was found (no partner, item or message): it may tell a place or a number.
    """
    import xxhash

    findings = findings.combine_chunks()
    n = findings.num_rows
    lines: Any = np.zeros((n, 9), "<u8")
    lines[:, 0] = _hashed(findings.column("check"))
    lines[:, 1] = _hashed(findings.column("kind"))
    lines[:, 2:4] = rows.digests[rows.unique[findings.column("row").to_numpy()]]
    lines[:, 4] = _hashed(findings.column("item"))
    for place, name in enumerate(("message", "start", "end"), start=5):
        lines[:, place] = pc.fill_null(findings.column(name).cast(pa.int64()), -1).to_numpy().astype(np.int64).view("<u8")
    said = [pc.is_valid(findings.column(name)).to_numpy() for name in ("partner", "item", "message")]
    lines[:, 8] = np.where(np.any(said, axis=0), 0, _hashed(findings.column("detail")))
    view, width = memoryview(lines.tobytes()), lines.shape[1] * 8
    joined = b"".join([xxhash.xxh3_128_digest(view[at : at + width]) for at in range(0, n * width, width)])
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


def _hashed(column: Any) -> Any:
    """The 64-bit hash of each text of a column, 0 for none; each distinct text once."""
    import xxhash

    coded = column.combine_chunks().dictionary_encode() if isinstance(column, pa.ChunkedArray) else column.dictionary_encode()
    hashes = np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in coded.dictionary.to_pylist()] + [0], np.uint64)
    return hashes[pc.fill_null(coded.indices, len(hashes) - 1).to_numpy()]


def nth(numbers: Any) -> Any:
    """For each entry, how many equal ones stand before it."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    found: Any = np.empty(len(numbers), np.int64)
    found[order] = np.arange(len(numbers)) - np.repeat(begins, np.diff(np.append(begins, len(numbers))))
    return found


# --- the baseline ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Baseline:
    """Known findings, each fingerprint once. ``row`` is the digest of the row, so that an entry can be told to a person."""

    name: Any  # object[b]: check.kind
    row: Any  # (b, 2) uint64
    fingerprint: Any  # (b, 2) uint64
    count: Any  # int64[b]: how many findings share it: copies of a row have equal findings

    def __len__(self) -> int:
        return len(self.count)

    @classmethod
    def of(cls, findings: pa.Table, rows: Rows) -> Baseline:
        """The baseline of which all these findings are known."""
        findings = findings.combine_chunks()
        prints = fingerprints(findings, rows)
        numbers, firsts = dense(prints)
        kept = findings.take(pa.array(firsts))
        names = np.array(
            [f"{check}.{kind}" for check, kind in zip(*(kept.column(c).to_pylist() for c in ("check", "kind")), strict=True)], object
        )
        count = np.bincount(numbers, minlength=len(firsts)).astype(np.int64)
        return cls(names, rows.digests[rows.unique[kept.column("row").to_numpy()]], prints[firsts], count)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Writes a baseline: canonical JSON, an entry a line, sorted; compressed if the name ends in .gz. Equal baselines are equal bytes."""
    told: dict[str, dict[str, int]] = {}
    # 64 hexadecimal digits an entry: its row, its fingerprint
    keys = np.hstack([baseline.row, baseline.fingerprint]).astype("<u8").tobytes().hex()
    for i, (name, count) in enumerate(zip(baseline.name.tolist(), baseline.count.tolist(), strict=True)):
        told.setdefault(name, {})[f"{keys[64 * i : 64 * i + 32]} {keys[64 * i + 32 : 64 * i + 64]}"] = count
    data = canonical({"schema": SCHEMA, "findings": told})
    with whole(path) as stream:
        stream.write(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_baseline(path: Path) -> Baseline:
    """The baseline of a file; AuditError names the file, the entry and what is wrong with it."""
    data = _json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("findings"), dict):
        raise AuditError(f'{path}: not a baseline (expected {{"schema": {SCHEMA}, "findings": {{...}}}}); write it again from an audit')
    names: list[str] = []
    keys: list[str] = []
    counts: list[int] = []
    for name, entries in data["findings"].items():
        if not isinstance(entries, dict):
            raise AuditError(f"{path}, {name}: expected an object of entries, found {type(entries).__name__}; write it again from an audit")
        for key, count in entries.items():
            if not _KEY.fullmatch(key) or type(count) is not int or count < 1:
                raise AuditError(
                    f"{path}, {name}: entry {key!r}: {count!r}, expected row and fingerprint of 32 hexadecimal digits each, "
                    "and a count of at least 1; remove the entry, or write the baseline again from an audit"
                )
        names += [name] * len(entries)
        keys += entries
        counts += entries.values()
    both = np.frombuffer(bytes.fromhex(" ".join(keys)), "<u8").reshape(-1, 4)
    if len(dense(both[:, 2:])[1]) < len(both):
        raise AuditError(f"{path}: one fingerprint stands in two entries; write the baseline again from an audit")
    return Baseline(np.array(names, object), both[:, :2], both[:, 2:], np.array(counts, np.int64))


_DIGEST = re.compile("[0-9a-f]{32}")
_KEY = re.compile("[0-9a-f]{32} [0-9a-f]{32}")


def _json(path: Path) -> Any:
    import json

    try:
        if path.suffix != ".gz":
            return read_json(path)
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, EvidenceError) as error:
        raise AuditError(f"{path}: not readable as a baseline ({error}). Restore it, or write it again from an audit") from error


# --- waivers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings that are accepted until a day. Of row, lines and item at least one is given; all that are given must hold."""

    name: str  # file and entry, for messages
    check: str
    kind: str | None
    row: str | None  # the digest of the row, 32 hexadecimal digits
    file: str | None  # a file of the dataset, or the end of its path; without it lines count in any
    lines: tuple[int, int] | None  # first and last
    item: str | None
    reason: str
    expires: date  # the last day on which it holds

    def holds(self, findings: pa.Table, rows: Rows) -> Any:
        """bool[n]: which findings it accepts."""
        found = _equal(findings, "check", self.check)
        if self.kind is not None:
            found &= _equal(findings, "kind", self.kind)
        if self.item is not None:
            found &= _equal(findings, "item", self.item)
        at = findings.column("row").to_numpy()[found]
        fits: Any = np.ones(len(at), bool)
        if self.row is not None:
            fits &= (rows.digests[rows.unique[at]] == np.frombuffer(bytes.fromhex(self.row), "<u8")).all(axis=1)
        if self.file is not None:
            named = [f"/{Path(name).as_posix()}".endswith(f"/{self.file}") for name in rows.files]
            fits &= np.array(named, bool)[rows.file[at]]
        if self.lines is not None:
            fits &= (rows.line[at] >= self.lines[0]) & (rows.line[at] <= self.lines[1])
        found[found] = fits
        return found


def _equal(findings: pa.Table, column: str, value: str) -> Any:
    said = pc.fill_null(pc.equal(findings.column(column), value), False)
    return np.array(said.to_numpy(zero_copy_only=False) if isinstance(said, pa.Array) else said.to_numpy(), bool)


_KEYS = ("check", "kind", "row", "file", "lines", "item", "reason", "expires")


def read_waivers(path: Path, today: date) -> tuple[Waiver, ...]:
    """The waivers of a TOML file, a table [[waiver]] each. AuditError if one is not well formed, or expired before ``today``.

    [[waiver]]
    check = "pii"
    kind = "email"
    row = "0f..."              # digest, as in findings.csv; or lines = [10, 20] with file = "...", or item = "..."
    reason = "the address of the company itself"
    expires = 2027-01-31
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: not readable as TOML ({error}); repair it, or name the right file") from error
    entries = data.get("waiver", [])
    if set(data) - {"waiver"} or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AuditError(f"{path}: found {', '.join(map(repr, data))}, expected tables [[waiver]] and nothing else")
    waivers = tuple(_waiver(f"{path}, waiver {number}", entry) for number, entry in enumerate(entries, start=1))
    expired = [f"{waiver.name} ({waiver.check}, expired {waiver.expires}: {waiver.reason})" for waiver in waivers if waiver.expires < today]
    if expired:
        raise AuditError(
            f"{len(expired)} expired: {'; '.join(expired)}. Mend what was waived and remove the entry, or have a person renew it"
        )
    return waivers


def _waiver(name: str, entry: Mapping[str, Any]) -> Waiver:
    for key in entry:
        if key not in _KEYS:
            raise AuditError(f"{name}: unknown key {key!r}; {nearest(key, list(_KEYS))}")
    for key in ("check", "reason", "expires"):
        if key not in entry:
            raise AuditError(f"{name}: no {key}; add it")
    for key in ("check", "kind", "row", "file", "item", "reason"):
        if key in entry and not (isinstance(entry[key], str) and entry[key].strip()):
            raise AuditError(f"{name}: {key} = {entry[key]!r}, expected text that is not empty")
    if type(entry["expires"]) is not date:
        raise AuditError(f"{name}: expires = {entry['expires']!r}, expected a date such as 2027-01-31, without quotes")
    if "row" in entry and not _DIGEST.fullmatch(entry["row"]):
        raise AuditError(f"{name}: row = {entry['row']!r}, expected the 32 hexadecimal digits that findings.csv calls digest")
    lines = entry.get("lines")
    if lines is not None and not (
        isinstance(lines, list) and len(lines) == 2 and all(type(line) is int for line in lines) and 1 <= lines[0] <= lines[1]
    ):
        raise AuditError(f"{name}: lines = {lines!r}, expected [first, last] with 1 <= first <= last")
    if not {"row", "lines", "item"} & set(entry):
        raise AuditError(f"{name}: says nothing of row, lines or item; to pass a whole kind set it to remark in the policy")
    given = {key: entry.get(key) for key in ("kind", "row", "file", "item")}
    return Waiver(name, entry["check"], lines=tuple(lines) if lines else None, reason=entry["reason"], expires=entry["expires"], **given)


# --- both together --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gone:
    """A baseline entry of which fewer are found than are known: the baseline can be tightened."""

    name: str  # check.kind
    row: str  # digest
    fingerprint: str
    known: int
    found: int

    def __str__(self) -> str:
        return f"{self.name}: row {self.row}, {self.found} of {self.known} found (fingerprint {self.fingerprint})"


@dataclass(frozen=True)
class Settled:
    """What is new among findings, and what of the files beside them is out of date."""

    known: Any  # bool[n]: in the baseline
    waiver: Any  # int32[n]: the first waiver that accepts it, -1 for none
    waivers: tuple[Waiver, ...]
    matched: tuple[int, ...]  # findings that each waiver accepts
    gone: tuple[Gone, ...]

    @property
    def new(self) -> Any:
        """bool[n]: neither known nor waived. These fail."""
        return ~self.known & (self.waiver < 0)

    @property
    def unused(self) -> tuple[str, ...]:
        """Waivers that accept nothing, by name."""
        return tuple(waiver.name for waiver, count in zip(self.waivers, self.matched, strict=True) if not count)

    def to_dict(self) -> dict[str, Any]:
        """Counts and names, as JSON."""
        return {
            "findings": len(self.known), "new": int(self.new.sum()), "known": int((self.known & (self.waiver < 0)).sum()),
            "waived": int((self.waiver >= 0).sum()), "gone": [str(entry) for entry in self.gone], "unused_waivers": list(self.unused),
            "waivers": [
                {"name": w.name, "check": w.check, "reason": w.reason, "expires": w.expires.isoformat(), "matched": count}
                for w, count in zip(self.waivers, self.matched, strict=True)
            ],
        }  # fmt: skip


def settle(findings: pa.Table, rows: Rows, baseline: Baseline | None = None, waivers: Sequence[Waiver] = ()) -> Settled:
    """Which findings are new. Of n equal findings of which the baseline knows k, the first k in order are known."""
    findings = findings.combine_chunks()
    n = findings.num_rows
    known: Any = np.zeros(n, bool)
    gone: tuple[Gone, ...] = ()
    if baseline is not None and len(baseline):
        prints = fingerprints(findings, rows)
        place = lookup(baseline.fingerprint, prints)
        there = place >= 0
        known[there] = nth(dense(prints)[0])[there] < baseline.count[place[there]]
        gone = tuple(_gone(baseline, np.bincount(place[there], minlength=len(baseline))))
    accepted = np.full(n, -1, np.int32)
    matched = []
    for number, waiver in enumerate(waivers):
        held = waiver.holds(findings, rows)
        matched.append(int(held.sum()))
        accepted[held & (accepted < 0)] = number
    return Settled(known, accepted, tuple(waivers), tuple(matched), gone)


def _gone(baseline: Baseline, found: Any) -> list[Gone]:
    fewer = np.flatnonzero(found < baseline.count).tolist()
    entries = [
        Gone(
            str(baseline.name[i]), baseline.row[i].tobytes().hex(), baseline.fingerprint[i].tobytes().hex(),
            int(baseline.count[i]), int(found[i]),
        )
        for i in fewer
    ]  # fmt: skip
    return sorted(entries, key=lambda entry: (entry.name, entry.row, entry.fingerprint))
