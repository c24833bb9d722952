"""From two tests whose nulls meet at the bound to a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.stats.paired import Tests
from harness.types import Claim, Outcome, Verdict

__all__ = ["Decided", "inconclusive", "settle", "tidy", "two_sided", "wrong_side"]


@dataclass(frozen=True, slots=True)
class Decided:
    """What a rule hands to ``settle``: both p values and how to say them."""

    p_hold: float
    p_fail: float
    estimate: float
    low: float
    high: float
    n: int
    method: str
    exactness: str
    statistics: dict[str, Any]
    needed: Callable[[float], int | None] = lambda power: None
    wrong_side: bool = False
    unattainable: str = ""
    alpha_fail: float | None = None  # None: as alpha (section 2: .01 for run-against-run regressions)
    n_eff: float | None = None


def settle(claim: Claim, found: Decided) -> Verdict:
    """holds, fails or inconclusive, with the n that would settle it."""
    at = "p <=" if found.exactness == "bracketed" else "p ="  # the upper end of a rigorous bracket
    shown = f"{found.estimate:.4g} [{found.low:.4g}, {found.high:.4g}], n = {found.n}; claimed {claim.bound}"
    outcome: Outcome = "inconclusive"
    reason = "straddles"
    needed: tuple[int | None, int | None] = (None, None)
    if found.p_hold <= claim.level:
        outcome, reason, sentence = "holds", "proven", f"{shown}: shown at {at} {found.p_hold:.3g}"
    elif found.p_fail <= (found.alpha_fail or claim.level):
        outcome, reason, sentence = "fails", "refuted", f"{shown}: the opposite is shown at {at} {found.p_fail:.3g}"
    elif found.wrong_side:
        sentence = f"{shown}: not decided, and the estimate lies on the wrong side; more data are not expected to help"
    else:
        needed = (_needed(found, 0.80), _needed(found, 0.90))
        reason = "unattainable" if found.unattainable else "straddles"
        ask = _ask(needed, found.n)
        sentence = f"{shown}: not decided{'; ' + found.unattainable if found.unattainable else ''}{ask}"
    return Verdict(
        outcome, reason, sentence, found.estimate, found.low, found.high, 1 - 2 * claim.level,
        found.p_hold, found.p_fail, n=found.n, n_eff=found.n_eff, n_needed=needed[0], n_needed_90=needed[1],
        method=found.method, exactness=found.exactness, statistics=found.statistics,
    )  # fmt: skip


def _ask(needed: tuple[int | None, int | None], n: int) -> str:
    """The n that would settle it, in words; or that n is not what is lacking."""
    if needed[0] is None:
        return ""
    if max(m for m in needed if m is not None) <= n:
        return f"; n = {needed[0]} has power .80 where the declared alternative is true, so the truth may lie nearer to the bound"
    return f"; n = {needed[0]} would settle it" + (f" with power .80, {needed[1]} with .90" if needed[1] else "")


def _needed(found: Decided, power: float) -> int | None:
    """The n for ``power``; None where the declared alternative lies on the wrong side of the bound."""
    try:
        return found.needed(power)
    except ValueError:
        return None


def inconclusive(reason: str, sentence: str, n: int, **more: Any) -> Verdict:
    """A refusal: measured, and not decided."""
    return Verdict("inconclusive", reason, sentence, n=n, **more)


def wrong_side(claim: Claim, estimate: float) -> bool:
    """Whether the estimate itself contradicts the claim."""
    bound, limit = claim.bound, claim.bound.limit
    if bound.kind == "at_least":
        return estimate <= limit
    if bound.kind == "at_most":
        return estimate >= limit
    if bound.kind == "non_inferior":
        return estimate <= -limit
    if bound.kind == "equivalent":
        return abs(estimate) >= limit
    return not limit < estimate < (math.inf if bound.high is None else bound.high)


def two_sided(claim: Claim, above: Callable[[float], Tests]) -> Tests:
    """The p values of a claim about a difference, from ``above(d)``: the tests of "the difference is above d".

    Equivalence is two one-sided tests; either side alone refutes it, so each gets half of alpha.
    """
    limit = claim.bound.limit
    if claim.bound.kind != "equivalent":
        return above(-limit if claim.bound.kind == "non_inferior" else limit)
    lower, upper = above(-limit), above(limit)
    return Tests(max(lower.p_hold, upper.p_fail), min(1.0, 2 * min(lower.p_fail, upper.p_hold)))


def tidy(verdict: Verdict) -> Verdict:
    """Nine significant digits: decided on full precision, kept so that another libm prints the same."""
    names = ("estimate", "low", "high", "level", "p_hold", "p_fail", "n_eff")
    rounded = {name: _nine(getattr(verdict, name)) for name in names}
    return replace(verdict, **rounded, statistics={k: _nine(v) for k, v in verdict.statistics.items()})


def _nine(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value
