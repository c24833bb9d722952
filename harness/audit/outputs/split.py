"""clean.jsonl and blocked.jsonl: every row of the dataset is in exactly one of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit.baseline import Settled
from harness.audit.model import Rows
from harness.audit.outputs.policy import POLICY, PRIVATE, blocking, names
from harness.audit.writing import plain, shown_names, whole
from harness.errors import AuditError

__all__ = ["Chunk", "Split", "split"]


class Chunk(Protocol):
    """What is needed of a chunk of the reader: raw rows and their digests, (n, 2) uint64."""

    @property
    def raw(self) -> Any: ...
    @property
    def digests(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Split:
    """How many rows went where. ``redacted``: blocked ones shown by digest alone; ``by``: rows blocked by each check.kind."""

    rows: int
    clean: int
    blocked: int
    redacted: int
    by: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"rows": self.rows, "clean": self.clean, "blocked": self.blocked, "redacted": self.redacted, "by": dict(self.by)}


def split(
    rows: Rows,
    findings: pa.Table,
    chunks: Iterable[Chunk],
    clean: Path,
    blocked: Path,
    *,
    settled: Settled | None = None,
    policy: Mapping[str, str] = POLICY,
    private: Iterable[str] = PRIVATE,
) -> Split:
    """Streams the rows that ``chunks`` reads again into the two files.

    A row is blocked if a finding that blocks and is not waived names it as ``row``; as the partner of a pair it passes, and what
    the baseline knows blocks all the same. A blocked row that any finding of the ``private`` checks names, even a waived one, is
    shown by its digest alone.
    Both files appear together; ``clean`` last, so that it never stands beside the blocked rows of another audit.
    Raises AuditError if what is read now is not what was audited, or a row were in neither file.
    """
    findings = findings.combine_chunks()
    standing = np.ones(findings.num_rows, bool) if settled is None else settled.waiver < 0
    stops = findings.filter(pa.array(blocking(findings, policy) & standing))
    is_blocked: Any = np.zeros(rows.n, bool)
    hidden: Any = np.zeros(rows.n, bool)
    is_blocked[stops.column("row").to_numpy()] = True
    hidden[findings.filter(pc.is_in(findings.column("check"), pa.array(list(private), pa.string()))).column("row").to_numpy()] = True
    files = shown_names(rows.files)
    reasons = _reasons(rows, files, stops)
    with whole(clean) as good, whole(blocked) as bad:
        at = passed = 0
        for chunk in chunks:
            _check_same(rows, at, chunk)
            # Locals: this loop sees every row of the dataset.
            write, stopped = good.write, is_blocked[at : at + len(chunk.raw)].tolist()
            for i, raw in enumerate(chunk.raw):
                if stopped[i]:
                    bad.write(_blocked_line(rows, files, at + i, raw, next(reasons), bool(hidden[at + i])))
                else:
                    write((raw.replace(b"\n", b" ") if b"\n" in raw else raw) + b"\n")  # in JSON a line feed stands between tokens only
                    passed += 1
            at += len(chunk.raw)
        held_back = int(is_blocked.sum())
        if at != rows.n or passed + held_back != rows.n:
            raise AuditError(
                f"{', '.join(rows.files)}: {rows.n} rows were audited, now {at} are read; the files changed since. "
                "Audit them again; neither file was written"
            )
        clean.unlink(missing_ok=True)
    by = Counter(dict(zip(*(part.tolist() for part in _rows_by_name(stops)), strict=True)))
    return Split(rows.n, passed, held_back, int((is_blocked & hidden).sum()), dict(sorted(by.items())))


def _rows_by_name(stops: pa.Table) -> tuple[Any, Any]:
    """How many different rows each check.kind names."""
    coded = names(stops)
    pairs = np.unique(np.stack([coded.indices.to_numpy().astype(np.int64), stops.column("row").to_numpy()]), axis=1)
    which, counts = np.unique(pairs[0], return_counts=True)
    return np.array(coded.dictionary.to_pylist(), object)[which], counts


def _check_same(rows: Rows, at: int, chunk: Chunk) -> None:
    expected = rows.digests[rows.unique[at : at + len(chunk.raw)]]
    found = np.asarray(chunk.digests)
    same = (expected == found[: len(expected)]).all(axis=1)
    if len(found) > len(expected) or not same.all():
        first = at + int(np.argmin(same)) if not same.all() else rows.n
        where = f"{rows.files[rows.file[first]]}, line {rows.line[first]}" if first < rows.n else f"after row {rows.n}"
        raise AuditError(f"{where}: not the row that was audited; the file changed since. Audit it again; neither file was written")


def _reasons(rows: Rows, files: list[str], stops: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The reasons of each blocked row, in order of rows; made a few thousand at a time."""
    row = stops.column("row").to_numpy()
    order = np.argsort(row, kind="stable")
    ends: Any = np.flatnonzero(np.diff(row[order], append=-1)) + 1
    at = 0
    for block in np.array_split(ends, len(ends) // 4096 + 1):
        if not len(block):
            continue
        told = stops.take(pa.array(order[at : block[-1]])).to_pylist()
        begin = at
        for end in block.tolist():
            yield [_reason(rows, files, finding) for finding in told[begin - at : end - at]]
            begin = end
        at = int(block[-1])


def _reason(rows: Rows, files: list[str], finding: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: finding[name] for name in ("check", "kind", "score", "num", "den", "message") if finding[name] is not None}
    partner = finding["partner"]
    if partner is not None:
        said["partner_line"] = int(rows.line[partner])
        if rows.file[partner] != rows.file[finding["row"]]:
            said["partner_file"] = files[rows.file[partner]]
    return said | {name: plain(finding[name]) for name in ("item", "detail") if finding[name] is not None}


def _blocked_line(rows: Rows, files: list[str], row: int, raw: bytes, reasons: list[dict[str, Any]], hidden: bool) -> bytes:
    import orjson

    line: dict[str, Any] = {
        "row": row,
        "file": files[rows.file[row]],
        "line": int(rows.line[row]),
        "offset": int(rows.offset[row]),
        "digest": rows.digests[rows.unique[row]].tobytes().hex(),
        "reasons": reasons,
    }
    if not hidden:
        try:
            line["raw"] = raw.decode()
        except UnicodeDecodeError:
            line["raw_base64"] = base64.b64encode(raw).decode()
    return bytes(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
