"""Right or wrong, item by item: exact rules for a share and for a paired difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from harness.judge.refusals import clustered
from harness.judge.settle import Decided, inconclusive, settle, wrong_side
from harness.stats import intervals, paired, plan, special
from harness.stats.permutation import sign_flip_min_nonzero
from harness.types import Claim, Measurement, Sample, Verdict

__all__ = ["paired_difference", "proportion"]


def proportion(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.4: Clopper-Pearson. A unit that failed counts against the claim."""
    samples = measurement.samples
    if clustered(samples) or any(s.replicate for s in samples):
        return inconclusive("clustered", "an exact binomial test needs one row per independent unit", len(samples))
    values = _scores(samples)
    if values is None:
        return inconclusive("domain", "a proportion needs values that are 0 or 1", len(samples))
    # A unit that failed counts against the claim: as an event under an upper bound, as none under a lower one.
    n, bound = len(values), claim.bound
    least, most = (sum(worst if v is None else v for v in values) for worst in (0, 1))
    k = most if bound.kind == "at_most" else least
    above, below = intervals.proportion_tests(k, n, bound.limit)
    p_hold, p_fail = (above, below) if bound.kind != "at_most" else (below, above)
    low, high = intervals.clopper_pearson(k, n, claim.level)
    if bound.high is not None:
        high = intervals.clopper_pearson(most, n, claim.level).high
        # Either side alone refutes, so each gets half of alpha.
        p_hold = max(above, intervals.proportion_tests(most, n, bound.high)[1])
        p_fail = min(1.0, 2 * min(intervals.proportion_tests(most, n, bound.limit)[1], intervals.proportion_tests(least, n, bound.high)[0]))
    estimate = k / n

    def needed(power: float) -> int | None:
        if claim.expected is None or bound.kind == "within":
            return None
        side: Literal["at_least", "at_most"] = "at_least" if bound.kind == "at_least" else "at_most"
        return plan.proportion_n(bound.limit, claim.expected, claim.level, power, side).first

    return settle(claim, Decided(
        p_hold, p_fail, estimate, low, high, n, "clopper-pearson/1", "exact", {"k": k, "n": n}, needed,
        wrong_side=wrong_side(claim, estimate),
    ))  # fmt: skip


def paired_difference(claim: Claim, measurement: Measurement) -> Verdict:
    """Sections 3.1 to 3.3: exact McNemar, or exact unconditional ordered by Tango's score."""
    samples = measurement.samples
    if clustered(samples):
        return inconclusive("clustered", "an exact paired test needs one item per independent unit", len(samples) // 2)
    if any(s.replicate for s in samples):
        sentence = "an exact paired test takes one answer an item; several are averaged first: estimand paired_mean"
        return inconclusive("duplicate_rows", sentence, len(samples) // 2)
    new, old = ({s.item: s for s in samples if s.arm == arm} for arm in ("new", "old"))
    items = sorted(new)
    ours, theirs = _scores([new[i] for i in items]), _scores([old[i] for i in items])
    if ours is None or theirs is None:
        return inconclusive("domain", "an exact paired test needs values that are 0 or 1", len(items))
    pairs = Counter((x or 0, y or 0) for x, y in zip(ours, theirs, strict=True))  # error or truncation: wrong in that arm
    b, c, n = pairs[1, 0], pairs[0, 1], len(items)
    counts = {"b": b, "c": c, "both_right": pairs[1, 1], "both_wrong": pairs[0, 0], "n": n}
    if claim.bound.kind == "better_than" and claim.bound.limit == 0:
        return _superior(claim, b, c, n, counts)
    return _shifted(claim, b, c, n, counts)


def _superior(claim: Claim, b: int, c: int, n: int, counts: dict[str, Any]) -> Verdict:
    tests = paired.mcnemar(b, c)
    low, high = paired.tango_interval(b, c, n, claim.level)
    least = sign_flip_min_nonzero(claim.level)
    few = f"{b + c} discordant items; significance needs at least {least}" if b + c < least else ""

    def needed(power: float) -> int | None:
        gain = claim.expected
        return plan.superiority_n(max(_psi(b, c, n), gain), gain, claim.level, power) if gain else None

    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, (b - c) / n, low, high, n, "mcnemar-exact/1", "exact", counts, needed,
        wrong_side=b < c, unattainable=few,
    ))  # fmt: skip


def _shifted(claim: Claim, b: int, c: int, n: int, counts: dict[str, Any]) -> Verdict:
    """Against a margin on one side (non-inferior, better by), or on both (equivalent)."""
    margin, both = claim.bound.limit, claim.bound.kind == "equivalent"
    delta0 = margin if claim.bound.kind == "better_than" else -margin
    low, high = paired.tango_interval(b, c, n, claim.level)
    p_hold, p_fail, method, exactness = _asymptotic(b, c, n, delta0, both) if n > 5000 else _exact(b, c, n, delta0, both, claim.level)
    if method == "":
        return inconclusive("domain", "the rejection region is not monotone at this n: not decided", n)

    def needed(power: float) -> int | None:
        gain = (claim.expected or 0.0) if delta0 > 0 else 0.0
        if gain <= delta0:
            return None
        each = (1 + power) / 2 if both else power  # nothing changed: both tests must pass, and each misses as often
        return max(plan.ni_n(-delta0, _psi(b, c, n), claim.level, each, gain), zero_flip)

    zero_flip = plan.ni_zero_flip_n(margin, claim.level) if delta0 < 0 else 1
    few = f"with n = {n} not even zero flips prove a margin of {margin:g} (that takes {zero_flip})" if n < zero_flip else ""
    estimate = (b - c) / n
    return settle(claim, Decided(
        p_hold, p_fail, estimate, low, high, n, method, exactness, counts, needed,
        wrong_side=wrong_side(claim, estimate), unattainable=few,
    ))  # fmt: skip


def _exact(b: int, c: int, n: int, delta0: float, both: bool, alpha: float) -> tuple[float, float, str, str]:
    """p values up to the exact rule's size limit (section 3.2)."""

    def tests(**precision: float) -> paired.ExactTests:
        return paired.equivalence(b, c, n, -delta0, **precision) if both else paired.noninferiority(b, c, n, delta0, **precision)

    found = tests(slack=1e-3)  # wide enough to be quick, narrow enough to show
    if any(p.lower <= alpha < p.upper for p in (found.p_hold, found.p_fail)):
        found = tests(decide_at=alpha)  # refine until the side is certain
    if not found.monotone:
        return 1.0, 1.0, "", ""
    return found.p_hold.upper, found.p_fail.upper, "exact-unconditional-tango/1" + ("/tost" if both else ""), "bracketed"


def _asymptotic(b: int, c: int, n: int, delta0: float, both: bool) -> tuple[float, float, str, str]:
    """Tango's p values, above the exact rule's size limit."""
    z = paired.tango_z(b, c, n, delta0)
    above, below = special.normal_sf(z), special.normal_sf(-z)
    if not both:
        return above, below, "tango-score/1", "asymptotic"
    z = paired.tango_z(b, c, n, -delta0)
    return max(above, special.normal_sf(-z)), min(1.0, 2 * min(below, special.normal_sf(z))), "tango-score/1/tost", "asymptotic"


def _psi(b: int, c: int, n: int) -> float:
    """The discordance seen, kept off zero (section 2.3)."""
    return (b + c + 0.5) / (n + 1)


def _scores(samples: Iterable[Sample]) -> list[int | None] | None:
    """Binary scores, None for a unit that failed; None altogether if a score is not binary."""
    values = [s.value for s in samples]
    if any(v is not None and v not in (0, 1) for v in values):
        return None
    return [None if v is None else int(v) for v in values]
