"""Families of claims: what several p-values together may say at one level.

Every function takes valid p-values, P(p <= t) <= t where the claim is false, under any dependence between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from harness.stats.intervals import check_alpha

__all__ = ["Family", "Rule", "benjamini_hochberg", "fixed_sequence", "holm", "intersection_union"]

Rule = Literal["all", "any"]


class Family(NamedTuple):
    """What a family of claims shows at the level: ``p`` of the whole, whether it ``held``, and its claims' p-values.

    "all": p is the largest p-value, the claims keep their own. "any": the claims' are Holm's, p the smallest of them.
    """

    p: float
    held: bool
    adjusted: tuple[float, ...]


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values for "improved on any of K": P(any false claim gets one <= alpha) <= alpha.

    Assumes: valid p-values, dependent in any way.
    Reference: Holm (1979): max over j <= i of (K - j + 1) p_(j), at most 1.
    """
    _check(ps)
    return _step(ps, sorted(range(len(ps)), key=ps.__getitem__), lambda j: len(ps) - j, max, 0.0)


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values for exploration: of the claims with one <= q, a share q is false on average. Never a gate.

    Assumes: p-values independent or positively dependent.
    Fails when: used to decide: it bounds a share, not the chance of one false claim.
    Reference: Benjamini & Hochberg (1995): min over j >= i of K p_(j) / j.
    """
    _check(ps)
    count = len(ps)
    return _step(ps, sorted(range(count), key=ps.__getitem__, reverse=True), lambda j: count / (count - j), min, 1.0)


def intersection_union(ps: Sequence[float]) -> float:
    """The p-value of "all hold": the largest. Each claim is tested at the full level, with no adjustment.

    Assumes: valid p-values, dependent in any way.
    Fails when: many claims are planned one by one; their chance to hold together is ``plan.pass_all``.
    Reference: Berger (1982), intersection-union test.
    """
    _check(ps)
    return max(ps)


def fixed_sequence(families: Sequence[Sequence[float]], rules: Sequence[Rule], alpha: float) -> list[Family | None]:
    """Each family at the full level, as long as all before it held; None for those behind a closed gate.

    P(any false statement) <= alpha, where a statement is "all hold" of an "all" family, or a claim of an "any"
    family with its adjusted p-value <= alpha. Integrity, then non-inferiority, then superiority:
    rules = ("all", "all", "any").

    Assumes: families and their order were fixed before the data; valid p-values, dependent in any way.
    Fails when: an "any" family is followed by another (ValueError): one true claim would open the gate and the
    false ones beside it have spent alpha already.
    Reference: fixed-sequence gatekeeping, Maurer, Hothorn & Lehmacher (1995); Westfall & Krishen (2001).
    """
    check_alpha(alpha)
    if not len(families) == len(rules) > 0:
        raise ValueError(f"{len(families)} families, {len(rules)} rules; expected equally many and at least one")
    if not (set(rules[:-1]) <= {"all"} and rules[-1] in ("all", "any")):
        raise ValueError(f"rules = {tuple(rules)}, expected 'all', and 'any' for the last family only")
    results: list[Family | None] = []
    open_gate = True
    for ps, rule in zip(families, rules, strict=True):
        adjusted = holm(ps) if rule == "any" else list(ps)
        p = min(adjusted) if rule == "any" else intersection_union(ps)
        results.append(Family(p, p <= alpha, tuple(adjusted)) if open_gate else None)
        open_gate = open_gate and p <= alpha
    return results


def _step(
    ps: Sequence[float], order: Sequence[int], factor: Callable[[int], float], extreme: Callable[[float, float], float], start: float
) -> list[float]:
    """p times the factor of its place in ``order``, made monotone along it by the running extreme; at most 1."""
    adjusted, running = [0.0] * len(ps), start
    for j, i in enumerate(order):
        running = extreme(running, min(1.0, factor(j) * ps[i]))
        adjusted[i] = running
    return adjusted


def _check(ps: Sequence[float]) -> None:
    if not ps:
        raise ValueError("no p-value, expected at least one")
    wrong = [p for p in ps if not 0 <= p <= 1 or math.isnan(p)]
    if wrong:
        raise ValueError(f"p = {wrong[0]}, expected numbers between 0 and 1")
