"""Findings as CSV and as JSON Lines."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit.baseline import Settled
from harness.audit.model import FINDINGS, Rows
from harness.audit.writing import plain_column, shown_names, whole

__all__ = ["hex_column", "located", "write_csv", "write_jsonl"]


def located(rows: Rows, findings: pa.Table, settled: Settled | None = None) -> pa.Table:
    """Findings with the file, line and byte offset of row and partner, and the digest by which a waiver names a row.

    ``status`` is new, known (the baseline has it) or waived. Texts are made plain (``writing.plain``).
    """
    findings = findings.combine_chunks()
    row = findings.column("row").to_numpy()
    columns: dict[str, Any] = {name: findings.column(name) for name in FINDINGS.names}
    names = pa.array(shown_names(rows.files), pa.string())
    partner = findings.column("partner")
    absent = pc.is_null(partner).to_numpy(zero_copy_only=False)
    other = pc.fill_null(partner, 0).to_numpy().astype(np.int64)
    status = ["new", "known", "waived"]
    said = np.zeros(len(row), np.int8) if settled is None else np.where(settled.waiver >= 0, 2, np.where(settled.known, 1, 0))
    placed = {
        "status": pa.DictionaryArray.from_arrays(pa.array(said.astype(np.int8)), status).cast(pa.string()),
        "file": names.take(pa.array(rows.file[row])),
        "line": pa.array(rows.line[row]),
        "offset": pa.array(rows.offset[row], mask=rows.offset[row] < 0),
        "digest": hex_column(rows.digests[rows.unique[row]]),
        "partner_file": names.take(pa.array(rows.file[other] if len(rows.file) else other, mask=absent)),
        "partner_line": pa.array(rows.line[other] if len(rows.line) else other, mask=absent),
    }
    order = [
        "status", "check", "kind", "file", "line", "offset", "row", "message", "start", "end", "partner_file", "partner_line",
        "partner", "item", "score", "num", "den", "detail", "digest",
    ]  # fmt: skip
    whole_table = {**columns, **placed}
    return pa.table({name: plain_column(column) if pa.types.is_string((column := whole_table[name]).type) else column for name in order})


def hex_column(digests: Any) -> pa.Array:
    """(n, 2) uint64 as a column of 32 hexadecimal digits."""
    text = np.ascontiguousarray(digests, "<u8").tobytes().hex().encode()
    offsets: Any = np.arange(len(digests) + 1, dtype=np.int32) * 32
    return pa.Array.from_buffers(pa.string(), len(digests), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def write_csv(path: Path, table: pa.Table) -> None:
    """CSV (RFC 4180, UTF-8). A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    import pyarrow.csv

    columns = [_no_formula(column) if pa.types.is_string(column.type) else column for column in table.columns]
    with whole(path) as stream:
        pyarrow.csv.write_csv(pa.table(columns, names=table.column_names), stream)


def _no_formula(column: Any) -> Any:
    return pc.replace_substring_regex(column, pattern=r"^(\s*[=+\-@＝＋－＠])", replacement=r"'\1")


def write_jsonl(path: Path, table: pa.Table) -> None:
    """JSON Lines, a finding a line without what is null; compressed if the name ends in .gz."""
    with whole(path) as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
                _lines(packed, table)
        else:
            _lines(stream, table)


def _lines(stream: IO[bytes] | gzip.GzipFile, table: pa.Table) -> None:
    import orjson

    for batch in table.to_batches(max_chunksize=8192):
        told = ({key: value for key, value in finding.items() if value is not None} for finding in batch.to_pylist())
        stream.write(b"".join(orjson.dumps(finding, option=orjson.OPT_APPEND_NEWLINE) for finding in told))
