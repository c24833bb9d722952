"""Versions of a dataset: what its bytes are, and what changed between two of them.

``data.lock`` holds per file the SHA-256 of its bytes, size, number of rows and a Merkle root over its rows: the digest of each
shard of 4,096 rows, and one over those. Beside it may lie the *index* (Parquet, a line a row): digests of row, prompt and
answer. Two indexes tell what was added, removed, moved and changed; no text is ever loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from harness.audit.baseline import nth
from harness.audit.keys import dense
from harness.audit.model import DIGEST, PARTS, Rows, digest_array, digests_of
from harness.audit.writing import names_of, whole
from harness.errors import AuditError, EvidenceError
from harness.evidence import canonical, read_json

__all__ = [
    "INDEX",
    "SHARD",
    "Diff",
    "File",
    "Manifest",
    "diff",
    "index",
    "read_index",
    "read_lock",
    "sha256_of",
    "verify",
    "write_index",
    "write_lock",
]

SCHEMA = 1
SHARD = 4096

INDEX = pa.schema([
    ("file", pa.dictionary(pa.int32(), pa.string())),
    ("line", pa.int64()),  # from 1
    ("row", DIGEST),  # of the raw bytes
    ("prompt", DIGEST),  # of roles and texts that are read; null if there are none
    ("answer", DIGEST),  # of those learned from; null if there are none
    ("id", pa.string()),  # XXH3-128 of the row's own name in hex: names may be personal
])  # fmt: skip
"""What is kept of each physical row."""


# --- the lock -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """One file of a dataset. ``root`` is the SHA-256 over ``shards``, each the SHA-256 over the digests of up to SHARD rows."""

    sha256: str
    bytes: int
    rows: int
    root: str
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dataset is, byte for byte. Files are named from the deepest folder that holds them all."""

    files: Mapping[str, File]

    @classmethod
    def of(cls, rows: Rows) -> Manifest:
        """The manifest of audited files, read again for their bytes. AuditError if one cannot be read."""
        found = {}
        for number, (name, path) in enumerate(zip(names_of(rows.files), rows.files, strict=True)):
            digest, size = sha256_of(Path(path))
            shards = _shards(rows.digests[rows.unique[rows.file == number]])
            root = hashlib.sha256(bytes.fromhex("".join(shards))).hexdigest()
            found[name] = File(digest, size, int((rows.file == number).sum()), root, shards)
        return cls(found)

    @property
    def digest(self) -> str:
        """SHA-256 over the whole: one number for a version of the dataset."""
        return hashlib.sha256(canonical(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As data.lock holds it."""
        return {"schema": SCHEMA, "files": {name: asdict(file) | {"shards": list(file.shards)} for name, file in self.files.items()}}


def _shards(digests: Any) -> tuple[str, ...]:
    flat = np.ascontiguousarray(digests, "<u8")
    return tuple(hashlib.sha256(flat[at : at + SHARD].tobytes()).hexdigest() for at in range(0, len(flat), SHARD))


def sha256_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file's bytes, a piece at a time."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size
    except OSError as error:
        raise AuditError(f"{path}: cannot be read ({error.strerror}); restore it, or name the right file") from error


def write_lock(path: Path, manifest: Manifest) -> None:
    """Writes data.lock: canonical JSON, whole or not at all."""
    with whole(path) as stream:
        stream.write(canonical(manifest.to_dict()))


def read_lock(path: Path) -> Manifest:
    """The manifest of a data.lock; AuditError says what is wrong with it."""
    try:
        data = read_json(path)
        if data["schema"] != SCHEMA:
            raise AuditError(f"{path}: schema {data['schema']}, expected {SCHEMA}; lock the dataset again")
        return Manifest({name: File(**{**file, "shards": tuple(file["shards"])}) for name, file in data["files"].items()})
    except (EvidenceError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"{path}: not a data.lock ({error}); restore it, or lock the dataset again") from error


def verify(locked: Manifest, found: Manifest, known: pa.Table | None = None, now: pa.Table | None = None) -> list[str]:
    """How the dataset that is there differs from the one that was locked, a sentence a file; [] says that it is the same bytes.

    A sentence names the first shard that differs, and with both indexes (``known``: of the locked one) its first line.
    """
    said = [f"{name}: not there, but locked" for name in locked.files if name not in found.files]
    said += [f"{name}: there, but not locked" for name in found.files if name not in locked.files]
    for name, was in locked.files.items():
        now_is = found.files.get(name)
        if now_is is None or now_is.sha256 == was.sha256:
            continue
        pairs = zip([*was.shards, None], [*now_is.shards, None], strict=False)  # of unequal ones the shorter ends in None
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        what = f"{name}: sha256 {now_is.sha256}, {now_is.rows} rows; locked: {was.sha256}, {was.rows} rows; "
        if first is None:
            said.append(f"{what}the rows are the same, the bytes around them differ")
            continue
        where = f"first difference in rows {first * SHARD + 1} to {max(min((first + 1) * SHARD, max(was.rows, now_is.rows)), 1)}"
        if known is not None and now is not None:
            where = _first_line(_of_file(known, name), _of_file(now, name)) or where
        said.append(what + where)
    return sorted(said)


def _of_file(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.equal(table.column("file").cast(pa.string()), name))


def _first_line(a: pa.Table, b: pa.Table) -> str:
    left, right = digests_of(a.column("row")), digests_of(b.column("row"))
    shorter = min(len(left), len(right))
    differ = np.flatnonzero((left[:shorter] != right[:shorter]).any(axis=1))
    first = int(differ[0]) if len(differ) else shorter
    longer = b if len(right) > first else a
    return f"first difference in line {longer.column('line')[first].as_py()}" if first < longer.num_rows else ""


# --- the index ------------------------------------------------------------------------------------


def index(rows: Rows) -> pa.Table:
    """The index of a dataset: a table of INDEX, a line for each physical row."""
    import xxhash

    prompt = _of_parts(rows, ("prompt", "tools"))
    answer = _of_parts(rows, ("answer", "rejected"))
    ids = pa.array(
        [None if name is None else xxhash.xxh3_128_hexdigest(name.encode("utf-8", "surrogatepass")) for name in rows.id.to_pylist()],
        pa.string(),
    )
    lies = pa.array(rows.unique)
    names = pa.DictionaryArray.from_arrays(pa.array(rows.file, pa.int32()), pa.array(names_of(rows.files), pa.string()))
    columns = [
        names,
        pa.array(rows.line, pa.int64()),
        digest_array(rows.digests).take(lies),
        prompt.take(lies),
        answer.take(lies),
        ids.take(lies),
    ]
    return pa.Table.from_arrays(columns, schema=INDEX)


def _of_parts(rows: Rows, parts: Sequence[str]) -> pa.Array:
    """For each distinct row the digest over role, part and text of its messages of these parts; null if there are none."""
    import xxhash

    chosen = np.flatnonzero(np.isin(rows.part, [PARTS.index(part) for part in parts]))
    lines: Any = np.empty((len(chosen), 3), "<u8")
    lines[:, 0] = rows.role[chosen].astype(np.uint64) * np.uint64(16) + rows.part[chosen].astype(np.uint64)
    lines[:, 1:] = rows.text_digests[rows.text[chosen]]
    ends = np.concatenate(([0], np.cumsum(np.bincount(rows.row_of[chosen], minlength=rows.u)))) * 24
    view, places = memoryview(lines.tobytes()), ends.tolist()
    made = [xxhash.xxh3_128_digest(view[a:b]) if b > a else None for a, b in pairwise(places)]
    return pa.array(made, DIGEST)


def write_index(path: Path, table: pa.Table) -> None:
    """Writes an index as Parquet, whole or not at all."""
    import pyarrow.parquet as pq

    with whole(path) as stream:
        pq.write_table(table, stream, compression="zstd")


def read_index(path: Path) -> pa.Table:
    """An index that ``write_index`` wrote; AuditError if it is not one."""
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(path.read_bytes())).cast(INDEX)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AuditError(f"{path}: not the index of a dataset ({error}); lock the dataset again") from error


# --- the difference -------------------------------------------------------------------------------

RULES = ("same content", "same id and prompt", "same id", "same prompt")
"""By what a row of A is taken for the earlier version of a row of B, tried in this order. Equal rows were paired before."""

WHAT = ("other bytes", "answer", "prompt", "prompt and answer")
"""What changed; "other bytes": prompt and answer are the same, other fields or the writing are not."""


@dataclass(frozen=True)
class Diff:
    """What it takes to make dataset B of dataset A. Every row of A is in exactly one of kept, moved, changed, removed."""

    a: pa.Table
    b: pa.Table
    kept: int  # the same rows in the same order
    moved: Any  # (k, 2) int64: rows of A and of B with the same bytes, out of order
    removed: Any  # int64: rows of A
    added: Any  # int64: rows of B
    changed: Any  # (k, 2) int64
    rule: Any  # int8[k], index into RULES
    what: Any  # int8[k], index into WHAT

    @property
    def answers(self) -> Any:
        """(k, 2): the changed rows whose prompt is the same and whose answer is not."""
        return self.changed[self.what == WHAT.index("answer")]

    @property
    def same(self) -> bool:
        """Whether both hold the same rows in the same order."""
        return not (len(self.moved) or len(self.removed) or len(self.added) or len(self.changed))

    def counts(self) -> dict[str, int]:
        """How many rows of each kind; ``changed_answers`` are among ``changed``."""
        return {
            "rows_before": self.a.num_rows, "rows_after": self.b.num_rows, "kept": self.kept, "moved": len(self.moved),
            "added": len(self.added), "removed": len(self.removed), "changed": len(self.changed), "changed_answers": len(self.answers),
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Counts and every line, as JSON. Lines of one file are ranges [first, last]."""
        changed = [
            {"from": before, "to": after, "by": RULES[rule], "what": WHAT[what]}
            for before, after, rule, what in zip(
                _places(self.a, self.changed[:, 0]),
                _places(self.b, self.changed[:, 1]),
                self.rule.tolist(),
                self.what.tolist(),
                strict=True,
            )
        ]
        moved = zip(_places(self.a, self.moved[:, 0]), _places(self.b, self.moved[:, 1]), strict=True)
        return {
            "counts": self.counts(),
            "added": _ranges(self.b, self.added),
            "removed": _ranges(self.a, self.removed),
            "moved": [{"from": before, "to": after} for before, after in moved],
            "changed": changed,
        }

    def text(self, most: int = 10) -> str:
        """For a terminal: counts, and of each kind up to ``most`` lines."""
        count = self.counts()
        if self.same:
            return f"the same {self.kept} rows in the same order\n"
        lines = [f"{count['rows_before']} rows before, {count['rows_after']} after, {self.kept} kept as they were"]
        for title, told in (
            (f"{count['added']} added", [f"+ {place}" for place in _places(self.b, self.added[:most])]),
            (f"{count['removed']} removed", [f"- {place}" for place in _places(self.a, self.removed[:most])]),
            (f"{count['changed']} changed, of these {count['changed_answers']} answers to the same prompt", self._changes(most)),
            (f"{count['moved']} moved", [f"{a} -> {b}" for a, b in zip(*self._two(self.moved[:most]), strict=True)]),
        ):
            lines += [title, *(f"  {line}" for line in told)]
            left = int(title.split()[0]) - len(told)
            lines += [f"  ... and {left} more"] if left else []
        return "\n".join(lines) + "\n"

    def _two(self, pairs: Any) -> tuple[list[str], list[str]]:
        return _places(self.a, pairs[:, 0]), _places(self.b, pairs[:, 1])

    def _changes(self, most: int) -> list[str]:
        """Changed answers first: they are what is looked for."""
        order = np.argsort(self.what != WHAT.index("answer"), kind="stable")[:most]
        before, after = self._two(self.changed[order])
        return [
            f"~ {a} -> {b}: {WHAT[self.what[i]]} ({RULES[self.rule[i]]})" for a, b, i in zip(before, after, order.tolist(), strict=True)
        ]


def _places(table: pa.Table, rows: Any) -> list[str]:
    taken = table.select(["file", "line"]).take(pa.array(rows))
    return [f"{file}:{line}" for file, line in zip(taken.column("file").to_pylist(), taken.column("line").to_pylist(), strict=True)]


def _ranges(table: pa.Table, rows: Any) -> list[dict[str, Any]]:
    """Per file the lines as ranges; rows next to each other whose lines are consecutive make one."""
    taken = table.select(["file", "line"]).take(pa.array(rows)).combine_chunks()
    file, line = taken.column("file").to_pylist(), taken.column("line").to_pylist()
    found: dict[str, list[list[int]]] = {}
    for name, number in zip(file, line, strict=True):
        ranges = found.setdefault(name, [])
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [{"file": name, "lines": ranges} for name, ranges in found.items()]


def diff(a: pa.Table, b: pa.Table) -> Diff:
    """What changed from dataset A to dataset B, both as ``index`` made them.

    Rows of equal bytes are paired (``_equal_rows``). The longest run of pairs in the same order is *kept*, the other pairs
    *moved*: what was only removed or only added moves nothing. Of what is left, RULES pair a row of A with a row of B as
    *changed*, the k-th of equal keys with the k-th. Then only *removed* and *added* rows are left.
    """
    row, prompt, answer, name = (_numbered(a, b, column) for column in ("row", "prompt", "answer", "id"))
    pairs = _equal_rows(row[0], row[1])
    stays = _longest_rising(pairs[:, 1])
    left_a, left_b = np.ones(a.num_rows, bool), np.ones(b.num_rows, bool)
    left_a[pairs[:, 0]], left_b[pairs[:, 1]] = False, False
    content = tuple(_both(p, q, need_all=False) for p, q in zip(prompt, answer, strict=True))
    named = tuple(_both(i, p) for i, p in zip(name, prompt, strict=True))
    changed: list[Any] = [np.zeros((0, 2), np.int64)]
    rule: list[Any] = [np.zeros(0, np.int8)]
    for number, (key_a, key_b) in enumerate((content, named, name, prompt)):
        found = _kth_with_kth(np.where(left_a, key_a, -1), np.where(left_b, key_b, -1))
        left_a[found[:, 0]], left_b[found[:, 1]] = False, False
        changed.append(found)
        rule.append(np.full(len(found), number, np.int8))
    together, by = np.concatenate(changed), np.concatenate(rule)
    order = np.argsort(together[:, 0], kind="stable")
    together, by = together[order], by[order]
    what = [(side[0][together[:, 0]] != side[1][together[:, 1]]).astype(np.int8) for side in (prompt, answer)]
    return Diff(
        a, b, int(stays.sum()), pairs[~stays], np.flatnonzero(left_a), np.flatnonzero(left_b), together, by, what[1] + 2 * what[0]
    )  # fmt: skip


def _numbered(a: pa.Table, b: pa.Table, column: str) -> tuple[Any, Any]:
    """The values of a column in A and in B as numbers (int64), equal where the values are; -1 for null."""
    whole = pa.chunked_array([*a.column(column).chunks, *b.column(column).chunks], a.column(column).type).combine_chunks()
    absent = pc.is_null(whole).to_numpy(zero_copy_only=False)
    if whole.type == DIGEST:
        numbers = dense(digests_of(pc.fill_null(whole, b"\0" * 16)))[0].astype(np.int64)
    else:
        numbers = pc.fill_null(whole.dictionary_encode().indices, -1).to_numpy().astype(np.int64)
    numbers[absent] = -1
    return numbers[: a.num_rows], numbers[a.num_rows :]


def _both(x: Any, y: Any, need_all: bool = True) -> Any:
    """One key of two; -1 where one of them (or, without ``need_all``, where both) says nothing."""
    nothing = ((x < 0) | (y < 0)) if need_all else ((x < 0) & (y < 0))
    return np.where(nothing, -1, (x + 1) * (1 << 31) + y + 1)


_CELLS = 1 << 20  # of the table by which rows between two anchors are aligned


def _equal_rows(a: Any, b: Any) -> Any:
    """Pairs of rows with equal bytes, as many as there can be, in order of A: (k, 2).

    Copies of a row can be paired in many ways. *Anchors* are pairs of rows with as many copies in A as in B, k-th with k-th, as many as
    are in the same order. Between two anchors rows are paired so that as many as can be keep their order (where that is too much
    work: from both ends). What is left is paired k-th with k-th.
    """
    most = int(max(a.max(initial=-1), b.max(initial=-1))) + 1
    even = np.bincount(a, minlength=most) == np.bincount(b, minlength=most)
    candidates = _kth_with_kth(np.where(even[a], a, -1), np.where(even[b], b, -1))
    anchors = candidates[_longest_rising(candidates[:, 1])]
    partner: Any = np.full(len(a), -1, np.int64)
    _align(a, b, anchors[:, 0].copy(), anchors[:, 1].copy(), np.empty(_CELLS, np.int32), partner)
    taken: Any = np.zeros(len(b), bool)
    taken[partner[partner >= 0]] = True
    rest = _kth_with_kth(np.where(partner < 0, a, -1), np.where(taken, -1, b))
    partner[rest[:, 0]] = rest[:, 1]
    paired = np.flatnonzero(partner >= 0)
    return np.stack([paired, partner[paired]], 1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _align(a: Any, b: Any, at_a: Any, at_b: Any, table: Any, partner: Any) -> None:  # pragma: no cover - machine code
    """Fills ``partner`` (row of B for each row of A) for the anchors and, by longest common subsequences, for the rows between them."""
    low_a, low_b = 0, 0
    for gap in range(len(at_a) + 1):
        last = gap == len(at_a)
        end_a, end_b = (len(a), len(b)) if last else (at_a[gap], at_b[gap])
        i, j, high_a, high_b = low_a, low_b, end_a, end_b
        while i < high_a and j < high_b and a[i] == b[j]:
            partner[i] = j
            i, j = i + 1, j + 1
        while i < high_a and j < high_b and a[high_a - 1] == b[high_b - 1]:
            high_a, high_b = high_a - 1, high_b - 1
            partner[high_a] = high_b
        n, m = high_a - i, high_b - j
        width = m + 1
        if n > 0 and m > 0 and (n + 1) * width <= len(table):
            # cell x, y: the length of the longest common subsequence of what follows x in A and y in B
            table[n * width : (n + 1) * width] = 0
            for x in range(n - 1, -1, -1):
                table[x * width + m] = 0
                for y in range(m - 1, -1, -1):
                    if a[i + x] == b[j + y]:
                        table[x * width + y] = table[(x + 1) * width + y + 1] + 1
                    else:
                        table[x * width + y] = max(table[(x + 1) * width + y], table[x * width + y + 1])
            x, y = 0, 0
            while x < n and y < m:
                if a[i + x] == b[j + y]:
                    partner[i + x] = j + y
                    x, y = x + 1, y + 1
                elif table[(x + 1) * width + y] >= table[x * width + y + 1]:
                    x += 1
                else:
                    y += 1
        if not last:
            partner[end_a] = end_b
            low_a, low_b = end_a + 1, end_b + 1


def _kth_with_kth(a: Any, b: Any) -> Any:
    """Pairs of places with equal keys, the k-th of a key in A with the k-th in B, in order of A: (k, 2). Keys below 0 pair with none."""
    at_a, at_b = np.flatnonzero(a >= 0), np.flatnonzero(b >= 0)
    numbers = np.unique(np.concatenate([a[at_a], b[at_b]]), return_inverse=True)[1]
    width = len(numbers) + 1
    first, second = (part * width + nth(part) for part in (numbers[: len(at_a)], numbers[len(at_a) :]))
    _, left, right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    order = np.argsort(left)
    return np.stack([at_a[left[order]], at_b[right[order]]], 1).astype(np.int64)


def _longest_rising(values: Any) -> Any:
    """bool[n]: one longest rising subsequence of distinct values (patience sorting)."""
    from bisect import bisect_left

    chosen: Any = np.ones(len(values), bool)
    if (np.diff(values) > 0).all():
        return chosen
    tops: list[int] = []  # the least last value of a rising subsequence of each length
    last: list[int] = []  # where it stands
    before = [-1] * len(values)
    for i, value in enumerate(values.tolist()):
        pile = bisect_left(tops, value)
        if pile:
            before[i] = last[pile - 1]
        tops[pile : pile + 1] = [value]
        last[pile : pile + 1] = [i]
    chosen[:] = False
    i = last[-1]
    while i >= 0:
        chosen[i] = True
        i = before[i]
    return chosen
