"""The only code that decides.

``judge`` is pure, deterministic and total: it sees no clock, file, network, random global or
pytest, and returns a Verdict for any data. Standard library only, so that ``recheck`` can run it
offline on another machine and get the same bytes. Rules and formulas: ``harness.stats``, whose
section numbers refer to the project's statistics specification.

    holds          the deciding confidence limit is on the good side
    fails          the opposite limit is on the bad side
    inconclusive   neither, or the data were refused; says why and, where defined, the n that would do
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.bounds import Bound
from harness.stats import betting, intervals, means, paired, plan, ratio, special
from harness.types import Claim, Control, Measurement, Outcome, Sample, Verdict

__all__ = ["judge", "not_evaluated"]

# Reasons that say the n was too small, as opposed to a gate that does not work.
_UNDECIDED = frozenset({"straddles", "min_n", "unattainable", "few_clusters", "skewed"})


def judge(claim: Claim, measurement: Measurement, *, controls: Sequence[Control] = ()) -> Verdict:
    """Decides ``claim`` on ``measurement``, and whether its controls prove the gate.

    A control that contradicts its expectation makes the verdict inconclusive (``control_failed``),
    one that could not be decided at this n likewise (``control_undecided``): no gate may speak
    that did not work in the same run. Never raises on data.
    """
    verdict = _decide(claim, measurement)
    return _with_controls(claim, verdict, controls) if controls else verdict


def not_evaluated(claim: Claim, need: str, sentence: str) -> Verdict:
    """The verdict when a declared resource is absent. Never derived from data."""
    return Verdict("not_evaluated", f"missing:{need}", sentence, alpha=claim.level)


def _decide(claim: Claim, measurement: Measurement) -> Verdict:
    refusal = _refuse(claim, measurement)
    if refusal is not None:
        return replace(refusal, alpha=claim.level, n_unusable=_unusable(measurement.samples))
    try:
        verdict = _RULES[str(claim.estimand)](claim, measurement)
    except (ValueError, OverflowError, ZeroDivisionError) as error:  # total: a domain error is a refusal
        return _inconclusive("domain", f"the data lie outside the domain of the rule: {error}", len(measurement.samples))
    return _tidy(replace(verdict, alpha=claim.level, n_unusable=_unusable(measurement.samples)))


# --- refusals: what no rule may see -----------------------------------------------------------


def _refuse(claim: Claim, measurement: Measurement) -> Verdict | None:
    """The refusals of section 2.2 that are common to every rule, in their order."""
    samples = measurement.samples
    n = len({s.item for s in samples})
    if not samples:
        return _inconclusive("no_data", "nothing was measured; a run without rows can never pass", 0)
    if measurement.invalid:
        return _inconclusive("invalid_run", f"the run is void: {'; '.join(measurement.invalid)}", n)
    twice = [key for key, count in Counter((s.item, s.arm, s.replicate) for s in samples).items() if count > 1]
    if twice:
        item, arm, replicate = min(twice)
        sentence = f"{len(twice)} rows stand twice, first: item {item!r}, arm {arm!r}, replicate {replicate}"
        return _inconclusive("duplicate_rows", sentence, n)
    broken = [s for s in samples if not _sound(s)]
    if broken:
        first = broken[0]
        sentence = f"{len(broken)} rows hold no finite number, first: item {first.item!r} = {first.value!r} ({first.status})"
        return _inconclusive("non_finite", sentence, n)
    unpaired = _unpaired(samples) if claim.estimand in ("paired_difference", "run_ratio") else []
    if unpaired:
        sentence = f"{len(unpaired)} items are not in both arms: {', '.join(unpaired[:5])}"
        return _inconclusive("unpaired_items", sentence, n)
    if n < claim.min_n:
        return _inconclusive("min_n", f"{n} units, the plan asks for {claim.min_n}", n, n_needed=claim.min_n)
    return None


def _sound(sample: Sample) -> bool:
    """A finite value when ok, none otherwise."""
    if sample.status != "ok":
        return sample.value is None
    return sample.value is not None and math.isfinite(sample.value) and math.isfinite(sample.weight)


def _unpaired(samples: Iterable[Sample]) -> list[str]:
    arms: dict[str, set[str]] = {"new": set(), "old": set()}
    for sample in samples:
        arms.setdefault(sample.arm, set()).add(sample.item)
    return sorted(set().union(*arms.values()) - (arms["new"] & arms["old"])) if len(arms) == 2 else sorted(set(arms))


def _unusable(samples: Iterable[Sample]) -> int:
    return sum(s.status != "ok" for s in samples)


def _clustered(samples: Iterable[Sample]) -> bool:
    """Whether one independent unit holds more than one item, which an exact binary test may not see."""
    owner: dict[str, str] = {}
    return any(owner.setdefault(s.cluster, s.item) != s.item for s in samples if s.cluster is not None)


def _inconclusive(reason: str, sentence: str, n: int, **more: Any) -> Verdict:
    return Verdict("inconclusive", reason, sentence, n=n, **more)


# --- the rules, one for each estimand ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tests:
    """What a rule hands to ``_settle``: both p values and how to say them."""

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


def _settle(claim: Claim, tests: _Tests) -> Verdict:
    """holds, fails or inconclusive from two tests whose nulls meet at the bound."""
    at = "p <=" if tests.exactness == "bracketed" else "p ="  # the upper end of a rigorous bracket
    shown = f"{tests.estimate:.4g} [{tests.low:.4g}, {tests.high:.4g}], n = {tests.n}; claimed {claim.bound}"
    outcome: Outcome = "inconclusive"
    reason = "straddles"
    needed: tuple[int | None, int | None] = (None, None)
    if tests.p_hold <= claim.level:
        outcome, reason, sentence = "holds", "proven", f"{shown}: shown at {at} {tests.p_hold:.3g}"
    elif tests.p_fail <= (tests.alpha_fail or claim.level):
        outcome, reason, sentence = "fails", "refuted", f"{shown}: the opposite is shown at {at} {tests.p_fail:.3g}"
    elif tests.wrong_side:
        sentence = f"{shown}: not decided, and the estimate lies on the wrong side; more data are not expected to help"
    else:
        needed = (_needed(tests, 0.80), _needed(tests, 0.90))
        reason = "unattainable" if tests.unattainable else "straddles"
        ask = _ask(needed, tests.n)
        sentence = f"{shown}: not decided{'; ' + tests.unattainable if tests.unattainable else ''}{ask}"
    return Verdict(
        outcome, reason, sentence, tests.estimate, tests.low, tests.high, 1 - 2 * claim.level,
        tests.p_hold, tests.p_fail, n=tests.n, n_needed=needed[0], n_needed_90=needed[1],
        method=tests.method, exactness=tests.exactness, statistics=tests.statistics,
    )  # fmt: skip


def _ask(needed: tuple[int | None, int | None], n: int) -> str:
    """The n that would settle it, in words; or that n is not what is lacking."""
    if needed[0] is None:
        return ""
    if max(m for m in needed if m is not None) <= n:
        return f"; where the declared alternative is true n = {needed[0]} decides, so more items may not: the truth lies near the bound"
    return f"; n = {needed[0]} would settle it" + (f" with power .80, {needed[1]} with .90" if needed[1] else "")


def _needed(tests: _Tests, power: float) -> int | None:
    """The n for ``power``; None where the declared alternative lies on the wrong side of the bound."""
    try:
        return tests.needed(power)
    except ValueError:
        return None


def _proportion(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.4: Clopper-Pearson. A unit that failed counts as 0."""
    samples = measurement.samples
    if _clustered(samples):
        return _inconclusive("clustered", "an exact binomial test needs one item per independent unit", len(samples))
    values = _scores(samples)
    if values is None:
        return _inconclusive("domain", "a proportion needs values that are 0 or 1", len(samples))
    # For an upper bound on bad events a failed unit is a bad event; for a lower bound it is a miss.
    worst = 1 if claim.bound.kind == "at_most" else 0
    k = sum(worst if v is None else v for v in values)
    n = len(values)
    bound = claim.bound
    above, below = intervals.proportion_tests(k, n, bound.limit)
    p_hold, p_fail = (above, below) if bound.kind != "at_most" else (below, above)
    if bound.high is not None:
        high_above, high_below = intervals.proportion_tests(k, n, bound.high)
        # Either side alone refutes, so each gets half of alpha.
        p_hold, p_fail = max(above, high_below), min(1.0, 2 * min(below, high_above))
    low, high = intervals.clopper_pearson(k, n, claim.level)
    estimate = k / n

    def needed(power: float) -> int | None:
        if claim.expected is None or bound.kind == "within":
            return None
        side: Literal["at_least", "at_most"] = "at_least" if bound.kind == "at_least" else "at_most"
        return plan.proportion_n(bound.limit, claim.expected, claim.level, power, side).first

    return _settle(claim, _Tests(
        p_hold, p_fail, estimate, low, high, n, "clopper-pearson/1", "exact", {"k": k, "n": n}, needed,
        wrong_side=_wrong_side(claim, estimate),
    ))  # fmt: skip


def _paired_difference(claim: Claim, measurement: Measurement) -> Verdict:
    """Sections 3.1 and 3.2: exact McNemar, or exact unconditional ordered by Tango's score."""
    samples = measurement.samples
    if _clustered(samples):
        return _inconclusive("clustered", "an exact paired test needs one item per independent unit", len(samples) // 2)
    if any(s.replicate for s in samples):
        return _inconclusive("duplicate_rows", "replicates must be averaged per item first", len(samples) // 2)
    new, old = ({s.item: s for s in samples if s.arm == arm} for arm in ("new", "old"))
    items = sorted(new)
    ours, theirs = _scores([new[i] for i in items]), _scores([old[i] for i in items])
    if ours is None or theirs is None:
        return _inconclusive("domain", "an exact paired test needs values that are 0 or 1", len(items))
    pairs = Counter((x or 0, y or 0) for x, y in zip(ours, theirs, strict=True))  # error or truncation: wrong in that arm
    b, c, n = pairs[1, 0], pairs[0, 1], len(items)
    counts = {"b": b, "c": c, "both_right": pairs[1, 1], "both_wrong": pairs[0, 0], "n": n}
    if claim.bound.kind == "better_than" and claim.bound.limit == 0:
        return _superior(claim, b, c, n, counts)
    return _shifted(claim, b, c, n, counts)


def _superior(claim: Claim, b: int, c: int, n: int, counts: dict[str, Any]) -> Verdict:
    tests = paired.mcnemar(b, c)
    low, high = paired.tango_interval(b, c, n, claim.level)
    least = math.ceil(-math.log2(claim.level))
    few = f"{b + c} discordant items; significance needs at least {least}" if b + c < least else ""

    def needed(power: float) -> int | None:
        gain = claim.expected
        return plan.superiority_n(max(_psi(b, c, n), gain), gain, claim.level, power) if gain else None

    return _settle(claim, _Tests(
        tests.p_hold, tests.p_fail, (b - c) / n, low, high, n, "mcnemar-exact/1", "exact", counts, needed,
        wrong_side=b < c, unattainable=few,
    ))  # fmt: skip


def _shifted(claim: Claim, b: int, c: int, n: int, counts: dict[str, Any]) -> Verdict:
    margin = claim.bound.limit
    delta0 = -margin if claim.bound.kind == "non_inferior" else margin
    low, high = paired.tango_interval(b, c, n, claim.level)
    p_hold, p_fail, method, exactness = _shifted_p(b, c, n, delta0, claim.level)
    if method == "":
        return _inconclusive("domain", "the rejection region is not monotone at this n: not decided", n)
    estimate = (b - c) / n

    def needed(power: float) -> int | None:
        gain = (claim.expected or 0.0) if delta0 > 0 else 0.0
        if gain <= delta0:
            return None
        return max(plan.ni_n(-delta0, _psi(b, c, n), claim.level, power, gain), zero_flip)

    zero_flip = plan.ni_zero_flip_n(margin, claim.level) if delta0 < 0 else 1
    few = f"with n = {n} not even zero flips prove a margin of {margin:g} (that takes {zero_flip})" if n < zero_flip else ""
    return _settle(claim, _Tests(
        p_hold, p_fail, estimate, low, high, n, method, exactness, counts, needed,
        wrong_side=estimate <= delta0, unattainable=few,
    ))  # fmt: skip


def _shifted_p(b: int, c: int, n: int, delta0: float, alpha: float) -> tuple[float, float, str, str]:
    """p values of the shifted paired tests: exact up to the size limit, Tango's asymptotic ones above it."""
    if n > 5000:  # the exact rule's size limit (section 3.2)
        z = paired.tango_z(b, c, n, delta0)
        return special.normal_sf(z), special.normal_sf(-z), "tango-score/1", "asymptotic"
    tests = paired.noninferiority(b, c, n, delta0, slack=1e-3)  # wide enough to be quick, narrow enough to show
    if any(p.lower <= alpha < p.upper for p in (tests.p_hold, tests.p_fail)):
        tests = paired.noninferiority(b, c, n, delta0, decide_at=alpha)  # refine until the side is certain
    if not tests.monotone:
        return 1.0, 1.0, "", ""
    return tests.p_hold.upper, tests.p_fail.upper, "exact-unconditional-tango/1", "bracketed"


def _psi(b: int, c: int, n: int) -> float:
    """The discordance seen, kept off zero (section 2.3)."""
    return (b + c + 0.5) / (n + 1)


def _bounded_mean(claim: Claim, measurement: Measurement) -> Verdict:
    """Sections 3.7 and 3.11: a betting test on cluster means. A failed unit counts as the worst value."""
    assert claim.support is not None  # the bound checked it
    low_end, high_end = claim.support
    values = _cluster_means(measurement.samples, worst=high_end)
    outside = [v for v in values if not low_end <= v <= high_end]
    if outside:
        return _inconclusive("domain", f"{len(outside)} values lie outside the declared support {claim.support}", len(values))
    order = betting.seeded_order(len(values), claim.id)
    tests = betting.bounded_mean_tests(values, claim.support, claim.bound.limit, order)
    low, high = betting.bounded_mean_interval(values, claim.support, claim.level, order)
    estimate = math.fsum(values) / len(values)

    def needed(power: float) -> int | None:
        if claim.expected is None or claim.support is None or power > 0.80:  # no power is defined for it: one number
            return None
        return plan.betting_min_n(claim.expected, claim.bound.limit, claim.support, claim.level)

    return _settle(claim, _Tests(
        tests.p_hold, tests.p_fail, estimate, low, high, len(values), "betting-mean/1", "exact",
        {"n": len(values), "support": [low_end, high_end]}, needed, wrong_side=estimate >= claim.bound.limit,
    ))  # fmt: skip


def _cluster_means(samples: Sequence[Sample], worst: float) -> list[float]:
    """One value per independent unit, in the order of their names."""
    groups: dict[str, list[float]] = {}
    for s in samples:
        groups.setdefault(s.cluster or s.item, []).append(worst if s.value is None else s.value)
    return [math.fsum(values) / len(values) for _, values in sorted(groups.items())]


def _log_ratio(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.6: a ratio estimator over documents, cluster t, guarded against few and skewed clusters."""
    samples = sorted(measurement.samples, key=lambda s: s.item)
    if any(s.value is None for s in samples):
        return _inconclusive("missing_data", f"{_unusable(samples)} documents have no value; a sum cannot do without", len(samples))
    numerators = [s.value for s in samples if s.value is not None]
    result = means.ratio_estimator(numerators, [s.weight for s in samples], [s.cluster or s.item for s in samples], claim.level)
    n = len({s.cluster or s.item for s in samples})
    if result.se == 0:
        return _inconclusive("zero_variance", "all documents agree exactly: a zero-width interval never decides", n)
    limit = math.log(claim.bound.limit)
    tests = means.t_test_p(result.estimate, result.se, result.df, limit)
    verdict = _settle(claim, _Tests(
        tests.p_hold, tests.p_fail, math.exp(result.estimate), math.exp(result.low), math.exp(result.high), n,
        "ratio-cluster-t/1", "asymptotic", {"log_ratio": result.estimate, "se": result.se, "df": result.df,
        "skewness": result.skewness, "n": n}, wrong_side=result.estimate >= limit,
    ))  # fmt: skip
    if not result.guard_ok:
        reason = "few_clusters" if n < 30 else "skewed"
        need = max(30, math.ceil(121 * result.skewness**2))
        text = f"{n} documents with skewness {result.skewness:.2f}; the t interval needs {need}"
        return replace(verdict, outcome="inconclusive", reason=reason, sentence=text, n_needed=need)
    return verdict


def _run_ratio(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.9: interleaved ABBA blocks, paired on the log scale."""
    if any(s.value is None for s in measurement.samples):
        return _inconclusive("missing_data", "a run of a block failed: the block is void", 0)
    blocks: dict[str, dict[tuple[str, int], float]] = {}
    for s in measurement.samples:
        blocks.setdefault(s.item, {})[s.arm, s.replicate] = s.value or 0.0
    wanted = {("old", 0), ("new", 0), ("new", 1), ("old", 1)}
    if any(set(block) != wanted for block in blocks.values()):
        return _inconclusive("unpaired_items", "each block needs two runs of either arm", len(blocks))
    if len(blocks) < 4:
        return _inconclusive("few_clusters", f"{len(blocks)} blocks; at least 4 are needed", len(blocks), n_needed=4)
    rows = [(b["old", 0], b["new", 0], b["new", 1], b["old", 1]) for _, b in sorted(blocks.items())]
    if any(value <= 0 for row in rows for value in row):
        return _inconclusive("non_finite", "a run has no positive statistic", len(rows))
    result = ratio.abba(rows, claim.level, claim.level)  # shown: both ends at alpha
    if result.sd_log == 0:
        return _inconclusive("zero_variance", "all blocks agree exactly: a zero-width interval never decides", len(rows))
    limit = math.log(claim.bound.limit)
    sign = 1 if claim.bound.kind == "at_most" else -1
    tests = ratio.abba_tests(result, limit, "below" if sign > 0 else "above")

    def needed(power: float) -> int | None:
        # At the declared ratio; where none is declared the observed one would be "observed power".
        gain = math.log(claim.expected) if claim.expected else None
        return None if gain is None else plan.ratio_k(result.sd_log, sign * limit, claim.level, power, sign * gain)

    return _settle(claim, _Tests(
        tests.p_hold, tests.p_fail, result.ratio, result.low, result.high, result.k, "abba-log-t/1", "asymptotic",
        {"mean_log": result.mean_log, "sd_log": result.sd_log, "k": result.k}, needed,
        wrong_side=_wrong_side(claim, result.ratio), alpha_fail=0.01,
    ))  # fmt: skip


def _exact(claim: Claim, measurement: Measurement) -> Verdict:
    """A deterministic check: every row must satisfy the bound, so the worst row is the estimate."""
    samples, bound = measurement.samples, claim.bound
    missing = _unusable(samples)
    values = [s.value for s in samples if s.value is not None]
    if bound.kind == "identical":
        bad = missing + sum(v != 1 for v in values)
        worst = 1 - bad / len(samples)
        names = [s.item for s in samples if s.value != 1][:5]
    else:
        names = [s.item for s in samples if s.value is None or not _inside(bound, s.value)][:5]
        bad = missing + sum(not _inside(bound, v) for v in values)
        worst = (min if bound.kind == "at_least" else max)(values, default=math.inf)
    n = len(samples)
    statistics = {"n": n, "mismatches": bad}
    shown = None if math.isinf(worst) else worst
    if bad:
        sentence = f"{bad} of {n} rows break {bound}, first: {', '.join(names)}"
        return Verdict("fails", "refuted", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)
    sentence = f"all {n} rows satisfy {bound}; worst {worst:.6g}" if bound.kind != "identical" else f"all {n} rows are as expected"
    return Verdict("holds", "proven", sentence, shown, n=n, method="exact/1", exactness="exact", statistics=statistics)


def _inside(bound: Bound, value: float) -> bool:
    if bound.kind == "at_most":
        return value <= bound.limit
    return bound.limit <= value <= (math.inf if bound.high is None else bound.high)


_RULES: dict[str, Callable[[Claim, Measurement], Verdict]] = {
    "proportion": _proportion,
    "paired_difference": _paired_difference,
    "bounded_mean": _bounded_mean,
    "log_ratio": _log_ratio,
    "run_ratio": _run_ratio,
    "exact": _exact,
}


def _scores(samples: Iterable[Sample]) -> list[int | None] | None:
    """Binary scores, None for a unit that failed; None altogether if a score is not binary."""
    values = [s.value for s in samples]
    if any(v is not None and v not in (0, 1) for v in values):
        return None
    return [None if v is None else int(v) for v in values]


def _wrong_side(claim: Claim, estimate: float) -> bool:
    bound = claim.bound
    if bound.kind == "at_least":
        return estimate <= bound.limit
    if bound.kind == "at_most":
        return estimate >= bound.limit
    return not bound.limit < estimate < (bound.high or math.inf)


# --- controls ---------------------------------------------------------------------------------


def _with_controls(claim: Claim, verdict: Verdict, controls: Sequence[Control]) -> Verdict:
    """Records each control beside the verdict; a gate that does not work may not speak."""
    records: list[dict[str, Any]] = []
    failed: list[str] = []
    undecided: list[str] = []
    for control in controls:
        got = _decide(claim, control.measurement)
        met = got.outcome in control.expect
        records.append({
            "name": control.name, "expect": list(control.expect), "outcome": got.outcome, "met": met,
            "reason": got.reason, "sentence": got.sentence, "estimate": got.estimate, "low": got.low,
            "high": got.high, "n": got.n, "p_hold": got.p_hold, "p_fail": got.p_fail, "statistics": dict(got.statistics),
        })  # fmt: skip
        if not met:
            weak = got.outcome == "inconclusive" and got.reason in _UNDECIDED
            (undecided if weak else failed).append(f"{control.name}: expected {' or '.join(control.expect)}, got {got.outcome}")
    noted = replace(verdict, controls=tuple(records))
    if failed:
        text = f"the gate did not prove itself: {'; '.join(failed)}. Its own numbers: {verdict.sentence}"
        return replace(noted, outcome="inconclusive", reason="control_failed", sentence=text)
    if undecided and verdict.outcome != "inconclusive":
        text = f"n is too small for the controls: {'; '.join(undecided)}. Its own numbers: {verdict.sentence}"
        return replace(noted, outcome="inconclusive", reason="control_undecided", sentence=text)
    return noted


# --- numbers as they are kept -----------------------------------------------------------------


def _tidy(verdict: Verdict) -> Verdict:
    """Nine significant digits: decided on full precision, kept so that another libm prints the same."""
    names = ("estimate", "low", "high", "level", "p_hold", "p_fail")
    rounded = {name: _nine(getattr(verdict, name)) for name in names}
    return replace(verdict, **rounded, statistics={k: _nine(v) for k, v in verdict.statistics.items()})


def _nine(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value
