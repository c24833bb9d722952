"""No sampling error: every row must satisfy the bound, or a share of all rows there are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from harness.bounds import Bound
from harness.types import Claim, Measurement, Sample, Verdict

__all__ = ["exact", "exact_share"]


def exact(claim: Claim, measurement: Measurement) -> Verdict:
    """A deterministic check: the worst row is the estimate. A row may stand for ``weight`` units alike."""
    samples, bound = measurement.samples, claim.bound
    n = _units(samples)
    breaking = [s for s in samples if not _satisfies(bound, s)]
    bad = _units(breaking)
    statistics = {"n": n, "mismatches": bad}
    if bound.kind == "identical":
        worst = 1 - bad / n
    else:
        values = [s.value for s in samples if s.value is not None]
        worst = (min if bound.kind == "at_least" else max)(values, default=math.inf)
    shown = None if math.isinf(worst) else worst
    if bad:
        first = ", ".join(sorted(s.item for s in breaking)[:5])
        sentence = f"{bad} of {n} rows break {bound}, first: {first}"
        return Verdict("fails", "refuted", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)
    sentence = f"all {n} rows satisfy {bound}; worst {worst:.6g}" if bound.kind != "identical" else f"all {n} rows are as expected"
    return Verdict("holds", "proven", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)


def exact_share(claim: Claim, measurement: Measurement) -> Verdict:
    """The share of all rows whose value is 1, counted: nothing was drawn, so there is no interval.

    A row that failed counts against the claim. Raises ValueError (a refusal) for other values.
    """
    samples, bound = measurement.samples, claim.bound
    if any(s.value not in (0, 1, None) for s in samples):
        raise ValueError("a share is counted over values 0 and 1")
    n, against = _units(samples), 0.0 if bound.kind == "at_least" else 1.0
    k = _units(s for s in samples if (against if s.value is None else s.value) == 1)
    share = k / n
    holds = share >= bound.limit if bound.kind == "at_least" else _inside(bound, share)
    sentence = f"{k} of {n} rows, {share:.4g}; claimed {bound}"
    said: dict[str, Any] = {"n": n, "method": "exact-share/1", "exactness": "exact", "statistics": {"k": k, "n": n}}
    return Verdict("holds", "proven", sentence, share, **said) if holds else Verdict("fails", "refuted", sentence, share, **said)


def _units(samples: Iterable[Sample]) -> int:
    """How many units the rows stand for. Raises ValueError unless each stands for a whole number of at least one."""
    rows = list(samples)
    strange = sorted((s.item, repr(s.weight)) for s in rows if not (math.isfinite(s.weight) and 1 <= s.weight == int(s.weight)))
    if strange:
        item, weight = strange[0]
        raise ValueError(f"row {item!r} stands for {weight} units, expected a whole number of at least one")
    return sum(int(s.weight) for s in rows)


def _satisfies(bound: Bound, sample: Sample) -> bool:
    if sample.value is None or sample.status != "ok":
        return False
    return sample.value == 1 if bound.kind == "identical" else _inside(bound, sample.value)


def _inside(bound: Bound, value: float) -> bool:
    if bound.kind == "at_most":
        return value <= bound.limit
    return bound.limit <= value <= (math.inf if bound.high is None else bound.high)
