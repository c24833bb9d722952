"""Scores of any kind, over independent units: betting where a range is known, guarded Student's t where none is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.judge.refusals import sequence, unusable
from harness.judge.settle import Decided, inconclusive, settle, two_sided, wrong_side
from harness.stats import betting, means, plan
from harness.stats.paired import Tests
from harness.stats.permutation import sign_flip, sign_flip_min_nonzero
from harness.stats.special import bisect
from harness.types import Claim, Measurement, Sample, Verdict

__all__ = ["bounded_mean", "log_ratio", "mean", "paired_mean", "relative_score", "sequential_difference"]


# --- one arm ------------------------------------------------------------------------------------


def bounded_mean(claim: Claim, measurement: Measurement) -> Verdict:
    """Sections 3.7 and 3.11: a betting test on cluster means. A failed unit counts as the worst value."""
    assert claim.support is not None  # the bound checked it
    low_end, high_end = claim.support
    below = claim.bound.kind == "at_most"
    values = _cluster_means(measurement.samples, worst=high_end if below else low_end)
    outside = [v for v in values if not low_end <= v <= high_end]
    if outside:
        return inconclusive("domain", f"{len(outside)} values lie outside the declared support {claim.support}", len(values))
    order = betting.seeded_order(len(values), claim.id)
    direction: means.Direction = "below" if below else "above"
    tests = betting.bounded_mean_tests(values, claim.support, claim.bound.limit, order, direction=direction)
    low, high = betting.bounded_mean_interval(values, claim.support, claim.level, order, direction=direction)
    estimate = math.fsum(values) / len(values)

    def needed(power: float) -> int | None:
        if claim.expected is None or claim.support is None or power > 0.80:  # no power is defined for it: one number
            return None
        sign = 1 if below else -1
        support = (sign * low_end, sign * high_end) if below else (-high_end, -low_end)
        least = plan.betting_min_n(sign * claim.expected, sign * claim.bound.limit, support, claim.level)
        return least if least > len(values) else None  # were every unit the same: with fewer it cannot be shown

    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, estimate, low, high, len(values), "betting-mean/1", "exact",
        {"n": len(values), "support": [low_end, high_end]}, needed, wrong_side=wrong_side(claim, estimate),
    ))  # fmt: skip


def mean(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.6: a mean without known bounds, cluster t, guarded against few and skewed clusters."""
    samples = sorted(measurement.samples, key=lambda s: s.item)
    values = [s.value for s in samples if s.value is not None]
    if len(values) < len(samples):
        return _missing(samples, "units")
    result = means.cluster_mean(values, [s.cluster or s.item for s in samples], claim.level)
    return _student(claim, result, "cluster-t/1", "units", {"mean": result.estimate})


def log_ratio(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.6: a ratio estimator over documents, cluster t, guarded against few and skewed clusters."""
    samples = sorted(measurement.samples, key=lambda s: s.item)
    values = [s.value for s in samples if s.value is not None]
    if len(values) < len(samples):
        return _missing(samples, "documents")
    result = means.ratio_estimator(values, [s.weight for s in samples], [s.cluster or s.item for s in samples], claim.level)
    return _student(claim, result, "ratio-cluster-t/1", "documents", {"log_ratio": result.estimate}, shown=math.exp, told=math.log)


def _missing(samples: Sequence[Sample], units: str) -> Verdict:
    return inconclusive("missing_data", f"{unusable(samples)} {units} have no value; a sum cannot do without", len(samples))


def _student(
    claim: Claim,
    result: means.MeanResult,
    method: str,
    units: str,
    statistics: dict[str, Any],
    *,
    shown: Callable[[float], float] = float,
    told: Callable[[float], float] = float,
) -> Verdict:
    """Student's t over clusters; ``told`` takes the bound to the scale of the estimate, ``shown`` takes it back."""
    n = result.df + 1
    if result.se == 0:
        return inconclusive("zero_variance", f"all {units} agree exactly: a zero-width interval never decides", n)
    limit = told(claim.bound.limit)
    if claim.estimand == "paired_mean":
        tests = two_sided(claim, lambda d: means.t_test_p(result.estimate, result.se, result.df, d, "above"))
    else:
        direction: means.Direction = "below" if claim.bound.kind == "at_most" else "above"
        tests = means.t_test_p(result.estimate, result.se, result.df, limit, direction)

    def needed(power: float) -> int | None:
        gap = _expected_gap(claim, told)
        each = (1 + power) / 2 if claim.bound.kind == "equivalent" else power  # both tests must pass
        return None if gap is None else max(30, plan.t_n(gap / (result.se * math.sqrt(n)), claim.level, each))

    details = {**statistics, "se": result.se, "df": result.df, "skewness": result.skewness, "n": n}
    verdict = settle(claim, Decided(
        tests.p_hold, tests.p_fail, shown(result.estimate), shown(result.low), shown(result.high), n, method, "asymptotic", details,
        needed, wrong_side=wrong_side(claim, shown(result.estimate)),
    ))  # fmt: skip
    if not result.guard_ok:
        reason = "few_clusters" if n < 30 else "skewed"
        need = max(30, math.ceil(121 * result.skewness**2))
        text = f"{n} {units} with skewness {result.skewness:.2f}; the t interval needs {need}"
        return replace(verdict, outcome="inconclusive", reason=reason, sentence=text, n_needed=need, n_needed_90=None)
    return verdict


def _expected_gap(claim: Claim, told: Callable[[float], float]) -> float | None:
    """How far inside its bound the claim expects the truth, on the scale of the estimate; None if it does not say."""
    limit, expected = claim.bound.limit, claim.expected
    if claim.bound.kind in ("non_inferior", "equivalent"):
        return limit if claim.bound.kind == "equivalent" else limit + (expected or 0.0)
    if expected is None:
        return None
    gap = told(limit) - told(expected)
    return gap if claim.bound.kind == "at_most" else -gap


# --- two arms -----------------------------------------------------------------------------------


def paired_mean(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.5: replicates are averaged per item, items per cluster; then one difference a unit.

    By betting if the range of a score is declared. Else by Student's t, guarded against skewness; for superiority the
    sign flips must show it too, which few units can.
    """
    scores = _scores_by_item(claim, measurement.samples)
    if scores is None:
        return _missing(measurement.samples, "rows")
    differences = _per_cluster(measurement.samples, {item: new - old for item, (new, old) in scores.items()})
    if claim.support is not None:
        width = claim.support[1] - claim.support[0]
        return _bet(claim, differences, (-width, width), betting.seeded_order(len(differences), claim.id))
    if claim.bound.kind == "better_than" and claim.bound.limit == 0:
        return _superior(claim, differences)
    result = means.cluster_mean(differences, range(len(differences)), claim.level)
    return _student(claim, result, "paired-cluster-t/1", "units", {"mean": result.estimate})


def relative_score(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.2, relative margins: new is at least r times old iff the mean of new - r * old is above 0, by betting."""
    assert claim.support is not None  # the bound checked it
    scores = _scores_by_item(claim, measurement.samples) or {}
    (low, high), limit = claim.support, claim.bound.limit
    by_arm = [_per_cluster(measurement.samples, {item: pair[arm] for item, pair in scores.items()}) for arm in (0, 1)]
    new, old = (math.fsum(values) / len(values) for values in by_arm)
    order = betting.seeded_order(len(by_arm[0]), claim.id)
    gap = abs((claim.expected or 1.0) - limit) * (low + high) / 2 or 0.05 * (high - low)

    def above(r: float) -> Tests:
        values = [x - r * y for x, y in zip(*by_arm, strict=True)]
        return betting.bounded_mean_tests(values, (low - r * high, high - r * low), 0.0, order, gap, direction="above")

    if old <= low:
        return inconclusive("domain", "the reference scores nothing, so that no share of it can be claimed", len(order))
    tests, ratio = above(limit), new / old
    # Where the tests stop rejecting, among the ratios that scores in the support can have.
    ends = max(low / high, 1e-6 * limit) * (1 + 1e-9), min(high / low if low else math.inf, 10 * (limit + ratio)) * (1 - 1e-9)
    least = bisect(lambda r: above(r).p_hold - claim.level, min(ends[0], ratio), ratio) if new > low else low / high
    most = bisect(lambda r: above(r).p_fail - claim.level, max(ends[0], ratio), max(ends[1], ratio))
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, ratio, least, most, len(order), "betting-relative/1", "exact",
        {"n": len(order), "mean_new": new, "mean_old": old}, wrong_side=ratio <= limit,
    ))  # fmt: skip


def sequential_difference(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.11: valid after any number of items, if they were measured in the order of ``sequence``."""
    assert claim.support is not None  # the bound checked it
    scores = _scores_by_item(claim, measurement.samples) or {}
    differences = [scores[item][0] - scores[item][1] for item in sequence(claim, list(scores))]
    width = claim.support[1] - claim.support[0]
    u, gap = _margin(claim, width)
    # What was known first stays: later items could make either test of it cross its level.
    stop = betting.first_decision(differences, (-width, width), u, claim.level, claim.level, gap, "above")
    used = differences[: stop.n] if stop else differences
    return _bet(claim, used, (-width, width), range(len(used)), {"measured": len(differences)})


def _margin(claim: Claim, width: float) -> tuple[float, float]:
    """The bound as a difference, and how far from it the truth is expected: what the bets are tuned to."""
    limit = claim.bound.limit
    u = limit if claim.bound.kind == "better_than" else -limit
    gap = (claim.expected or 0.0) - u
    return u, gap if gap > 0 else 0.05 * width


def _superior(claim: Claim, differences: Sequence[float]) -> Verdict:
    """Sign flips (exact if the arms are exchangeable) and t (right for a mean), both: either alone loses its level on skewed units."""
    n, nonzero, least = len(differences), sum(d != 0 for d in differences), sign_flip_min_nonzero(claim.level)
    result = means.cluster_mean(differences, range(n), claim.level)
    flips = sign_flip(differences, claim.id)
    student = means.t_test_p(result.estimate, result.se, result.df, 0.0, "above") if result.se > 0 else Tests(1.0, 1.0)
    few = f"{nonzero} units differ; significance needs at least {least}" if nonzero < least else ""
    if result.se == 0 and not few:
        return inconclusive("zero_variance", "all units agree exactly: a zero-width interval never decides; declare the support", n)
    verdict = settle(claim, Decided(
        max(flips.p_hold, student.p_hold), max(flips.p_fail, student.p_fail), result.estimate, result.low, result.high, n,
        "sign-flip-and-t/1", "asymptotic", {"n": n, "nonzero": nonzero, "p_sign_flip": flips.p_hold, "skewness": result.skewness},
        wrong_side=result.estimate <= 0, unattainable=few,
    ))  # fmt: skip
    need = math.ceil(121 * result.skewness**2)
    if need > n and not few:
        text = f"{n} units with skewness {result.skewness:.2f}; a mean needs {need} of them, or a declared support"
        return replace(verdict, outcome="inconclusive", reason="skewed", sentence=text, n_needed=need, n_needed_90=None)
    return verdict


def _bet(
    claim: Claim, differences: Sequence[float], support: tuple[float, float], order: Sequence[int], more: Mapping[str, int] | None = None
) -> Verdict:
    """A margin on differences within ``support``, by betting."""
    _, gap = _margin(claim, support[1])

    def above(d: float) -> Tests:
        return betting.bounded_mean_tests(differences, support, d, order, gap, direction="above")

    tests = two_sided(claim, above)
    low, high = betting.bounded_mean_interval(differences, support, claim.level, order, gap, direction="above")
    estimate = math.fsum(differences) / len(differences)
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, estimate, low, high, len(differences), "betting-difference/1", "exact",
        {"n": len(differences), "gap": gap, **(more or {})}, wrong_side=wrong_side(claim, estimate),
    ))  # fmt: skip


def _scores_by_item(claim: Claim, samples: Sequence[Sample]) -> dict[str, tuple[float, float]] | None:
    """(new, old) per item, each averaged over its replicates; a failed row scores the worst, None where there is no worst."""
    worst = None if claim.support is None else claim.support[0]
    arms: dict[str, dict[str, list[float]]] = {"new": {}, "old": {}}
    for s in sorted(samples, key=lambda s: (s.item, s.replicate)):
        value = worst if s.value is None else s.value
        if value is None:
            return None
        if claim.support is not None and not claim.support[0] <= value <= claim.support[1]:
            raise ValueError(f"item {s.item!r} scores {value}, expected a score within the support {claim.support}")
        arms[s.arm].setdefault(s.item, []).append(value)
    new, old = arms["new"], arms["old"]
    return {item: (math.fsum(new[item]) / len(new[item]), math.fsum(old[item]) / len(old[item])) for item in new}


def _cluster_means(samples: Sequence[Sample], worst: float) -> list[float]:
    """One value per independent unit, in the order of their names."""
    groups: dict[str, list[float]] = {}
    for s in samples:
        groups.setdefault(s.cluster or s.item, []).append(worst if s.value is None else s.value)
    return [math.fsum(values) / len(values) for _, values in sorted(groups.items())]


def _per_cluster(samples: Sequence[Sample], by_item: Mapping[str, float]) -> list[float]:
    """The mean over the items of each independent unit, in the order of their names."""
    owner = {s.item: s.cluster or s.item for s in samples}
    groups: dict[str, list[float]] = {}
    for item, value in sorted(by_item.items()):
        groups.setdefault(owner[item], []).append(value)
    return [math.fsum(values) / len(values) for _, values in sorted(groups.items())]
