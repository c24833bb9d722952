"""Which build to take: what each is good for, what speaks against it, which one is recommended. By rule only.

Sound: every family of the release verdict that must hold in full does, and so does each claim in it.
May go out: sound, and the release verdict holds.
Dominated: another build of the group is shown to be better in one respect (the intervals do not meet) and in
every other neither its estimate nor a limit is worse. Respects: size, speed, memory, accuracy per set, KL.
Best fit, among the sound builds of a group: nobody is shown to be better, and the claim behind it holds.
Recommended: of the builds that may go out the smallest on disk, since each stays within every margin; of equals, one not dominated.
Nothing is recommended from a run that is a subset, cut short, damaged, or without release verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.builds import PER_BUILD, PER_SET, Build, builds_of, groups_of
from harness.report.text import DASH, number, signed, span
from harness.report.view import ClaimView, RunView, finite

__all__ = ["RULE", "Choice", "Option", "Point", "choice", "dominated", "forced", "headline"]

RULE = (
    "Computed from the evidence. A build may go out if its release verdict and every claim behind it hold. Recommended: of those, the "
    "smallest on disk, since each stays within every margin; of equals, one that is not dominated. Best fit: among the builds compared "
    "with the same reference whose guardrails hold, none is shown to be better in this respect. Ratios are to that reference, so "
    "engines are not ranked by them."
)

_SAY = {
    "fails": "shown to be false", "inconclusive": "not shown", "not_evaluated": "not measured", "error": "the check broke",
    "lost": "left no evidence",
}  # fmt: skip
_WORST_FIRST = ("error", "lost", "fails", "not_evaluated", "inconclusive")
_NEAREST_FIRST = ("holds", "inconclusive", "not_evaluated", "fails")


@dataclass(frozen=True, slots=True)
class Point:
    """A reason in words; ``claim`` is where it comes from, None where there is no claim to come from."""

    text: str
    claim: ClaimView | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A build as something one can choose."""

    build: Build
    outcome: str  # of its release; "" where there is none
    sound: bool
    ready: bool  # may go out
    fits: tuple[Point, ...]
    risks: tuple[Point, ...]
    barriers: tuple[ClaimView, ...]  # what keeps it in, the worst first
    beaten: bool  # dominated


@dataclass(frozen=True, slots=True)
class Choice:
    """What the page says at its top. Without ``pick``, ``why`` says what is in the way."""

    groups: tuple[tuple[str, tuple[Option, ...]], ...]
    pick: Option | None
    why: tuple[Point, ...]
    firsts: Mapping[str, Option]  # the same rule within each group, by reference


def choice(run: RunView) -> Choice | None:
    """What to take and why; None where the run compares no builds."""
    builds = builds_of(run)
    if not builds:
        return None
    groups = tuple((name, tuple(_option(run, b, group) for b in group)) for name, group in groups_of(builds))
    options = [option for _, group in groups for option in group]
    unproven = _unproven(run)
    if unproven:
        return Choice(groups, None, (Point(unproven),), {})
    ready = sorted((o for o in options if o.ready), key=_smallest)
    if not ready:
        return Choice(groups, None, _in_the_way(run, options), {})
    firsts = {name: min(kept, key=_smallest) for name, group in groups if (kept := [o for o in group if o.ready])}
    return Choice(groups, ready[0], _reasons(run, ready), firsts)


# --- what a build may do ----------------------------------------------------------------------


def _families(run: RunView, build: str) -> list[Mapping[str, Any]]:
    """The gating families of a release verdict, in their order."""
    told = run.releases.get(build, {}).get("families")
    kept = [f for f in told if isinstance(f, dict) and isinstance(f.get("claims"), dict)] if isinstance(told, list) else []
    return [f for f in kept if f.get("rule") != "exploratory"]


def _unproven(run: RunView) -> str:
    """Why nothing at all can be recommended from this run; "" where something can."""
    if run.smoke:
        return "smoke: a subset was measured, and that proves nothing"
    if run.cut_short:
        return "the run was cut short"
    if run.unreadable or any(c.plan and c.plan != run.plan_digest for c in run.claims):
        return "files of this run are damaged or from another run"
    return "" if run.releases else "the run holds no release verdict"


def _option(run: RunView, build: Build, group: Sequence[Build]) -> Option:
    outcome = str(run.releases.get(build.name, {}).get("outcome") or "")
    sound = _sound(run, build.name)
    rivals = [b for b in group if b.name != build.name and _sound(run, b.name)]
    fits = tuple(_fits(build, rivals)) if sound else ()
    ready = sound and outcome == "holds"
    risks, barriers = tuple(_risks(run, build, group)), tuple(_barriers(run, build.name))
    return Option(build, outcome, sound, ready, fits, risks, barriers, dominated(build, group) is not None)


def _sound(run: RunView, build: str) -> bool:
    outcomes = {c.id: c.outcome for c in run.claims}
    families = [f for f in _families(run, build) if f.get("rule") == "all"]
    return bool(families) and all(
        f.get("outcome") == "holds" and all(outcomes.get(name) == "holds" for name in f["claims"]) for f in families
    )


def _barriers(run: RunView, build: str) -> list[ClaimView]:
    """The claims that do not hold in the first family that does not."""
    known = {c.id: c for c in run.claims}
    for family in _families(run, build):
        against = [c for name in family["claims"] if (c := known.get(name)) and c.outcome != "holds"]
        if against and (family.get("rule") == "all" or family.get("outcome") != "holds"):
            return sorted(against, key=lambda c: (_rank(c.outcome, _WORST_FIRST), -(finite(c.verdict.get("n_needed")) or 0), c.id))
    return []


def _rank(outcome: str, order: Sequence[str]) -> int:
    return order.index(outcome) if outcome in order else len(order)


# --- in numbers -------------------------------------------------------------------------------

Limits = tuple[float, float, float]  # lower limit, estimate, upper limit, turned so that more is better


def _respects(build: Build) -> dict[str, Limits]:
    """In what a build can be better. The weights, counted, and the peak, measured, are two."""
    found: dict[str, Limits] = {}
    if build.size_bytes:
        found["size"] = (-float(build.size_bytes),) * 3
    for (name, set_name), claim in build.claims.items():
        limits = _limits(claim)
        if limits is None or name not in ("speed", "memory", "accuracy", "kld"):
            continue
        counted = name == "memory" and claim.estimand == "exact"
        key = f"accuracy on {set_name}" if name == "accuracy" else "memory of the weights" if counted else {"kld": "KL"}.get(name, name)
        low, middle, high = limits
        found[key] = (-high, -middle, -low) if name in ("memory", "kld") else limits
    return found


def _limits(claim: ClaimView) -> Limits | None:
    low, middle, high = claim.low, claim.estimate, claim.high
    if middle is None or ((low is None or high is None) and claim.estimand != "exact"):
        return None
    return middle if low is None else low, middle, middle if high is None else high


def dominated(build: Build, group: Iterable[Build]) -> tuple[Build, list[str]] | None:
    """Who leaves no reason to take this build, and in what that one is shown to be better; None where nobody does."""
    theirs = _respects(build)
    if not any(key == "KL" or key.startswith("accuracy") for key in theirs):
        return None  # nothing is known of its quality
    for rival in group:
        ours = _respects(rival)
        if rival.name == build.name or not set(theirs) <= set(ours):
            continue
        better = [key for key in theirs if ours[key][0] > theirs[key][2]]
        if better and all(x >= y for key in theirs for x, y in zip(ours[key], theirs[key], strict=True)):
            return rival, better
    return None


# --- best fit ---------------------------------------------------------------------------------

# What the best is called; what any build is called whose claim holds, if that is something by itself.
_BEST = {
    "bits": ("smallest on disk", ""), "speed": ("fastest", "faster than the reference"),
    "memory": ("lowest in memory", "less memory than the reference"), "kld": ("closest to the reference", ""),
}  # fmt: skip


def _fits(build: Build, rivals: Sequence[Build]) -> Iterable[Point]:
    """What a sound build is good for; each from a claim that holds."""
    kept = [c for (name, _), c in sorted(build.claims.items()) if name == "accuracy" and c.outcome == "holds"]
    yield from (Point(f"keeps its margin on {', '.join(c.params[:-1]) or 'its set'}: {numbers(c)}", c) for c in kept)
    for name, (word, gain) in _BEST.items():
        claim = build.claim(name)
        if claim is None or claim.outcome != "holds":
            continue
        rank = _standing(build, rivals, name)
        if rank or gain:
            yield Point(f"{f'{rank} {word}' if rank else gain}: {_figure(build, claim)}", claim)


def _standing(build: Build, rivals: Sequence[Build], name: str) -> str:
    """ "the", "among the", or "" where another is shown to be better or nobody is beaten."""
    key = {"bits": "size", "kld": "KL"}.get(name, name)
    mine = _of(build, key)
    others = [limits for b in rivals if (limits := _of(b, key))]
    if mine is None or not others or any(o[0] > mine[2] for o in others):
        return ""
    beaten = [mine[0] > o[2] for o in others]
    return "the" if all(beaten) else "among the" if any(beaten) else ""


def _of(build: Build, key: str) -> Limits | None:
    return next((limits for name, limits in _respects(build).items() if name.split(" ")[0] == key), None)


def _figure(build: Build, claim: ClaimView) -> str:
    if claim.name == "bits":
        return f"{(build.size_bytes or 0) / 1e6:.1f} MB"
    return f"{PER_BUILD.get(claim.name, claim.name)} {numbers(claim, demand=False)}"


def numbers(claim: ClaimView, *, demand: bool = True) -> str:
    """Estimate, limits and what was demanded; "" where nothing was estimated."""
    if claim.estimate is None or not claim.limits:
        return ""
    value = signed(claim.estimate) if claim.estimand == "paired_difference" else number(claim.estimate)
    shown = f"{value} {span(claim.low, claim.high)}".rstrip()
    return f"{shown}, demanded {claim.demand}" if demand else shown


# --- risks ------------------------------------------------------------------------------------


def _risks(run: RunView, build: Build, group: Sequence[Build]) -> Iterable[Point]:
    """Each claim about this build that does not hold; tensors in another type; what others of the group claim and it does not."""
    named = {name for family in _families(run, build.name) for name in family["claims"]}
    about = [c for c in run.claims if c.outcome != "holds" and (c.id in named or build.name in c.params)]
    yield from (Point(against(c), c) for c in sorted(about, key=lambda c: _rank(c.outcome, _WORST_FIRST)))
    if found := dominated(build, group):
        yield Point(f"dominated by {found[0].name}, which is better in {', '.join(found[1])}")
    types = build.claim("types")
    if types and types.outcome == "holds" and any(map(forced, types.samples)):
        count, every = sum(map(forced, types.samples)), len(types.samples)
        yield Point(f"{count} of {every} tensors fell back to another type than the recipe names, with excuse", types)
    claimed = {key for b in group for key in b.claims if key[0] in PER_SET or key[0] in PER_BUILD} - set(build.claims)
    yield from (Point(f"nothing is claimed of it, as of others: {' on '.join(filter(None, key))}") for key in sorted(claimed))


def forced(sample: Any) -> bool:
    """Whether a tensor has another type than its recipe asks for, with or without excuse."""
    wanted = sample.detail.get("expected")
    return bool(wanted) and wanted != sample.detail.get("found")


def against(claim: ClaimView) -> str:
    """What does not hold, in words, with the n it needs."""
    said = f"{_SAY.get(claim.outcome, claim.outcome)}: {claim.text or claim.id}"
    known = f"known: {claim.notes.get('why') or 'no reason given'}" if claim.known_failure else ""
    return "; ".join(part for part in (said, numbers(claim), _because(claim), known) if part)


def _because(claim: ClaimView) -> str:
    """The n where n is what is missing; else the verdict's own words where no number says it."""
    needed = finite(claim.verdict.get("n_needed"))
    if claim.reason != "straddles" or needed is None:
        return "" if claim.outcome == "fails" and numbers(claim) else claim.why
    said = f"n = {number(claim.n)}, planned for power .80: {number(needed)}"
    more = _to_decide(claim) if needed <= claim.n else None
    return f"{said}; the truth may lie near the bound: at this estimate it takes about n = {number(more)}" if more else said


def _to_decide(claim: ClaimView) -> int | None:
    """The n at which an interval around the same estimate would no longer reach the bound: its width shrinks as 1/sqrt(n)."""
    if len(claim.limits) != 1 or claim.estimate is None or claim.low is None or claim.high is None:
        return None
    gap = claim.estimate - claim.limits[0]
    reach = claim.estimate - claim.low if gap > 0 else claim.high - claim.estimate
    if not gap or claim.n * (reach / gap) ** 2 > 1e9:
        return None
    return int(float(f"{claim.n * (reach / gap) ** 2:.2g}"))


# --- the recommendation -----------------------------------------------------------------------


def _smallest(option: Option) -> tuple[float, float, bool, str]:
    size, bits = option.build.size_bytes, option.build.bits
    return size or math.inf, math.inf if bits is None else bits, option.beaten, option.build.name


def _reasons(run: RunView, ready: Sequence[Option]) -> tuple[Point, ...]:
    pick = ready[0]
    held = [f"{f.get('name')} ({len(f['claims'])})" for f in _families(run, pick.build.name)]
    size = f"{pick.build.size_bytes / 1e6:.1f} MB" if pick.build.size_bytes else f"{number(pick.build.bits)} bits per weight"
    others = ", ".join(o.build.name for o in ready[1:])
    smallest = f"the smallest of {len(ready)} that may go out, before {others}: {size}" if others else f"the only one that may: {size}"
    shown = [f for f in pick.fits if f.claim is None or f.claim.name != "bits"]  # that it is the smallest is said
    risks = Point(f"risks: {len(pick.risks) or 'none among its claims'}{', see below' if pick.risks else ''}")
    return (Point(f"it may go out: {', '.join(held)} hold"), Point(smallest, pick.build.claim("bits")), *shown, risks)


def _in_the_way(run: RunView, options: Sequence[Option]) -> tuple[Point, ...]:
    """The best candidate and the one claim that stands in its way."""
    judged = [o for o in options if o.outcome]
    if not judged:
        return (Point("no build here has a release verdict"),)
    best = min(judged, key=lambda o: (_rank(o.outcome, _NEAREST_FIRST), len(o.barriers), *_smallest(o)))
    said = f"no build may go out; the nearest is {best.build.name}"
    if not best.barriers:
        closed = next((f for f in _families(run, best.build.name) if f.get("outcome") != "holds"), {})
        return (Point(f"{said}, whose release verdict is {best.outcome.replace('_', ' ')}: {closed.get('reason') or 'no reason given'}"),)
    more = len(best.barriers) - 1
    beside = f" first of all this (and {more} more)" if more else " this alone"
    return (Point(f"{said}; in its way stands{beside}:"), Point(against(best.barriers[0]), best.barriers[0]))


def headline(build: Build) -> str:
    """Size, gains and the largest loss in a line."""
    speed, memory = build.claim("speed"), build.claim("memory")
    losses = [c.estimate for (name, _), c in build.claims.items() if name == "accuracy" and c.estimate is not None]
    parts = [
        f"{build.size_bytes / 1e6:.1f} MB" if build.size_bytes else "",
        f"{number(speed.estimate)}× tokens/s" if speed and speed.estimate is not None else "",
        f"{number(memory.estimate)}× memory" if memory and memory.estimate is not None else "",
        f"{signed(100 * min(losses))} points at worst" if losses else "",
    ]
    return " · ".join(filter(None, parts)) or DASH
