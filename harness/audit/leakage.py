"""Does anything of a training set stand in an evaluation or golden set? Exact: every leak is proven on the words themselves.

Four proofs, the strongest first; a row and an item that share several are reported once, with the strongest:

    equal      a message says what the item says, or what one of its texts says (but for case, punctuation and spacing), or
               the row has a message for every text of the item. Five words at least. Score: the share of its words
    near       the Jaccard index of the distinct three-word shingles of a message and of one of the item's texts is 4/5 or more
    13-gram    thirteen words of the item in a row. Score: the share of the item's distinct 8-grams that the row holds
    8-gram     eight words of the item in a row. Score: the same

*Boilerplate* is no leak: eight words in a row, or a text, in more than ``common_items`` items or in more than ``common``
distinct training rows, or of fewer than four different words without numbers and single letters ("0 0 1 0 1", "A, C, D and B").
Thirteen words in a row prove nothing if eight of them are boilerplate. All of it is counted and listed. Items that are word
for word the same count as one there, and a whole item is not boilerplate however often it stands.

Window sizes: GPT-3 (Brown et al. 2020, appendix C) used 13 words, its successors 8 to 13.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit import text
from harness.audit.keys import dense, lookup
from harness.audit.model import Batch, Group, Report, Rows, Texts, digest_array, finding_rows, no_findings
from harness.audit.rows import read
from harness.audit.text import Words
from harness.errors import AuditError
from harness.golden import GoldenSet
from harness.store import digest_json

__all__ = ["KINDS", "Item", "Leakage", "References"]

KINDS = ("equal", "near", "13-gram", "8-gram")
"""The proofs, the strongest first."""

_GRAM, _LONG, _SHINGLE, _SHORT = 8, 13, 3, 5  # words
_TELLING = 4  # different words that are no number and no single letter
_NUM, _DEN = 4, 5  # the Jaccard index from which two texts are nearly the same
_SHOWN = 10
_64 = np.uint64


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set: all that it says, without what every item shares."""

    id: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class References:
    """An evaluation or golden set. Ids need not be unique; ``digest`` is the SHA-256 of name and items."""

    name: str
    items: tuple[Item, ...] = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.items:
            raise AuditError(f"reference set {self.name}: no items; expected at least one")
        object.__setattr__(self, "digest", digest_json([self.name, [[item.id, list(map(_plain, item.texts))] for item in self.items]]))

    @classmethod
    def of_golden(cls, golden: GoldenSet) -> References:
        """The items of a golden set: all of their texts but the id, and not the prompt they share."""
        return cls.of_rows(golden.name, golden.items)

    @classmethod
    def of_file(cls, name: str, path: Path, id: str = "id") -> References:
        """One item a row of a file of any format that ``rows.read`` knows. Raises AuditError, also for a row that is no JSON object."""
        return cls.of_rows(name, _objects(path), id)

    @classmethod
    def of_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], id: str = "id") -> References:
        """One item a JSON object: every text in it, at any depth, whatever its key, so that a passage beside question and
        answer counts; but not the field ``id`` and the roles of messages. Without an id the item is named by its number, from 1."""
        no_texts = (id, "role", "from")
        return cls(name, tuple(Item(str(row.get(id, number)), tuple(_texts(row, no_texts))) for number, row in enumerate(rows, start=1)))


def _texts(value: Any, without: Sequence[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (said for key, inner in value.items() if key not in without for said in _texts(inner, without))
    elif isinstance(value, (list, tuple)):
        yield from (said for inner in value for said in _texts(inner, without))


def _objects(path: Path) -> Iterator[Mapping[str, Any]]:
    for chunk in read([path]):
        for line, raw in zip(chunk.line.tolist(), chunk.raw, strict=True):
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise AuditError(
                    f"{path}, line {line}: found no JSON ({error}), expected an item of a reference set. Repair the file"
                ) from None
            if not isinstance(row, dict):
                raise AuditError(f"{path}, line {line}: found a JSON {type(row).__name__}, expected an object: an item of a reference set")
            yield row


def _plain(said: str) -> str:
    """A text as JSON can hold it: lone surrogates as escapes."""
    return said.encode("utf-8", "backslashreplace").decode()


# --- words, to prove hits on ----------------------------------------------------------------------


class _Spaced(dict[int, str]):
    """What ``str.translate`` makes of each character of a folded text, so that its words stand between spaces."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        words = text.canonical(f"a{char}a")
        self[code] = made = " " if words == ["a", "a"] else "" if words == ["aa"] else f" {char} " if len(words) == 3 else char
        return made


_SPACED = _Spaced()
_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else 32 for code in range(256))


def _words(data: bytes) -> list[bytes]:
    """The canonical words of a text, in UTF-8: what ``text.canonical`` says, twenty times as fast."""
    if data.isascii():
        return data.translate(_ASCII, b".'").split()
    folded = text._folded(data.decode("utf-8", "surrogatepass"))
    return folded.translate(_SPACED).encode("utf-8", "surrogatepass").split()


def _telling(words: Iterable[bytes]) -> bool:
    """Whether so many different words are there that it is no chance, no list of numbers and no row of choices."""
    return sum(not (word.isdigit() or (len(word) == 1 and word.isalpha())) for word in set(words)) >= _TELLING


def _windows(words: Sequence[bytes]) -> set[tuple[bytes, ...]]:
    return {tuple(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}


# --- the index of all items -----------------------------------------------------------------------


def _gather(words: Words, starts: Any, ends: Any) -> Words:
    """The words of some spans of ``words.hashes``, end to end."""
    sizes = ends - starts
    placed = np.concatenate(([0], np.cumsum(sizes)))
    inside = np.arange(placed[-1]) - np.repeat(placed[:-1], sizes)
    return Words(words.hashes[np.repeat(starts, sizes) + inside], placed)


def _csr(keys: Any, n: int) -> tuple[Any, Any]:
    """Places of each key, in order: (int64[n + 1] starts, places)."""
    return np.concatenate(([0], np.cumsum(np.bincount(keys, minlength=n)))), np.argsort(keys, kind="stable")


def _spread(starts: Any, keys: Any) -> tuple[Any, Any]:
    """For keys of a CSR all their places: (which entry of ``keys``, place)."""
    sizes = starts[keys + 1] - starts[keys]
    which: Any = np.repeat(np.arange(len(keys)), sizes)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[keys][which]


class _Bits:
    """A set of hashes that may say yes in error, one time in sixteen, and never no."""

    def __init__(self, hashes: Any) -> None:
        width = min(max((16 * max(1, len(hashes)) - 1).bit_length(), 10), 30)
        self.shift = _64(64 - width)
        self.bits: Any = np.zeros(1 << (width - 6), np.uint64)
        _set(hashes, self.bits, self.shift)


class _Index:
    """What hits are looked up in.

    A *said* is a distinct sequence of words that a text of an item, or an item as a whole, consists of. A *whole* stands
    for all items that have the same texts. ``hashes`` are the words of all wholes end to end, and a *gram* is numbered by
    the first place there at which its eight words begin.
    """

    def __init__(self, references: Sequence[References]) -> None:
        self.labels = [f"{reference.name}/{item.id}" for reference in references for item in reference.items]
        self.set_of: Any = np.repeat(np.arange(len(references)), [len(reference.items) for reference in references])
        items = [item for reference in references for item in reference.items]
        self.texts = [said.encode("utf-8", "surrogatepass") for item in items for said in item.texts]
        self.bounds = np.concatenate(([0], np.cumsum([len(item.texts) for item in items])))
        lengths = np.concatenate(([0], np.cumsum([len(said) for said in self.texts])))
        self.words = text.words(Texts(np.frombuffer(b"".join(self.texts), np.uint8), lengths.astype(np.int64)))
        self.said = lru_cache(maxsize=1024)(self._said)  # the words of a said: hits come in runs
        self._say()
        self._gram()
        self._shingle()
        del self.words

    def _say(self) -> None:
        whole = Words(self.words.hashes, self.words.starts[self.bounds])
        parts = text.digests(self.words)
        numbers, firsts = dense(np.concatenate((parts, text.digests(whole))))
        self.first, self.said_digests = firsts, np.concatenate((parts, text.digests(whole)))[firsts]
        part_said, whole_said = numbers[: len(parts)], numbers[len(parts) :]
        self.whole_of, self.whole_first = dense(text.digests(Words(parts.reshape(-1), 2 * self.bounds)))  # by its texts, in order
        self.saids, self.wholes = len(firsts), len(self.whole_first)
        self.items_of = _csr(self.whole_of, self.wholes)
        self.whole_said = whole_said[self.whole_first]
        self.of_whole = _csr(self.whole_said, self.saids)
        which, place = _spread(self.bounds, self.whole_first)
        sizes = np.diff(self.words.starts)
        kept = sizes[place] > 0
        pairs = np.unique(np.stack((which[kept], part_said[place[kept]]), axis=1), axis=0)
        self.part_whole, self.part_said = pairs[:, 0], pairs[:, 1]  # by whole, then by said; each once
        self.parts_of = np.concatenate(([0], np.cumsum(np.bincount(self.part_whole, minlength=self.wholes))))
        self.of_part = _csr(self.part_said, self.saids)
        self.size = np.concatenate((sizes, np.diff(whole.starts)))[firsts]  # words of each said

    def _gram(self) -> None:
        at, ends = self.words.starts[self.bounds[self.whole_first]], self.words.starts[self.bounds[self.whole_first + 1]]
        wholes = _gather(self.words, at, ends)
        self.hashes, self.starts = wholes.hashes, wholes.starts
        self.owner: Any = np.repeat(np.arange(self.wholes, dtype=np.int32), np.diff(self.starts))
        grams, starts = text.ngrams(wholes, _GRAM)
        self.bits = _Bits(grams)
        self.table: Any = np.full(1 << max(4, (2 * len(grams)).bit_length()), -1, np.int32)
        firsts: Any = np.empty(len(grams), np.int32)
        self.gram_at: Any = np.full(len(self.hashes) + _LONG, -1, np.int32)  # the gram that begins at each word, -1: the whole ends before
        n = _number(self.hashes, self.starts, grams, starts, self.table, firsts, self.gram_at)
        self.firsts = firsts[:n].copy()
        begins = np.flatnonzero(self.gram_at >= 0)
        gram = self.gram_at[begins]
        posted, order = _csr(gram, n)
        self.posted = posted.astype(np.int32)
        self.places = begins[order].astype(np.int32)
        owner, gram = self.owner[self.places], gram[order]
        new: Any = np.ones(len(owner), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (gram[1:] != gram[:-1])
        self.gram_items = np.bincount(gram[new], minlength=n).astype(np.int32)
        self.grams_of = np.bincount(owner[new], minlength=self.wholes)  # distinct grams of each whole

    def _shingle(self) -> None:
        saids = np.unique(self.part_said)
        saids = saids[self.size[saids] >= _SHORT]
        at = self.first[saids]
        flat, self.set_starts = text.shingles(_gather(self.words, self.words.starts[at], self.words.starts[at + 1]), _SHINGLE)
        self.near_said = saids
        self.shingles, numbers, counts = np.unique(flat, return_inverse=True, return_counts=True)
        order = np.argsort(counts, kind="stable")  # the rarest first; of equal ones the smaller hash
        self.rank: Any = np.empty(len(order), np.int32)
        self.rank[order] = np.arange(len(order), dtype=np.int32)
        owner: Any = np.repeat(np.arange(len(saids), dtype=np.int32), np.diff(self.set_starts))
        ranks = self.rank[numbers.reshape(-1)]
        self.sets = ranks[np.lexsort((ranks, owner))]
        size = np.diff(self.set_starts)
        inside = np.arange(len(owner)) - self.set_starts[owner]
        prefix = inside < (size + (-_NUM * size // _DEN) + 1)[owner]
        self.listed, order = _csr(self.sets[prefix], len(self.rank))
        self.lists = owner[prefix][order]
        self.shingle_bits = _Bits(self.shingles)

    def _said(self, number: int) -> list[bytes]:
        first = int(self.first[number])
        n = len(self.texts)
        spans = range(first, first + 1) if first < n else range(*self.bounds[first - n : first - n + 2].tolist())
        return [word for i in spans for word in _words(self.texts[i])]

    def words_at(self, place: int, size: int) -> list[bytes]:
        """``size`` words from a place of ``hashes`` on."""
        whole = int(self.owner[place])
        inside = place - int(self.starts[whole])
        return self.said(int(self.whole_said[whole]))[inside : inside + size]


@lru_cache(maxsize=2)
def _index(references: tuple[References, ...]) -> _Index:
    return _Index(references)


# --- machine code ---------------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _set(hashes: Any, bits: Any, shift: Any) -> None:  # pragma: no cover - machine code
    for h in hashes:
        i = h >> shift
        bits[np.int64(i >> _64(6))] |= _64(1) << (i & _64(63))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _maybe(hashes: Any, bits: Any, shift: Any, out: Any) -> None:  # pragma: no cover - machine code
    for j in range(len(hashes)):
        i = hashes[j] >> shift
        out[j] = (bits[np.int64(i >> _64(6))] >> (i & _64(63))) & _64(1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number(hashes: Any, starts: Any, grams: Any, begins: Any, table: Any, firsts: Any, gram_at: Any) -> int:  # pragma: no cover
    mask = len(table) - 1
    found = 0
    for d in range(len(starts) - 1):
        for i in range(begins[d + 1] - begins[d]):
            place = starts[d] + i
            slot = np.int64(grams[begins[d] + i] & _64(mask))
            while True:
                g = table[slot]
                if g < 0:
                    table[slot] = found
                    firsts[found] = place
                    gram_at[place] = found
                    found += 1
                    break
                same = True
                for j in range(_GRAM):
                    same &= hashes[place + j] == hashes[firsts[g] + j]
                if same:
                    gram_at[place] = g
                    break
                slot = (slot + 1) & mask
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(words: Any, asked: Any, places: Any, hashes: Any, table: Any, firsts: Any, out: Any) -> None:  # pragma: no cover - machine code
    mask = len(table) - 1
    for i in range(len(asked)):
        slot = np.int64(asked[i] & _64(mask))
        out[i] = -1
        while True:
            g = table[slot]
            if g < 0:
                break
            same = True
            for j in range(_GRAM):
                same &= words[places[i] + j] == hashes[firsts[g] + j]
            if same:
                out[i] = g
                break
            slot = (slot + 1) & mask


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _likely(grams: Any, starts: Any, bits: Any, shift: Any, out: Any) -> None:  # pragma: no cover - machine code
    """Texts of which at least 4 of 5 distinct shingles may be known: there are at most as many as windows, and different
    unknown ones are counted from below, by the buckets they fall into."""
    seen: Any = np.full(1 << 16, -1, np.int64)
    for t in range(len(starts) - 1):
        start, end = starts[t], starts[t + 1]
        spare = (end - start) - (_NUM * (end - start) + _DEN - 1) // _DEN
        out[t] = end - start > _SHORT - _SHINGLE
        unknown = 0
        for i in range(start, end):
            h = grams[i]
            j = h >> shift
            if (bits[np.int64(j >> _64(6))] >> (j & _64(63))) & _64(1) == 0:
                bucket = np.int64(h & _64(0xFFFF))
                if seen[bucket] != t:
                    seen[bucket] = t
                    unknown += 1
                    if unknown > spare:
                        out[t] = False
                        break


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _join(
    size: Any, starts: Any, ranks: Any, listed: Any, lists: Any, set_starts: Any, sets: Any
) -> Any:  # pragma: no cover - machine code
    """Pairs of a text and a said with a Jaccard index of 4/5 or more: (text, said). ``ranks`` are the known shingles of each
    text, the rarest first; the unknown ones would come before them."""
    stamp: Any = np.full(len(set_starts) - 1, -1, np.int64)
    out: Any = np.empty((1024, 2), np.int64)
    n = 0
    for t in range(len(size)):
        a = size[t]
        start, end = starts[t], starts[t + 1]
        prefix = a - (_NUM * a + _DEN - 1) // _DEN + 1 - (a - (end - start))
        for i in range(start, min(end, start + prefix)):
            for k in range(listed[ranks[i]], listed[ranks[i] + 1]):
                u = lists[k]
                if stamp[u] == t:
                    continue
                stamp[u] = t
                b = set_starts[u + 1] - set_starts[u]
                if _DEN * min(a, b) < _NUM * max(a, b):
                    continue
                x, y, both = start, set_starts[u], 0
                while x < end and y < set_starts[u + 1]:
                    if ranks[x] == sets[y]:
                        both += 1
                        x += 1
                        y += 1
                    elif ranks[x] < sets[y]:
                        x += 1
                    else:
                        y += 1
                if _DEN * both >= _NUM * (a + b - both):
                    if n == len(out):
                        grown: Any = np.empty((2 * n, 2), np.int64)
                        grown[:n] = out
                        out = grown
                    out[n, 0], out[n, 1] = t, u
                    n += 1
    return out[:n]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rows_with(starts: Any, lines: Any, held_starts: Any, held: Any, rows: int) -> Any:  # pragma: no cover - machine code
    """How many distinct rows hold a text of each group of lines."""
    stamp: Any = np.full(rows, -1, np.int64)
    out: Any = np.zeros(len(starts) - 1, np.int64)
    for g in range(len(starts) - 1):
        for i in range(starts[g], starts[g + 1]):
            for k in range(held_starts[lines[i]], held_starts[lines[i] + 1]):
                if stamp[held[k]] != g:
                    stamp[held[k]] = g
                    out[g] += 1
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pairs(
    asked: Any,
    row_starts: Any,
    line: Any,
    starts: Any,
    gram: Any,
    at: Any,
    common: Any,
    posted: Any,
    places: Any,
    owner: Any,
    gram_at: Any,
    wholes: int,
) -> Any:  # pragma: no cover - machine code
    """Rows and wholes that share grams which are not common: (row, whole, distinct grams, the first message that
    shares one, the first that shares thirteen words or -1)."""
    stamp: Any = np.full(wholes, -1, np.int64)
    pair: Any = np.empty(wholes, np.int64)
    seen: Any = np.full(len(common), -1, np.int64)
    out: Any = np.empty((1024, 5), np.int64)
    n = 0
    for r in asked:
        for m in range(row_starts[r], row_starts[r + 1]):
            if line[m] < 0:
                continue
            end = starts[line[m] + 1]
            for k in range(starts[line[m]], end):
                g = gram[k]
                if common[g]:
                    continue
                run = 1  # grams that follow each other in the text
                while run < _LONG - _GRAM + 1 and k + run < end and at[k + run] == at[k] + run and not common[gram[k + run]]:
                    run += 1
                new, last = seen[g] != r, -1
                seen[g] = r
                for p in range(posted[g], posted[g + 1]):
                    d = owner[places[p]]
                    if stamp[d] != r:
                        if n == len(out):
                            grown: Any = np.empty((2 * n, 5), np.int64)
                            grown[:n] = out
                            out = grown
                        stamp[d], pair[d] = r, n
                        out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4] = r, d, 0, m - row_starts[r], -1
                        n += 1
                    if new and d != last:
                        out[pair[d], 2] += 1
                        last = d
                    if run == _LONG - _GRAM + 1 and out[pair[d], 4] < 0:
                        same = True
                        for j in range(1, run):
                            same &= gram_at[places[p] + j] == gram[k + j]
                        if same:
                            out[pair[d], 4] = m - row_starts[r]
    return out[:n]


# --- the check ------------------------------------------------------------------------------------

_FACTS = pa.schema([
    ("text", pa.binary(16)),
    ("same", pa.int32()),  # the said that this text is, or null
    ("near", pa.list_(pa.struct([("said", pa.int32()), ("num", pa.int32()), ("den", pa.int32())]))),
    ("gram", pa.list_(pa.int32())),  # the grams of items that stand in it, in order
    ("at", pa.list_(pa.int32())),  # the word at which each begins
])  # fmt: skip


@dataclass(frozen=True)
class Leakage:
    """Training rows that leak into reference sets. ``common`` and ``common_items``: from where on something is boilerplate.

    The summary has for each set the items, how many of them leak by their strongest proof and how many no row touches;
    the leakage map (set, training file: rows and items); the boilerplate that was discounted; short texts that are the
    same by nature ("yes"). The ids of the leaked items are those of the findings, complete: ``clean`` says the others.
    """

    references: tuple[References, ...]
    common: int = 1000
    common_items: int = 20

    name = "leakage"
    key: Literal["row", "text"] = "text"

    def __post_init__(self) -> None:
        names = Counter(reference.name for reference in self.references)
        if not names or max(names.values()) > 1:
            raise AuditError(f"reference sets named {sorted(names.elements())}: expected at least one, and each name once")
        if self.common < 1 or self.common_items < 1:
            raise AuditError(f"common = {self.common}, common_items = {self.common_items}; expected at least 1")

    @property
    def options(self) -> Mapping[str, Any]:
        return {"references": [reference.digest for reference in self.references]}

    def clean(self, report: Report, kinds: Sequence[str] = KINDS) -> dict[str, list[str]]:
        """The clean subset: by set, the ids of the items that no training row touches (with a proof of ``kinds``)."""
        found = report.findings
        leaked = {
            item for item, kind in zip(found.column("item").to_pylist(), found.column("kind").to_pylist(), strict=True) if kind in kinds
        }
        return {r.name: [item.id for item in r.items if f"{r.name}/{item.id}" not in leaked] for r in self.references}

    def partial(self, batch: Batch) -> pa.Table:
        index, words = _index(self.references), batch.words
        same = lookup(index.said_digests, text.digests(words))
        same[np.diff(words.starts) == 0] = -1
        hit_text, at, gram = _gram_hits(index, words)
        near_text, near_said = _near_hits(index, words)
        other = near_said != same[near_text]
        near_text, near_said = near_text[other], near_said[other]
        lines = np.unique(np.concatenate((np.flatnonzero(same >= 0), hit_text, near_text)))
        proven = _Proven(index)
        hits: Any = np.searchsorted(hit_text, [lines, lines + 1])
        nears: Any = np.searchsorted(near_text, [lines, lines + 1])
        for place, line in enumerate(lines.tolist()):
            hit, near = slice(*hits[:, place].tolist()), slice(*nears[:, place].tolist())
            proven.add(line, _words(batch.texts.bytes(line)), int(same[line]), at[hit], gram[hit], near_said[near].tolist())
        return proven.table(batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        return _Finish(self, _index(self.references), facts, rows).report()


def _gram_hits(index: _Index, words: Words) -> tuple[Any, Any, Any]:
    """(text, word at which it begins, gram) of every gram of an item, by text, in order of place."""
    grams, starts = text.ngrams(words, _GRAM)
    maybe: Any = np.empty(len(grams), np.bool_)
    _maybe(grams, index.bits.bits, index.bits.shift, maybe)
    window = np.flatnonzero(maybe)
    of: Any = np.searchsorted(starts, window, side="right") - 1
    at = window - starts[of]
    found: Any = np.empty(len(window), np.int32)
    _find(words.hashes, grams[window], words.starts[of] + at, index.hashes, index.table, index.firsts, found)
    hit = found >= 0
    return of[hit], at[hit], found[hit]


def _near_hits(index: _Index, words: Words) -> tuple[Any, Any]:
    """(text, said) of every pair of nearly the same texts, by text."""
    grams, starts = text.ngrams(words, _SHINGLE)
    likely: Any = np.empty(len(words), np.bool_)
    _likely(grams, starts, index.shingle_bits.bits, index.shingle_bits.shift, likely)
    texts = np.flatnonzero(likely)
    flat, starts = text.shingles(_gather(words, words.starts[texts], words.starts[texts + 1]), _SHINGLE)
    place: Any = np.searchsorted(index.shingles, flat)
    known: Any = place < len(index.shingles)
    known[known] = index.shingles[place[known]] == flat[known]
    owner: Any = np.repeat(np.arange(len(texts)), np.diff(starts))[known]
    ranks = index.rank[place[known]]
    held = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(texts)))))
    pairs = _join(np.diff(starts), held, ranks[np.lexsort((ranks, owner))], index.listed, index.lists, index.set_starts, index.sets)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return texts[pairs[order, 0]], index.near_said[pairs[order, 1]]


class _Proven:
    """Facts of texts, after every hit was held against the words themselves: two hashes that meet cannot invent a leak."""

    def __init__(self, index: _Index) -> None:
        self.index = index
        self.lines: list[int] = []
        self.same: list[int | None] = []
        self.near: list[list[dict[str, int]]] = []
        self.gram: list[Any] = []
        self.at: list[Any] = []

    def add(self, line: int, words: list[bytes], same: int, at: Any, gram: Any, near: list[int]) -> None:
        if len(gram):
            kept = self._grams(words, at, gram)
            at, gram = at[kept], gram[kept]
        says = same if same >= 0 and words == self.index.said(same) else None
        alike = self._near(words, near) if near else []
        if says is not None or alike or len(gram):
            self.lines.append(line)
            self.same.append(says)
            self.near.append(alike)
            self.gram.append(gram)
            self.at.append(at)

    def _grams(self, words: list[bytes], at: Any, gram: Any) -> Any:
        """Which of the grams stand there, word for word; compared in runs of grams that follow each other in text and item."""
        place = self.index.firsts[gram]
        ends: Any = np.flatnonzero((np.diff(at) != 1) | (np.diff(place) != 1)) + 1
        kept: Any = np.ones(len(gram), bool)
        for a, b in pairwise([0, *ends.tolist(), len(gram)]):
            for first, last in [(a, b)] if self._stands(words, at, place, a, b) else zip(range(a, b), range(a + 1, b + 1), strict=True):
                kept[first:last] = self._stands(words, at, place, first, last)
        return kept

    def _stands(self, words: list[bytes], at: Any, place: Any, first: int, last: int) -> bool:
        size = last - first + _GRAM - 1
        begin = int(at[first])
        return words[begin : begin + size] == self.index.words_at(int(place[first]), size)

    def _near(self, words: list[bytes], near: list[int]) -> list[dict[str, int]]:
        ours = _windows(words)
        found = []
        for said in near:
            theirs = _windows(self.index.said(said))
            num, den = len(ours & theirs), len(ours | theirs)
            if _DEN * num >= _NUM * den:
                found.append({"said": said, "num": num, "den": den})
        return found

    def table(self, batch: Batch) -> pa.Table:
        sizes = [len(gram) for gram in self.gram]
        offsets = pa.array(np.concatenate(([0], np.cumsum(sizes))), pa.int32())
        none: Any = np.zeros(0, np.int32)
        columns = [
            digest_array(batch.text_digests[self.lines]) if self.lines else pa.array([], _FACTS.field("text").type),
            pa.array(self.same, pa.int32()),
            pa.array(self.near, _FACTS.field("near").type),
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([none, *self.gram]), pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([none, *self.at]), pa.int32())),
        ]
        return pa.Table.from_arrays(columns, schema=_FACTS)


# --- the report -----------------------------------------------------------------------------------


def _lists(column: Any) -> tuple[Any, Any]:
    """(starts, flat values) of a list column."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.concatenate(([0], np.cumsum(whole.value_lengths().to_numpy()))).astype(np.int64), whole.flatten()


class _Finish:
    """One report. A *line* is a line of facts: a text that shares something with an item."""

    def __init__(self, check: Leakage, index: _Index, facts: pa.Table, rows: Rows) -> None:
        self.check, self.index, self.rows = check, index, rows
        self.text = facts.column("text").to_numpy()
        self.same = facts.column("same").fill_null(-1).to_numpy().astype(np.int64)
        self.gram_starts, gram = _lists(facts.column("gram"))
        self.gram, self.at = gram.to_numpy(), _lists(facts.column("at"))[1].to_numpy()
        near_starts, near = _lists(facts.column("near"))
        self.near_line: Any = np.repeat(np.arange(len(self.text)), np.diff(near_starts))
        self.near, self.num, self.den = (near.field(name).to_numpy().astype(np.int64) for name in ("said", "num", "den"))
        self.held_starts, self.held, self.message = self._holders()
        self._count()

    def _holders(self) -> tuple[Any, Any, Any]:
        which, message = self.rows.holders(self.text)
        row = self.rows.row_of[message].astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(np.bincount(which, minlength=len(self.text)))))
        return starts, row, message - self.rows.starts[row]

    def _count(self) -> None:
        """What is boilerplate: in how many items and rows each gram and each said stands."""
        index, check = self.index, self.check
        line: Any = np.repeat(np.arange(len(self.text)), np.diff(self.gram_starts))
        starts, order = _csr(self.gram, len(index.firsts))
        self.gram_rows = _rows_with(starts, line[order], self.held_starts, self.held, self.rows.u)
        self.gram_common = (index.gram_items > check.common_items) | (self.gram_rows > check.common)
        for gram in np.flatnonzero(self.gram_rows).tolist():
            self.gram_common[gram] |= not _telling(index.words_at(int(index.firsts[gram]), _GRAM))
        says = np.flatnonzero(self.same >= 0)
        starts, order = _csr(np.concatenate((self.same[says], self.near)), index.saids)
        self.said_rows = _rows_with(starts, np.concatenate((says, self.near_line))[order], self.held_starts, self.held, self.rows.u)
        self.dull: Any = np.zeros(index.saids, bool)  # too short, or of too few different words, to prove anything
        for said in np.flatnonzero(self.said_rows).tolist():
            self.dull[said] = index.size[said] < _SHORT or not _telling(index.said(said))
        self.said_common = self.dull | (np.diff(index.of_part[0]) > check.common_items) | (self.said_rows > check.common)

    def report(self) -> Report:
        pairs = self._strongest([*self._equal(), self._every_text(), self._near(), self._grams()])
        findings, row, item, kind = self._findings(pairs)
        touched: Any = np.zeros(self.rows.u, bool), np.zeros(self.index.wholes, bool)
        touched[0][pairs["row"]], touched[1][pairs["whole"]] = True, True
        return Report(findings, {
            "sets": self._sets(item, kind), "rows": len(np.unique(row)), "map": self._map(row, item),
            "boilerplate": self._boilerplate(*touched), "short": self._short(),
        })  # fmt: skip

    # proofs: columns row (distinct), whole, kind, num, den, message

    def _of_lines(self, kind: int, line: Any, whole: Any, num: Any, den: Any) -> dict[str, Any]:
        which, place = _spread(self.held_starts, line)
        return _columns(self.held[place], whole[which], kind, num[which], den[which], self.message[place])

    def _equal(self) -> Iterable[dict[str, Any]]:
        index = self.index
        line = np.flatnonzero(self.same >= 0)
        line = line[~self.dull[self.same[line]]]
        which, place = _spread(index.of_whole[0], self.same[line])
        size = index.size[self.same[line]][which]
        yield self._of_lines(0, line[which], index.of_whole[1][place], size, size)
        line = np.flatnonzero(self.same >= 0)
        line = line[~self.said_common[self.same[line]]]
        which, place = _spread(index.of_part[0], self.same[line])
        whole = index.part_whole[index.of_part[1][place]]
        yield self._of_lines(0, line[which], whole, index.size[self.same[line]][which], np.diff(index.starts)[whole])

    def _every_text(self) -> dict[str, Any]:
        """Rows that have a message for each text of an item of two texts or more, and five words."""
        index = self.index
        line = np.flatnonzero(self.same >= 0)
        starts, order = _csr(self.same[line], index.saids)
        there = (np.diff(starts) > 0)[index.part_said].astype(np.int64)
        sizes = np.diff(index.parts_of)
        whole = np.flatnonzero((sizes > 1) & (np.diff(index.starts) >= _SHORT))
        whole = whole[np.add.reduceat(np.append(there, 0), index.parts_of[:-1])[whole] == sizes[whole]]
        whole = whole[[_telling(index.said(said)) for said in index.whole_said[whole].tolist()]] if len(whole) else whole
        which, place = _spread(index.parts_of, whole)
        cost = self.said_rows[index.part_said[place]]
        ranked = np.lexsort((cost, which))
        rarest = ranked[np.searchsorted(which[ranked], np.arange(len(whole)))]  # the text of each whole that the fewest rows have
        kept = cost[rarest] <= self.check.common
        whole, said = whole[kept], index.part_said[place[rarest[kept]]]
        which, place = _spread(starts, said)
        whole = whole[which]
        which, place = _spread(self.held_starts, line[order[place]])
        candidates = np.unique(np.stack((whole[which], self.held[place]), axis=1), axis=0)
        every, place = _spread(index.parts_of, candidates[:, 0])
        asked = candidates[every, 1] * index.saids + index.part_said[place]
        which, place = _spread(self.held_starts, line)
        held = np.unique(self.held[place] * index.saids + self.same[line][which])
        missing = np.bincount(every[~np.isin(asked, held)], minlength=len(candidates)) > 0
        whole, row = candidates[~missing].T
        size = np.diff(index.starts)[whole]
        return _columns(row, whole, 0, size, size, np.full(len(row), -1))

    def _near(self) -> dict[str, Any]:
        index = self.index
        kept = ~self.said_common[self.near]
        which, place = _spread(index.of_part[0], self.near[kept])
        whole = index.part_whole[index.of_part[1][place]]
        return self._of_lines(1, self.near_line[kept][which], whole, self.num[kept][which], self.den[kept][which])

    def _grams(self) -> dict[str, Any]:
        index, rows = self.index, self.rows
        line_of: Any = np.full(rows.t, -1, np.int64)
        line_of[self.text] = np.where(np.diff(self.gram_starts) > 0, np.arange(len(self.text)), -1)
        line = line_of[rows.text] if len(rows.text) else np.zeros(0, np.int64)
        asked = np.unique(rows.row_of[line >= 0]).astype(np.int64)
        found = _pairs(
            asked, rows.starts, line, self.gram_starts, self.gram, self.at, self.gram_common,
            index.posted, index.places, index.owner, index.gram_at, index.wholes,
        )  # fmt: skip
        row, whole, num, first, long = found.T
        return _columns(row, whole, np.where(long >= 0, 2, 3), num, index.grams_of[whole], np.where(long >= 0, long, first))

    def _strongest(self, proofs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One proof a row and whole: of equal kinds the one of the higher score, of equal scores that of the first message."""
        every = {name: np.concatenate([proof[name] for proof in proofs]) for name in _COLUMNS}
        order = np.lexsort((every["message"], -every["num"] / every["den"], every["kind"], every["whole"], every["row"]))
        row, whole = every["row"][order], every["whole"][order]
        new: Any = np.ones(len(order), bool)
        new[1:] = (row[1:] != row[:-1]) | (whole[1:] != whole[:-1])
        return {name: column[order[new]] for name, column in every.items()}

    def _findings(self, pairs: dict[str, Any]) -> tuple[pa.Table, Any, Any, Any]:
        """(findings, and of each the row, the item, the kind), by row, then by item."""
        starts, items = self.index.items_of
        which, place = _spread(starts, pairs["whole"])
        copy, physical = self.rows.copies(pairs["row"][which])
        which, item = which[copy], items[place][copy]
        order = np.lexsort((item, physical))
        which, item, row = which[order], item[order], physical[order]
        kind = pairs["kind"][which]
        if not len(row):
            return no_findings(), row, item, kind
        message = pairs["message"][which]
        num, den = pairs["num"][which], pairs["den"][which]
        found = finding_rows(
            self.check.name, pa.array(KINDS).take(pa.array(kind)), row, item=pa.array(self.index.labels).take(pa.array(item)),
            message=pa.array(message, mask=message < 0), score=num / den, num=num, den=den,
            detail=pa.array(_DETAIL).take(pa.array(kind)),
        )  # fmt: skip
        return found, row, item, kind

    # the summary

    def _sets(self, item: Any, kind: Any) -> dict[str, Any]:
        best = np.full(len(self.index.labels), len(KINDS))
        np.minimum.at(best, item, kind)
        told = {}
        for number, reference in enumerate(self.check.references):
            counts = np.bincount(best[self.index.set_of == number], minlength=len(KINDS) + 1).tolist()
            leaked = dict(zip(KINDS, counts, strict=False))
            told[reference.name] = {"items": len(reference.items), "leaked": sum(counts[:-1]), **leaked, "clean": counts[-1]}
        return told

    def _map(self, row: Any, item: Any) -> list[dict[str, Any]]:
        """Of each set and training file that share something: rows and items."""
        sets = self.index.set_of[item]
        cell = sets * len(self.rows.files) + self.rows.file[row]
        told = []
        for number in np.unique(cell).tolist():
            here = cell == number
            name = self.check.references[number // len(self.rows.files)].name
            counts = {"rows": len(np.unique(row[here])), "items": len(np.unique(item[here]))}
            told.append({"set": name, "file": Path(self.rows.files[number % len(self.rows.files)]).name, **counts})
        return told

    def _physical(self, distinct: Any) -> int:
        return int(np.bincount(self.rows.unique, minlength=self.rows.u)[distinct].sum())

    def _boilerplate(self, leaky: Any, leaked: Any) -> dict[str, Any]:
        """What was discounted, and the rows and items that it alone would have made leaks."""
        index = self.index
        seen: Any = np.zeros(len(self.text), bool)
        grams = np.flatnonzero(self.gram_common & (self.gram_rows > 0))
        there = (self.said_rows > 0) & (index.size >= _SHORT)
        saids = np.flatnonzero(there & (self.dull | (self.said_common & (np.diff(index.of_part[0]) > 0))))
        seen[np.repeat(np.arange(len(self.text)), np.diff(self.gram_starts))[self.gram_common[self.gram]]] = True
        seen |= np.isin(self.same, saids)
        seen[self.near_line[self.said_common[self.near]]] = True
        _, place = _spread(self.held_starts, np.flatnonzero(seen))
        rows = np.unique(self.held[place])
        wholes = np.union1d(index.owner[index.places[_spread(index.posted, grams)[1]]], self._saying(saids))
        items = np.diff(index.items_of[0])[wholes[~leaked[wholes]]].sum()
        return {
            "grams": len(grams), "texts": len(saids), "rows": self._physical(rows[~leaky[rows]]), "items": int(items),
            "top_grams": self._top_grams(grams), "top_texts": self._top_texts(saids),
        }  # fmt: skip

    def _saying(self, saids: Any) -> Any:
        """The wholes that say these, as a whole or in one of their texts."""
        index = self.index
        parts = index.part_whole[index.of_part[1][_spread(index.of_part[0], saids)[1]]]
        return np.union1d(parts, index.of_whole[1][_spread(index.of_whole[0], saids)[1]])

    def _top_grams(self, grams: Any) -> list[dict[str, Any]]:
        """The grams of the most rows; of those that overlap in an item one."""
        index = self.index
        shown: list[int] = []
        told: list[dict[str, Any]] = []
        for gram in grams[np.lexsort((grams, -self.gram_rows[grams]))].tolist():
            place = int(index.firsts[gram])
            if any(abs(place - other) < _GRAM for other in shown):
                continue
            shown.append(place)
            words = b" ".join(index.words_at(place, _GRAM)).decode("utf-8", "replace")
            told.append({"words": words, "rows": int(self.gram_rows[gram]), "items": int(index.gram_items[gram])})
            if len(told) == _SHOWN:
                break
        return told

    def _top_texts(self, saids: Any) -> list[dict[str, Any]]:
        index, items = self.index, np.diff(self.index.of_part[0])
        return [
            {
                "words": b" ".join(index.said(said)[:_GRAM]).decode("utf-8", "replace"), "of": int(index.size[said]),
                "rows": int(self.said_rows[said]), "items": int(items[said]),
            }
            for said in saids[np.lexsort((saids, -self.said_rows[saids]))][:_SHOWN].tolist()
        ]  # fmt: skip

    def _short(self) -> dict[str, Any]:
        """Messages that say the same as a text of an item of fewer than five words: a remark, no leak."""
        line = np.flatnonzero(self.same >= 0)
        line = line[self.index.size[self.same[line]] < _SHORT]
        saids = np.unique(self.same[line])
        rows = np.unique(self.held[_spread(self.held_starts, line)[1]])
        items = int(np.diff(self.index.items_of[0])[self._saying(saids)].sum())
        return {"rows": self._physical(rows), "items": items, "texts": len(saids), "top_texts": self._top_texts(saids)}


_COLUMNS = ("row", "whole", "kind", "num", "den", "message")
_DETAIL = (
    "says the item, or a text of it",
    "nearly a text of the item",
    "thirteen words of the item in a row",
    "eight words of the item in a row",
)


def _columns(row: Any, whole: Any, kind: Any, num: Any, den: Any, message: Any) -> dict[str, Any]:
    given = (row, whole, np.broadcast_to(kind, len(row)), num, den, message)
    return {name: np.asarray(column, np.int64) for name, column in zip(_COLUMNS, given, strict=True)}
