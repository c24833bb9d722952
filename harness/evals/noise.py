"""The noise floor: what changes when the same subject answers the same questions again.

The unit is the item. It flips if its score in any rerun differs from the first (statistics 3.14). Flips are listed and
bounded, never subtracted, and no score is ever replaced by a later, better one: the first answer counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.stats import intervals
from harness.types import Sample

__all__ = ["Flaky", "best_of", "discordance", "flaky", "flips"]


@dataclass(frozen=True, slots=True)
class Flaky:
    """An item whose score changed: its first score, and in how many of ``reruns`` it differed, with limits on that rate."""

    item: str
    first: bool
    changed: int
    reruns: int
    low: float
    high: float


def flips(first: Sequence[Sample], reruns: Sequence[Sequence[Sample]]) -> tuple[Sample, ...]:
    """One row an item of the reruns: 1 if any rerun scores it otherwise than ``first``, which may hold more items.

    ValueError if there is no rerun, or the reruns do not hold the same items.
    """
    scores = _scores(first, reruns)
    return tuple(
        Sample(item, float(any(again != was for again in later)), detail={"first": was, "reruns": later})
        for item, (was, later) in scores.items()
    )


def flaky(first: Sequence[Sample], reruns: Sequence[Sequence[Sample]], alpha: float = 0.05) -> list[Flaky]:
    """The items to be put in quarantine, by what was measured alone: every one that flipped, right or wrong at first."""
    found = []
    for item, (was, later) in _scores(first, reruns).items():
        changed = sum(again != was for again in later)
        if changed:
            limits = intervals.clopper_pearson(changed, len(later), alpha)
            found.append(Flaky(item, was, changed, len(later), limits.low, limits.high))
    return found


def discordance(new: Sequence[Sample], old: Sequence[Sample]) -> float:
    """psi_AA: the share of items of ``new`` scored otherwise in ``old``, which may hold more; printed beside paired claims."""
    scores = _scores(old, [new])
    return sum(was != later[0] for was, later in scores.values()) / len(scores)


def best_of(first: Sequence[Sample], reruns: Sequence[Sequence[Sample]]) -> tuple[Sample, ...]:
    """What "rerun until green" would have counted: right if any run was. A planted fault, never a score."""
    scores = _scores(first, reruns)
    return tuple(
        replace(s, value=float(any((scores[s.item][0], *scores[s.item][1]))), status="ok") if s.item in scores else s for s in first
    )


def _scores(first: Sequence[Sample], reruns: Sequence[Sequence[Sample]]) -> dict[str, tuple[bool, list[bool]]]:
    """For each item of the reruns whether it was right at first, and in each rerun. What could not be scored is wrong."""
    if not reruns or not reruns[0]:
        raise ValueError("no rerun: a noise floor takes at least one")
    was = {s.item: s.value == 1 for s in first}
    later = [{s.item: s.value == 1 for s in run} for run in reruns]
    items = sorted(later[0])
    for number, run in enumerate(later):
        if set(run) != set(items) or len(run) != len(reruns[number]):
            raise ValueError(
                f"rerun {number + 1} holds {len(reruns[number])} rows, expected the {len(items)} items of the first rerun once"
            )
    missing = [item for item in items if item not in was]
    if missing:
        raise ValueError(f"{len(missing)} items of the reruns are not in the first run, like {missing[0]!r}")
    return {item: (was[item], [run[item] for run in later]) for item in items}
