"""The first bad of many commits, though a run may lie and some commits cannot be run.

Bayes's rule over the place of the change, with the failure rates on both sides of it integrated out, as git-bayesect does. Each next
run is where it is expected to tell most, and the search ends when one place holds all of the probability but ``error``. With a test
that never lies this is binary search.

Waeber, Frazier and Henderson, "Bisection Search with Noisy Responses", SIAM J. Control Optim. 51(3), 2013.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from harness.dossier.trials import Outcome, Rates
from harness.errors import ClaimError

__all__ = ["MOST_RUNS", "Bisected", "bisect"]

MOST_RUNS = 10_000
_CERTAIN = 1e-9  # what rounding may take from a probability of one


@dataclass(frozen=True, slots=True)
class Bisected:
    """``first`` is the first bad place, counted from 0, the good end; ``or_else`` are those just before it that could not be run
    and may be the first bad one as well. ``sure`` is the probability that it is one of these; ``runs`` how many it took."""

    first: int
    or_else: tuple[int, ...]
    sure: float
    runs: int


def bisect(
    count: int,
    run: Callable[[int, int], Outcome],
    rates: Rates | None = None,
    error: float = 0.05,
    at_most: Callable[[int], None] = lambda left: None,
) -> Bisected:
    """The first bad of ``count`` places: 0 is good, the last one is bad, and they change once.

    ``run(place, number)`` is the outcome of that place's run number 0, 1, 2 ...; unresolved: this place cannot be run. With ``rates``
    learnt at the ends (None: a run never lies) the answer is wrong with probability at most ``error``, a change being as likely
    at any place. ``at_most`` is told about how many runs are left. ClaimError where it cannot be found out.
    """
    if count < 2:
        raise ClaimError(f"{count} places: expected a good one and a bad one at least")
    rates = rates or Rates()
    failed, passed = [0] * count, [0] * count
    dead = {0, count - 1} if rates.certain else set()  # the ends of a test that never lies were seen
    for runs in range(MOST_RUNS):
        weights = _weights(rates, failed, passed)
        sure, places = max(_groups(weights, dead), key=lambda group: group[0])
        if sure >= 1 - (_CERTAIN if rates.certain else error):
            return Bisected(places[-1], places[:-1], sure, runs)
        place = _next(weights, _chances(rates, failed, passed), dead)
        at_most(math.ceil(_bits(weights) / _told(rates) - 1e-6))
        outcome = run(place, failed[place] + passed[place])
        if outcome == "unresolved":
            dead.add(place)
        else:
            (failed if outcome == "fail" else passed)[place] += 1
    raise ClaimError(f"the first bad place stays unknown after {MOST_RUNS} runs: they say too little")


# --- what is known ------------------------------------------------------------------------------------


def _sides(failed: Sequence[int], passed: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """For each first bad place 1, 2 ...: failed and passed runs before it, then from it on."""
    fails, passes = list(accumulate(failed)), list(accumulate(passed))
    return [(f, p, fails[-1] - f, passes[-1] - p) for f, p in zip(fails[:-1], passes[:-1], strict=True)]


def _weights(rates: Rates, failed: Sequence[int], passed: Sequence[int]) -> list[float]:
    """``[b - 1]`` is the probability that place b is the first bad one; beforehand each is as likely."""
    logs = [rates.log_good(f, p) + rates.log_bad(more_f, more_p) for f, p, more_f, more_p in _sides(failed, passed)]
    most = max(logs)
    raw = [math.exp(each - most) for each in logs]
    return [each / math.fsum(raw) for each in raw]


def _chances(rates: Rates, failed: Sequence[int], passed: Sequence[int]) -> list[tuple[float, float]]:
    """For each first bad place: how likely the next run fails before it, and how likely from it on."""
    if rates.good is None or rates.bad is None:
        return [(0.0, 1.0)] * (len(failed) - 1)
    good, bad = rates.good, rates.bad
    return [
        ((good.failed + f + 0.5) / (sum(good) + f + p + 1), (bad.failed + more_f + 0.5) / (sum(bad) + more_f + more_p + 1))
        for f, p, more_f, more_p in _sides(failed, passed)
    ]


def _groups(weights: Sequence[float], dead: set[int]) -> list[tuple[float, tuple[int, ...]]]:
    """First bad places that no run can tell apart, since what lies between them cannot be run, with their probability."""
    found: list[tuple[float, tuple[int, ...]]] = []
    group: list[int] = []
    for place in range(1, len(weights) + 1):
        group.append(place)
        if place not in dead or place == len(weights):
            found.append((math.fsum(weights[first - 1] for first in group), tuple(group)))
            group = []
    return found


# --- where to run next --------------------------------------------------------------------------------


def _next(weights: Sequence[float], chances: Sequence[tuple[float, float]], dead: set[int]) -> int:
    """The place whose next run is expected to leave the least entropy, of those that can be run."""
    fail = [(w * good, w * bad) for w, (good, bad) in zip(weights, chances, strict=True)]
    passes = [(w * (1 - good), w * (1 - bad)) for w, (good, bad) in zip(weights, chances, strict=True)]
    left = [a + b for a, b in zip(_entropies(fail), _entropies(passes), strict=True)]
    places = [place for place in range(len(left)) if place not in dead]
    return min(places, key=lambda place: (round(left[place], 12), place))


def _entropies(joint: Sequence[tuple[float, float]]) -> list[float]:
    """For each place, how likely an outcome is there, times the entropy (nats) that it leaves.

    ``joint[b - 1]`` is how likely the outcome is together with the first bad place b: at a place before b, and from b on.
    """
    behind, behind_logs = _sums([good for good, _ in joint])
    before, before_logs = _sums([bad for _, bad in joint])
    found = []
    for place in range(len(joint) + 1):
        total = before[place] + behind[-1] - behind[place]
        logs = before_logs[place] + behind_logs[-1] - behind_logs[place]
        found.append(total * math.log(total) - logs if total > 0 else 0.0)
    return found


def _sums(weights: Sequence[float]) -> tuple[list[float], list[float]]:
    """Of the first 0, 1, 2 ... weights: their sum, and the sum of w log w."""
    logs = [w * math.log(w) if w else 0.0 for w in weights]
    return list(accumulate(weights, initial=0.0)), list(accumulate(logs, initial=0.0))


def _bits(weights: Sequence[float]) -> float:
    return -math.fsum(w * math.log2(w) for w in weights if w)


def _told(rates: Rates) -> float:
    """Bits that a run tells at a place which is as likely good as bad."""
    ((good, bad),) = _chances(rates, (0, 0), (0, 0))
    half = (good + bad) / 2
    return _bits((half, 1 - half)) - (_bits((good, 1 - good)) + _bits((bad, 1 - bad))) / 2
