"""The fewest pieces that still show the defect: delta debugging.

ddmin of Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002. What it returns is
1-minimal: without any one of its pieces the test no longer fails. It need not be the smallest set of all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from harness.dossier.trials import Outcome

__all__ = ["ddmin", "most_tests"]

Piece = TypeVar("Piece")

_EXACT = 150  # pieces up to which the worst case is counted; above, the bound of the paper


def ddmin(
    pieces: Sequence[Piece], test: Callable[[tuple[Piece, ...]], Outcome], at_most: Callable[[int], None] = lambda left: None
) -> tuple[Piece, ...]:
    """Those of ``pieces`` that the test still fails with, in their order; none of them can be left out.

    ``test`` gets some of the pieces, each set once; all of them must fail. Unresolved counts as not failing. ``at_most`` is told
    before each test how many are left in the worst case. Raises ValueError if all of them do not fail.
    """
    known: dict[tuple[int, ...], Outcome] = {}
    kept, grain = tuple(range(len(pieces))), 2
    left = most_tests(len(kept)) + 2

    def fails(kept: tuple[int, ...]) -> bool:
        nonlocal left
        if kept not in known:
            at_most(left)
            known[kept], left = test(tuple(pieces[i] for i in kept)), left - 1
        return known[kept] == "fail"

    if not fails(kept):
        raise ValueError("ddmin needs pieces that fail together")
    if fails(()):
        return ()
    while len(kept) >= 2:
        left = most_tests(len(kept), grain)
        parts = _split(kept, grain)
        smaller = next(((each, 2) for each in parts if fails(each)), None)
        if smaller is None and grain > 2:  # of two parts each is the other's complement
            rests = (tuple(i for i in kept if i not in set(each)) for each in parts)
            smaller = next(((each, grain - 1) for each in rests if fails(each)), None)
        if smaller is not None:
            kept, grain = smaller[0], min(smaller[1], max(2, len(smaller[0])))
        elif grain < len(kept):
            grain = min(2 * grain, len(kept))
        else:
            break
    return tuple(pieces[i] for i in kept)


def _split(kept: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """As even as can be, the larger parts first."""
    size, more = divmod(len(kept), parts)
    cuts = [i * size + min(i, more) for i in range(parts + 1)]
    return [kept[a:b] for a, b in pairwise(cuts)]


def most_tests(pieces: int, grain: int = 2) -> int:
    """How many tests ddmin takes at most from here, with so many pieces in so many parts."""
    return _worst(pieces, min(grain, max(2, pieces))) if pieces <= _EXACT else pieces**2 + 3 * pieces


@functools.cache
def _worst(pieces: int, grain: int, known: bool = False) -> int:
    """``known``: the parts are single pieces, each of which was seen not to fail alone."""
    if pieces < 2:
        return 0
    tests = grain if grain == 2 or known else 2 * grain
    rest = pieces - pieces // grain
    found = _worst(-(-pieces // grain), 2)
    if grain > 2:
        found = max(found, _worst(rest, min(max(2, grain - 1), rest), grain == pieces))
    return tests + max(found, _worst(pieces, min(2 * grain, pieces)) if grain < pieces else 0)
