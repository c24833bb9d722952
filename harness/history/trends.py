"""One claim over many runs: its estimates in order of time, and where they changed.

A slow drift is small from run to run, so that no pair of runs shows it; a history does. Only sealed runs whose
seal is intact count, each once, of tier full, of the lifecycle and on the golden sets of the newest of them; of a claim,
only what was measured as the newest run does. What is left out is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import HarnessError
from harness.recheck import seal_of
from harness.stats.changes import Change, change_points

__all__ = ["History", "Point", "histories", "lines"]

SHORTEST = 5  # runs on each side of a change


@dataclass(frozen=True, slots=True)
class Point:
    """What one run said of a claim."""

    run: str
    finished: str
    outcome: str
    estimate: float


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
    kept, left_out = _usable(runs)
    found: dict[str, list[Point]] = {}
    measured_as: dict[str, tuple[str, str]] = {}
    for finished, run in reversed(kept):  # the newest says what is measured
        for path in sorted((run / "evidence").glob("*.json")):
            record = evidence.read_json(path)
            name, verdict, kind = record["claim"]["id"], record["verdict"], record["claim"]["estimand"]
            wanted = not claims or name.startswith(tuple(claims))
            if not wanted or kind == "exact" or verdict["estimate"] is None:
                continue
            how = (kind, (record["measurement"] or {}).get("metric", ""))
            if measured_as.setdefault(name, how) != how:
                left_out.append(f"{run}: {name} was measured as {' of '.join(how)}, now {' of '.join(measured_as[name])}")
                continue
            found.setdefault(name, []).insert(0, Point(run.name, finished, verdict["outcome"], verdict["estimate"]))
    long = sum(len(points) >= 2 * SHORTEST for points in found.values())
    return [History(name, tuple(points), _changes(name, points, alpha, long)) for name, points in sorted(found.items())], left_out


def _usable(runs: Sequence[Path]) -> tuple[list[tuple[str, Path]], list[str]]:
    """Runs that may stand side by side, oldest first."""
    kept: list[tuple[str, Path, Any]] = []
    left_out = []
    seen: dict[str, Path] = {}
    for run in runs:
        try:
            seal, problems = seal_of(run)
            plan, facts = evidence.read_json(run / evidence.PLAN), evidence.read_json(run / "run.json")
            if problems:
                left_out.append(f"{run}: its seal is broken: {problems[0]}")
            elif plan["tier"] == "smoke":
                left_out.append(f"{run}: tier smoke, a subset")
            elif seal in seen:
                left_out.append(f"{run}: the same run as {seen[seal]}")
            else:
                seen[seal] = run
                kept.append((facts["finished"], run, (plan["lifecycle"], plan["golden"])))
        except (HarnessError, KeyError, TypeError) as error:
            left_out.append(f"{run}: not a finished run ({error})")
    kept.sort(key=lambda entry: (entry[0], entry[1].name))
    newest = kept[-1][2] if kept else None
    left_out += [f"{run}: of another lifecycle, or on other golden sets, than the newest run" for _, run, of in kept if of != newest]
    return [(finished, run) for finished, run, of in kept if of == newest], left_out


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
