"""The only code that decides.

``judge`` is pure, deterministic and total: it sees no clock, file, network, random global or
pytest, and returns a Verdict for any data. Standard library only, so that ``recheck`` can run it
offline on another machine and get the same bytes. Rules and formulas: ``harness.stats``, whose
section numbers refer to the project's statistics specification.

    holds          the deciding confidence limit is on the good side
    fails          the opposite limit is on the bad side
    inconclusive   neither, or the data were refused; says why and, where defined, the n that would do

    refusals       what no rule may see
    binary scores runs raters deterministic    one rule for each estimand
    settle         from two p values to a verdict in words
    release        many claims at once
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from harness.judge import binary, deterministic, raters, runs, scores
from harness.judge.refusals import refuse, sequence, unusable
from harness.judge.release import Release, release
from harness.judge.settle import inconclusive, tidy
from harness.stats import means
from harness.types import Claim, Control, Measurement, Verdict

__all__ = ["Release", "judge", "not_evaluated", "release", "sequence"]


def judge(claim: Claim, measurement: Measurement, *, controls: Sequence[Control] = ()) -> Verdict:
    """Decides ``claim`` on ``measurement``, and whether its controls prove the gate.

    A control that contradicts its expectation makes the verdict inconclusive (``control_failed``),
    one that could not be decided at this n likewise (``control_undecided``): no gate may speak
    that did not work in the same run. Items marked as contaminated are judged with the rest and the
    clean ones once more without them. Never raises on data.
    """
    verdict = _with_clean_items(claim, measurement, _decide(claim, measurement))
    return _with_controls(claim, verdict, controls) if controls else verdict


def not_evaluated(claim: Claim, need: str, sentence: str) -> Verdict:
    """The verdict when a declared resource is absent. Never derived from data."""
    return Verdict("not_evaluated", f"missing:{need}", sentence, alpha=claim.level)


_RULES: dict[str, Callable[[Claim, Measurement], Verdict]] = {
    "proportion": binary.proportion,
    "paired_difference": binary.paired_difference,
    "paired_mean": scores.paired_mean,
    "relative_score": scores.relative_score,
    "sequential_difference": scores.sequential_difference,
    "corrected_difference": raters.corrected_difference,
    "mean": scores.mean,
    "bounded_mean": scores.bounded_mean,
    "log_ratio": scores.log_ratio,
    "over_limit": runs.over_limit,
    "run_ratio": runs.run_ratio,
    "kappa": raters.kappa,
    "alpha_nominal": raters.alpha,
    "alpha_ordinal": raters.alpha,
    "alpha_interval": raters.alpha,
    "exact": deterministic.exact,
    "exact_share": deterministic.exact_share,
}


def _decide(claim: Claim, measurement: Measurement) -> Verdict:
    refusal = refuse(claim, measurement)
    if refusal is not None:
        return replace(refusal, alpha=claim.level, n_unusable=unusable(measurement.samples))
    try:
        verdict = _beside_reported_error(measurement, _RULES[str(claim.estimand)](claim, measurement))
    except (ValueError, OverflowError, ZeroDivisionError) as error:  # total: a domain error is a refusal
        verdict = inconclusive("domain", f"the data lie outside the domain of the rule: {error}", len(measurement.samples))
    if any(x is not None and not math.isfinite(x) for x in (verdict.estimate, verdict.low, verdict.high, verdict.p_hold, verdict.p_fail)):
        verdict = inconclusive("domain", "the values are too large for the rule: a number overflowed", len(measurement.samples))
    return tidy(replace(verdict, alpha=claim.level, n_unusable=unusable(measurement.samples)))


def _beside_reported_error(measurement: Measurement, verdict: Verdict) -> Verdict:
    """Scores that came with a standard error of another tool: one that the rows contradict threefold voids both."""
    reported = measurement.conditions.get("reported_se")
    values = [s.value for s in measurement.samples if s.value is not None]
    units = [s.cluster or s.item for s in measurement.samples if s.value is not None]
    if reported is None or len(set(units)) < 2:
        return verdict
    ours = means.cluster_mean(values, units, 0.05).se
    if isinstance(reported, (int, float)) and ours / 3 <= reported <= 3 * ours:
        return verdict
    sentence = f"the scores came with a standard error of {reported}, the rows give {ours:.3g}: one of them is not what it says"
    return inconclusive("reported_se", sentence, verdict.n)


# --- what may take a verdict back, never strengthen it ------------------------------------------


def _with_clean_items(claim: Claim, measurement: Measurement, full: Verdict) -> Verdict:
    """Section 3.12: a claim that holds must hold without the items the subject may have seen.

    Losing items alone must not turn it into a failure, so an undecided clean subset is ``contaminated``.
    """
    if full.outcome != "holds":
        return full
    clean = tuple(s for s in measurement.samples if not s.detail.get("contaminated"))
    if len(clean) == len(measurement.samples):
        return full
    rest = _decide(replace(claim, items="", min_n=1), replace(measurement, samples=clean))
    if rest.outcome == "holds":
        return full
    if rest.outcome == "fails":
        return replace(rest, sentence=f"it holds only with contaminated items; without them: {rest.sentence}")
    sentence = f"it holds with the contaminated items, and is not decided without them: {rest.sentence}"
    return replace(rest, reason="contaminated", sentence=sentence)


def _with_controls(claim: Claim, verdict: Verdict, controls: Sequence[Control]) -> Verdict:
    """Records each control beside the verdict; a gate that does not work may not speak."""
    records: list[dict[str, Any]] = []
    failed: list[str] = []
    undecided: list[str] = []
    noisy: list[str] = []
    for control in controls:
        got = _decide(claim, control.measurement)
        met = got.outcome in control.expect
        records.append({
            "name": control.name, "expect": list(control.expect), "outcome": got.outcome, "met": met,
            "reason": got.reason, "sentence": got.sentence, "estimate": got.estimate, "low": got.low,
            "high": got.high, "n": got.n, "p_hold": got.p_hold, "p_fail": got.p_fail, "statistics": dict(got.statistics),
        })  # fmt: skip
        if not met:
            said = f"{control.name}: expected {' or '.join(control.expect)}, got {got.outcome}"
            (noisy if _noise(claim, control, got) else undecided if _too_few(got) else failed).append(said)
    noted = replace(verdict, controls=tuple(records))
    if failed:
        text = f"the gate did not prove itself: {'; '.join(failed)}. Its own numbers: {verdict.sentence}"
        return replace(noted, outcome="inconclusive", reason="control_failed", sentence=text)
    if noisy:
        text = f"the bound does not lie above the noise of an unchanged subject: {'; '.join(noisy)}. Its own numbers: {verdict.sentence}"
        return replace(noted, outcome="inconclusive", reason="below_noise_floor", sentence=text)
    if undecided and verdict.outcome != "inconclusive":
        text = f"n is too small for the controls: {'; '.join(undecided)}. Its own numbers: {verdict.sentence}"
        return replace(noted, outcome="inconclusive", reason="control_undecided", sentence=text)
    return noted


def _too_few(got: Verdict) -> bool:
    """Whether a control lacked units, as opposed to a gate that does not work."""
    return got.outcome == "inconclusive" and got.reason in ("straddles", "min_n", "unattainable", "few_clusters", "skewed")


def _noise(claim: Claim, control: Control, got: Verdict) -> bool:
    """Section 3.14: an unchanged subject that must stay below an upper bound, shows noise, and is not shown to.

    Noise is never subtracted; a difference needs no floor, since noise does not shift it.
    """
    floor = claim.bound.kind in ("at_most", "identical") and claim.estimand in ("proportion", "bounded_mean", "run_ratio", "exact")
    seen = got.outcome == "fails" or (got.reason == "straddles" and bool(got.estimate))
    return floor and control.expect == ("holds",) and seen
