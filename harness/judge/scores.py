"""Scores of any kind, over independent units: betting where a range is known, guarded Student's t where none is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.judge.refusals import unusable
from harness.judge.settle import Decided, inconclusive, settle, two_sided, wrong_side
from harness.stats import betting, means, plan
from harness.stats.paired import Tests
from harness.stats.permutation import sign_flip
from harness.types import Claim, Measurement, Sample, Verdict

__all__ = ["bounded_mean", "log_ratio", "mean", "paired_mean", "relative_score", "sequence", "sequential_difference"]


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
        return plan.betting_min_n(sign * claim.expected, sign * claim.bound.limit, support, claim.level)

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

    Superiority by sign flips; a margin by betting if the range of a score is declared, else by guarded t.
    """
    scores = _scores_by_item(claim, measurement.samples)
    if scores is None:
        return _missing(measurement.samples, "rows")
    differences = _per_cluster(measurement.samples, {item: new - old for item, (new, old) in scores.items()})
    if claim.bound.kind == "better_than" and claim.bound.limit == 0:
        return _superior(claim, differences)
    if claim.support is not None:
        width = claim.support[1] - claim.support[0]
        return _bet(claim, differences, (-width, width), betting.seeded_order(len(differences), claim.id))
    result = means.cluster_mean(differences, range(len(differences)), claim.level)
    return _student(claim, result, "paired-cluster-t/1", "units", {"mean": result.estimate})


def relative_score(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.2, relative margins: the mean of new - r * old lies above 0, by betting; shown on that scale."""
    assert claim.support is not None  # the bound checked it
    scores = _scores_by_item(claim, measurement.samples) or {}
    (low, high), r = claim.support, claim.bound.limit
    values = _per_cluster(measurement.samples, {item: new - r * old for item, (new, old) in scores.items()})
    order = betting.seeded_order(len(values), claim.id)
    support, gap = (low - r * high, high - r * low), abs((claim.expected or 1.0) - r) * (low + high) / 2 or 0.05 * (high - low)
    tests = betting.bounded_mean_tests(values, support, 0.0, order, gap, direction="above")
    ends = betting.bounded_mean_interval(values, support, claim.level, order, gap, direction="above")
    estimate = math.fsum(values) / len(values)
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, estimate, *ends, len(values), "betting-relative/1", "exact",
        {"n": len(values), "mean_new": _mean(scores, 0), "mean_old": _mean(scores, 1)}, wrong_side=estimate <= 0,
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


def sequence(claim: Claim, items: Sequence[str]) -> list[str]:
    """The order in which a sequential claim measures its items: by SHA-256 of claim and item, blind to any outcome."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{claim.id}:{item}".encode("utf-8", "surrogatepass")).digest())


def _superior(claim: Claim, differences: Sequence[float]) -> Verdict:
    tests = sign_flip(differences, claim.id)
    n, nonzero = len(differences), sum(d != 0 for d in differences)
    estimate = math.fsum(differences) / n
    shown = means.cluster_mean(differences, range(n), claim.level) if n > 1 else None
    few = f"{nonzero} units differ; significance needs at least {math.ceil(-math.log2(claim.level))}" if 2.0**-nonzero > claim.level else ""
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, estimate, shown.low if shown else estimate, shown.high if shown else estimate, n,
        "sign-flip/1", "asymptotic", {"n": n, "nonzero": nonzero}, wrong_side=estimate <= 0, unattainable=few,
    ))  # fmt: skip


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
        arms[s.arm].setdefault(s.item, []).append(value)
    new, old = arms["new"], arms["old"]
    return {item: (math.fsum(new[item]) / len(new[item]), math.fsum(old[item]) / len(old[item])) for item in new}


def _mean(scores: Mapping[str, tuple[float, float]], arm: int) -> float:
    return math.fsum(pair[arm] for pair in scores.values()) / len(scores)


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
