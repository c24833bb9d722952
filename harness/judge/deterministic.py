"""No sampling error: every row must satisfy the bound."""

from __future__ import annotations

import math

from harness.bounds import Bound
from harness.judge.refusals import unusable
from harness.types import Claim, Measurement, Verdict

__all__ = ["exact"]


def exact(claim: Claim, measurement: Measurement) -> Verdict:
    """A deterministic check: the worst row is the estimate."""
    samples, bound = measurement.samples, claim.bound
    missing = unusable(samples)
    values = [s.value for s in samples if s.value is not None]
    if bound.kind == "identical":
        bad = missing + sum(v != 1 for v in values)
        worst = 1 - bad / len(samples)
        breaking = [s.item for s in samples if s.value != 1]
    else:
        breaking = [s.item for s in samples if s.value is None or not _inside(bound, s.value)]
        bad = missing + sum(not _inside(bound, v) for v in values)
        worst = (min if bound.kind == "at_least" else max)(values, default=math.inf)
    n = len(samples)
    statistics = {"n": n, "mismatches": bad}
    shown = None if math.isinf(worst) else worst
    if bad:
        sentence = f"{bad} of {n} rows break {bound}, first: {', '.join(sorted(breaking)[:5])}"
        return Verdict("fails", "refuted", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)
    sentence = f"all {n} rows satisfy {bound}; worst {worst:.6g}" if bound.kind != "identical" else f"all {n} rows are as expected"
    return Verdict("holds", "proven", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)


def _inside(bound: Bound, value: float) -> bool:
    if bound.kind == "at_most":
        return value <= bound.limit
    return bound.limit <= value <= (math.inf if bound.high is None else bound.high)
