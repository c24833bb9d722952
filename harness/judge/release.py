"""Many claims at once: the release verdict, with an error rate of its own (section 3.12).

Families are opened in their order, each only if all before it held:

    all           every claim holds (integrity, guardrails): each at its full level, by intersection-union
    any           at least one claim holds (gains), adjusted by Holm; last, for behind it alpha is spent
    exploratory   looked at, adjusted by Benjamini-Hochberg, never gates

A release holds if every family but the exploratory ones does: with any guardrail false that happens with
probability at most the largest level among its claims. It fails only if a refutation survives the correction
for how many claims there were, so that a sound release is refused as "fails" at most as rarely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import ClaimError
from harness.stats import families as adjust
from harness.types import Family, Outcome, Verdict

__all__ = ["Release", "release"]


@dataclass(frozen=True, slots=True)
class Release:
    """``alpha`` bounds the chance of a false "holds"; ``families`` says of each what became of it, and why."""

    outcome: Outcome
    sentence: str
    alpha: float
    families: tuple[Mapping[str, Any], ...]


def release(families: Sequence[Family], verdicts: Mapping[str, Verdict], *, alpha_any: float = 0.025) -> Release:
    """The verdict on a release. A claim without a verdict was lost, and is as good as not evaluated.

    Raises ClaimError if a family is empty, or stands behind one that is decided by Holm.
    """
    _check(families)
    told: list[dict[str, Any]] = []
    closed_by = ""
    for family in families:
        said = _family(family, verdicts, alpha_any)
        if closed_by and family.rule != "exploratory":
            said = {**said, "outcome": "not_evaluated", "reason": f"gated: {closed_by} did not hold", "adjusted": {}}
        elif family.rule != "exploratory" and said["outcome"] != "holds":
            closed_by = family.name
        told.append(said)
    gating = [said for said in told if said["rule"] != "exploratory"]
    outcome: Outcome = next((said["outcome"] for said in gating if said["outcome"] != "holds"), "holds")
    levels = [verdicts[name].alpha or 0.0 for f in families if f.rule == "all" for name in f.claims if name in verdicts]
    alpha = max([*levels, *(alpha_any for f in families if f.rule == "any")], default=alpha_any)
    sentence = "; ".join(f"{said['name']} ({len(said['claims'])}): {said['outcome']}{_why(said)}" for said in told)
    return Release(outcome, sentence, alpha, tuple(told))


def _family(family: Family, verdicts: Mapping[str, Verdict], alpha_any: float) -> dict[str, Any]:
    outcomes = {name: verdicts[name].outcome if name in verdicts else "lost" for name in family.claims}
    said = {"name": family.name, "rule": family.rule, "claims": outcomes, "adjusted": {}}
    if family.rule == "all":
        return {**said, **_all(family, verdicts, outcomes)}
    adjust_by = adjust.holm if family.rule == "any" else adjust.benjamini_hochberg
    adjusted = dict(zip(family.claims, adjust_by([_p_hold(verdicts.get(name)) for name in family.claims]), strict=True))
    said["adjusted"] = {name: float(f"{p:.9g}") for name, p in adjusted.items()}
    shown = sorted(name for name, p in adjusted.items() if p <= alpha_any)
    if family.rule == "exploratory":
        return {**said, "outcome": "not_evaluated", "reason": f"exploratory, gates nothing; below {alpha_any:g}: {_names(shown)}"}
    if shown:
        return {**said, "outcome": "holds", "reason": f"shown after Holm: {_names(shown)}"}
    return {**said, "outcome": "inconclusive", "reason": "no claim is shown after Holm"}


def _all(family: Family, verdicts: Mapping[str, Verdict], outcomes: Mapping[str, str]) -> dict[str, Any]:
    by = {said: sorted(name for name, outcome in outcomes.items() if outcome == said) for said in set(outcomes.values())}
    refuted = [(_p_fail(verdicts[name]), name) for name in by.get("fails", [])]
    if refuted:
        p, name = min(refuted)
        if len(family.claims) * p <= (verdicts[name].alpha or 0.0):
            return {"outcome": "fails", "reason": _names(by["fails"])}
        reason = f"{_names(by['fails'])} fails by itself, not after the correction for {len(family.claims)} claims"
        return {"outcome": "inconclusive", "reason": reason}
    unmeasured = sorted(name for said in ("not_evaluated", "error", "lost") for name in by.get(said, []))
    if unmeasured:
        return {"outcome": "not_evaluated", "reason": _names(unmeasured)}
    if set(by) == {"holds"}:
        return {"outcome": "holds", "reason": ""}
    return {"outcome": "inconclusive", "reason": _names(by["inconclusive"])}


def _p_hold(verdict: Verdict | None) -> float:
    """The p value of a claim; 1 where its gate may not speak, 0 where there is no sampling error."""
    if verdict is not None and verdict.outcome == "holds" and verdict.p_hold is None:
        return 0.0
    if verdict is None or verdict.p_hold is None or not (verdict.outcome in ("holds", "fails") or verdict.reason == "straddles"):
        return 1.0
    return verdict.p_hold


def _p_fail(verdict: Verdict) -> float:
    return 0.0 if verdict.p_fail is None else verdict.p_fail  # no sampling error: a refutation is certain


def _why(said: Mapping[str, Any]) -> str:
    return f" ({said['reason']})" if said["reason"] else ""


def _names(names: Sequence[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


def _check(families: Sequence[Family]) -> None:
    gating = [family for family in families if family.rule != "exploratory"]
    empty = [family.name for family in families if not family.claims]
    if not gating or empty:
        raise ClaimError(f"a release needs families that gate, none of them empty; empty: {', '.join(empty) or 'there is none that gates'}")
    early = [family.name for family in gating[:-1] if family.rule == "any"]
    if early:
        raise ClaimError(f"the family {early[0]!r} (any) must be the last that gates: behind it alpha is spent")
