"""Runs and requests: ratios over interleaved blocks, and a latency limit over a series in time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from harness.judge.settle import Decided, inconclusive, settle, wrong_side
from harness.stats import means, plan, ratio, series, steady
from harness.types import Claim, Measurement, Outcome, Sample, Verdict

__all__ = ["over_limit", "run_ratio"]


def run_ratio(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.9: interleaved ABBA blocks, paired on the log scale. A failed run voids its block; few may be void."""
    blocks: dict[str, dict[tuple[str, int], float | None]] = {}
    for s in measurement.samples:
        blocks.setdefault(s.item, {})[s.arm, s.replicate] = s.value
    wanted = {("old", 0), ("new", 0), ("new", 1), ("old", 1)}
    if any(set(block) != wanted for block in blocks.values()):
        return inconclusive("unpaired_items", "each block needs two runs of either arm", len(blocks))
    rows = [(b["old", 0], b["new", 0], b["new", 1], b["old", 1]) for _, b in sorted(blocks.items())]
    whole, void = usable = ratio.usable_blocks(rows)
    if not usable.enough:
        sentence = f"{void} of {len(rows)} blocks are void, a run in each failed; at most one in ten may be"
        return inconclusive("missing_data", sentence, len(whole))
    if len(whole) < 4:
        return inconclusive("few_clusters", f"{len(whole)} blocks; at least 4 are needed", len(whole), n_needed=4)
    if any(value <= 0 for row in whole for value in row):
        return inconclusive("non_finite", "a run has no positive statistic", len(whole))
    result = ratio.abba(whole, claim.level, claim.level)  # shown: both ends at alpha
    if result.sd_log == 0:
        return inconclusive("zero_variance", "all blocks agree exactly: a zero-width interval never decides", len(whole))
    limit = math.log(claim.bound.limit)
    sign = 1 if claim.bound.kind == "at_most" else -1
    direction: means.Direction = "below" if sign > 0 else "above"
    tests = ratio.abba_tests(result, limit, direction)

    def needed(power: float) -> int | None:
        # At the declared ratio; where none is declared the observed one would be "observed power".
        gain = math.log(claim.expected) if claim.expected else None
        return None if gain is None else plan.ratio_k(result.sd_log, sign * limit, claim.level, power, sign * gain)

    statistics = {"mean_log": result.mean_log, "sd_log": result.sd_log, "k": result.k, **({"void": void} if void else {})}
    return settle(claim, Decided(
        tests.p_hold, tests.p_fail, result.ratio, result.low, result.high, result.k, "abba-log-t/1", "asymptotic",
        statistics, needed, wrong_side=wrong_side(claim, result.ratio), alpha_fail=0.01,
    ))  # fmt: skip


def over_limit(claim: Claim, measurement: Measurement) -> Verdict:
    """Section 3.8: the share of requests over the limit, with the sample size that the queue left of n.

    ``fails`` names what most of those over the limit died of; a run that was not in one steady state cannot hold.
    """
    assert claim.slo is not None  # the bound checked it
    samples, share = measurement.samples, claim.bound.limit
    untimed = sum(s.at is None for s in samples)
    if untimed:
        return inconclusive("domain", f"{untimed} requests say not when they were scheduled (Sample.at); a series needs it", len(samples))
    if 2 * len({s.at for s in samples}) < len(samples):
        return inconclusive(
            "degenerate_series", "most requests were scheduled at the same time as another: no order, no queue", len(samples)
        )
    if any(s.value is not None and s.value < 0 for s in samples):
        return inconclusive("domain", "a latency is negative", len(samples))
    rows = sorted(samples, key=lambda s: (s.at, s.item))
    ordered = [s.value for s in rows]
    n, k = len(ordered), series.over_limit(ordered, claim.slo)
    try:
        tau = series.slo_time(ordered, claim.slo)
    except ValueError as error:
        if str(error).startswith("degenerate"):
            return inconclusive("degenerate_series", f"{error}: the sign of a broken clock or a stub", n)
        raise
    tests = series.slo_tests(k, n, tau, share)
    low, high = series.slo_interval(k, n, tau, claim.level)
    least = series.slo_min_n(share, claim.level, tau)
    few = f"neighbouring requests share a queue: n = {n} counts as {n / tau:.0f}; below n = {least} nothing can pass" if n < least else ""

    def needed(power: float) -> int | None:
        return least if claim.expected is None else series.slo_n(share, claim.expected, claim.level, power, tau)

    drift = steady.drift(ordered)
    verdict = settle(claim, Decided(
        tests.p_hold, tests.p_fail, k / n, low, high, n, "over-limit-markov/2", "asymptotic",
        {"k": k, "n": n, "tau": tau, "slo": claim.slo, "later": drift.later, "p_steady": drift.p},
        needed, wrong_side=k / n >= share, unattainable=few, n_eff=n / tau,
    ))  # fmt: skip
    if gone := _gone(rows):
        return _dead(claim, verdict, rows, gone)
    return _with_cause(verdict, rows, claim.slo) if verdict.outcome == "fails" else _if_steady(verdict, drift)


# The last third may be taken for slower than the first once in a hundred steady runs, and for less than this in none.
_DRIFT_P, _DRIFT = 0.01, 0.05


def _if_steady(verdict: Verdict, drift: steady.Drift) -> Verdict:
    """A run whose end does not rank with its start shows no state of the service. It may still fail: that was shown of all of it."""
    if drift.p > _DRIFT_P or abs(drift.later - 0.5) < _DRIFT:
        return verdict
    than = f"a request of the last third is slower than one of the first with a chance of {drift.later:.2f}, not .50 (p = {drift.p:.2g})"
    sentence = f"the run was not steady: {than}; warm up longer, or lower the rate. Its own numbers: {verdict.sentence}"
    return replace(verdict, outcome="inconclusive", reason="not_steady", sentence=sentence, n_needed=None, n_needed_90=None)


def _gone(rows: Sequence[Sample]) -> Sequence[Sample]:
    """The requests from the first refused connection on, if the last was refused too and none between completed."""
    refused = [i for i, s in enumerate(rows) if s.status == "connect_failed"]
    tail = rows[refused[0] :] if refused else ()
    return tail if tail and tail[-1].status == "connect_failed" and all(s.value is None for s in tail) else ()


def _dead(claim: Claim, verdict: Verdict, rows: Sequence[Sample], gone: Sequence[Sample]) -> Verdict:
    """A server that is gone for good is no state that comes and goes: no dependence excuses it, and its quick end holds nothing."""
    outcome: Outcome = "fails" if len(gone) > claim.bound.limit * len(rows) or verdict.outcome == "fails" else "inconclusive"
    reason = "zero_completed" if all(s.value is None for s in rows) else "server_died"
    ended = f"the server ended: nobody listened from {gone[0].at:.3f} s after the origin on, {len(gone)} of {len(rows)} requests"
    if verdict.outcome == "fails":
        said = verdict.sentence
    elif outcome == "fails":
        said = f"claimed {claim.bound}, and that alone is more"
    else:
        said = f"claimed {claim.bound}: too few to refute it, and a server that ended shows nothing of one that runs"
    sentence = f"{ended}: {said}"
    return replace(verdict, outcome=outcome, reason=reason, sentence=sentence, n_needed=None, n_needed_90=None)


_ERRORS = ("error", "http_error")  # an answer that says so itself


def _with_cause(verdict: Verdict, rows: Sequence[Sample], limit: float) -> Verdict:
    """What most of the requests over the limit died of."""
    over = Counter(s.status if s.value is None else "over_slo" for s in rows if s.value is None or s.value > limit)
    ranked = sorted(over, key=lambda name: (-over[name], name))
    reason = "error_share" if ranked[0] in _ERRORS else ranked[0]
    if all(s.value is None for s in rows):
        reason = "zero_completed"
    said = ", ".join(f"{over[name]} {name}" for name in ranked)
    return replace(verdict, reason=reason, sentence=f"{verdict.sentence}; over: {said}")
