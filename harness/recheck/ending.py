"""How a run must have ended: what its plan and its evidence say of the exit status.

One place for it: the plugin ends a run by it, ``recheck`` derives it again, so that an edited ``run.json`` is named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["absent", "doubts", "lost", "orphans", "unheeded"]


def lost(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims that were planned and left no evidence."""
    return sorted({entry["claim"]["id"] for entry in plan["claims"]} - {record["claim"]["id"] for record in records})


def orphans(plan: Mapping[str, Any]) -> list[str]:
    """The baselines of a whole run that no claim answers to: a test went away, and what was approved of it stayed."""
    asked = {entry["claim"]["id"] for entry in plan["claims"]}
    return sorted(set(plan.get("baselines", ())) - asked) if plan.get("whole") else []


def absent(records: Sequence[Mapping[str, Any]], allowed: Collection[str]) -> tuple[str, ...]:
    """What was needed, missing, and not allowed to be."""
    needs = {r["verdict"]["reason"].partition(":")[2] for r in records if r["verdict"]["outcome"] == "not_evaluated"}
    return tuple(sorted(needs - set(allowed)))


def unheeded(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims that did not come to what was expected of them, in a way that must not end with 0."""
    return [record["claim"]["id"] for record in records if _unheeded(record)]


def _unheeded(record: Mapping[str, Any]) -> bool:
    verdict, expected = record["verdict"], record["notes"].get("expect", "holds")
    if verdict["outcome"] in ("holds", "fails"):
        return bool(verdict["outcome"] != expected)
    smoke = record["tier"] == "smoke" and verdict["reason"] != "control_failed"
    return verdict["outcome"] == "error" or (verdict["outcome"] == "inconclusive" and not smoke)


def doubts(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """What ``facts``, the content of run.json, say otherwise than plan and evidence.

    A status other than 0 may have causes that leave no evidence (a test without a claim, Ctrl-C); 0 has conditions.
    """
    told = []
    if sorted(facts.get("lost", lost(plan, records))) != lost(plan, records):
        told.append(f"lost = {facts['lost']}, but by plan and evidence it is {lost(plan, records)}")
    if facts.get("tier", plan["tier"]) != plan["tier"]:
        told.append(f"tier = {facts['tier']!r}, but the run was planned as {plan['tier']!r}")
    status = facts["exit_status"]
    why = [*lost(plan, records), *orphans(plan), *unheeded(records), *absent(records, facts.get("allowed_missing", ()))]
    if type(status) is not int or (status == 0 and why):
        told.append(f"exit_status = {status!r}, but the run cannot have ended so: {', '.join(why[:5]) or 'no number'}")
    return told
