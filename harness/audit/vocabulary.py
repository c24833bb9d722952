"""The shingles of a dataset, numbered from rare to common, and in how many texts of units each stands.

That is most of the work of the exact join, and a change of a few rows changes little of it: what was made once is kept beside
the facts, and the next audit adds what came and takes away what went. Numbers are names: any order of them gives the same pairs
(``join``), so the old order stays, and shingles that were never met come before all others. Frequencies are exact either way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from harness.audit import threads
from harness.audit.kept import read, write
from harness.audit.keys import lookup
from harness.errors import AuditError

__all__ = ["Numbered", "Spoken", "numbered"]

_CLASSES = 1024  # of frequency, by which shingles are numbered: above it one is as common as another
_CHANGED = 5  # with more than a fifth of the shingles in other texts than those kept, all are numbered anew
_KEPT = ("keys", "weight", "starts", "ids", "df", "shingles")  # of texts, and of numbers


class Spoken(NamedTuple):
    """Distinct texts and their distinct shingles: those of text i are ``flat[begin[i]:end[i]]`` (uint64)."""

    keys: Any  # (t, 2) uint64: what a text is known by
    weight: Any  # int64[t]: how many units hold it
    flat: Any
    begin: Any
    end: Any


class Numbered(NamedTuple):
    """The same in numbers: those of text i are ``ids[begin[i]:end[i]]`` (int32), ascending if no number is new."""

    ids: Any
    begin: Any
    end: Any
    df: Any  # int32: how many texts of units hold the shingle of this number; 0: none any more
    known: int  # numbers from here on are new, and no order is in them


def numbered(spoken: Spoken, kept: Path | None) -> Numbered:
    """Numbers the shingles, from what is in the folder ``kept`` if that is of much the same texts; else anew, and keeps that."""
    made = None if kept is None else _updated(spoken, kept)
    if made is None:
        made, shingles = _anew(spoken)
        if kept is not None:
            starts: Any = np.append(made.begin, len(made.ids))  # end to end, in order
            arrays = (spoken.keys, spoken.weight, starts, made.ids, made.df, shingles)
            write(kept / "vocabulary", dict(zip(_KEPT, arrays, strict=True)))
    return made


# --- anew -----------------------------------------------------------------------------------------
# Shingles are dealt out by their high bits, so that the table of one bucket fits the processor's cache; each worker deals the texts of its
# range, then counts the buckets of its own, then goes through its texts again and takes each shingle's number from where it was put.


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _counted(flat: Any, begin: Any, end: Any, shift: Any, counts: Any) -> None:  # pragma: no cover - machine code
    for t in range(len(begin)):
        for i in range(begin[t], end[t]):
            counts[flat[i] >> shift] += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _dealt(flat: Any, begin: Any, end: Any, weight: Any, shift: Any, at: Any, keys: Any, weights: Any) -> None:  # pragma: no cover
    for t in range(len(begin)):
        for i in range(begin[t], end[t]):
            bucket = flat[i] >> shift
            keys[at[bucket]], weights[at[bucket]] = flat[i], weight[t]
            at[bucket] += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _bucket(keys: Any, weights: Any, frequency: Any) -> Any:  # pragma: no cover - machine code
    """The shingles of a bucket in order of appearance. In place ``keys`` become places in that, ``weights[place]`` its df."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    place: Any = np.full(size, -1, np.int32)
    own: Any = np.empty(len(keys), np.uint64)
    mask, found = np.uint64(size - 1), 0
    for i in range(len(keys)):
        key, weight = keys[i], weights[i]
        slot = key & mask
        while place[slot] >= 0 and own[place[slot]] != key:
            slot = (slot + np.uint64(1)) & mask
        if place[slot] < 0:
            place[slot], own[found], weights[found] = found, key, 0
            found += 1
        at = place[slot]
        weights[at] += weight
        keys[i] = np.uint64(at)
    for at in range(found):
        frequency[min(weights[at], len(frequency) - 1)] += 1
    return own[:found].copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number(keys: Any, weights: Any, own: Any, next_id: Any, shingles: Any, df: Any) -> None:  # pragma: no cover - machine code
    for at in range(len(own)):
        frequency = min(weights[at], len(next_id) - 1)
        number = next_id[frequency]
        next_id[frequency] += 1
        shingles[number], df[number] = own[at], weights[at]
        weights[at] = number
    for i in range(len(keys)):
        keys[i] = np.uint64(weights[np.int64(keys[i])])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _taken(flat: Any, begin: Any, end: Any, shift: Any, at: Any, keys: Any, place: Any, ids: Any) -> None:  # pragma: no cover
    for t in range(len(begin)):
        n = place[t]
        for i in range(begin[t], end[t]):
            bucket = flat[i] >> shift
            ids[n] = np.int64(keys[at[bucket]])
            at[bucket] += 1
            n += 1
        ids[place[t] : n].sort()


def _anew(spoken: Spoken) -> tuple[Numbered, Any]:
    """The shingles in numbers, and which shingle (uint64) each number is."""
    flat, begin, end, weight, jobs = spoken.flat, spoken.begin, spoken.end, spoken.weight, threads.count()
    place = np.concatenate(([0], np.cumsum(end - begin)))
    total = int(place[-1])
    bits = min(12, max(1, (total >> 15).bit_length()))  # about 32,768 shingles a bucket
    shift = np.uint64(64 - bits)
    texts = threads.shares(place, jobs)

    counts: Any = np.zeros((jobs, 1 << bits), np.int64)
    threads.each(lambda j: _counted(flat, begin[texts[j]], end[texts[j]], shift, counts[j]), jobs)
    starts = np.concatenate(([0], np.cumsum(counts.T)))  # by bucket, then by worker: the order of the texts, whoever deals them
    at = np.ascontiguousarray(starts[:-1].reshape(-1, jobs).T)
    buckets = starts[::jobs]
    keys: Any = np.empty(total, np.uint64)
    weights: Any = np.empty(total, np.int32)
    threads.each(lambda j: _dealt(flat, begin[texts[j]], end[texts[j]], weight[texts[j]], shift, at[j].copy(), keys, weights), jobs)

    frequency: Any = np.zeros((1 << bits, _CLASSES), np.int64)
    own: list[Any] = [None] * (1 << bits)

    def count(job: int) -> None:
        for b in range(job, 1 << bits, jobs):
            part = slice(buckets[b], buckets[b + 1])
            own[b] = _bucket(keys[part], weights[part], frequency[b])

    threads.each(count, jobs)
    found = int(frequency.sum())
    if found > np.iinfo(np.int32).max:
        raise AuditError(f"{found} distinct shingles; expected at most 2**31 - 1: audit the dataset in several files")
    next_id = (np.cumsum(frequency.T) - frequency.T.ravel()).reshape(frequency.T.shape).T.copy()  # by df, then by bucket
    shingles: Any = np.empty(found, np.uint64)
    df: Any = np.empty(found, np.int32)

    def number(job: int) -> None:
        for b in range(job, 1 << bits, jobs):
            part = slice(buckets[b], buckets[b + 1])
            _number(keys[part], weights[part], own[b], next_id[b], shingles, df)

    threads.each(number, jobs)
    ids: Any = np.empty(total, np.int32)
    threads.each(lambda j: _taken(flat, begin[texts[j]], end[texts[j]], shift, at[j], keys, place[:-1][texts[j]], ids), jobs)
    return Numbered(ids, place[:-1], place[1:], df, found), shingles


# --- from what is kept ----------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shifted(ids: Any, starts: Any, texts: Any, by: Any, df: Any) -> None:  # pragma: no cover - machine code
    """Texts that more units hold than before, or fewer."""
    for t in range(len(texts)):
        for i in range(starts[texts[t]], starts[texts[t] + 1]):
            df[ids[i]] += by[t]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _distinct(flat: Any, begin: Any, end: Any, table: Any, places: Any, own: Any) -> int:  # pragma: no cover - machine code
    """The distinct shingles of texts in order of appearance, ``own``; of each shingle the place in it, ``places``."""
    mask, found, n = np.uint64(len(table) - 1), 0, 0
    for t in range(len(begin)):
        for i in range(begin[t], end[t]):
            slot = flat[i] & mask
            while table[slot] >= 0 and own[table[slot]] != flat[i]:
                slot = (slot + np.uint64(1)) & mask
            if table[slot] < 0:
                table[slot], own[found] = found, flat[i]
                found += 1
            places[n] = table[slot]
            n += 1
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _met(shingles: Any, table: Any, own: Any, ids: Any) -> None:  # pragma: no cover - machine code
    """The number of each shingle of ``own`` that is among those kept."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(shingles)):
        slot = shingles[i] & mask
        while table[slot] >= 0:
            if own[table[slot]] == shingles[i]:
                ids[table[slot]] = i
                break
            slot = (slot + np.uint64(1)) & mask


def _updated(spoken: Spoken, kept: Path) -> Numbered | None:
    """What is kept, with what changed since; None where nothing is, or too much changed."""
    old = read(kept / "vocabulary", _KEPT)
    if old is None:
        return None
    starts, ids, known = old["starts"], old["ids"], len(old["df"])
    held = lookup(old["keys"], spoken.keys)  # hash tables of digests: the same text is the same shingles
    stays, new = np.flatnonzero(held >= 0), np.flatnonzero(held < 0)
    by = -old["weight"]
    by[held[stays]] += spoken.weight[stays]
    changed = np.flatnonzero(by)
    gone: Any = np.ones(len(by), bool)
    gone[held[stays]] = False
    begin, end = spoken.begin[new], spoken.end[new]
    more = int((end - begin).sum())
    if _CHANGED * (more + int(np.diff(starts)[gone].sum())) > len(ids):
        return None
    df = old["df"].copy()
    _shifted(ids, starts, changed, by[changed].astype(np.int32), df)

    table: Any = np.full(1 << max(4, (2 * more).bit_length()), -1, np.int32)
    places: Any = np.empty(more, np.int32)
    own: Any = np.empty(more, np.uint64)
    own = own[: _distinct(spoken.flat, begin, end, table, places, own)]
    of_own: Any = np.full(len(own), -1, np.int32)
    _met(old["shingles"], table, own, of_own)
    never = np.flatnonzero(of_own < 0)
    of_own[never] = known + np.arange(len(never))
    ids_more = of_own[places]
    df = np.concatenate((df, np.zeros(len(never), np.int32)))
    ends = np.cumsum(end - begin)
    _shifted(ids_more, np.concatenate(([0], ends)), np.arange(len(new)), spoken.weight[new].astype(np.int32), df)

    place: Any = np.empty((len(held), 2), np.int64)
    place[stays] = np.stack((starts[:-1], starts[1:]), 1)[held[stays]]
    place[new] = np.stack((ends - (end - begin), ends), 1) + len(ids)
    return Numbered(np.concatenate((ids, ids_more)), place[:, 0].copy(), place[:, 1].copy(), df, known)
