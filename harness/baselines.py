"""What a person approved, claim by claim, and what has changed since.

    golden/baselines/<claim>.json   claim, verdict, interval, rows, subjects, the run it comes from; by whom, when and why
    RUN/plan.json                   "baselines": those of this lifecycle, sealed before the first sample; "whole": was every claim asked
    RUN/changes.json                what changed, derived from the two by ``changes``, and by ``recheck`` again

Only tier full is held against a baseline. An approval is bound to its own digest, so that an edit by hand is refused by name; files
of other makers in the folder (an object with "lifecycle" and without "claim") are left alone. Standard library only.

``changes.json``::

    {"baseline": {"claims": 464, "digest": ..., "approved": newest time}, "whole": true,
     "error": .03,            # at most this chance to call anything below more than chance where nothing changed
     "changed": [{"claim": ..., "what": "worse", "how": "paired", "p": .0002, "sentence": ..., "old": {"outcome", "estimate", "low",
                  "high", "n"}, "new": {the same}, "differs": ["subjects", "machine", "code"]}],
     "new": [claims without a baseline], "gone": [{"claim", "old", "why"}], "not_run": n, "same": n, "identical": n}

``what`` is "worse" or "better" where the change is more than chance; "chance" where the verdict is another and the numbers do not show
a change; "moved" for an exact number that changed under the same verdict; "asked otherwise" where the claim is not the approved one;
"not comparable" where the verdict is another and so is what it was measured on: times on another machine.
``same`` claims are in none of the lists; of them, ``identical`` have the same rows. ``how`` it was decided:

    paired      0 or 1 an item, the same items in both runs: items that changed are as likely to rise as to fall, if nothing
                changed; the exact sign test, Holm over all claims so compared at ``ALPHA``
    intervals   the two intervals at a miss of ``SHARP`` on each side do not meet: wrong with probability at most 4 * ``SHARP``
    exact       every row there is was counted: a change of the verdict is one; no error rate
    rows        the same rows: only a bound, a control or the judge can have changed the verdict
    outcome     one of the two has no number, or no interval: not evaluated, refused, an error, or a gate that failed its controls
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import EvidenceError, GoldenError, HarnessError
from harness.judge import judge
from harness.judge.refusals import clustered
from harness.stats.families import holm
from harness.stats.paired import mcnemar
from harness.types import Claim, Measurement, Sample, items_digest

__all__ = ["ALPHA", "CHANGES", "SCHEMA", "SHARP", "changes", "check", "entry", "file_of", "load", "planned", "sealed", "worse"]

SCHEMA = "baseline/1"
CHANGES = "changes.json"
ALPHA = 0.025  # the chance of any false alarm among claims compared item by item
SHARP = 1e-5  # what each of two intervals may miss on each side, where they are held against each other

_EXACT = ("exact", "exact_share")
_ASKED = ("estimand", "bound", "alpha", "min_n", "support", "slo", "looks", "items")  # what makes it the claim that was approved
_QUANTITY = ("estimand", "support", "slo")  # what makes two numbers numbers of one thing
_RANK = {"holds": 2, "inconclusive": 1, "fails": 0}  # others left nothing: below all

Measured = Callable[[Mapping[str, Any]], Measurement]


# --- approved files -----------------------------------------------------------------------------


def file_of(folder: Path, claim_id: str) -> Path:
    """Where the baseline of a claim lies: as its evidence is named."""
    return folder / evidence.evidence_path(folder, claim_id).name


def load(folder: Path, lifecycle: str | None = None) -> dict[str, dict[str, Any]]:
    """The baselines in ``folder`` by claim id, those of one ``lifecycle`` or all; {} where there is no folder.

    GoldenError names a file that cannot be read, was edited by hand, or lies under another claim's name.
    """
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        body = _read(path, folder)
        if body is not None and lifecycle in (None, body["lifecycle"]):
            found[body["claim"]["id"]] = body
    return found


def _read(path: Path, folder: Path) -> dict[str, Any] | None:
    """The baseline in a file, None for a file of another maker."""
    restore = "restore it with git, or approve anew: python -m harness baseline approve"
    try:
        body = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError) as error:
        raise GoldenError(f"{path}: not a baseline ({error}); {restore}") from error
    if isinstance(body, dict) and "lifecycle" in body and not {"claim", "schema"} & set(body):
        return None
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        said = body.get("schema") if isinstance(body, dict) else type(body).__name__
        raise GoldenError(f"{path}: schema {said!r}, expected {SCHEMA!r}; {restore}")
    if body.get("digest") != _digest(body):
        raise GoldenError(f"{path}: its digest does not match, so it was edited after it was approved; {restore}")
    try:
        name = _checked(body)
    except (HarnessError, KeyError, TypeError, ValueError, AttributeError) as error:  # before hours are spent on a run
        raise GoldenError(f"{path}: not what an approval holds ({type(error).__name__}: {error}); {restore}") from error
    if path != file_of(folder, name):
        raise GoldenError(f"{path}: it holds {name}, which belongs into {file_of(folder, name).name}; {restore}")
    return body


def _checked(body: Mapping[str, Any]) -> str:
    """The claim's id, of a body in which all is there that ``changes`` reads, in its form."""
    verdict, rows, sharp = body["verdict"], body["rows"], body["sharp"]
    claim = evidence.claim_from_json(body["claim"])
    words = [body["lifecycle"], body["metric"], verdict["outcome"], *(body["approved"][key] for key in ("at", "by", "why"))]
    words += [] if rows is None else [rows["sha256"], rows.get("items", ""), rows.get("values", "")]
    if not all(isinstance(word, str) for word in words) or set((rows or {}).get("values", "")) - set("-0+"):
        raise ValueError("a word is no text")
    if sharp is not None and len(sharp) != 2:
        raise ValueError("an interval has two ends")
    numbers = [verdict["n"], verdict["estimate"], verdict["low"], verdict["high"], *(sharp or ())]
    if not all(x is None or isinstance(x, (int, float)) for x in numbers) or (rows is None and verdict["estimate"] is not None):
        raise ValueError("a number is none, or without rows")
    for key in ("subjects", "machine", "code"):
        dict(body[key])
    return claim.id


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _digest(body: Mapping[str, Any]) -> str:
    return evidence.digest(evidence.canonical({key: value for key, value in body.items() if key != "digest"}))


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A baseline with its digest, as it is written."""
    return {**body, "digest": _digest(body)}


def entry(record: Mapping[str, Any], measured: Measured, **more: Any) -> dict[str, Any]:
    """What is kept of an evidence record when it is approved; ``more`` says of what run, and by whom."""
    claim = evidence.claim_from_json(record["claim"])
    kept = record["measurement"]
    measurement = None if kept is None else measured(record)
    low, high = (None, None) if measurement is None else _sharp(claim, measurement)
    return {
        "schema": SCHEMA,
        "claim": record["claim"],
        **_facts(record),
        "verdict": {key: record["verdict"][key] for key in ("outcome", "reason", "estimate", "low", "high", "n", "method")},
        "sharp": None if low is None or high is None else [low, high],
        "rows": None if measurement is None else {"sha256": kept["samples"]["sha256"], **_paired(claim, measurement.samples)},
        **more,
    }


def planned(approved: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the plan seals of the baselines: all but who approved them, since evidence names no person."""
    return {
        name: {**{key: value for key, value in body.items() if key != "approved"}, "at": body["approved"]["at"]}
        for name, body in sorted(approved.items())
    }


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a number may depend on besides the claim."""
    kept, made = record["measurement"] or {}, record.get("provenance", {})
    return {
        "metric": kept.get("metric", ""),
        "subjects": {s["name"]: s["digest"] for s in kept.get("subjects", ())},
        "machine": {key: made.get("machine", {}).get(key) for key in ("cpu", "cores", "gpu")},
        "code": made.get("code", {}),
    }


def _sharp(claim: Claim, measurement: Measurement) -> tuple[float | None, float | None]:
    """The interval that misses on either side with probability at most ``SHARP``; None where the rule gives none."""
    if claim.estimand in _EXACT:
        return None, None
    verdict = judge(replace(claim, alpha=SHARP * claim.looks, min_n=1), measurement)
    return verdict.low, verdict.high


def _paired(claim: Claim, samples: Sequence[Sample]) -> dict[str, str]:
    """What each item came to, a character an item in the order of their names: - 0 + (new minus old), or 0 +. {} if rows do not pair."""
    if claim.estimand not in ("proportion", "paired_difference") or clustered(samples) or any(s.replicate for s in samples):
        return {}
    if any(s.value not in (None, 0, 1) for s in samples) or (claim.bound.kind == "within" and any(s.value is None for s in samples)):
        return {}
    unusable = 1 if claim.bound.kind == "at_most" else 0  # as the judge counts them: against the claim; wrong in their arm
    arms = [{s.item: int(unusable if s.value is None else s.value) for s in samples if s.arm == arm} for arm in ("one", "new", "old")]
    one, new, old = arms
    scores = one if claim.estimand == "proportion" else {item: new[item] - old.get(item, 0) for item in new}
    if len(scores) != (len(samples) if claim.estimand == "proportion" else len(samples) / 2) or set(new) != set(old):
        return {}
    return {"items": items_digest(scores), "values": "".join("-0+"[scores[item] + 1] for item in sorted(scores))}


# --- what changed -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Compared:
    """Old against new. ``more`` than chance: None where that is not known before the family of tests is; ``rises``: the number did."""

    how: str
    more: bool | None
    rises: bool
    sentence: str
    p: float | None = None


def changes(plan: Mapping[str, Any], records: Iterable[Mapping[str, Any]], measured: Measured) -> dict[str, Any] | None:
    """What ``changes.json`` holds, from the sealed plan and the evidence; None where the plan seals no baseline.

    ``measured`` gives the measurement of a record with its rows; it is asked for those alone whose rows are not the approved ones.
    """
    approved: Mapping[str, Any] | None = plan.get("baselines")
    if not approved:
        return None
    by_id = {record["claim"]["id"]: record for record in records}
    asked = {entry["claim"]["id"] for entry in plan["claims"]}
    compared = {name: _compared(approved[name], by_id[name], measured) for name in sorted({*approved} & {*by_id})}
    compared = _over_the_family(compared)
    listed = {name: said for name, one in compared.items() if (said := _said(approved[name], by_id[name], one)) is not None}
    lost = sorted(({*approved} & asked) - set(by_id))
    away = sorted({*approved} - asked - set(by_id))
    gone = [_gone(name, approved[name], "it left no evidence") for name in lost]
    if plan.get("whole"):
        gone += [_gone(name, approved[name], "no test makes it any more") for name in away]
    return {
        "baseline": {
            "claims": len(approved),
            "digest": evidence.digest(evidence.canonical(approved)),
            "approved": max(str(body["at"]) for body in approved.values()),
        },
        "whole": bool(plan.get("whole")),
        "error": _nine(min(1.0, ALPHA + 4 * SHARP * sum(one.how == "intervals" for one in compared.values()))),
        "changed": [listed[name] for name in sorted(listed)],
        "new": sorted(asked - set(approved)),
        "gone": gone,
        "not_run": 0 if plan.get("whole") else len(away),
        "same": len(compared) - len(listed),
        "identical": sum(one.how == "rows" and name not in listed for name, one in compared.items()),
    }


def worse(found: Mapping[str, Any]) -> list[str]:
    """What of a ``changes.json`` a gate must not pass, a line each: claims that got worse, are asked otherwise, or are gone."""
    bad = [f"{one['what']}: {one['claim']}: {one['sentence']}" for one in found["changed"] if one["what"] in ("worse", "asked otherwise")]
    return bad + [f"gone: {one['claim']}: {one['why']}" for one in found["gone"]]


def _gone(name: str, body: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"claim": name, "old": _shown(body["verdict"]), "why": why}


def _compared(old: Mapping[str, Any], record: Mapping[str, Any], measured: Measured) -> _Compared:
    before, now, claim = old["verdict"], record["verdict"], evidence.claim_from_json(record["claim"])
    kept = record["measurement"]
    if kept is not None and old["rows"] and kept["samples"]["sha256"] == old["rows"]["sha256"]:
        return _Compared("rows", False, False, "the same rows", 1.0 if "values" in old["rows"] else None)
    if before["estimate"] is None or now["estimate"] is None:
        return _Compared("outcome", before["outcome"] != now["outcome"], False, str(now["sentence"]))
    if [old["metric"], *(old["claim"][key] for key in _QUANTITY)] != [kept["metric"], *(record["claim"][key] for key in _QUANTITY)]:
        return _Compared("outcome", None, False, "another quantity is measured")
    if claim.estimand == "over_limit" and old["machine"] != _facts(record)["machine"]:
        return _Compared("outcome", None, False, "times of another machine are no arm of a comparison")
    rises, step = now["estimate"] > before["estimate"], f"{before['estimate']:.4g} -> {now['estimate']:.4g}"
    if claim.estimand in _EXACT:
        moved = not math.isclose(before["estimate"], now["estimate"], rel_tol=1e-9)
        return _Compared("exact", moved, rises, f"{step}, counted")
    if "values" in old["rows"] and (pairs := _paired(claim, measured(record).samples)).get("items") == old["rows"]["items"]:
        return _by_item(old["rows"]["values"], pairs["values"], step)
    return _by_interval(old, record, measured, rises, step)


def _by_item(old: str, new: str, step: str) -> _Compared:
    order = "-0+"
    up, down = (sum(sign * (order.index(y) - order.index(x)) > 0 for x, y in zip(old, new, strict=True)) for sign in (1, -1))
    p = min(1.0, 2 * min(mcnemar(up, down))) if up + down else 1.0
    return _Compared("paired", None, up > down, f"{step}; of {len(new)} items {up} rose and {down} fell", p)


def _by_interval(old: Mapping[str, Any], record: Mapping[str, Any], measured: Measured, rises: bool, step: str) -> _Compared:
    before, now = old["verdict"], record["verdict"]
    if None in (before["low"], before["high"], now["low"], now["high"]) or old["sharp"] is None:
        return _Compared("outcome", before["outcome"] != now["outcome"], rises, f"{step}, without an interval")
    if before["low"] <= now["high"] and now["low"] <= before["high"]:  # sharper intervals are wider: they meet as well
        return _Compared("intervals", False, rises, f"{step}; the intervals meet")
    low, high = _sharp(evidence.claim_from_json(record["claim"]), measured(record))
    if low is None or high is None:
        return _Compared("outcome", before["outcome"] != now["outcome"], rises, f"{step}, without an interval")
    apart = low > old["sharp"][1] or high < old["sharp"][0]
    return _Compared("intervals", apart, rises, f"{step}; the intervals {'are apart' if apart else 'meet'} at a miss of {SHARP:g} a side")


def _over_the_family(compared: Mapping[str, _Compared]) -> dict[str, _Compared]:
    """Claims compared item by item with their adjusted p-values; one with the approved rows has p = 1 and counts too."""
    family = {name: one.p for name, one in compared.items() if one.p is not None}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True)) if family else {}
    told = dict(compared)
    for name, p in adjusted.items():
        if compared[name].how == "paired":
            sentence = f"{compared[name].sentence}: p = {p:.3g} after Holm over {len(family)} claims"
            told[name] = replace(compared[name], more=p <= ALPHA, p=_nine(p), sentence=sentence)
    return told


def _said(old: Mapping[str, Any], record: Mapping[str, Any], one: _Compared) -> dict[str, Any] | None:
    """The entry of a claim under "changed", None where it did not."""
    what, asked = _what(old, record, one), _asked_otherwise(old, record)
    sentence = one.sentence
    if asked:
        what, sentence = "asked otherwise", f"{', '.join(asked)} not as approved; {sentence}"
    if what is None:
        return None
    facts = _facts(record)
    return {
        "claim": record["claim"]["id"],
        "what": what,
        "how": one.how,
        "p": one.p,
        "sentence": sentence,
        "old": _shown(old["verdict"]),
        "new": _shown(record["verdict"]),
        "differs": [name for name in ("subjects", "machine", "code") if old[name] != facts[name]],
    }


def _what(old: Mapping[str, Any], record: Mapping[str, Any], one: _Compared) -> str | None:
    before, now = (_RANK.get(verdict["outcome"], -1) for verdict in (old["verdict"], record["verdict"]))
    if now < 0 <= before or (before > now and record["verdict"]["reason"] == "control_failed"):
        return "worse"  # nothing was left, or the gate does not work: no matter of chance
    if one.how == "outcome" and one.more is None:
        return "not comparable" if now != before else None
    if one.how in ("outcome", "exact", "rows"):
        return ("worse" if now < before else "better") if now != before else "moved" if one.more and one.how == "exact" else None
    if one.more:
        return "worse" if _away(record["claim"]["bound"], old["verdict"]["estimate"], record["verdict"]["estimate"]) else "better"
    return "chance" if now != before else None


def _away(bound: Mapping[str, Any], old: float, new: float) -> bool:
    """Whether ``new`` lies further on the bad side than ``old``."""
    if bound["kind"] in ("at_least", "better_than", "non_inferior"):
        return new < old
    if bound["kind"] == "at_most":
        return new > old
    middle = (bound["limit"] + bound["high"]) / 2 if bound["kind"] == "within" else 0.0
    return abs(new - middle) > abs(old - middle)


def _asked_otherwise(old: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The parts in which the claim is not the one that was approved."""
    asked = [key for key in _ASKED if old["claim"].get(key) != record["claim"].get(key)]
    metric = _facts(record)["metric"]
    return [*asked, "metric"] if metric and old["metric"] and metric != old["metric"] else asked


def _shown(verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {key: verdict[key] for key in ("outcome", "estimate", "low", "high", "n")}


def _nine(value: float) -> float:
    """Nine significant digits, as the judge keeps them: another libm gives the same bytes."""
    return float(f"{value:.9g}")


def check(run: Path, plan: Mapping[str, Any], records: Iterable[Mapping[str, Any]], measured: Measured) -> list[str]:
    """What is wrong with the ``changes.json`` of a run: it must follow from plan and rows, and be there exactly if the plan says so."""
    path = run / CHANGES
    if not plan.get("baselines"):
        return [f"{path}: changes, but the plan seals no baseline"] if path.exists() else []
    try:
        kept, again = evidence.read_json(path), changes(plan, records, measured)
        if path.read_bytes() == evidence.canonical(again):
            return []
    except (EvidenceError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"{path}: {error}"]
    fields = [key for key in again or {} if not isinstance(kept, dict) or kept.get(key) != (again or {})[key]]
    return [f"{path}: it cannot be derived again: {', '.join(fields) or 'its form or its keys'} differ"]


def line(found: Mapping[str, Any]) -> str:
    """A ``changes.json`` in a line for a terminal."""
    kinds = [one["what"] for one in found["changed"]]
    counts = [
        f"{kinds.count(what)} {what}"
        for what in ("worse", "better", "chance", "moved", "asked otherwise", "not comparable")
        if what in kinds
    ]
    more = [f"{len(found[key])} {key}" for key in ("new", "gone") if found[key]] + [f"{found['not_run']} not run"] * bool(found["not_run"])
    told = [f"{found['same']} the same ({found['identical']} to the row)", *counts, *more]
    return f"baseline of {found['baseline']['claims']} claims: {', '.join(told)}"
