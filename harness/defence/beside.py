"""Old beside new, claim by claim: what may explain a difference was declared before, and the rest contradicts.

Explainable, for rows that are right or wrong and of the very same subject: no more of them flip than ``R3`` allows for that golden
set (exact binomial), and they flip both ways (exact McNemar), so that a small loss that all goes one way is not explained away.
For any estimate with an interval: old and new are no further apart than two measurements of one thing are. All these tests of
all claims are one family at one level (Holm). Verdicts that are opposite, a claim that is worded or bounded otherwise, an
exact number that came out otherwise with nothing changed: none of that is variance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness import evidence
from harness.defence.kept import Kept
from harness.stats.families import holm
from harness.stats.paired import mcnemar
from harness.stats.special import binom_sf, normal_quantile, normal_sf
from harness.types import Sample

__all__ = [
    "AGREES",
    "CONTRADICTS",
    "EXPLAINED",
    "NOT_RERUN",
    "Compared",
    "Rows",
    "compare",
    "decide",
    "limits_of",
    "of_a_machine",
    "settled",
]

AGREES, EXPLAINED, CONTRADICTS, NOT_RERUN = "agrees", "differs within explainable variance", "contradicts", "not rerun"

_TOLD = 2  # of the tests that a claim contradicts by, the clearest; the page shows all p-values
_ROUNDING = 1e-6  # relative: the same number, added up in another order
_ROOM = 0.5  # of the way to the bound: digits that could not have decided the verdict
_MEASURED = re.compile(r"(_s|bytes|memory\w*|_growth|bottleneck|speed|tokens_per_\w+)$")  # by a clock or a gauge: never twice the same
_LOGARITHMIC = ("log_ratio", "run_ratio")
_OPPOSITE = {("holds", "fails"), ("fails", "holds")}


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of both sides, paired by item, arm and replicate.

    ``arms``: how many rows of an arm are larger and smaller in the rerun, of how many. Apart, for what one gains must not
    hide what another loses. ``reweighted``: rows that stand for another number of units or tokens.
    """

    old: int = 0
    new: int = 0
    both: int = 0
    only_old: int = 0
    only_new: int = 0
    binary: bool = False
    reweighted: int = 0
    arms: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def up(self) -> int:
        """Rows whose value is larger in the rerun."""
        return sum(up for up, _, _ in self.arms.values())

    @property
    def down(self) -> int:
        """Rows whose value is smaller in the rerun."""
        return sum(down for _, down, _ in self.arms.values())

    @property
    def changed(self) -> int:
        """Rows that both sides have, with another value."""
        return self.up + self.down


@dataclass(frozen=True, slots=True)
class Compared:
    """One claim. ``inside``: new estimate inside the old interval and the reverse; None where there is no interval.

    ``limit`` is what R3 declared for flips of its set, ``tests`` the p-values before Holm, ``significant`` those that
    remain after it. ``changed`` names what of the circumstances is another: subjects.
    """

    claim: str
    stage: str
    text: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    inside: tuple[bool, bool] | None = None
    rows: Rows = field(default_factory=Rows)
    limit: float | None = None
    tests: Mapping[str, float] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    settled: str = ""  # the outcome, where no test is needed to know it
    outcome: str = ""
    why: str = ""
    significant: tuple[str, ...] = ()


# --- what is compared -----------------------------------------------------------------------------


def limits_of(plan: Mapping[str, Any]) -> dict[str, float]:
    """By digest of a golden set: the share of its items that a rerun may flip, as the plan's claims R3 declare it."""
    declared = {
        found[1]: float(entry["claim"]["bound"]["limit"])
        for entry in plan["claims"]
        if (found := re.match(r"R3\.\w+\[([^\],]+)", entry["claim"]["id"])) and "limit" in entry["claim"]["bound"]
    }
    return {digest: declared[name] for name, digest in plan.get("golden", {}).items() if name in declared}


def compare(
    old: Kept, new: Kept, stage: str, limits: Mapping[str, float], surroundings: Sequence[str] = (), *, same_code: bool = True
) -> Compared:
    """One claim that both sides left evidence of. ``surroundings`` are the facts of the machine that differ."""
    claim = old.record["claim"]
    rows = _rows(old.rows, new.rows)
    made = replace(settled(old, stage, "", ""), new=new.verdict, rows=rows)
    if told := _differing(claim, new.record["claim"]):
        return replace(made, settled=CONTRADICTS if same_code else NOT_RERUN, why=f"the claim is another: {told}")
    outcome, why = _without_numbers(old, new)
    if outcome:
        return replace(made, settled=outcome, why=why)
    artifacts = _other_subjects(old, new)
    moved = "" if artifacts else _other_number(old, new, rows, surroundings)
    if moved:
        return replace(made, settled=CONTRADICTS, why=moved)
    limit, inside = _limit(new.measurement, limits), _inside(old.verdict, new.verdict)
    tests = _tests(old, new, rows, limit, same_subject=not artifacts)
    return replace(made, inside=inside, limit=limit, tests=tests, changed=artifacts)


def settled(old: Kept, stage: str, outcome: str, why: str) -> Compared:
    """A claim of the report that has nothing beside it, and why."""
    claim = old.record["claim"]
    return Compared(claim["id"], stage, claim["text"], old.verdict, None, settled=outcome, why=why)


def of_a_machine(kept: Kept) -> bool:
    """Whether a claim speaks of a speed or a load, which is of one machine alone."""
    return _series(kept.measurement, kept.record["claim"]["estimand"])


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in (*old, *(k for k in new if k not in old)) if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {_short(old.get(key))} in the report, {_short(new.get(key))} in the code" for key in keys)


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "kind" in value:
        ends = [f"{value[key]:g}" for key in ("limit", "high") if value.get(key) is not None]
        return f"{value['kind']}({', '.join(ends)})"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _without_numbers(old: Kept, new: Kept) -> tuple[str, str]:
    """What is known before any number is compared: one side has none, or the verdicts are opposite."""
    was, now = old.verdict, new.verdict
    if now["outcome"] == "not_evaluated":
        return NOT_RERUN, f"not evaluated here: {now['sentence']}"
    if now["outcome"] == "error":
        same = was["outcome"] == "error"
        return (NOT_RERUN, "an error on both sides") if same else (CONTRADICTS, f"the test ends with an error now: {now['sentence']}")
    if was["outcome"] in ("not_evaluated", "error"):
        return NOT_RERUN, f"the report has no measurement of it ({was['outcome']}); here it {_does(now['outcome'])}"
    if new.measurement.get("invalid"):
        return NOT_RERUN, f"this measurement is void: {new.measurement['invalid'][0]}"
    if (was["outcome"], now["outcome"]) in _OPPOSITE:
        return CONTRADICTS, f"the verdict is the opposite: {was['outcome']} in the report, {now['outcome']} here ({now['sentence']})"
    if now["reason"] == "control_failed" != was["reason"]:
        return CONTRADICTS, f"the gate does not prove itself here: {now['sentence']}"
    return "", ""


def _does(outcome: str) -> str:
    return {"holds": "holds", "fails": "fails"}.get(outcome, f"is {outcome}")


def _other_subjects(old: Kept, new: Kept) -> tuple[str, ...]:
    """Subjects that are not the same bytes on both sides. A folder of evidence names them; what it names is compared."""
    was, now = old.subjects, new.subjects
    return tuple(f"{name} is another artifact ({now[name][:12]}…, then {was[name][:12]}…)" for name in sorted(was.keys() & now.keys())
                 if was[name] != now[name])  # fmt: skip


def _limit(measurement: Mapping[str, Any], limits: Mapping[str, float]) -> float | None:
    found = {limits[digest] for digest in evidence.golden_digests(measurement.get("conditions", {})) if digest in limits}
    return max(found, default=None)


# --- rows -----------------------------------------------------------------------------------------


def _rows(old: Sequence[Sample], new: Sequence[Sample]) -> Rows:
    was, now = ({(s.item, s.arm, s.replicate): s.value for s in side} for side in (old, new))
    heavy, light = ({(s.item, s.arm, s.replicate): s.weight for s in side} for side in (old, new))
    both = was.keys() & now.keys()
    reweighted = sum(not _same(heavy[key], light[key]) for key in both)
    arms: dict[str, tuple[int, int, int]] = {}
    for key in both:
        up, down, n = arms.get(key[1], (0, 0, 0))
        moved = _moved(was[key], now[key])
        arms[key[1]] = (up + (moved > 0), down + (moved < 0), n + 1)
    binary = bool(both) and all(value in (0.0, 1.0, None) for side in (was, now) for value in side.values())
    only_old, only_new = len(was.keys() - both), len(now.keys() - both)
    return Rows(len(old), len(new), len(both), only_old, only_new, binary, reweighted, dict(sorted(arms.items())))


def _moved(was: float | None, now: float | None) -> int:
    """1 up, -1 down, 0 the same; an answer where there was none is one more."""
    if was is None or now is None:
        return (now is not None) - (was is not None)
    return 0 if _same(was, now) else 1 if now > was else -1


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=1e-12)


def _series(measurement: Mapping[str, Any], estimand: str) -> bool:
    """Whether its units are draws of time rather than fixed items: requests of a load, blocks of runs."""
    return estimand in ("over_limit", "run_ratio") or "schedule" in measurement.get("conditions", {})


def _other_number(old: Kept, new: Kept, rows: Rows, surroundings: Sequence[str]) -> str:
    """What nothing explains: items left out where the others all came out alike, an exact number with nothing changed."""
    claim, was, now = old.record["claim"], old.verdict, new.verdict
    fixed = not _series(old.measurement, claim["estimand"])
    if fixed and rows.both and rows.only_new and not rows.only_old and not rows.changed:
        return f"items are missing: {rows.only_new} of {rows.new} rows are not in the report, and all others came out the same"
    if fixed and rows.reweighted:
        return f"{rows.reweighted} of {rows.both} rows stand for another number of units: n = {was['n']} in the report, {now['n']} here"
    if was["low"] is not None or was["estimate"] is None or now["estimate"] is None or rows.binary:
        return ""
    if not fixed or _same(was["estimate"], now["estimate"]):
        return ""
    said = f"{was['estimate']:.6g} in the report, {now['estimate']:.6g} here"
    if not surroundings and not _MEASURED.search(old.measurement.get("metric", "")):
        return f"a number without sampling error came out otherwise, and nothing was changed: {said}"
    bounds = [float(claim["bound"][key]) for key in ("limit", "high") if claim["bound"].get(key) is not None]
    room = min((abs(limit - was["estimate"]) for limit in bounds), default=math.inf)
    if abs(now["estimate"] - was["estimate"]) > _ROOM * room:
        return f"a number without sampling error moved by more than half of the way to its bound: {said}"
    return ""


# --- tests ----------------------------------------------------------------------------------------


def _tests(old: Kept, new: Kept, rows: Rows, limit: float | None, *, same_subject: bool) -> dict[str, float]:
    """p-values of "this is no variance": ``rate`` of flips, their ``direction``, ``items`` that only one side has, ``drift``."""
    tests: dict[str, float] = {}
    estimand = old.record["claim"]["estimand"]
    fixed = same_subject and not _series(old.measurement, estimand)
    if fixed and rows.binary:
        tests |= {f"direction:{arm}": _two_sided(up, down) for arm, (up, down, _) in rows.arms.items() if up + down}
        if limit is not None and _answers(old):
            tests |= {f"rate:{arm}": binom_sf(up + down, n, limit) for arm, (up, down, n) in rows.arms.items() if up + down}
    if fixed and rows.both and rows.only_old + rows.only_new:
        tests["items"] = _two_sided(rows.only_old, rows.only_new)
    drift = _drift(old.verdict, new.verdict, estimand)
    return tests if drift is None else {**tests, "drift": drift}


def _answers(old: Kept) -> bool:
    """Whether a row is one answer, right or wrong, of which R3 speaks; a row of flips is made of two, an exact one of none."""
    return old.record["claim"]["estimand"] not in ("exact", "exact_share") and "flip" not in old.measurement.get("metric", "")


def _two_sided(b: int, c: int) -> float:
    return min(1.0, 2 * min(mcnemar(b, c)))


def _drift(was: Mapping[str, Any], now: Mapping[str, Any], estimand: str) -> float | None:
    """Two-sided p that two independent measurements with these intervals lie so far apart; None where one has none.

    The half of an interval that faces the other estimate says how wide it is; ratios are compared as logarithms.
    """
    numbers = [side[key] for side in (was, now) for key in ("estimate", "low", "high", "level")]
    if any(number is None for number in numbers):
        return None
    a, b = ({key: float(side[key]) for key in ("estimate", "low", "high")} for side in (was, now))
    if estimand in _LOGARITHMIC and min(*a.values(), *b.values()) > 0:
        a, b = ({key: math.log(value) for key, value in side.items()} for side in (a, b))
    if a["estimate"] == b["estimate"]:
        return 1.0
    low, high = (a, b) if a["estimate"] < b["estimate"] else (b, a)
    levels = (was["level"], now["level"]) if low is a else (now["level"], was["level"])
    spreads = [(low["high"] - low["estimate"]) / _z(levels[0]), (high["estimate"] - high["low"]) / _z(levels[1])]
    se = math.hypot(*spreads)
    return 0.0 if se == 0 else min(1.0, 2 * normal_sf((high["estimate"] - low["estimate"]) / se))


def _z(level: float) -> float:
    return normal_quantile((1 + level) / 2)


def _inside(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, bool] | None:
    if any(side[key] is None for side in (was, now) for key in ("estimate", "low", "high")):
        return None
    return was["low"] <= now["estimate"] <= was["high"], now["low"] <= was["estimate"] <= now["high"]


# --- what it comes to -----------------------------------------------------------------------------


def decide(compared: Sequence[Compared], alpha: float) -> list[Compared]:
    """Each with its outcome and why. All tests of all claims are one family: ``alpha`` is the chance that any of them
    takes variance for a contradiction.
    """
    named = [(i, name, p) for i, each in enumerate(compared) for name, p in each.tests.items()]
    adjusted = holm([p for _, _, p in named]) if named else []
    significant: dict[int, list[str]] = {}
    for (i, name, _), p in zip(named, adjusted, strict=True):
        if p <= alpha:
            significant.setdefault(i, []).append(name)
    return [_decided(each, tuple(significant.get(i, ()))) for i, each in enumerate(compared)]


def _decided(each: Compared, significant: tuple[str, ...]) -> Compared:
    if each.settled:
        outcome, why = each.settled, each.why
    elif significant:
        outcome, why = CONTRADICTS, "; ".join(_told(each, name) for name in sorted(significant, key=each.tests.__getitem__)[:_TOLD])
    elif _alike(each):
        outcome, why = AGREES, _how_alike(each)
    else:
        outcome, why = EXPLAINED, _explanation(each)
    return replace(each, outcome=outcome, why=why, significant=significant)


def _told(each: Compared, test: str) -> str:
    rows, p = each.rows, f"p = {each.tests[test]:.3g}"
    kind, _, arm = test.partition(":")
    up, down, n = rows.arms.get(arm, (0, 0, 0))
    of = f" of arm {arm}" if arm not in ("", "one") else ""
    return {
        "direction": f"{up + down} rows{of} changed, {up} up and {down} down: they go one way ({p})",
        "rate": f"{up + down} of {n} rows{of} changed, above the {each.limit or 0:g} that R3 declares ({p})",
        "items": f"{rows.only_old} rows are only in the report, {rows.only_new} only here: items were left out or added ({p})",
        "drift": f"the estimates are further apart than their intervals explain ({p})",
    }[kind]


def _alike(each: Compared) -> bool:
    """The same verdict, and each estimate inside the other's interval; where there is none, the same number from the same rows."""
    old, new, rows = each.old or {}, each.new or {}, each.rows
    if old.get("outcome") != new.get("outcome"):
        return False
    if each.inside is not None:
        return all(each.inside)
    if old.get("estimate") is None or new.get("estimate") is None:
        return old.get("estimate") is new.get("estimate")
    return _same(old["estimate"], new["estimate"]) and not rows.changed


def _how_alike(each: Compared) -> str:
    rows = each.rows
    if not rows.changed and not rows.only_old and not rows.only_new:
        return f"all {rows.both} rows came out the same" if rows.both > 1 else "the same number"
    return "; ".join(["each estimate inside the other's interval" if each.inside else "the same number", *_flips(each), *each.changed])


def _explanation(each: Compared) -> str:
    old, new = each.old or {}, each.new or {}
    other = old.get("outcome") != new.get("outcome")
    head = f"{old.get('outcome')} in the report, {new.get('outcome')} here" if other else "the same verdict"
    where = [] if each.inside is None or all(each.inside) else ["an estimate outside the other's interval, not further than chance puts it"]
    digits = ["other digits, too few to decide"] if each.inside is None and not other else []
    return "; ".join([head, *where, *digits, *_flips(each), *each.changed])


def _flips(each: Compared) -> list[str]:
    rows = each.rows
    if not rows.changed:
        return []
    if not rows.binary:
        return [f"{rows.changed} of {rows.both} rows with another value"] if each.inside is None else []
    allowed = f"R3 allows {each.limit:g}" if each.limit is not None else "no limit is declared for its set"
    return [f"{rows.changed} of {rows.both} rows changed ({rows.up} up, {rows.down} down; {allowed})"]
