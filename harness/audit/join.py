"""The exact set-similarity join: every pair of sets with Jaccard similarity at least num / den, found, none missed.

A prefix filter finds candidates (AllPairs, Bayardo, Ma, Srikant 2007; PPJoin, Xiao et al. 2008): tokens are ranked
from rare to common, and two sets that are similar enough share one of their few rarest. Filters by length, by
position, and by 64 bits that differ where the sets do (Sandes, Teodoro, Melo 2020) leave out most candidates; the
rest is counted, token by token, until it cannot succeed. Integers decide, no float.

Cost. A pair is looked at once for each prefix token it shares, and counted at most once. If no token lies in more
than c sets, that is at most c / 2 looks and counted tokens for each token of the input: linear in the data. The caller
sees to c (``near`` leaves out what is common); without such a limit, n sets over the same few tokens have n * n / 2
candidates, in this join as in any. Equal sets are taken as one by ``clusters``. Memory: 12 bytes for each prefix
token, 28 for each set, 16 for each token that exists; ``pairs`` adds 24 bytes for each pair found, twice while it grows.
A large set costs what it holds: it meets only sets of about its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from harness.audit.keys import dense
from harness.errors import AuditError

__all__ = [
    "Sets",
    "checked",
    "clusters",
    "components",
    "cross",
    "leaders",
    "least",
    "pairs",
    "ranked",
    "shuffled",
    "similarities",
    "spanning",
]

_NO_CUT = 2**31 - 1
_PIVOTS = 4
_ROUNDING = 1e-9  # of distances: far more than that of doubles, so that no pair is left out that integers would tell apart
_LIMIT = 1_000_000  # of a threshold's denominator: times the largest set it stays far below 2**63


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of tokens: ``tokens[starts[i]:starts[i + 1]]`` ascending (int32), each the token's rank from rare to common.

    ``sizes`` (int64) counts all tokens of a set. What it counts beyond those listed lies in no other set, and is taken
    to come before them: tokens that can match nothing need not be stored.

    Tokens of rank ``cut`` and above are *template*: too common to say that two sets belong together, and not counted in
    ``sizes``. Two sets are then as similar as the smaller of two Jaccard similarities: of what is their own, and of all.
    """

    tokens: Any
    starts: Any
    sizes: Any
    cut: int = _NO_CUT

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def ends(self) -> Any:
        """Where each set's own tokens end, and template begins."""
        ends: Any = np.empty(len(self), np.int64)
        _ends(self.tokens, self.starts, self.cut, ends)
        return ends

    def taken(self, which: Any) -> Sets:
        """Those sets alone, in that order."""
        which = np.asarray(which, np.int64)
        starts = np.concatenate(([0], np.cumsum(self.starts[which + 1] - self.starts[which])))
        tokens = np.empty(starts[-1], np.int32)
        _copy(self.tokens, self.starts, which, starts, tokens)
        return Sets(tokens, starts, self.sizes[which], self.cut)


def ranked(sets: Sequence[set[Any]]) -> Sets:
    """Sets of any sortable things as Sets: for small numbers of them, and for tests."""
    numbers = sorted({token for one in sets for token in one})
    found = dict.fromkeys(numbers, 0)
    for one in sets:
        for token in one:
            found[token] += 1
    rank = {token: i for i, token in enumerate(sorted(numbers, key=lambda token: found[token]))}  # sorted is stable
    lists = [sorted(rank[token] for token in one) for one in sets]
    sizes = np.array([len(one) for one in lists], np.int64)
    flat = np.array([token for one in lists for token in one], np.int32)
    return Sets(flat, np.concatenate(([0], np.cumsum(sizes))).astype(np.int64), sizes)


# --- machine code ---------------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy(tokens: Any, starts: Any, which: Any, ends: Any, out: Any) -> None:  # pragma: no cover - machine code
    for i in range(len(which)):
        out[ends[i] : ends[i + 1]] = tokens[starts[which[i]] : starts[which[i] + 1]]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ends(tokens: Any, starts: Any, cut: int, out: Any) -> None:  # pragma: no cover - machine code
    for i in range(len(out)):
        out[i] = starts[i] + np.searchsorted(tokens[starts[i] : starts[i + 1]], cut)


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _ceil(a: int, b: int) -> int:  # pragma: no cover - machine code
    return (a + b - 1) // b


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _common(tokens: Any, i: int, i_end: int, j: int, j_end: int, need: int) -> int:  # pragma: no cover - machine code
    """How many tokens two ascending runs share; -1 as soon as it is clear that they are fewer than ``need``."""
    left, right, have = i_end - i - need, j_end - j - need, 0  # how many tokens of either may go without a partner
    while left >= 0 and right >= 0 and i < i_end and j < j_end:
        a, b = tokens[i], tokens[j]
        have += a == b
        i += a <= b
        j += b <= a
        left -= a < b
        right -= b < a
    return have if have >= need else -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _prefix(starts: Any, ends: Any, i: int, need: int) -> Any:  # pragma: no cover - machine code
    """Where the prefix of set i ends that shares a token with every set with which it shares ``need``."""
    return starts[i] + min(ends[i] - starts[i], max(0, ends[i] - starts[i] - need + 1))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _whole(starts: Any, ends: Any, sizes: Any, i: int) -> Any:  # pragma: no cover - machine code
    """How many tokens set i has, template and all."""
    return sizes[i] + starts[i + 1] - ends[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _alike(
    tokens: Any, starts: Any, ends: Any, sizes: Any, x: int, p: int, y: int, q: int, num: int, den: int
) -> Any:  # pragma: no cover - machine code
    """How many of their own tokens two sets share that share none before p and q; -1 if they are less similar than num / den."""
    shared = _common(tokens, p, ends[x], q, ends[y], _ceil(num * (sizes[x] + sizes[y]), num + den))
    if shared >= 0 and (ends[x] < starts[x + 1] or ends[y] < starts[y + 1]):
        need = _ceil(num * (_whole(starts, ends, sizes, x) + _whole(starts, ends, sizes, y)), num + den)
        if _common(tokens, ends[x], starts[x + 1], ends[y], starts[y + 1], need - shared) < 0:
            return -1
    return shared


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _similarity(tokens: Any, starts: Any, ends: Any, sizes: Any, x: int, y: int) -> Any:  # pragma: no cover - machine code
    """The similarity of two sets, as shared, union: the smaller of that of their own tokens and that of all."""
    shared = _common(tokens, starts[x], ends[x], starts[y], ends[y], 0)
    union = sizes[x] + sizes[y] - shared
    of_all = shared + _common(tokens, ends[x], starts[x + 1], ends[y], starts[y + 1], 0)
    union_of_all = _whole(starts, ends, sizes, x) + _whole(starts, ends, sizes, y) - of_all
    return (shared, union) if shared * union_of_all <= of_all * union else (of_all, union_of_all)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _signatures(tokens: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    """The parity of the tokens of each set in 64 bits: where two differ, the sets do."""
    for i in range(len(out)):
        bits = np.uint64(0)
        for p in range(starts[i], starts[i + 1]):
            bits ^= np.uint64(1) << ((np.uint64(tokens[p]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58))
        out[i] = bits


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _ones(bits: Any) -> Any:  # pragma: no cover - machine code
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    return np.int64((((bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(parent: Any, i: int) -> int:  # pragma: no cover - machine code
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _index(tokens: Any, starts: Any, ends: Any, sizes: Any, num: int, den: int, part: int, parts: int, top: int) -> Any:  # pragma: no cover
    """Which sets hold a token in their prefix, and where: in order of the sets."""
    begins: Any = np.zeros(top + 2, np.int64)
    for y in range(len(sizes)):
        for q in range(starts[y], _prefix(starts, ends, y, _ceil(2 * num * sizes[y], num + den))):
            if parts == 1 or tokens[q] % parts == part:
                begins[tokens[q] + 2] += 1
    for token in range(top):
        begins[token + 2] += begins[token + 1]
    holders, places = np.empty(begins[top + 1], np.int32), np.empty(begins[top + 1], np.int64)
    for y in range(len(sizes)):
        for q in range(starts[y], _prefix(starts, ends, y, _ceil(2 * num * sizes[y], num + den))):
            if parts == 1 or tokens[q] % parts == part:
                at = begins[tokens[q] + 1]
                holders[at], places[at] = y, q
                begins[tokens[q] + 1] = at + 1
    return begins, holders, places


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _join(
    tokens: Any, starts: Any, ends: Any, sizes: Any, num: int, den: int, part: int, parts: int, top: int, side: Any, parent: Any
) -> Any:  # pragma: no cover - machine code
    """Pairs of sets, which are in ascending order of size. With ``parent`` only pairs that join two trees of it, else all.

    A pair belongs to the part of the first token it shares, which both have in their prefix: there its first look
    says how much can follow. In another part it is left out, or counted in vain.
    """
    signatures: Any = np.empty(len(sizes), np.uint64)
    _signatures(tokens, starts, signatures)
    begins, holders, places = _index(tokens, starts, ends, sizes, num, den, part, parts, top)
    seen: Any = np.full(len(sizes), -1, np.int32)
    found: Any = np.empty((1024, 3), np.int64)
    n = 0
    for x in range(len(sizes)):
        smallest, whole, listed = _ceil(num * sizes[x], den), _whole(starts, ends, sizes, x), starts[x + 1] - starts[x]
        for p in range(starts[x], _prefix(starts, ends, x, smallest)):
            token = tokens[p]
            if parts > 1 and token % parts != part:
                continue
            last = begins[token + 1]
            at = begins[token]
            while at < last and sizes[holders[at]] < smallest:  # nor will they be large enough for any set to come
                at += 1
            begins[token] = at
            while at < last:
                y, q = np.int64(holders[at]), places[at]
                if y >= x:
                    break
                at += 1
                if seen[y] == x:
                    continue
                seen[y] = x
                need = _ceil(num * (sizes[x] + sizes[y]), num + den)
                if min(ends[x] - p, ends[y] - q) < need or (len(side) > 0 and side[x] == side[y]):
                    continue
                need = _ceil(num * (whole + _whole(starts, ends, sizes, y)), num + den)
                if _ones(signatures[x] ^ signatures[y]) > listed + starts[y + 1] - starts[y] - 2 * need:
                    continue  # they differ in more listed tokens than they may
                if len(parent) > 0 and _find(parent, x) == _find(parent, y):
                    continue
                shared = _alike(tokens, starts, ends, sizes, x, p, y, q, num, den)
                if shared < 0:
                    continue
                if len(parent) > 0:
                    parent[_find(parent, x)] = _find(parent, y)
                elif parts > 1 and _common(tokens, starts[x], p, starts[y], q, 1) > 0:
                    continue  # an earlier token is shared: the pair of another part
                if n == len(found):
                    more: Any = np.empty((2 * n, 3), np.int64)
                    more[:n] = found
                    found = more
                found[n, 0], found[n, 1], found[n, 2] = x, y, shared
                n += 1
    return found[:n]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _leaders(
    tokens: Any, starts: Any, ends: Any, sizes: Any, num: int, den: int, members: Any, label: Any, top: int, leader: Any
) -> None:  # pragma: no cover - machine code
    begins: Any = np.zeros(top + 2, np.int64)
    for x in members:
        for p in range(starts[x], _prefix(starts, ends, x, _ceil(num * sizes[x], den))):
            begins[tokens[p] + 1] += 1
    for token in range(top + 1):
        begins[token + 1] += begins[token]
    lasts = begins.copy()
    holders, places = np.empty(begins[top + 1], np.int32), np.empty(begins[top + 1], np.int64)
    seen: Any = np.full(len(sizes), -1, np.int32)
    for x in members:
        best: Any = len(sizes)
        prefix = _prefix(starts, ends, x, _ceil(num * sizes[x], den))
        for p in range(starts[x], prefix):
            for at in range(begins[tokens[p]], lasts[tokens[p]]):
                y, q = np.int64(holders[at]), places[at]
                if y >= best:
                    break  # holders stand in order
                if seen[y] == x or label[y] != label[x]:
                    continue
                seen[y] = x
                need = _ceil(num * (sizes[x] + sizes[y]), num + den)
                if min(ends[x] - p, ends[y] - q) >= need and _alike(tokens, starts, ends, sizes, x, p, y, q, num, den) >= 0:
                    best = y
                    break
        if best < len(sizes):
            leader[x] = best
            continue
        for p in range(starts[x], prefix):
            at = lasts[tokens[p]]
            holders[at], places[at] = x, p
            lasts[tokens[p]] = at + 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _least(
    tokens: Any, starts: Any, ends: Any, sizes: Any, members: Any, groups: Any, nums: Any, dens: Any
) -> None:  # pragma: no cover - machine code
    """Jaccard distance is a metric (Levandowsky, Winter 1971), so two sets that are near a third cannot be far apart: what the distances
    to the first few members prove to be no less similar than the least pair so far is not compared."""
    longest = 1
    for c in range(len(groups) - 1):
        longest = max(longest, groups[c + 1] - groups[c])
    away: Any = np.empty((longest, _PIVOTS), np.float64)
    for c in range(len(groups) - 1):
        num, den, first = np.int64(1), np.int64(1), groups[c]
        for i in range(first, groups[c + 1]):
            for j in range(first, i if num > 0 else first):
                if j - first >= _PIVOTS:
                    apart = 1.0
                    for pivot in range(_PIVOTS):
                        apart = min(apart, away[i - first, pivot] + away[j - first, pivot])
                    if (1.0 - apart - _ROUNDING) * den >= num:
                        continue
                shared, union = _similarity(tokens, starts, ends, sizes, members[i], members[j])
                if j - first < _PIVOTS:
                    away[i - first, j - first] = 1.0 - shared / max(union, 1)
                if shared * den < num * union:
                    num, den = shared, union
            for pivot in range(i - first, _PIVOTS):  # it is one, or comes before it
                away[i - first, pivot] = 0.0 if pivot == i - first else 1.0
        nums[c], dens[c] = num, den


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _similarities(
    tokens: Any, starts: Any, ends: Any, sizes: Any, left: Any, right: Any, nums: Any, dens: Any
) -> None:  # pragma: no cover - machine code
    for i in range(len(left)):
        nums[i], dens[i] = _similarity(tokens, starts, ends, sizes, left[i], right[i])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _forest(left: Any, right: Any, parent: Any) -> None:  # pragma: no cover - machine code
    for e in range(len(left)):
        a, b = _find(parent, left[e]), _find(parent, right[e])
        parent[max(a, b)] = min(a, b)
    for i in range(len(parent)):
        parent[i] = _find(parent, i)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _set_digests(tokens: Any, starts: Any, ends: Any, sizes: Any, out: Any) -> None:  # pragma: no cover - machine code
    """128 bits of each set; of one with a token that no other has, its own number, spread for the hash table."""
    for x in range(len(sizes)):
        if sizes[x] != ends[x] - starts[x] or sizes[x] == 0:
            out[x, 0], out[x, 1] = np.uint64(x) * np.uint64(0xBF58476D1CE4E5B9), np.uint64(0)
            out[x, 0] ^= out[x, 0] >> np.uint64(32)
            continue
        a, b = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x2545F4914F6CDD1D)
        for p in range(starts[x], starts[x + 1]):
            a = (a ^ np.uint64(tokens[p])) * np.uint64(0xBF58476D1CE4E5B9)
            b = (b + np.uint64(tokens[p])) * np.uint64(0x94D049BB133111EB)
            a, b = a ^ (a >> np.uint64(29)), b ^ (b >> np.uint64(32))
        out[x, 0], out[x, 1] = a, b | np.uint64(1)


# --- the interface --------------------------------------------------------------------------------


def checked(num: int, den: int) -> None:
    """Raises AuditError unless num / den is a Jaccard threshold: above 0, at most 1."""
    if not 0 < num <= den <= _LIMIT:
        raise AuditError(f"a Jaccard threshold of {num}/{den}; expected a fraction above 0 and at most 1, of a denominator up to {_LIMIT}")


def _run(sets: Sets, num: int, den: int, part: int, parts: int, side: Any = None, threads: int = 0) -> tuple[Any, Any, Any]:
    """The pairs of a part; with ``threads`` only pairs enough to connect them, found by as many threads."""
    checked(num, den)
    if not 0 <= part < parts:
        raise AuditError(f"part {part} of {parts}; parts are numbered from 0")
    looks = np.flatnonzero(_looks(sets, num, den) > 0)  # the others share no token of their prefix
    order = looks[np.lexsort((sets.tokens[sets.starts[looks]], sets.sizes[looks]))]  # what shares a rare token lies together in memory
    inside = sets.taken(order)
    ends, top = inside.ends, _top(inside)
    side = np.zeros(0, np.int8) if side is None else np.asarray(side, np.int8)[order]

    def work(thread: int) -> Any:
        parent = np.arange(len(order) if threads else 0)
        own, of = part + parts * thread, parts * max(1, threads)
        return _join(inside.tokens, inside.starts, ends, inside.sizes, num, den, own, of, top, side, parent)

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = np.concatenate(list(pool.map(work, range(threads))))
    else:
        found = work(0)
    a, b = order[found[:, 0]], order[found[:, 1]]
    return np.minimum(a, b), np.maximum(a, b), found[:, 2]


def _top(sets: Sets) -> int:
    """One more than the rank of any token that is not template."""
    return min(int(sets.tokens.max(initial=-1)) + 1, sets.cut)


def _looks(sets: Sets, num: int, den: int) -> Any:
    """How many listed tokens the prefix of each set has."""
    need = -(-num * sets.sizes // den)
    listed = sets.ends - sets.starts[:-1]
    return np.where(sets.sizes > 0, np.clip(listed - need + 1, 0, listed), 0)


def pairs(sets: Sets, num: int, den: int, *, part: int = 0, parts: int = 1) -> tuple[Any, Any, Any]:
    """All pairs of sets with |A and B| / |A or B| >= num / den: (i, j, |A and B|), i < j, each pair once, ascending.

    With ``parts`` only the pairs whose rarest shared token is of this part (token % parts): the parts are disjoint and
    together the whole, and a part needs only the sets that have such a token in their prefix. Raises AuditError on a
    threshold outside (0, 1].
    """
    i, j, shared = _run(sets, num, den, part, parts)
    order = np.lexsort((j, i))
    return i[order], j[order], shared[order]


def cross(left: Sets, right: Sets, num: int, den: int) -> tuple[Any, Any, Any]:
    """As ``pairs``, between two collections over the same ranks: (place in left, place in right, |A and B|)."""
    both = Sets(
        np.concatenate((left.tokens, right.tokens)),
        np.concatenate((left.starts, right.starts[1:] + left.starts[-1])),
        np.concatenate((left.sizes, right.sizes)),
        left.cut,
    )
    i, j, shared = _run(both, num, den, 0, 1, np.arange(len(both)) >= len(left))
    order = np.lexsort((j, i))
    return i[order], j[order] - len(left), shared[order]


def spanning(sets: Sets, num: int, den: int, *, part: int = 0, parts: int = 1, threads: int = 1) -> tuple[Any, Any]:
    """Pairs enough to connect what ``pairs`` connects: (i, j), i < j; at most n - 1 of n sets for each thread.

    What is connected already is not counted again. The pairs of all parts together connect what those of the whole do.
    """
    digests: Any = np.empty((len(sets), 2), np.uint64)
    _set_digests(sets.tokens, sets.starts, sets.ends, sets.sizes, digests)
    number, first = dense(digests)
    i, j, _ = _run(sets.taken(first), num, den, part, parts, threads=threads)
    copy = np.flatnonzero(first[number] != np.arange(len(sets)))
    return np.concatenate((first[number[copy]], first[i])), np.concatenate((copy, first[j]))


def shuffled(sets: Sets, num: int, den: int, parts: int) -> tuple[Any, Any]:
    """Which sets each part of the join needs: (set, part), ascending; those with a token of the part in their prefix."""
    checked(num, den)
    looks = _looks(sets, num, den)
    holder: Any = np.repeat(np.arange(len(sets)), looks)
    place = np.arange(len(holder)) + np.repeat(sets.starts[:-1] - (np.cumsum(looks) - looks), looks)
    which, part = np.divmod(np.unique(holder * parts + sets.tokens[place] % parts), parts)
    return which, part


def components(n: int, left: Any, right: Any) -> Any:
    """The connected components of a graph on n nodes, given its edges: for each node the smallest of its component."""
    parent = np.arange(n)
    _forest(np.asarray(left, np.int64), np.asarray(right, np.int64), parent)
    return parent


def clusters(sets: Sets, num: int, den: int, *, threads: int = 1) -> Any:
    """The connected components of ``pairs``: for each set the smallest member of its component (int64)."""
    return components(len(sets), *spanning(sets, num, den, threads=threads))


def leaders(sets: Sets, num: int, den: int, label: Any, members: Any) -> Any:
    """Which of ``members`` (ascending, whole components) can go, one after the other: the leader of each set (int32), -1 where it stays.

    A set stays unless an earlier one that stayed is as similar as num / den; the first such is its leader. So
    whatever goes leaves something behind that it is proven to be like, in a chain too.
    """
    checked(num, den)
    leader: Any = np.full(len(sets), -1, np.int32)
    members = np.asarray(members, np.int64)
    _leaders(sets.tokens, sets.starts, sets.ends, sets.sizes, num, den, members, label, _top(sets), leader)
    return leader


def similarities(sets: Sets, left: Any, right: Any) -> tuple[Any, Any]:
    """The similarity of each left set with its right one, exactly: (shared, union), int64."""
    nums: Any = np.empty(len(left), np.int64)
    dens: Any = np.empty(len(left), np.int64)
    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    _similarities(sets.tokens, sets.starts, sets.ends, sets.sizes, left, right, nums, dens)
    return nums, dens


def least(sets: Sets, members: Any, groups: Any) -> tuple[Any, Any]:
    """The least similarity of two sets in each group ``members[groups[c]:groups[c + 1]]``: (shared, union); 1, 1 for a single set."""
    nums: Any = np.empty(len(groups) - 1, np.int64)
    dens: Any = np.empty(len(groups) - 1, np.int64)
    members, groups = np.asarray(members, np.int64), np.asarray(groups, np.int64)
    _least(sets.tokens, sets.starts, sets.ends, sets.sizes, members, groups, nums, dens)
    return nums, dens
