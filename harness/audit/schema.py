"""Whether rows are what a trainer expects: readable, of a known form, with roles in order, nothing empty, tools called as declared.

What the reader found wrong (``forms``) is told here, beside what only the whole row shows. A kind is a violation, which
a claim may count, or a remark.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit.model import FORMS, PARTS, ROLES, Batch, Group, Report, Rows, Texts, digest_array, finding_rows, no_findings
from harness.errors import AuditError, nearest

__all__ = ["KINDS", "Schema", "blank", "counted", "inside"]

KINDS: Mapping[str, str] = {
    "unreadable": "violation",  # no JSON object
    "no_form": "violation",  # an object with keys of no known form
    "wrong_type": "violation",  # null, a number ... where a text or message was expected
    "unknown_role": "violation",
    "duplicate_key": "violation",  # readers keep one of two values
    "not_strict": "violation",  # NaN, a lone surrogate, a byte order mark: read here, refused by strict readers
    "not_text": "remark",  # images and the like, which are not audited
    "empty_message": "violation",  # nothing to be seen in it
    "no_answer": "violation",  # nothing to learn from
    "system_not_first": "violation",  # refused or dropped by many chat templates
    "two_in_a_row": "remark",  # user after user, assistant after assistant; refused by some templates
    "ends_with_user": "violation",  # a question after the last answer
    "tool_call_invalid": "violation",
    "tool_call_without_result": "violation",
    "tool_result_without_call": "violation",
}
"""Every kind, and how grave it is. Facts hold its place in this table: new kinds go to the end."""

_NAMES = tuple(KINDS)
_CODE = {kind: code for code, kind in enumerate(_NAMES)}
_MOST_MESSAGES = np.iinfo(np.int16).max


@dataclass(frozen=True, slots=True)
class Schema:
    """The rules of a row. ``allowed`` are kinds that are counted and not reported. Raises AuditError for a kind that is none."""

    allowed: tuple[str, ...] = ()

    name: ClassVar[str] = "schema"
    key: ClassVar[Literal["row", "text"]] = "row"

    def __post_init__(self) -> None:
        for kind in self.allowed:
            if kind not in KINDS:
                raise AuditError(f"schema: allowed kind {kind!r}; {nearest(kind, list(KINDS))}")

    @property
    def options(self) -> Mapping[str, Any]:
        """Nothing shapes the facts."""
        return {}

    def partial(self, batch: Batch) -> pa.Table:
        """Facts: of each row with something wrong its kinds, messages (-1: the row), details; in order."""
        hits = [*_told(batch), *_grammar(batch)]
        row = np.concatenate([rows for _, rows, _, _ in hits])
        message = np.concatenate([messages for _, _, messages, _ in hits])
        kind = np.concatenate([np.full(len(rows), code, np.int8) for code, rows, _, _ in hits])
        detail = np.concatenate([details for _, _, _, details in hits])
        order = np.lexsort((np.arange(len(row)), kind, message, row))
        wrong, first = np.unique(row[order], return_index=True)
        ends = pa.array(np.append(first, len(row)), pa.int32())

        def listed(values: Any, kind: pa.DataType) -> pa.Array:
            return pa.ListArray.from_arrays(ends, pa.array(values[order], kind))

        return pa.table({
            "row": digest_array(batch.rows[wrong]), "kind": listed(kind, pa.int8()),
            "message": listed(np.minimum(message, _MOST_MESSAGES), pa.int16()), "detail": listed(detail, pa.string()),
        })  # fmt: skip

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """A finding for each wrong place in each physical row; in the summary rows and findings by kind."""
        starts, (kind, message, detail) = _flat(facts, ("kind", "message", "detail"))
        which, physical = rows.copies(facts.column("row").to_numpy())
        hit, of = inside(starts, which)
        summary = counted(KINDS, self.allowed, kind.to_numpy()[hit], physical[of])
        keep = ~np.isin(kind.to_numpy()[hit], [_CODE[allowed] for allowed in self.allowed])
        hit, of = pa.array(hit[keep]), of[keep]
        if not len(of):
            return Report(no_findings(), summary)
        at = message.take(hit).to_numpy()
        return Report(
            finding_rows(
                self.name, pa.array(_NAMES).take(kind.take(hit)), physical[of], message=pa.array(at, mask=at < 0), detail=detail.take(hit)
            ),
            summary,
        )


# kind, rows, messages (-1: the row as a whole), details
_Hits = tuple[int, Any, Any, Any]


def _hits(kind: str, rows: Any, messages: Any = None) -> _Hits:
    places = np.full(len(rows), -1, np.int64) if messages is None else messages
    return _CODE[kind], rows.astype(np.int64), places, np.full(len(rows), None, object)


def _repeats(rows: Any, messages: Any) -> _Hits:
    """One hit a row: a few-shot prompt of user messages has hundreds."""
    row, first, count = np.unique(rows, return_index=True, return_counts=True)
    details = np.array([f"{n} of its messages follow one of the same role" for n in count.tolist()], object)
    return _CODE["two_in_a_row"], row.astype(np.int64), messages[first], details


def _told(batch: Batch) -> list[_Hits]:
    """What the reader found."""
    column = batch.record.column("problems")
    row: Any = np.repeat(np.arange(batch.n), column.value_lengths().to_numpy())
    told = column.flatten()
    kinds, details = told.field("kind").to_numpy(zero_copy_only=False), told.field("detail").to_numpy(zero_copy_only=False)
    found = []
    for kind in np.unique(kinds.astype(str)).tolist():
        at = np.flatnonzero(kinds == kind)
        found.append((_CODE[kind], row[at], np.full(len(at), -1), details[at]))
    return found


def _grammar(batch: Batch) -> list[_Hits]:
    role, part, row_of = batch.role, batch.part, batch.row_of
    user, assistant, system = (ROLES.index(name) for name in ("user", "assistant", "system"))
    prompt, answer, rejected = (PARTS.index(name) for name in ("prompt", "answer", "rejected"))
    place = np.arange(len(role)) - batch.starts[:-1].astype(np.int64)[row_of]
    talk = (part == prompt) | (part == answer)
    empty = blank(batch.texts)[batch.text] & (talk | (part == rejected))
    late = talk & (role == system) & (place > 0)
    again: Any = np.zeros(len(role), bool)
    again[1:] = talk[1:] & talk[:-1] & (row_of[1:] == row_of[:-1]) & (role[1:] == role[:-1]) & np.isin(role[1:], (user, assistant))
    answered = np.bincount(row_of[part == answer], minlength=batch.n) > 0
    read = batch.record.column("form").to_numpy() != FORMS.index("unreadable")
    last = np.full(batch.n, -1, np.int64)
    last[row_of[talk]] = np.flatnonzero(talk)  # the last one written stays
    asks = np.flatnonzero(answered)
    asks = asks[role[last[asks]] == user]
    return [
        _hits("empty_message", row_of[empty], place[empty]),
        _hits("no_answer", np.flatnonzero(read & ~answered)),
        _hits("system_not_first", row_of[late], place[late]),
        _repeats(row_of[again], place[again]),
        _hits("ends_with_user", asks, place[last[asks]]),
    ]


# --- emptiness ------------------------------------------------------------------------------------

_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")  # letters and marks by name, blank to the eye


def _is_blank(text: str) -> bool:
    return all(c.isspace() or c in _FILLERS or unicodedata.category(c) in ("Cc", "Cf") for c in text)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _blanks(data: Any, starts: Any, leads: Any, out: Any) -> None:  # pragma: no cover - machine code
    """0: something to be seen in it; 1: nothing; 2: it may be nothing, its first odd character is one that may be blank."""
    for text in range(len(starts) - 1):
        i, end = starts[text], starts[text + 1]
        while i < end and (data[i] <= 32 or data[i] == 127):
            i += 1
        if i >= end:
            out[text] = 1
        else:
            out[text] = 2 if i + 1 < end and leads[data[i], data[i + 1]] else 0


@cache
def _blank_leads() -> Any:
    """The first two bytes of every blank character beyond ASCII."""
    leads: Any = np.zeros((256, 256), np.bool_)
    for code in [*range(0x80, 0xD800), *range(0xF900, 0x20000), *range(0xE0000, 0xE0100)]:  # the rest is Han, private or nothing
        if _is_blank(chr(code)):
            leads[tuple(chr(code).encode()[:2])] = True
    return leads


def blank(texts: Texts) -> Any:
    """bool[t]: texts of nothing but spaces, control and format characters, and letters that are blank to the eye."""
    out: Any = np.empty(len(texts), np.int8)
    _blanks(texts.data, texts.starts, _blank_leads(), out)
    for i in np.flatnonzero(out == 2).tolist():
        out[i] = _is_blank(texts.str(i))
    return out == 1


# --- lists in columns -----------------------------------------------------------------------------


def _flat(facts: pa.Table, columns: tuple[str, ...]) -> tuple[Any, list[pa.Array]]:
    """List columns end to end: (where the list of each line starts, with the end of the last; the values)."""
    lists = [facts.column(name).combine_chunks() for name in columns]
    counts = lists[0].value_lengths().to_numpy().astype(np.int64)
    return np.concatenate(([0], np.cumsum(counts))), [one.flatten() for one in lists]


def inside(starts: Any, entries: Any) -> tuple[Any, Any]:
    """For entries of a list column all that lies in them: (place in the flat values, which of ``entries``), in order."""
    counts = starts[entries + 1] - starts[entries]
    of: Any = np.repeat(np.arange(len(entries)), counts)
    return starts[entries][of] + np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts), of


def counted(kinds: Mapping[str, str], allowed: tuple[str, ...], kind: Any, row: Any) -> dict[str, Any]:
    """A summary: rows and findings of each kind that occurs, and rows with a violation that is not allowed."""
    names, told, bad = tuple(kinds), {}, []
    for code in np.unique(kind).tolist():
        of = row[kind == code]
        severity = "allowed" if names[code] in allowed else kinds[names[code]]
        told[names[code]] = {"severity": severity, "rows": len(np.unique(of)), "findings": len(of)}
        if severity == "violation":
            bad.append(of)
    return {"kinds": told, "violations": sum(map(len, bad)), "rows_with_violations": len(np.unique(np.concatenate(bad))) if bad else 0}
