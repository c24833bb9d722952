"""One claim over many runs: its estimates in order of time, and where they changed.

A slow drift is small from run to run, so that no pair of runs shows it; a history does. Only sealed runs whose
seal is intact count, each once, of tier full and of the lifecycle of the newest of them; of a claim, only what was measured as
the newest run does, on the same golden sets: those that its conditions name, or, where they name none, all that both runs have.
A set that is added or changed ends no history but of the claims that it may concern. What is left out is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.history.reading import Said, Seen, read
from harness.stats.changes import Change, change_points

__all__ = ["History", "Point", "histories", "histories_of", "lines", "usable"]

SHORTEST = 5  # runs on each side of a change


@dataclass(frozen=True, slots=True)
class Point:
    """What one run said of a claim."""

    run: str
    finished: str
    outcome: str
    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A claim's points, oldest first, and its changes; ``changes`` is None where the runs are too few to tell."""

    claim: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...] | None


def histories(runs: Sequence[Path], claims: Sequence[str] = (), alpha: float = 0.05) -> tuple[list[History], list[str]]:
    """The history of each claim (those whose id starts with one of ``claims``, or all), and which runs were left out, and why.

    ``alpha`` is the chance that any of the histories shows a change where none changed: each gets its share.
    """
    kept, left_out = usable([read(run) for run in runs])
    found, otherwise = histories_of(kept, claims, alpha)
    return found, [*left_out, *otherwise]


def usable(runs: Sequence[Seen]) -> tuple[list[Seen], list[str]]:
    """Runs that may stand side by side, oldest first, those of one instant by name; and what was left out, and why."""
    kept: list[Seen] = []
    left_out = []
    seals: dict[str, Path] = {}
    for one in runs:
        problem = one.problem or (f"the same run as {seals[one.seal]}" if one.seal in seals else "")
        if problem:
            left_out.append(f"{one.run}: {problem}")
            continue
        seals[one.seal] = one.run
        kept.append(one)
        left_out += [f"{one.run}: {note}" for note in one.notes]
    kept.sort(key=lambda one: (one.finished, one.run.name, str(one.run)))
    ours = kept[-1].lifecycle if kept else ""
    left_out += [f"{one.run}: of lifecycle {one.lifecycle!r}, the newest run of {ours!r}" for one in kept if one.lifecycle != ours]
    return [one for one in kept if one.lifecycle == ours], left_out


def histories_of(runs: Sequence[Seen], claims: Sequence[str] = (), alpha: float = 0.05) -> tuple[list[History], list[str]]:
    """``histories`` of runs that were read and are ``usable``, oldest first."""
    found: dict[str, list[Point]] = {}
    newest: dict[str, tuple[Seen, Said]] = {}  # says what is measured, and on what
    left_out = []
    for one in reversed(runs):
        elsewhere = []
        for said in one.said:
            if (claims and not said.claim.startswith(tuple(claims))) or said.kind == "exact" or said.estimate is None:
                continue
            last, now = newest.setdefault(said.claim, (one, said))
            if (said.kind, said.metric) != (now.kind, now.metric):
                left_out.append(f"{one.run}: {said.claim} was measured as {said.kind} of {said.metric}, now {now.kind} of {now.metric}")
            elif not _same_sets(one, said, last, now):
                elsewhere.append(said.claim)
            else:
                found.setdefault(said.claim, []).append(_point(one, said, said.estimate))
        if elsewhere:
            left_out.append(f"{one.run}: measured on other golden sets than the newest run's: {_some(elsewhere)}")
    long = sum(len(points) >= 2 * SHORTEST for points in found.values())
    made = ((name, points[::-1]) for name, points in sorted(found.items()))
    return [History(name, tuple(points), _changes(name, points, alpha, long)) for name, points in made], left_out


def _same_sets(one: Seen, said: Said, last: Seen, now: Said) -> bool:
    if said.sets or now.sets:
        return said.sets == now.sets
    return all(last.golden.get(name, digest) == digest for name, digest in one.golden.items())


def _some(claims: Sequence[str], most: int = 3) -> str:
    return ", ".join(claims[:most]) + (f" and {len(claims) - most} more" if len(claims) > most else "")


def _point(one: Seen, said: Said, estimate: float) -> Point:
    return Point(one.run.name, one.finished, said.outcome, estimate, said.low, said.high)


def _changes(name: str, points: Sequence[Point], alpha: float, histories: int) -> tuple[Change, ...] | None:
    if len(points) < 2 * SHORTEST:
        return None
    level = alpha / histories  # one false alarm among all of them, not one in each
    permutations = max(999, math.ceil(2 / level) - 1)
    return tuple(change_points([p.estimate for p in points], level, name, SHORTEST, permutations))


# --- as text ------------------------------------------------------------------------------------


def lines(found: Sequence[History], left_out: Sequence[str], alpha: float) -> Iterator[str]:
    """The histories for a terminal: a sparkline each, and each change with the run it came with."""
    for history in found:
        points = history.points
        values = [p.estimate for p in points]
        yield f"{history.claim}  {len(points)} runs  {_sparkline(values)}  {min(values):.4g} to {max(values):.4g}, last {values[-1]:.4g}"
        for change in history.changes or ():
            first = points[change.first]
            yield f"    changed with {first.run} ({first.finished}): {change.before:.4g} -> {change.after:.4g}, p = {change.p:.3g}"
        if history.changes is None:
            yield f"    too few to tell a change: {2 * SHORTEST} runs are needed"
    changed = sum(bool(history.changes) for history in found)
    yield f"{changed} of {len(found)} claims changed; a false alarm anywhere among them has probability at most {alpha:g}"
    yield from (f"left out  {text}" for text in left_out)


def _sparkline(values: Sequence[float]) -> str:
    """The last sixty values as bars between the smallest and the largest."""
    bars, shown = "▁▂▃▄▅▆▇█", values[-60:]
    low, high = min(shown), max(shown)
    return "".join(bars[round((v - low) / (high - low) * 7)] if high > low else bars[3] for v in shown)
