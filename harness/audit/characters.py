"""Characters that should not be in a text: lost, invisible, misleading, misread, or left over from a page.

A text is decoded once, in machine code, against a table of all characters. What a character alone cannot tell (is it a
text in two forms, was it UTF-8 read as Latin-1) is asked in Python of the few texts that may have it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit.model import Batch, Group, Report, Rows, Texts, digest_array, finding_rows, no_findings
from harness.audit.schema import counted, inside
from harness.errors import AuditError, nearest

__all__ = ["KINDS", "Characters"]

KINDS: Mapping[str, str] = {
    "control": "violation",  # but for tab and line ends
    "replacement": "violation",  # U+FFFD: what stood there is lost
    "byte_order_mark": "violation",
    "bidi_control": "violation",  # shows text in another order than it is read (CVE-2021-42574, "Trojan Source")
    "tag": "violation",  # invisible ASCII, which models read; but for flags
    "surrogate": "violation",  # half a character
    "noncharacter": "violation",
    "unassigned": "remark",  # in the Unicode version of this Python
    "private_use": "remark",
    "zero_width": "remark",  # joiners among letters of scripts that need them, and among emoji, are fine
    "ansi_escape": "violation",  # colours of a terminal
    "mojibake": "violation",  # UTF-8 read as Latin-1 or Windows-1252
    "not_nfc": "remark",  # looks like another text, and compares as different
    "html_entity": "remark",
    "html_tag": "remark",
}
"""Every kind, and how grave it is. Facts hold its place in this table: new kinds go to the end."""

_NAMES = tuple(KINDS)
_CODE = {kind: code for code, kind in enumerate(_NAMES)}
_CONTROL, _TAG, _ZERO_WIDTH, _ANSI = (_CODE[kind] for kind in ("control", "tag", "zero_width", "ansi_escape"))
_MOJIBAKE, _NOT_NFC, _ENTITY, _HTML_TAG = (_CODE[kind] for kind in ("mojibake", "not_nfc", "html_entity", "html_tag"))

# What the table says of a character: its kind + 1 in the lower bits, and what to ask of a text that has it
_KIND, _JOINER, _MAY_COMBINE, _LEADS, _FOLLOWS = 31, 30, 32, 64, 128


@dataclass(frozen=True, slots=True)
class Characters:
    """The rules of a text. ``allowed`` are kinds that are counted and not reported. Raises AuditError for a kind that is none."""

    allowed: tuple[str, ...] = ()

    name: ClassVar[str] = "characters"
    key: ClassVar[Literal["row", "text"]] = "text"

    def __post_init__(self) -> None:
        for kind in self.allowed:
            if kind not in KINDS:
                raise AuditError(f"characters: allowed kind {kind!r}; {nearest(kind, list(KINDS))}")

    @property
    def options(self) -> Mapping[str, Any]:
        """Which characters there are depends on the version of Unicode."""
        return {"unicode": unicodedata.unidata_version}

    def partial(self, batch: Batch) -> pa.Table:
        """Facts: of each text with something in it, by kind the first place (bytes), its character (-1: none) and how many there are."""
        masks = _masks(batch.texts)
        asked = np.array(list(_asked(batch.texts, masks)), np.int64).reshape(-1, 6)
        hits = np.concatenate([_told(batch.texts, masks), asked])
        hits = hits[np.lexsort((hits[:, 1], hits[:, 0]))]
        text, first = np.unique(hits[:, 0], return_index=True)
        ends = pa.array(np.append(first, len(hits)), pa.int32())

        def listed(column: int, kind: pa.DataType) -> pa.Array:
            return pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(hits[:, column])).cast(kind))

        return pa.table({
            "text": digest_array(batch.text_digests[text]), "kind": listed(1, pa.int8()), "start": listed(2, pa.int64()),
            "end": listed(3, pa.int64()), "char": listed(4, pa.int32()), "count": listed(5, pa.int64()),
        })  # fmt: skip

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """A finding for each kind in each message of each physical row; in the summary rows and findings by kind."""
        lists = [facts.column(name).combine_chunks() for name in ("kind", "start", "end", "char", "count")]
        starts = np.concatenate(([0], np.cumsum(lists[0].value_lengths().to_numpy().astype(np.int64))))
        kind, start, end, char, count = (one.flatten().to_numpy() for one in lists)
        fact, message = rows.holders(facts.column("text").to_numpy())
        row = rows.row_of[message]
        which, physical = rows.copies(row)
        hit, of = inside(starts, fact[which])
        physical, place = physical[of], (message - rows.starts[:-1][row])[which][of]
        summary = counted(KINDS, self.allowed, kind[hit], physical)
        keep = ~np.isin(kind[hit], [_CODE[allowed] for allowed in self.allowed])
        hit, physical, place = hit[keep], physical[keep], place[keep]
        if not len(hit):
            return Report(no_findings(), summary)
        told = pa.array([_detail(*one) for one in zip(kind.tolist(), char.tolist(), count.tolist(), strict=True)], pa.string())
        return Report(
            finding_rows(
                self.name, pa.array(_NAMES).take(pa.array(kind[hit])), physical, message=np.minimum(place, np.iinfo(np.int16).max),
                start=start[hit], end=end[hit], num=count[hit], detail=told.take(pa.array(hit)),
            ),
            summary,
        )  # fmt: skip


def _detail(kind: int, char: int, count: int) -> str:
    times = "once" if count == 1 else f"{count} times"
    if char < 0:
        return times
    named = f"U+{char:04X} {unicodedata.name(chr(char), '')}".rstrip()
    return f"{'stands for ' if kind in (_MOJIBAKE, _ENTITY) else ''}{named}, {times}"


# --- the table ------------------------------------------------------------------------------------

_BIDI = frozenset([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_INVISIBLE = frozenset([0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2060, 0x2065)])
_BOM, _REPLACEMENT, _TAGS = 0xFEFF, 0xFFFD, range(0xE0000, 0xE0080)


def _kind_of(code: int) -> str | None:
    """What a character is, whatever stands around it."""
    if code == _REPLACEMENT:
        return "replacement"
    if code == _BOM:
        return "byte_order_mark"
    if code in _BIDI:
        return "bidi_control"
    if code in _TAGS:
        return "tag"
    if code in _INVISIBLE:
        return "zero_width"
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "noncharacter"
    category = unicodedata.category(chr(code))
    if category == "Cc":
        return None if code in (9, 10, 13) else "control"
    return {"Cs": "surrogate", "Cn": "unassigned", "Co": "private_use"}.get(category)


def _say(code: int) -> int:
    kind = _kind_of(code)
    said = _CODE[kind] + 1 if kind else 0
    char = chr(code)
    if code in (0x200C, 0x200D):
        said = _JOINER
    if code >= 0x300 and (unicodedata.combining(char) or code in _seconds() or not unicodedata.is_normalized("NFC", char)):
        said |= _MAY_COMBINE
    if 0xC2 <= code <= 0xF4:
        said |= _LEADS
    if 0x80 <= code <= 0xBF or char in _WINDOWS:
        said |= _FOLLOWS
    return said


@cache
def _seconds() -> frozenset[int]:
    """Characters that may melt into the one before them: the second of a composition, vowels and finals of Hangul."""
    found = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    for code in range(0x20000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(int(parts[1], 16))
    return frozenset(found)


_WINDOWS = frozenset(bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0xA0)) - {"\ufffd"}


@cache
def _table() -> Any:
    """What is to be said of every character: uint8[0x110000]."""
    table: Any = np.zeros(0x110000, np.uint8)
    for plane in range(17):
        start = plane << 16
        if plane < 4 or plane == 14:
            table[start : start + 0x10000] = [_say(code) for code in range(start, start + 0x10000)]
        else:  # one kind each: nothing is there yet, or it is for private use
            table[start : start + 0xFFFE] = _say(start)
            table[start + 0xFFFE : start + 0x10000] = _say(start + 0xFFFE)
    return table


# --- in machine code ------------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan(data: Any, starts: Any, table: Any, masks: Any) -> None:  # pragma: no cover - machine code
    """For each text a bit for each kind that is in it, or (mojibake, NFC, HTML) may be in it."""
    ascii_table = table[:128]
    for text in range(len(starts) - 1):
        i, end = starts[text], starts[text + 1]
        mask = 0
        before: Any = 0
        led: Any = False
        in_flag: Any = False
        while i < end:
            code = np.int64(data[i])
            if code < 128:
                if ascii_table[code]:
                    mask |= 1 << (_ANSI if code == 27 and i + 1 < end and data[i + 1] == 91 else _CONTROL)
                elif code == 38 and i + 1 < end and (data[i + 1] == 35 or 97 <= (data[i + 1] | 32) <= 122):
                    mask |= 1 << _ENTITY
                elif code == 60 and i + 1 < end and (data[i + 1] == 47 or 97 <= (data[i + 1] | 32) <= 122):
                    mask |= 1 << _HTML_TAG
                i += 1
                before, led = code, False
                continue
            code, i = _decoded(data, i, code)
            said = table[code]
            in_flag = before == 0x1F3F4 or (in_flag and 0xE0000 <= before < 0xE0080)
            kind = said & _KIND
            if kind == _JOINER:
                if before < 128:
                    mask |= 1 << _ZERO_WIDTH
            elif kind and not (kind == _TAG + 1 and in_flag):
                mask |= 1 << (kind - 1)
            if said & _MAY_COMBINE:
                mask |= 1 << _NOT_NFC
            if led and said & _FOLLOWS:
                mask |= 1 << _MOJIBAKE
            led = (said & _LEADS) != 0
            before = code
        masks[text] = mask


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _decoded(data: Any, i: Any, lead: Any) -> tuple[Any, Any]:  # pragma: no cover - machine code
    """The character at byte i of valid UTF-8, and where the next one begins."""
    if lead < 0xE0:
        return (lead & 31) << 6 | (np.int64(data[i + 1]) & 63), i + 2
    if lead < 0xF0:
        return (lead & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63), i + 3
    low = (np.int64(data[i + 2]) & 63) << 6 | (np.int64(data[i + 3]) & 63)
    return (lead & 7) << 18 | (np.int64(data[i + 1]) & 63) << 12 | low, i + 4


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _places(data: Any, starts: Any, table: Any, texts: Any, out: Any) -> int:  # pragma: no cover - machine code
    """For each of ``texts`` and each kind that a character tells: text, kind, first start and end, that character, how many."""
    found = 0
    first: Any = np.empty(11, np.int64)
    for text in texts:
        first[:] = -1
        begin, end = starts[text], starts[text + 1]
        i, before = begin, np.int64(0)
        in_flag: Any = False
        while i < end:
            code, at = np.int64(data[i]), i
            if code < 128:
                i += 1
            else:
                code, i = _decoded(data, i, code)
            kind = (table[code] & _KIND) - 1
            in_flag = before == 0x1F3F4 or (in_flag and 0xE0000 <= before < 0xE0080)
            if kind == _CONTROL and code == 27 and i < end and data[i] == 91:
                kind = _ANSI
            elif kind == _JOINER - 1:
                kind = _ZERO_WIDTH if before < 128 else -1
            elif kind == _TAG and in_flag:
                kind = -1
            before = code
            if kind < 0:
                continue
            if first[kind] < 0:
                first[kind] = found
                out[found, 0], out[found, 1], out[found, 2], out[found, 3] = text, kind, at - begin, i - begin
                out[found, 4], out[found, 5] = code, 0
                found += 1
            out[first[kind], 5] += 1
    return found


_TOLD_BY_A_CHARACTER = (1 << _MOJIBAKE) - 1


def _masks(texts: Texts) -> Any:
    masks: Any = np.empty(len(texts), np.int32)
    _scan(texts.data, texts.starts, _table(), masks)
    return masks


def _told(texts: Texts, masks: Any) -> Any:
    told = np.flatnonzero(masks & _TOLD_BY_A_CHARACTER)
    out: Any = np.empty((_MOJIBAKE * len(told), 6), np.int64)
    return out[: _places(texts.data, texts.starts, _table(), told, out)]


# --- asked of few texts ---------------------------------------------------------------------------

_Hit = tuple[int, int, int, int, int, int]  # text, kind, start, end, character, how many


def _asked(texts: Texts, masks: Any) -> Iterator[_Hit]:
    """What takes more than one character to know."""
    for i in np.flatnonzero(masks & (1 << _MOJIBAKE)).tolist():
        yield from _hit(i, _MOJIBAKE, _misread(texts.str(i)))
    for i in np.flatnonzero(masks & (1 << _NOT_NFC)).tolist():
        text = texts.str(i)
        if not unicodedata.is_normalized("NFC", text):
            yield from _hit(i, _NOT_NFC, [_denormal(text)])
    for i in np.flatnonzero(masks & (1 << _ENTITY)).tolist():
        yield from _hit(i, _ENTITY, list(_entities(texts.bytes(i))))
    for i in np.flatnonzero(masks & (1 << _HTML_TAG)).tolist():
        yield from _hit(i, _HTML_TAG, [(*found.span(), -1) for found in _TAG_OF_HTML.finditer(texts.bytes(i))])


def _hit(text: int, kind: int, places: list[tuple[int, int, int]]) -> Iterator[_Hit]:
    if places:
        yield text, kind, *places[0], len(places)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


_FOLLOW = f"[\x80-\xbf{''.join(sorted(_WINDOWS))}]"
_SEQUENCE = f"(?:[\xc2-\xdf]{_FOLLOW}|[\xe0-\xef]{_FOLLOW}{{2}}|[\xf0-\xf4]{_FOLLOW}{{3}})"
_SEQUENCES = re.compile(f"{_SEQUENCE}+")
_ONE = re.compile(_SEQUENCE)
_CLOSING = frozenset("»”’›…–—")


def _misread(text: str) -> list[tuple[int, int, int]]:
    """UTF-8 that was read as Latin-1 or Windows-1252: (start, end, what the first character should be), proven by reading it again.

    "CAFÉ»" can be read again too, so one sequence alone must be of the usual kind: what began with Ã, Â, â€ or ðŸ.
    """
    found = []
    for run in _SEQUENCES.finditer(text):
        right = _reread(run.group())
        first = _ONE.match(run.group())
        if not right or not first:
            continue
        one = first.group()
        usual = one[0] in "ÃÂð" or one[:2] in ("â€", "â‚", "â„", "ï»", "ï¿")
        closes = run.group() == one and len(one) == 2 and one[1] in _CLOSING and text[: run.start()][-1:].isupper()
        if (usual and not closes) or len(right) > 1:
            start = _size(text[: run.start()])
            found.append((start, start + _size(run.group()), ord(right[0])))
    return found


def _reread(text: str) -> str:
    """The text as UTF-8, or nothing if it is none."""
    try:
        return b"".join(char.encode("latin-1") if char <= "\xff" else char.encode("cp1252") for char in text).decode()
    except UnicodeError:
        return ""


def _denormal(text: str) -> tuple[int, int, int]:
    """The first place where a text differs from its composed form."""
    composed = unicodedata.normalize("NFC", text)
    at = next((i for i, (a, b) in enumerate(zip(text, composed, strict=False)) if a != b), min(len(text), len(composed)))
    at = min(at, len(text) - 1)
    start = _size(text[:at])
    return start, start + _size(text[at]), ord(text[at])


_ENTITIES = re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TAG_OF_HTML = re.compile(
    rb"</?(?:a|abbr|article|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|font|footer|form|h[1-6]|head|header|hr|html|i|iframe"
    rb"|img|input|label|li|link|main|meta|nav|ol|option|p|pre|s|script|section|select|small|span|strong|style|sub|sup|table|tbody|td"
    rb"|textarea|tfoot|th|thead|title|tr|u|ul|video)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


def _entities(text: bytes) -> Iterator[tuple[int, int, int]]:
    for found in _ENTITIES.finditer(text):
        told = found.group().decode()
        char = html.unescape(told)
        if char != told:
            yield *found.span(), ord(char[0]) if char else -1
