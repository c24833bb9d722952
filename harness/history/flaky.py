"""Claims that are flaky by evidence: the same claim, of the same subjects, on the same sets, by the same scorers, and another answer.

Three ways to be it, none of which reruns anything:

    verdicts   runs came to different verdicts: it was seen, so there is no error rate; how often, with its exact limits
    estimates  of the newest runs two lie further apart than their intervals allow: z of the most distant pair from the widths of
               the intervals (normal approximation), times the number of pairs, Holm over all claims; wrong about any of them with
               probability ``alpha``
    numbers    an exact number, without sampling error, came out differently

Runs that share their items are more alike than their intervals say, which makes "estimates" rarer, never more frequent. A run in
which the claim was not evaluated does not count; one that ended in an error does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.history.reading import Said, Seen
from harness.stats.families import holm
from harness.stats.intervals import clopper_pearson
from harness.stats.special import normal_quantile, normal_sf

__all__ = ["Flaky", "flaky", "lines"]

_EXACT = ("exact", "exact_share")
_NEWEST = 60  # runs whose estimates are held against each other, each with each


@dataclass(frozen=True, slots=True)
class Flaky:
    """A claim that came out differently where nothing it depends on did.

    ``rate`` is the share of runs that are not of the commonest verdict, ``low`` and ``high`` its exact 95% limits. ``machines`` and
    ``commits``: of how many the runs are; more than one of them may be the reason.
    """

    claim: str
    runs: tuple[str, ...]
    how: str
    why: str
    rate: float
    low: float
    high: float
    machines: int
    commits: int


def flaky(runs: Sequence[Seen], alpha: float = 0.05) -> tuple[list[Flaky], int]:
    """The flaky claims of usable runs, those of different verdicts first, and how many claims two runs or more could be asked about."""
    groups: dict[tuple[str, ...], list[tuple[Seen, Said]]] = {}
    for one in runs:
        for said in one.said:
            if said.outcome != "not_evaluated":
                groups.setdefault((said.claim, said.kind, said.metric, said.asked, said.subjects, one.setting), []).append((one, said))
    several = {key: found for key, found in sorted(groups.items()) if len(found) > 1}
    apart = {key: _apart([said for _, said in found]) for key, found in several.items() if key[1] not in _EXACT}
    tested = [key for key, p in apart.items() if p is not None]
    adjusted = dict(zip(tested, holm([p for p in apart.values() if p is not None]), strict=True)) if tested else {}
    told = [flaw for key, found in several.items() if (flaw := _told(found, adjusted.get(key, 1.0), alpha)) is not None]
    order = ("verdicts", "estimates", "numbers")
    return sorted(told, key=lambda flaw: (order.index(flaw.how), -flaw.rate, flaw.claim)), len({key[0] for key in several})


def _told(found: Sequence[tuple[Seen, Said]], p: float, alpha: float) -> Flaky | None:
    outcomes = Counter(said.outcome for _, said in found)
    values = [said.estimate for _, said in found if said.estimate is not None]
    span = f"{min(values):.4g} to {max(values):.4g}" if values else ""
    other = len(found) - max(outcomes.values())
    if len(outcomes) > 1:
        counts = ", ".join(f"{k} {name}" for name, k in sorted(outcomes.items()))
        how, why = "verdicts", f"{counts}{f'; {span}' if span else ''}"
    elif p <= alpha:
        how, why = "estimates", f"{span}, further apart than the intervals allow: p = {p:.3g}"
    elif found[0][1].kind in _EXACT and not all(math.isclose(x, values[0], rel_tol=1e-9) for x in values):
        how, why = "numbers", f"an exact number, {len(set(values))} values, {min(values):.12g} to {max(values):.12g}"
    else:
        return None
    limits = clopper_pearson(other, len(found), 0.025)
    runs = [one for one, _ in found]
    return Flaky(
        found[0][1].claim, tuple(one.run.name for one in runs), how, why, other / len(found), *limits,
        len({one.machine for one in runs}), len({one.commit for one in runs}),
    )  # fmt: skip


def _apart(said: Sequence[Said]) -> float | None:
    """The p-value of the most distant pair, times the pairs; None where fewer than two runs have an interval."""
    errors = []
    for one in said[-_NEWEST:]:
        if one.estimate is None or one.low is None or one.high is None or one.level is None or not 0 < one.level < 1:
            continue
        errors.append((one.estimate, (one.high - one.low) / (2 * normal_quantile((1 + one.level) / 2))))
    pairs = [(abs(x - y), math.hypot(a, b)) for (x, a), (y, b) in combinations(errors, 2)]
    if not pairs:
        return None
    z = max((distance / spread if spread > 0 else math.inf) if distance > 0 else 0.0 for distance, spread in pairs)
    return min(1.0, len(pairs) * 2 * normal_sf(z))


def lines(found: Sequence[Flaky], asked: int, alpha: float) -> Iterator[str]:
    """For a terminal, the gravest first."""
    for one in found:
        yield f"{one.how:<10} {one.claim}  {len(one.runs)} runs  {one.why}"
        if one.how == "verdicts":
            yield f"{'':<10} another verdict in {one.rate:.3g} [{one.low:.3g}, {one.high:.3g}] of runs"
        if one.machines > 1 or one.commits > 1:
            yield f"{'':<10} machines: {one.machines}, commits: {one.commits}; that may be why"
    yield (
        f"{len(found)} of {asked} claims that were measured more than once on the same subjects are flaky; "
        f"wrong about any of the estimates with probability at most {alpha:g}"
    )
