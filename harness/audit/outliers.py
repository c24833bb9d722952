"""Texts that stand out: loops, rulers, words without end, and texts that are not text. Remarks, not defects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit import text
from harness.audit.duplicates import spoken
from harness.audit.model import PARTS, Batch, Group, Report, Rows, digest_array, finding_rows, no_findings

__all__ = ["Outliers"]

_TOOLS = PARTS.index("tools")
_LETTER, _DIGIT, _SPACE, _OTHER, _UNSPACED = range(5)
_LAST = 0x20000  # behind it are letters written without spaces
_MIX, _33 = np.uint64(0x9E3779B97F4A7C15), np.uint64(33)

_LONG_RUN = 100  # characters: the widest ruler of a text is a line of 80 to 100
_LONG_WORD = 200  # characters without a space: longer than any word, path or usual link
_REPEATED = 2 / 3  # of the word 3-grams stood there before: Gopher's filter (Rae et al., 2021) drops text far below that
_ENOUGH_3GRAMS = 50  # a refrain is no loop
_NON_TEXT = 1 / 2  # of what is not space is neither letter nor digit
_ENOUGH_CHARACTERS = 20
_DEVIATIONS = 5  # of the robust kind: 1.4826 times the median absolute deviation; nobody's normal text is that far out
_FEW = 20  # texts
_COMMON = 0.1  # what one text in ten is like is a kind of text of this dataset


@cache
def _classes() -> Any:
    table: Any = np.full(_LAST, _OTHER, np.uint8)
    for code in range(_LAST):
        char = chr(code)
        if char.isspace():
            table[code] = _SPACE
        elif char.isalpha():
            table[code] = _LETTER
        elif char.isalnum():
            table[code] = _DIGIT
    unspaced = text._kinds(_LAST - 1) == text._A_WORD
    table[unspaced & (table != _SPACE)] = _UNSPACED
    return table


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _measure(data: Any, starts: Any, classes: Any, out: Any) -> None:  # pragma: no cover - machine code
    """_FEATURES of each text: characters but spaces, those neither letter nor digit, longest run of one character, longest word."""
    for t in range(len(starts) - 1):
        solid, other = 0, 0
        i, start, end, last = starts[t], starts[t], starts[t + 1], np.int64(-1)
        run, best_run, run_at, best_run_at, best_run_end = 0, 0, start, start, start
        word, best_word, word_at, best_word_at, best_word_end = 0, 0, start, start, start
        while i < end:
            at, first = i, np.int64(data[i])
            size, code = 1, first
            if first >= 0xF0:
                size, code = 4, first & 7
            elif first >= 0xE0:
                size, code = 3, first & 15
            elif first >= 0xC0:
                size, code = 2, first & 31
            for j in range(1, size):
                code = (code << 6) | np.int64(data[i + j] & 63)
            i += size
            kind = classes[code] if code < len(classes) else _UNSPACED
            if code != last:
                last, run, run_at = code, 0, at
            run += 1
            if run > best_run:
                best_run, best_run_at, best_run_end = run, run_at, i
            if kind != _SPACE:
                solid += 1
                other += kind == _OTHER
            if kind in (_SPACE, _UNSPACED):
                word = 0
            else:
                if word == 0:
                    word_at = at
                word += 1
                if word > best_word:
                    best_word, best_word_at, best_word_end = word, word_at, i
        out[t, 0], out[t, 1] = solid, other
        out[t, 2], out[t, 3], out[t, 4] = best_run, best_run_at - start, best_run_end - start
        out[t, 5], out[t, 6], out[t, 7] = best_word, best_word_at - start, best_word_end - start


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _repeated(hashes: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    """Of each text the word 3-grams, and those that stood in it before."""
    longest = 1
    for t in range(len(starts) - 1):
        longest = max(longest, starts[t + 1] - starts[t])
    room = 16
    while room < 2 * longest:
        room *= 2
    table: Any = np.zeros(room, np.uint64)
    owner: Any = np.full(room, -1, np.int64)
    for t in range(len(starts) - 1):
        n = starts[t + 1] - starts[t] - 2
        out[t, 0], out[t, 1] = max(n, 0), 0
        mask = 15
        while mask + 1 < 2 * n:
            mask = 2 * mask + 1
        for i in range(starts[t], starts[t] + n):
            h = hashes[i] * _MIX
            h = ((h ^ (h >> _33)) + hashes[i + 1]) * _MIX
            h = ((h ^ (h >> _33)) + hashes[i + 2]) * _MIX
            h ^= h >> _33
            slot = np.int64(h) & mask
            while owner[slot] == t and table[slot] != h:
                slot = (slot + 1) & mask
            if owner[slot] == t:
                out[t, 1] += 1
            owner[slot], table[slot] = t, h


_FEATURES = ("solid", "other", "run", "run_start", "run_end", "word", "word_start", "word_end")


@dataclass(frozen=True)
class Outliers:
    """Texts that are far beyond a fixed bound, and far from the texts of this dataset.

    "long_run": one character over and over. "long_word": no space for long (scripts without spaces are not counted).
    "repetition": word 3-grams that stood in the text before, ``num / den`` of all. "non_text": characters that are neither
    letter, digit nor space, ``num / den`` of those that are no space. Lengths are ``num``, in characters. A text must pass
    the fixed bound and lie more than five robust deviations above the median of the dataset's texts: where long words
    are usual, or one text in ten is like that, they are counted and are no outliers. One finding a text, at the first row that holds it.
    """

    name: str = "outliers"
    key: Literal["row", "text"] = "text"

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def partial(self, batch: Batch) -> pa.Table:
        data, starts = batch.texts.data, np.ascontiguousarray(batch.texts.starts)
        measured: Any = np.empty((len(batch.texts), len(_FEATURES)), np.int32)
        grams: Any = np.empty((len(batch.texts), 2), np.int32)
        _measure(data, starts, _classes(), measured)
        _repeated(batch.words.hashes, batch.words.starts, grams)
        columns = {name: measured[:, i].copy() for i, name in enumerate(_FEATURES)} | {
            "grams": grams[:, 0].copy(),
            "repeated": grams[:, 1].copy(),
        }
        return pa.table({"text": digest_array(batch.text_digests), **columns})

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        message: Any = np.full(rows.t, -1, np.int64)  # the first that holds each text
        held = np.flatnonzero(spoken(rows) & (rows.part != _TOOLS))
        message[rows.text[held[::-1]]] = held[::-1]
        facts = facts.filter(pa.array(message[facts.column("text").to_numpy()] >= 0))
        value = {name: facts.column(name).to_numpy() for name in facts.column_names}
        first = message[value["text"]]
        tables = [no_findings()]
        summary: dict[str, Any] = {"texts": len(first)}
        for kind, (num, den, least, enough) in _KINDS.items():
            counted = np.ones(len(first), bool) if den is None else value[den] >= enough
            score = value[num] / np.maximum(value[den], 1) if den else value[num].astype(float)
            usual = _usual(score if den is None else score[value[den] > 0])
            beyond = counted & (score >= least)
            outlying = np.flatnonzero(beyond & (score > usual))
            common = len(outlying) > max(_FEW, len(first) * _COMMON)
            found = outlying[:0] if common else outlying
            spans = {} if den else {"start": value[f"{num}_start"][found], "end": value[f"{num}_end"][found]}
            spans |= {"den": value[den][found], "score": score[found]} if den else {}
            at = first[found]
            row = rows.row_of[at]
            place = np.minimum(at - rows.starts[row], np.iinfo(np.int16).max)
            tables.append(
                finding_rows(self.name, kind, rows.first[row], message=place, num=value[num][found], detail=_DETAIL[kind], **spans)
            )
            summary[kind] = {"texts": len(found), "beyond_fixed_bound": int(beyond.sum()), "usual_up_to": usual, "common": common}
        return Report(pa.concat_tables(tables), summary)


_KINDS: Mapping[str, tuple[str, str | None, float, int]] = {  # what is measured, of what, the fixed bound, how much there must be
    "long_run": ("run", None, _LONG_RUN, 0),
    "long_word": ("word", None, _LONG_WORD, 0),
    "repetition": ("repeated", "grams", _REPEATED, _ENOUGH_3GRAMS),
    "non_text": ("other", "solid", _NON_TEXT, _ENOUGH_CHARACTERS),
}
_DETAIL: Mapping[str, str] = {
    "long_run": "one character over and over",
    "long_word": "characters without a space",
    "repetition": "of the word 3-grams stood there before",
    "non_text": "of the characters are neither letters nor digits",
}


def _usual(score: Any) -> float:
    """Five robust deviations above the median; 0 where a few texts would be their own measure."""
    if len(score) < _FEW:
        return 0.0
    median = np.median(score)
    return float(median + _DEVIATIONS * 1.4826 * np.median(np.abs(score - median)))
