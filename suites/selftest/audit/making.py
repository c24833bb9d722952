"""Batches and Rows from plain Python, without the reader: what tests of a single check start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from harness.audit import model
from harness.audit.keys import dense
from harness.audit.model import PARTS, ROLES, SCHEMA, Batch, Check, Report, Rows

Message = tuple[str, str, str]  # role, part, text


def batch(rows: Sequence[Sequence[Message]], **columns: Sequence[Any]) -> Batch:
    """A batch of rows, each a list of (role, part, text). Equal rows have equal digests. ``columns``: id, group, label, problems, form."""
    texts = list(dict.fromkeys(text for row in rows for _, _, text in row))
    number = {text: i for i, text in enumerate(texts)}
    flat = [message for row in rows for message in row]
    coded = pa.DictionaryArray.from_arrays(
        pa.array([number[text] for _, _, text in flat], pa.int32()),
        pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary()),
    )
    messages = pa.StructArray.from_arrays(
        [pa.array([ROLES.index(m[0]) for m in flat], pa.int8()), pa.array([PARTS.index(m[1]) for m in flat], pa.int8()), coded],
        fields=list(SCHEMA.field("messages").type.value_type),
    )
    starts = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int32)
    n = len(rows)
    given = {
        "row": [xxhash.xxh3_128_digest(repr((row, [c[i] for c in columns.values()])).encode()) for i, row in enumerate(rows)],
        "form": columns.get("form", [1] * n), "problems": columns.get("problems", [[]] * n),
        "id": columns.get("id", [None] * n), "group": columns.get("group", [None] * n), "label": columns.get("label", [None] * n),
    }  # fmt: skip
    made = [pa.array(given[field.name], field.type) for field in list(SCHEMA)[:-1]]
    made.append(pa.ListArray.from_arrays(pa.array(starts), messages, type=SCHEMA.field("messages").type))
    return Batch(pa.RecordBatch.from_arrays(made, schema=SCHEMA))


def rows_of(made: Batch, physical: Sequence[int] | None = None) -> Rows:
    """The Rows of a dataset whose distinct rows are those of the batch; ``physical``: which of them lies where (default: each once)."""
    _numbers, firsts = dense(made.rows)
    lies = np.asarray(range(made.n) if physical is None else physical, dtype=np.int64)
    unique, order = dense(made.rows[lies])
    kept = lies[order]
    assert physical is not None or len(firsts) == made.n, "equal rows in a batch: say with physical= which lies where"
    messages = np.concatenate([np.arange(made.starts[i], made.starts[i + 1]) for i in kept] or [np.zeros(0, int)]).astype(np.int64)
    text, text_first = dense(made.text_digests[made.text[messages]])
    record, n = made.record, len(lies)
    take = pa.array(kept)
    return Rows(
        ("data.jsonl",), np.zeros(n, np.int32), np.arange(1, n + 1), np.arange(n) * 100, np.full(n, 99), unique, made.rows[kept],
        record.column("form").to_numpy()[kept], np.concatenate(([0], np.cumsum(np.diff(made.starts)[kept]))).astype(np.int64),
        made.role[messages], made.part[messages], text, made.text_digests[made.text[messages]][text_first],
        record.column("id").take(take), record.column("group").take(take), record.column("label").take(take),
    )  # fmt: skip


def report(check: Check, made: Batch, physical: Sequence[int] | None = None) -> Report:
    """The check's report on a batch, through partial, merge, finish."""
    rows = rows_of(made, physical)
    facts = model.merge([check.partial(made)], check.key)
    return check.finish(model.numbered(facts, check.key, rows.digests if check.key == "row" else rows.text_digests), rows, model.in_turn)


def found(said: Report) -> list[Mapping[str, Any]]:
    """The findings as dicts, without what is null."""
    return [{k: v for k, v in row.items() if v is not None} for row in said.findings.to_pylist()]
