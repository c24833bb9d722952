"""Canonical words, and hashes of them: what equality, near-equality and shared passages are measured in.

``canonical`` is the definition, in plain Python. Everything else gives the same words as 64-bit hashes, in
machine code: ASCII bytes are read as they lie, other texts are normalised first. The hashes depend on the
words alone: equal on every machine, in every process. They guard against chance, not against an attacker
who builds words to collide: two different words of a corpus of ten million meet with probability 3e-6.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from harness.audit.model import Texts

__all__ = ["Words", "canonical", "digests", "ngrams", "shingles", "words"]

_SEPARATES, _JOINS, _IN_A_WORD, _A_WORD = range(4)

# Blocks of the scripts that are written without spaces: each of their characters is a word of its own.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3000, 0x312F),  # marks of iteration, kana, Bopomofo
    (0x31A0, 0x31BF),  # Bopomofo
    (0x31F0, 0x31FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA48F),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)


# --- the definition -------------------------------------------------------------------------------


def canonical(text: str) -> list[str]:
    """The words of a text: compatibility forms folded, lower case, no punctuation, no white space.

    Points, apostrophes and invisible format characters (soft hyphen, zero width joiner, ...) join: "U.S." is "us".
    Everything else that is no letter, digit or combining mark separates. In a script written without spaces each
    character is a word.
    """
    found, word = [], ""
    for char in _folded(text):
        kind = _kind(char)
        if kind == _IN_A_WORD:
            word += char
        elif kind != _JOINS:
            found += [word, char if kind == _A_WORD else ""]
            word = ""
    return [word for word in [*found, word] if word]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def _kind(char: str) -> int:
    kind = _spaced_kind(char)
    return _A_WORD if kind == _IN_A_WORD and any(first <= ord(char) <= last for first, last in _UNSPACED) else kind


def _spaced_kind(char: str) -> int:
    category = unicodedata.category(char)
    if char in ".'’" or category == "Cf" or (category == "Mn" and "VARIATION SELECTOR" in unicodedata.name(char, "")):
        return _JOINS
    if not (char.isalnum() or category[0] == "M"):
        return _SEPARATES
    return _IN_A_WORD


@cache
def _kinds(last: int) -> Any:
    """The kind of every character up to ``last``, as a table for machine code."""
    assigned = [*range(min(last + 1, 0x40000)), *range(0xE0000, min(last + 1, 0xE0200))]  # nothing is assigned in between, and behind
    table: Any = np.zeros(last + 1, np.uint8)
    table[assigned] = [_spaced_kind(chr(code)) for code in assigned]
    for first, last_of in _UNSPACED:
        block = table[first : last_of + 1]
        block[block == _IN_A_WORD] = _A_WORD
    return table


# --- the hashes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """The words of text i, in order: ``hashes[starts[i]:starts[i + 1]]`` (uint64; starts int64)."""

    hashes: Any
    starts: Any

    def __len__(self) -> int:
        return len(self.starts) - 1


_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # the finaliser of SplitMix64 (Stafford's variant 13)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, 5 mod 8: its powers differ in all but the lowest bits
_SEED = np.uint64(0x2545F4914F6CDD1D)
_8, _27, _30, _31, _32 = (np.uint64(i) for i in (8, 27, 30, 31, 32))


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _mix(h: Any) -> Any:  # pragma: no cover - machine code
    h = (h ^ (h >> _30)) * _M1
    h = (h ^ (h >> _27)) * _M2
    return h ^ (h >> _31)


def _lower() -> Any:
    """What each byte of ASCII counts as: itself in lower case, 0 where it separates, 1 where it joins."""
    table: Any = np.zeros(256, np.uint8)
    for code in range(128):
        char = chr(code)
        table[code] = ord(char.lower()) if char.isalnum() else 1 if char in ".'" else 0
    return table


_LOWER = _lower()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ascii(text: Any, lower: Any, out: Any, place: int) -> int:  # pragma: no cover - machine code
    state, held, room = _SEED, np.uint64(0), 8
    for byte in text:
        char = lower[byte]
        if char > 1:
            held = (held << _8) | np.uint64(char)
            room -= 1
            if room == 0:
                state, held, room = _mix(state ^ held) + _BASE, np.uint64(0), 8
        elif char == 0 and (held != 0 or state != _SEED):
            out[place] = _mix(state ^ held)
            place += 1
            state, held, room = _SEED, np.uint64(0), 8
    if held != 0 or state != _SEED:
        out[place] = _mix(state ^ held)
        place += 1
    return place


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _utf8(data: Any, start: int, end: int, kinds: Any, out: Any, place: int) -> int:  # pragma: no cover - machine code
    """As ``_ascii``, for a folded text in UTF-8."""
    state, held, length = _SEED, np.uint64(0), 0
    i = start
    while i < end:
        first = np.int64(data[i])
        size, code = 1, first
        if first >= 0xF0:
            size, code = 4, first & 7
        elif first >= 0xE0:
            size, code = 3, first & 15
        elif first >= 0xC0:
            size, code = 2, first & 31
        for j in range(1, size):
            code = (code << 6) | np.int64(data[i + j] & 63)
        kind = kinds[code]
        if kind == _JOINS:
            i += size
            continue
        if kind != _IN_A_WORD and length:
            out[place] = _mix(state ^ held)
            place += 1
            state, held, length = _SEED, np.uint64(0), 0
        if kind != _SEPARATES:
            for j in range(size):
                held = (held << _8) | np.uint64(data[i + j])
                length += 1
                if length & 7 == 0:
                    state, held = _mix(state ^ held) + _BASE, np.uint64(0)
        if kind == _A_WORD:
            out[place] = _mix(state ^ held)
            place += 1
            state, held, length = _SEED, np.uint64(0), 0
        i += size
    if length:
        out[place] = _mix(state ^ held)
        place += 1
    return place


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _beyond_ascii(data: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    for t in range(len(starts) - 1):
        seen = np.uint8(0)
        for i in range(starts[t], starts[t + 1]):
            seen |= data[i]
        out[t] = seen >= 128


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all(
    data: Any, starts: Any, other: Any, others: Any, beyond: Any, lower: Any, kinds: Any, out: Any, ends: Any
) -> None:  # pragma: no cover
    place, o = 0, 0
    for t in range(len(starts) - 1):
        if beyond[t]:
            place = _utf8(other, others[o], others[o + 1], kinds, out, place)
            o += 1
        else:
            place = _ascii(data[starts[t] : starts[t + 1]], lower, out, place)
        ends[t + 1] = place


def _read_only(array: Any) -> Any:
    """One type for machine code, whether the array was ours or Arrow's."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def words(texts: Texts) -> Words:
    """The hash of each canonical word of each text, in order. The texts are UTF-8, lone surrogates as in "surrogatepass"."""
    data, starts = _read_only(texts.data), _read_only(texts.starts)
    beyond: Any = np.empty(len(texts), np.bool_)
    _beyond_ascii(data, starts, beyond)
    folded = [_folded(texts.str(i)).encode("utf-8", "surrogatepass") for i in np.flatnonzero(beyond).tolist()]
    other = _read_only(np.frombuffer(b"".join(folded), np.uint8))
    others = np.concatenate(([0], np.cumsum([len(text) for text in folded]))).astype(np.int64)
    room = int((starts[-1] - starts[0] + len(other)) // 2 + len(texts))  # two words of one byte have a byte between them
    hashes: Any = np.empty(room, np.uint64)
    ends: Any = np.zeros(len(texts) + 1, np.int64)  # pages that stay empty cost nothing
    _all(data, starts, other, others, beyond, _LOWER, _kinds(0x10FFFF if folded else 0), hashes, ends)
    return Words(hashes[: ends[-1]], ends)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _digests(hashes: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    for t in range(len(starts) - 1):
        a, b = _SEED, _BASE
        for i in range(starts[t], starts[t + 1]):
            a = _mix(a ^ hashes[i])
            b = _mix(b + hashes[i] * _M1) ^ _SEED
        n = np.uint64(starts[t + 1] - starts[t])
        out[t, 0], out[t, 1] = _mix(a + n), _mix(b + n * _BASE)


def digests(words: Words) -> Any:
    """128 bits over the canonical words of each text, (t, 2) uint64: equal for equal words in equal order."""
    out: Any = np.empty((len(words), 2), np.uint64)
    _digests(words.hashes, words.starts, out)
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _windows(hashes: Any, start: int, end: int, n: int, out: Any, place: int) -> int:  # pragma: no cover - machine code
    """The hash of each window of n words: a polynomial of their hashes, modulo 2**64, that rolls on from word to word."""
    top, rolled, salt = _BASE, np.uint64(0), np.uint64(n) * _SEED
    for _ in range(n - 1):
        top *= _BASE
    for i in range(start, end):
        rolled = rolled * _BASE + hashes[i]
        if i >= start + n:
            rolled -= top * hashes[i - n]
        if i >= start + n - 1:
            out[place] = _mix(rolled + salt)
            place += 1
    return place


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ascending(found: Any, counts: Any, spare: Any) -> int:  # pragma: no cover - machine code
    """Sorts hashes in place and leaves each once; returns how many. Linear: a hash says by itself about where it belongs.

    Equal hashes lie together after the first pass, so that a text of one word a million times costs no more.
    """
    n = len(found)
    if n > 16:
        counts[: n + 1] = 0
        for h in found:
            counts[np.int64(((h >> _32) * np.uint64(n)) >> _32) + 1] += 1
        for i in range(n):
            counts[i + 1] += counts[i]
        for h in found:
            bucket = np.int64(((h >> _32) * np.uint64(n)) >> _32)
            spare[counts[bucket]] = h
            counts[bucket] += 1
        found[:] = spare[:n]
    kept = 0
    for i in range(n):
        h = found[i]
        j = kept
        while j > 0 and found[j - 1] > h:
            j -= 1
        if j > 0 and found[j - 1] == h:
            continue
        for m in range(kept, j, -1):
            found[m] = found[m - 1]
        found[j] = h
        kept += 1
    return kept


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shingles(hashes: Any, starts: Any, k: int, out: Any, ends: Any) -> None:  # pragma: no cover - machine code
    longest = 0
    for t in range(len(starts) - 1):
        longest = max(longest, starts[t + 1] - starts[t])
    counts: Any = np.empty(longest + 2, np.int64)
    spare: Any = np.empty(longest, np.uint64)
    place = 0
    for t in range(len(starts) - 1):
        start, end = starts[t], starts[t + 1]
        last = _windows(hashes, start, end, max(1, min(k, end - start)), out, place)
        place += _ascending(out[place:last], counts, spare)
        ends[t + 1] = place


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ngrams(hashes: Any, starts: Any, n: int, out: Any, ends: Any) -> None:  # pragma: no cover - machine code
    place = 0
    for t in range(len(starts) - 1):
        place = _windows(hashes, starts[t], starts[t + 1], n, out, place)
        ends[t + 1] = place


def shingles(words: Words, k: int) -> tuple[Any, Any]:
    """The distinct windows of k words of each text, hashed, ascending: (uint64 flat, int64 starts).

    A text of fewer than k words, but at least one, has one shingle: itself. The hash depends on the words and their
    order, and on nothing else: shingles of different texts, datasets and machines can be compared.
    """
    flat: Any = np.empty(len(words.hashes), np.uint64)
    ends: Any = np.zeros(len(words) + 1, np.int64)
    _shingles(words.hashes, words.starts, k, flat, ends)
    return flat[: ends[-1]], ends


def ngrams(words: Words, n: int) -> tuple[Any, Any]:
    """The hash of each window of n words in order of place, repeats kept: (uint64 flat, int64 starts).

    The window that starts at word i of text t is ``flat[starts[t] + i]``. A text of fewer than n words has none.
    """
    flat: Any = np.empty(len(words.hashes), np.uint64)
    ends: Any = np.zeros(len(words) + 1, np.int64)
    _ngrams(words.hashes, words.starts, n, flat, ends)
    return flat[: ends[-1]], ends
