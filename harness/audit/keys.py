"""128-bit digests as numbers: hash tables in machine code, because a dictionary of a million byte strings is slow and large."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["dense", "lookup"]


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
    numbers, firsts = np.empty(len(digests), np.int32), np.empty(len(digests), np.int64)
    found = _insert(digests, _table(len(digests)), numbers, firsts)
    return numbers, firsts[:found].copy()


def lookup(known: Any, asked: Any) -> Any:
    """Where each asked digest stands in ``known`` (distinct digests): int32, -1 for none."""
    known, asked = np.ascontiguousarray(known), np.ascontiguousarray(asked)
    table, out = _table(len(known)), np.empty(len(asked), np.int32)
    _insert(known, table, np.empty(len(known), np.int32), np.empty(len(known), np.int64))
    _find(known, table, asked, out)
    return out
