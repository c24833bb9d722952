"""128-bit digests as numbers: hash tables in machine code, because a dictionary of a million byte strings is slow and large."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["Known", "csr", "dense", "lookup", "spread"]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _insert(digests: Any, table: Any, numbers: Any, firsts: Any) -> int:  # pragma: no cover - machine code
    mask = len(table) - 1
    found = 0
    for i in range(len(digests)):
        high, low = digests[i, 0], digests[i, 1]
        slot = np.int64(high & np.uint64(mask))
        while True:
            j = table[slot]
            if j < 0:
                table[slot] = i
                numbers[i] = found
                firsts[found] = i
                found += 1
                break
            if digests[j, 0] == high and digests[j, 1] == low:
                numbers[i] = numbers[j]
                break
            slot = (slot + 1) & mask
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(digests: Any, table: Any, asked: Any, out: Any) -> None:  # pragma: no cover - machine code
    mask = len(table) - 1
    for i in range(len(asked)):
        high, low = asked[i, 0], asked[i, 1]
        slot = np.int64(high & np.uint64(mask))
        out[i] = -1
        while True:
            j = table[slot]
            if j < 0:
                break
            if digests[j, 0] == high and digests[j, 1] == low:
                out[i] = j
                break
            slot = (slot + 1) & mask


def _table(n: int) -> Any:
    return np.full(1 << max(4, (2 * n - 1).bit_length()), -1, np.int32)


def dense(digests: Any) -> tuple[Any, Any]:
    """Numbers each digest of an (n, 2) uint64 array by first appearance: (number of each, place of each number's first)."""
    digests = np.ascontiguousarray(digests)
    numbers: Any = np.empty(len(digests), np.int32)
    firsts: Any = np.empty(len(digests), np.int64)
    found = _insert(digests, _table(len(digests)), numbers, firsts)
    return numbers, firsts[:found].copy()


def lookup(known: Any, asked: Any) -> Any:
    """Where each asked digest stands in ``known`` (distinct digests): int32, -1 for none."""
    known, asked = np.ascontiguousarray(known), np.ascontiguousarray(asked)
    table = _table(len(known))
    out: Any = np.empty(len(asked), np.int32)
    _insert(known, table, np.empty(len(known), np.int32), np.empty(len(known), np.int64))
    _find(known, table, asked, out)
    return out


class Known:
    """A growing set of digests."""

    def __init__(self) -> None:
        self._digests: Any = np.empty((1024, 2), np.uint64)
        self._table = _table(1024)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, digests: Any) -> Any:
        """Adds an (n, 2) uint64 array; returns bool[n]: which were not known before, the first of equal ones."""
        if self._n + len(digests) > len(self._digests):
            grown: Any = np.empty((2 * (self._n + len(digests)), 2), np.uint64)
            grown[: self._n] = self._digests[: self._n]
            self._digests, self._table = grown, _table(len(grown))
            _put(self._digests, self._table, 0, self._n)
        new: Any = np.zeros(len(digests), np.bool_)
        self._n = _add(self._digests, self._table, self._n, np.ascontiguousarray(digests), new)
        return new


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put(digests: Any, table: Any, begin: int, end: int) -> None:  # pragma: no cover - machine code
    mask = len(table) - 1
    for i in range(begin, end):
        slot = np.int64(digests[i, 0] & np.uint64(mask))
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = i


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(digests: Any, table: Any, n: int, more: Any, new: Any) -> int:  # pragma: no cover - machine code
    mask = len(table) - 1
    for i in range(len(more)):
        high, low = more[i, 0], more[i, 1]
        slot = np.int64(high & np.uint64(mask))
        while True:
            j = table[slot]
            if j < 0:
                digests[n, 0], digests[n, 1] = high, low
                table[slot] = n
                n += 1
                new[i] = True
                break
            if digests[j, 0] == high and digests[j, 1] == low:
                break
            slot = (slot + 1) & mask
    return n


# --- places by key --------------------------------------------------------------------------------


def csr(keys: Any, n: int) -> tuple[Any, Any]:
    """Places of each key, in order: (int64[n + 1] starts, places)."""
    return np.concatenate(([0], np.cumsum(np.bincount(keys, minlength=n)))), np.argsort(keys, kind="stable")


def spread(starts: Any, keys: Any) -> tuple[Any, Any]:
    """For keys of a CSR all their places: (which entry of ``keys``, place)."""
    sizes = starts[keys + 1] - starts[keys]
    which: Any = np.repeat(np.arange(len(keys)), sizes)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[keys][which]
