"""The nouns of an audit: what a check gets, what it leaves, what it reports.

    Batch      distinct raw rows, parsed: what ``partial`` sees
    facts      an Arrow table, one line a row or a text: what ``partial`` makes of it, ``merge`` unites, caches keep
    Rows       every physical row of a dataset in order, with its texts: what ``finish`` sees beside the facts
    Report     findings and a summary: what ``finish`` makes

Facts are keyed by content (the 128-bit digest of a raw row or of a text), never by place, so that they
can be made in any order, by any number of processes, and used again when rows move. ``merge`` is the
union of two tables by key: associative, commutative, idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from harness.audit.keys import csr, lookup, spread

__all__ = [
    "DIGEST", "FINDINGS", "FORMS", "PARTS", "ROLES", "SCHEMA", "Batch", "Check", "Group", "Report", "Rows", "Texts",
    "digest_array", "digests_of", "finding_rows", "in_turn", "merge", "no_findings", "numbered", "texts_of",
]  # fmt: skip

DIGEST = pa.binary(16)  # XXH3-128

ROLES = ("system", "user", "assistant", "tool", "other")
PARTS = ("prompt", "answer", "rejected", "tools", "meta")
"""What a message is for: read by the model, learned from, learned from as the worse one, tool definitions, kept beside."""

FORMS = ("unreadable", "chat", "alpaca", "completion", "preference", "text", "evals", "choice", "request")

SCHEMA = pa.schema([
    ("row", DIGEST),  # of the raw bytes of the row
    ("form", pa.int8()),  # index into FORMS
    ("problems", pa.list_(pa.struct([("kind", pa.string()), ("detail", pa.string())]))),  # what the reader found wrong
    ("id", pa.string()),  # the row's own name, if it has one
    ("group", pa.string()),  # the document, user ... it belongs to, if the dataset says which field
    ("label", pa.string()),  # the class it is labelled with, if the dataset says which field
    ("messages", pa.list_(pa.struct([
        ("role", pa.int8()),  # index into ROLES
        ("part", pa.int8()),  # index into PARTS
        ("text", pa.dictionary(pa.int32(), pa.large_binary())),  # UTF-8; lone surrogates as in "surrogatepass"
    ]))),
])  # fmt: skip
"""A batch as it travels between processes: distinct rows, and in the dictionary of ``text`` each distinct text once."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts end to end: ``data`` (uint8) and ``starts`` (int64, one more than there are texts)."""

    data: Any
    starts: Any

    def __len__(self) -> int:
        return len(self.starts) - 1

    def bytes(self, i: int) -> bytes:
        """The UTF-8 of text i."""
        return bytes(self.data[self.starts[i] : self.starts[i + 1]])

    def str(self, i: int) -> str:
        """Text i; lone surrogates come back as such."""
        return self.bytes(i).decode("utf-8", "surrogatepass")


class Batch:
    """A record batch of SCHEMA, and what several checks want of it, made once."""

    def __init__(self, record: pa.RecordBatch) -> None:
        self.record = record
        self.n = record.num_rows
        messages = record.column("messages")
        assert messages.offset == 0  # batches are made whole, not sliced
        parts = messages.values
        self.starts = messages.offsets.to_numpy()  # messages of row i: starts[i] to starts[i + 1]
        self.role = parts.field("role").to_numpy()
        self.part = parts.field("part").to_numpy()
        coded = parts.field("text")
        self.text = coded.indices.to_numpy()  # the text of each message, an index into ``texts``
        self.texts = texts_of(coded.dictionary)

    @cached_property
    def rows(self) -> Any:
        """The digest of each row: (n, 2) uint64."""
        return digests_of(self.record.column("row"))

    @cached_property
    def row_of(self) -> Any:
        """The row of each message."""
        return np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.starts))

    @cached_property
    def text_digests(self) -> Any:
        """The digest of each distinct text: (t, 2) uint64."""
        import xxhash

        view, starts = memoryview(self.texts.data), self.texts.starts.tolist()
        joined = b"".join(xxhash.xxh3_128_digest(view[a:b]) for a, b in pairwise(starts))
        return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)

    @cached_property
    def forms(self) -> Any:
        """The digest of the canonical form of each distinct text: (t, 2) uint64."""
        from harness.audit.duplicates import canonical_forms

        return canonical_forms(self)

    @cached_property
    def words(self) -> Any:
        """The canonical words of each distinct text, hashed (``text.Words``)."""
        from harness.audit import text

        return text.words(self.texts)


def texts_of(column: Any) -> Texts:
    """The texts of a large_binary array, without a copy."""
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return Texts(np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8), starts)


def digests_of(column: Any) -> Any:
    """A column of 16-byte digests as (n, 2) uint64, without a copy where it is in one piece."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    _, data = column.buffers()
    whole = np.frombuffer(data, dtype="<u8") if data is not None else np.zeros(0, "<u8")
    return whole.reshape(-1, 2)[column.offset : column.offset + len(column)]


def digest_array(digests: Any) -> pa.Array:
    """(n, 2) uint64 as a column of 16-byte digests."""
    whole = np.ascontiguousarray(digests, dtype="<u8")
    return pa.Array.from_buffers(DIGEST, len(whole), [None, pa.py_buffer(whole)])


# --- the whole dataset ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Every physical row in order, the distinct rows behind them, and their texts.

    Distinct rows are numbered by first appearance, texts by first appearance in those: the numbering depends on
    the files alone. A dataset may be several files; ``file`` is an index into ``files``.
    """

    files: tuple[str, ...]
    file: Any  # int32[n]
    line: Any  # int64[n], from 1; for Parquet the row number, from 1
    offset: Any  # int64[n], bytes from the start of the (uncompressed) file; -1 where there is none
    size: Any  # int64[n], bytes
    unique: Any  # int32[n]: the distinct row of each physical row
    digests: Any  # (u, 2) uint64
    form: Any  # int8[u]
    starts: Any  # int64[u + 1]: messages of distinct row i
    role: Any  # int8[m]
    part: Any  # int8[m]
    text: Any  # int32[m]: the text of each message
    text_digests: Any  # (t, 2) uint64
    id: pa.Array  # string[u]
    group: pa.Array
    label: pa.Array

    @property
    def n(self) -> int:
        """Physical rows."""
        return len(self.unique)

    @property
    def u(self) -> int:
        """Distinct rows, by their raw bytes."""
        return len(self.digests)

    @property
    def t(self) -> int:
        """Distinct texts."""
        return len(self.text_digests)

    @cached_property
    def row_of(self) -> Any:
        """The distinct row of each message."""
        return np.repeat(np.arange(self.u, dtype=np.int32), np.diff(self.starts))

    @cached_property
    def first(self) -> Any:
        """The first physical row of each distinct row."""
        found: Any = np.empty(self.u, np.int64)
        found[self.unique[::-1]] = np.arange(self.n - 1, -1, -1)
        return found

    @cached_property
    def _by_unique(self) -> tuple[Any, Any]:
        return csr(self.unique, self.u)

    def copies(self, distinct: Any) -> tuple[Any, Any]:
        """For distinct rows (int array) all their physical rows: (which entry of ``distinct``, physical row), in order of entry."""
        return _places(self._by_unique, distinct)

    @cached_property
    def _by_text(self) -> tuple[Any, Any]:
        return csr(self.text, self.t)

    def holders(self, texts: Any) -> tuple[Any, Any]:
        """For texts (int array) all messages that hold them: (which entry of ``texts``, message), in order of entry."""
        return _places(self._by_text, texts)


def _places(by_key: tuple[Any, Any], asked: Any) -> tuple[Any, Any]:
    starts, places = by_key
    which, place = spread(starts, np.asarray(asked, dtype=np.int64))
    return which, places[place]


# --- findings -------------------------------------------------------------------------------------

FINDINGS = pa.schema([
    ("check", pa.string()),  # the check's name: "duplicates"
    ("kind", pa.string()),  # what of it: "exact"
    ("row", pa.int64()),  # physical row, from 0
    ("partner", pa.int64()),  # the other physical row of a pair, else null
    ("item", pa.string()),  # the evaluation item it leaks, or what else names the other side; else null
    ("message", pa.int16()),  # which message of the row, from 0; null: the row as a whole
    ("start", pa.int64()),  # byte span inside the text of that message
    ("end", pa.int64()),
    ("score", pa.float64()),  # exact where num and den are given: num / den
    ("num", pa.int64()),
    ("den", pa.int64()),
    ("detail", pa.string()),  # one short sentence, redacted: never a secret or personal datum
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What a check says of a dataset. ``summary`` is JSON: counts, quantiles, what was left out and why."""

    findings: pa.Table
    summary: Mapping[str, Any] = field(default_factory=dict)


def no_findings() -> pa.Table:
    """An empty table of FINDINGS."""
    return FINDINGS.empty_table()


def finding_rows(check: str, kind: str | Sequence[str], row: Any, **columns: Any) -> pa.Table:
    """A table of FINDINGS: ``row`` is an array of physical rows; columns not given are null. Scalars are repeated."""
    n = len(row)
    given = {"check": check, "kind": kind, "row": row, **columns}
    unknown = set(given) - set(FINDINGS.names)
    assert not unknown, unknown
    made = []
    for column in FINDINGS:
        value = given.get(column.name)
        if value is None or isinstance(value, (str, int, float)):
            made.append(pa.repeat(pa.scalar(value, column.type), n))
        else:
            made.append(pa.array(value, type=column.type))
    return pa.Table.from_arrays(made, schema=FINDINGS)


# --- checks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """``group(function, table, by)``: calls ``function`` with the lines of each value of the int column ``by`` and puts the results one
    behind the other, in order of the value. What one process does in a loop is a shuffle elsewhere: ``function`` may see no other lines.

    ``kept`` is a folder of this check's own, named by its options and the package's code, in which it may leave what makes the next audit
    of the dataset cheaper, never different; None where nothing is kept.
    """

    shuffle: Callable[[Callable[[pa.Table], pa.Table], pa.Table, str], pa.Table]
    kept: Path | None = None

    def __call__(self, function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
        return self.shuffle(function, table, by)


def _in_turn(function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
    values = table.column(by).to_numpy()
    order = np.argsort(values, kind="stable")
    ends: Any = np.flatnonzero(np.diff(values[order])) + 1
    return pa.concat_tables([function(table.take(pa.array(lines))) for lines in np.split(order, ends)])


in_turn = Group(_in_turn)
"""The Group of one process."""


class Check(Protocol):
    """One check. Cheap to make and to pickle; heavy tables are built at first use.

    ``key`` says what its facts are keyed by: "row" or "text". ``options`` is all that shapes its facts, as JSON:
    with ``name`` and the package's code it names the cached facts.
    """

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> Literal["row", "text"]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...

    def partial(self, batch: Batch) -> pa.Table:
        """Facts: a column named as ``key`` holding the digest, at most one line a key, and whatever else.

        Keys without facts may be left out.
        Depends on the row or text alone, never on its neighbours in the batch.
        """
        ...

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """The report. In ``facts`` the key column is an int32 number (of the distinct row or the text), ascending."""
        ...


def merge(tables: Iterable[pa.Table], key: str) -> pa.Table:
    """The union of facts by key: one line a key, ordered by digest. The one merge of all checks."""
    whole = pa.concat_tables(list(tables)).combine_chunks()
    digests = digests_of(whole.column(key))
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new: Any = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return whole.take(pa.array(order[new]))


def numbered(facts: pa.Table, key: str, digests: Any, seen: dict[str, tuple[Any, Any, Any]] | None = None) -> pa.Table:
    """``facts`` with the key column as a number: the place of its digest in ``digests``; ascending, one line a key.

    Keys that are not there (rows that left the dataset) are dropped, and so are a key's second lines: facts depend on
    the key alone, so they are the same. Several checks have facts of all texts: given one dict ``seen`` for all of them,
    the same keys are looked up once.
    """
    asked = digests_of(facts.column(key))
    before = (seen or {}).get(key)
    if before is not None and np.array_equal(before[0], asked):
        _, lines, numbers = before
    else:
        place = lookup(digests, asked)
        order = np.argsort(place, kind="stable")
        ordered = place[order]
        kept = ordered >= 0
        kept[1:] &= ordered[1:] != ordered[:-1]
        lines, numbers = order[kept], ordered[kept]
        if seen is not None:
            seen[key] = asked, lines, numbers
    taken = _taken(facts, lines)
    return taken.set_column(taken.schema.get_field_index(key), key, pa.array(numbers, pa.int32()))


def _taken(facts: pa.Table, lines: Any) -> pa.Table:
    """Lines of a table; of large lists only where they begin and how long they are (a list view)."""
    columns, at = [], pa.array(lines)
    for column in facts.columns:
        if pa.types.is_large_list(column.type):
            whole = [chunk for chunk in column.chunks if len(chunk)]
            before = np.cumsum([0, *(len(chunk.values) for chunk in whole)])
            begins = [chunk.offsets.to_numpy() + start for chunk, start in zip(whole, before[:-1], strict=True)]
            begin = np.concatenate([np.zeros(0, np.int64), *(one[:-1] for one in begins)])[lines]
            end = np.concatenate([np.zeros(0, np.int64), *(one[1:] for one in begins)])[lines]
            values = pa.concat_arrays([pa.array([], column.type.value_type), *(chunk.values for chunk in whole)])
            columns.append(pa.LargeListViewArray.from_arrays(pa.array(begin), pa.array(end - begin), values))
        else:
            columns.append(column.take(at))
    return pa.Table.from_arrays(columns, names=facts.column_names)
