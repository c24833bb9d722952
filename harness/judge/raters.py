"""Raters and judges: agreement beyond chance, and differences corrected for a judge's errors (section 3.13)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from harness.judge.settle import Decided, inconclusive, settle, two_sided, wrong_side
from harness.stats import agreement, corrected, plan
from harness.types import Claim, Measurement, Sample, Verdict

__all__ = ["alpha", "corrected_difference", "kappa"]


def kappa(claim: Claim, measurement: Measurement) -> Verdict:
    """Cohen's kappa of two raters. A pair that lacks a label is dropped as a pair, and counted."""
    new, old = ({s.item: s.value for s in measurement.samples if s.arm == arm} for arm in ("new", "old"))
    pairs, dropped = agreement.drop_incomplete([new[item] for item in sorted(new)], [old[item] for item in sorted(new)])
    if not pairs:
        return inconclusive("no_data", "no item has a label of both raters", 0)
    counts, codes = Counter(pairs), sorted({code for pair in pairs for code in pair})
    found = agreement.cohen_kappa([[counts[a, b] for b in codes] for a in codes], claim.level)
    constant = agreement.constant_judge([label for _, label in pairs])  # what always giving the commonest label scores
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    return _agreement(claim, found, "kappa-raised/1", {"dropped": dropped, "agreed": agreed, "constant_judge": constant})


def alpha(claim: Claim, measurement: Measurement) -> Verdict:
    """Krippendorff's alpha of any number of raters, one replicate each; a missing rating is left out."""
    raters = sorted({s.replicate for s in measurement.samples})
    units: dict[str, dict[int, float | None]] = {}
    for s in measurement.samples:
        units.setdefault(s.item, {})[s.replicate] = s.value
    rows = [[unit.get(r) for r in raters] for _, unit in sorted(units.items())]
    levels: dict[str, Literal["nominal", "ordinal", "interval"]]
    levels = {"alpha_nominal": "nominal", "alpha_ordinal": "ordinal", "alpha_interval": "interval"}
    found = agreement.krippendorff(rows, levels[str(claim.estimand)], claim.level)
    return _agreement(claim, found, "krippendorff-jackknife/1", {"raters": len(raters), "dropped": len(rows) - found.n})


def _agreement(claim: Claim, found: agreement.Agreement, method: str, more: dict[str, float]) -> Verdict:
    limit = claim.bound.limit
    if found.n < claim.min_n:
        sentence = f"{found.n} units with labels enough, the plan asks for {claim.min_n}; {more['dropped']} were dropped"
        return inconclusive("min_n", sentence, found.n, n_needed=claim.min_n)
    tests = agreement.agreement_tests(found, limit)
    least = plan.proportion_min_n(limit, claim.level) if limit > 0 else 1

    def needed(power: float) -> int | None:
        if few or claim.expected is None or found.se == 0:
            return least if few else None
        return plan.agreement_n(claim.expected, limit, found.se * math.sqrt(found.n), claim.level, power)

    few = f"not even {found.n} units that all agree show it; that takes {least}" if found.n < least else ""
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, found.estimate, found.low, found.high, found.n, method, "asymptotic",
        {"n": found.n, "se": found.se, "chance": found.chance, **more}, needed,
        wrong_side=wrong_side(claim, found.estimate), unattainable=few,
    ))  # fmt: skip


def corrected_difference(claim: Claim, measurement: Measurement) -> Verdict:
    """PPI++: the judge's differences on all items, corrected by people's on those they labelled in both arms."""
    rows = {arm: {s.item: s for s in measurement.samples if s.arm == arm} for arm in ("new", "old", "new:human", "old:human")}
    torn = sorted(set(rows["new:human"]) ^ set(rows["old:human"])) + sorted(set(rows["new:human"]) - set(rows["new"]))
    if torn:
        sentence = f"{len(torn)} items are not labelled in both arms beside the judge's scores: {', '.join(torn[:5])}"
        return inconclusive("unpaired_items", sentence, len(rows["new"]))
    unread = [s.item for arm in ("new:human", "old:human") for s in rows[arm].values() if s.value is None]
    if unread:
        return inconclusive("missing_data", f"{len(unread)} labels have no value, first: {min(unread)!r}", len(rows["new"]))
    worst = claim.support[0] if claim.support else 0.0

    def difference(item: str, suffix: str = "") -> float:
        return _score(rows["new" + suffix][item], worst) - _score(rows["old" + suffix][item], worst)

    labelled = sorted(rows["new:human"])
    unlabelled = sorted(set(rows["new"]) - set(labelled))
    found = corrected.ppi_difference(
        [difference(i) for i in unlabelled], [difference(i) for i in labelled], [difference(i, ":human") for i in labelled], claim.level
    )
    tests = two_sided(claim, lambda d: corrected.corrected_tests(found, d))
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, found.estimate, found.low, found.high, len(rows["new"]), "ppi-plus-plus/1", "asymptotic",
        {"n": found.n, "m": found.m, "lambda": found.lam, "se": found.se, "df": found.df, "skewness": found.skewness},
        wrong_side=wrong_side(claim, found.estimate),
    ))  # fmt: skip


def _score(sample: Sample, worst: float) -> float:
    return worst if sample.value is None else sample.value
