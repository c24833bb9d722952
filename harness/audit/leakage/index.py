"""The texts and word windows of all items, in tables that a million rows can be held against; and the words that prove a hit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from harness.audit import text
from harness.audit.keys import csr, dense, spread
from harness.audit.leakage.items import References
from harness.audit.model import Texts
from harness.audit.text import Words

__all__ = [
    "DEN", "GRAM", "LONG", "NUM", "SHINGLE", "SHORT", "Index", "find_grams", "gather", "index_of", "likely_near",
    "may_stand", "nearly", "pairs_of", "rows_with", "telling", "windows_of", "words_of",
]  # fmt: skip

GRAM, LONG, SHINGLE, SHORT = 8, 13, 3, 5  # words
TELLING = 4  # different words that are no number and no single letter
NUM, DEN = 4, 5  # the Jaccard index from which two texts are nearly the same
_64 = np.uint64


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


def words_of(data: bytes) -> list[bytes]:
    """The canonical words of a text, in UTF-8: what ``text.canonical`` says, twenty times as fast."""
    if data.isascii():
        return data.translate(_ASCII, b".'").split()
    folded = text._folded(data.decode("utf-8", "surrogatepass"))
    return folded.translate(_SPACED).encode("utf-8", "surrogatepass").split()


def telling(words: Iterable[bytes]) -> bool:
    """Whether so many different words are there that it is no chance, no list of numbers and no row of choices."""
    return sum(not (word.isdigit() or (len(word) == 1 and word.isalpha())) for word in set(words)) >= TELLING


def windows_of(words: Sequence[bytes]) -> set[tuple[bytes, ...]]:
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


# --- the index of all items -----------------------------------------------------------------------


def gather(words: Words, starts: Any, ends: Any) -> Words:
    """The words of some spans of ``words.hashes``, end to end."""
    sizes = ends - starts
    placed = np.concatenate(([0], np.cumsum(sizes)))
    inside = np.arange(placed[-1]) - np.repeat(placed[:-1], sizes)
    return Words(words.hashes[np.repeat(starts, sizes) + inside], placed)


class _Bits:
    """A set of hashes that may say yes in error, one time in sixteen, and never no."""

    def __init__(self, hashes: Any) -> None:
        width = min(max((16 * max(1, len(hashes)) - 1).bit_length(), 10), 30)
        self.shift = _64(64 - width)
        self.bits: Any = np.zeros(1 << (width - 6), np.uint64)
        _set(hashes, self.bits, self.shift)


class Index:
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
        self.items_of = csr(self.whole_of, self.wholes)
        self.whole_said = whole_said[self.whole_first]
        self.of_whole = csr(self.whole_said, self.saids)
        which, place = spread(self.bounds, self.whole_first)
        sizes = np.diff(self.words.starts)
        kept = sizes[place] > 0
        pairs = np.unique(np.stack((which[kept], part_said[place[kept]]), axis=1), axis=0)
        self.part_whole, self.part_said = pairs[:, 0], pairs[:, 1]  # by whole, then by said; each once
        self.parts_of = np.concatenate(([0], np.cumsum(np.bincount(self.part_whole, minlength=self.wholes))))
        self.of_part = csr(self.part_said, self.saids)
        self.size = np.concatenate((sizes, np.diff(whole.starts)))[firsts]  # words of each said

    def _gram(self) -> None:
        at, ends = self.words.starts[self.bounds[self.whole_first]], self.words.starts[self.bounds[self.whole_first + 1]]
        wholes = gather(self.words, at, ends)
        self.hashes, self.starts = wholes.hashes, wholes.starts
        self.owner: Any = np.repeat(np.arange(self.wholes, dtype=np.int32), np.diff(self.starts))
        grams, starts = text.ngrams(wholes, GRAM)
        self.bits = _Bits(grams)
        self.table: Any = np.full(1 << max(4, (2 * len(grams)).bit_length()), -1, np.int32)
        firsts: Any = np.empty(len(grams), np.int32)
        self.gram_at: Any = np.full(len(self.hashes) + LONG, -1, np.int32)  # the gram that begins at each word, -1: the whole ends before
        n = _number(self.hashes, self.starts, grams, starts, self.table, firsts, self.gram_at)
        self.firsts = firsts[:n].copy()
        begins = np.flatnonzero(self.gram_at >= 0)
        gram = self.gram_at[begins]
        posted, order = csr(gram, n)
        self.posted = posted.astype(np.int32)
        self.places = begins[order].astype(np.int32)
        owner, gram = self.owner[self.places], gram[order]
        new: Any = np.ones(len(owner), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (gram[1:] != gram[:-1])
        self.gram_items = np.bincount(gram[new], minlength=n).astype(np.int32)
        self.grams_of = np.bincount(owner[new], minlength=self.wholes)  # distinct grams of each whole

    def _shingle(self) -> None:
        saids = np.unique(self.part_said)
        saids = saids[self.size[saids] >= SHORT]
        at = self.first[saids]
        flat, self.set_starts = text.shingles(gather(self.words, self.words.starts[at], self.words.starts[at + 1]), SHINGLE)
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
        prefix = inside < (size + (-NUM * size // DEN) + 1)[owner]
        self.listed, order = csr(self.sets[prefix], len(self.rank))
        self.lists = owner[prefix][order]
        self.shingle_bits = _Bits(self.shingles)

    def _said(self, number: int) -> list[bytes]:
        first = int(self.first[number])
        n = len(self.texts)
        spans = range(first, first + 1) if first < n else range(*self.bounds[first - n : first - n + 2].tolist())
        return [word for i in spans for word in words_of(self.texts[i])]

    def words_at(self, place: int, size: int) -> list[bytes]:
        """``size`` words from a place of ``hashes`` on."""
        whole = int(self.owner[place])
        inside = place - int(self.starts[whole])
        return self.said(int(self.whole_said[whole]))[inside : inside + size]


@lru_cache(maxsize=2)
def index_of(references: tuple[References, ...]) -> Index:
    return Index(references)


# --- machine code ---------------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _set(hashes: Any, bits: Any, shift: Any) -> None:  # pragma: no cover - machine code
    for h in hashes:
        i = h >> shift
        bits[np.int64(i >> _64(6))] |= _64(1) << (i & _64(63))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def may_stand(hashes: Any, bits: Any, shift: Any, out: Any) -> None:  # pragma: no cover - machine code
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
                for j in range(GRAM):
                    same &= hashes[place + j] == hashes[firsts[g] + j]
                if same:
                    gram_at[place] = g
                    break
                slot = (slot + 1) & mask
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_grams(
    words: Any, asked: Any, places: Any, hashes: Any, table: Any, firsts: Any, out: Any
) -> None:  # pragma: no cover - machine code
    mask = len(table) - 1
    for i in range(len(asked)):
        slot = np.int64(asked[i] & _64(mask))
        out[i] = -1
        while True:
            g = table[slot]
            if g < 0:
                break
            same = True
            for j in range(GRAM):
                same &= words[places[i] + j] == hashes[firsts[g] + j]
            if same:
                out[i] = g
                break
            slot = (slot + 1) & mask


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def likely_near(grams: Any, starts: Any, bits: Any, shift: Any, out: Any) -> None:  # pragma: no cover - machine code
    """Texts of which at least 4 of 5 distinct shingles may be known: there are at most as many as windows, and different
    unknown ones are counted from below, by the buckets they fall into."""
    seen: Any = np.full(1 << 16, -1, np.int64)
    for t in range(len(starts) - 1):
        start, end = starts[t], starts[t + 1]
        spare = (end - start) - (NUM * (end - start) + DEN - 1) // DEN
        out[t] = end - start > SHORT - SHINGLE
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
def nearly(
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
        prefix = a - (NUM * a + DEN - 1) // DEN + 1 - (a - (end - start))
        for i in range(start, min(end, start + prefix)):
            for k in range(listed[ranks[i]], listed[ranks[i] + 1]):
                u = lists[k]
                if stamp[u] == t:
                    continue
                stamp[u] = t
                b = set_starts[u + 1] - set_starts[u]
                if DEN * min(a, b) < NUM * max(a, b):
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
                if DEN * both >= NUM * (a + b - both):
                    if n == len(out):
                        grown: Any = np.empty((2 * n, 2), np.int64)
                        grown[:n] = out
                        out = grown
                    out[n, 0], out[n, 1] = t, u
                    n += 1
    return out[:n]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def rows_with(starts: Any, lines: Any, held_starts: Any, held: Any, rows: int) -> Any:  # pragma: no cover - machine code
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
def pairs_of(
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
                while run < LONG - GRAM + 1 and k + run < end and at[k + run] == at[k] + run and not common[gram[k + run]]:
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
                    if run == LONG - GRAM + 1 and out[pair[d], 4] < 0:
                        same = True
                        for j in range(1, run):
                            same &= gram_at[places[p] + j] == gram[k + j]
                        if same:
                            out[pair[d], 4] = m - row_starts[r]
    return out[:n]
