"""Is the defect here? By one run where a run always says the same; by as many as a stated error asks for where it does not.

A test that fails now and then fails at some rate where the defect is, and at a lower one, mostly never, where it is not. Neither is
known: both ends are run first, and what is learnt of their rates there (a Beta distribution each, from Jeffreys's prior) is what every
question in between is held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.errors import ClaimError
from harness.stats.intervals import clopper_pearson

__all__ = ["ENOUGH", "MOST_RUNS", "Outcome", "Rates", "Seen", "Trial", "calibrated", "learnt", "tried"]

Outcome = Literal["pass", "fail", "unresolved"]

MOST_RUNS = 2000  # of one trial: what is not settled by then is unresolved
ENOUGH = 12  # failures of the bad end: so many in n runs are told from none in n, whatever n is
MOST_LEARNT = 200  # runs of an end to get there, before it is given more
_JEFFREYS = 0.5


class Seen(NamedTuple):
    """How many runs failed, and how many passed."""

    failed: int = 0
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """What is known of how often a run fails: runs of the ``good`` end and of the ``bad`` one; None: a run never lies."""

    good: Seen | None = None
    bad: Seen | None = None

    @property
    def certain(self) -> bool:
        """Whether one run says it all."""
        return self.good is None or self.bad is None

    def log_bad(self, failed: int, passed: int) -> float:
        """The log-likelihood of so many more runs where the defect is."""
        return (-math.inf if passed else 0.0) if self.bad is None else _marginal(self.bad, failed, passed)

    def log_good(self, failed: int, passed: int) -> float:
        """The log-likelihood of so many more runs where it is not."""
        return (-math.inf if failed else 0.0) if self.good is None else _marginal(self.good, failed, passed)

    def passes(self, error: float) -> int:
        """How many runs that all pass show that the defect is not here; MOST_RUNS where so many do not."""
        enough = (n for n in range(1, MOST_RUNS) if self.log_bad(0, n) - self.log_good(0, n) <= math.log(error))
        return next(enough, MOST_RUNS)


def _marginal(seen: Seen, failed: int, passed: int) -> float:
    a, b = _JEFFREYS + seen.failed, _JEFFREYS + seen.passed
    return _log_beta(a + failed, b + passed) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class Trial(NamedTuple):
    """What was decided, after how many runs, and how many of them failed."""

    outcome: Outcome
    runs: int
    failed: int


def tried(run: Callable[[int], Outcome], rates: Rates, error: float) -> Trial:
    """Runs 0, 1, 2 ... until it is known whether they fail as the bad end does or as the good one does.

    The likelihood ratio of the two, each rate integrated out, stops at 1 / error or at error: by Ville's inequality each answer is
    wrong with probability at most ``error``, wherever it stops, over what is known of the rates. A run that cannot tell ends it:
    what cannot be run has no rate.
    """
    if not 0 < error < 0.5:
        raise ClaimError(f"error = {error:g}: expected a probability above 0 and below .5")
    limit, failed = -math.log(error), 0
    for number in range(MOST_RUNS):
        outcome = run(number)
        if outcome == "unresolved":
            return Trial("unresolved", number + 1, failed)
        failed += outcome == "fail"
        passed = number + 1 - failed
        bad, good = rates.log_bad(failed, passed), rates.log_good(failed, passed)
        if good == -math.inf or bad - good >= limit:
            return Trial("fail", number + 1, failed)
        if bad - good <= -limit:
            return Trial("pass", number + 1, failed)
    return Trial("unresolved", MOST_RUNS, failed)


def learnt(good: Callable[[int], Outcome], bad: Callable[[int], Outcome], error: float) -> tuple[Rates, Trial, Trial]:
    """Rates of both ends, and what they were learnt from: until the bad end failed ``ENOUGH`` times, as many runs of the good one;
    twice, four and eight times as much where that does not tell them apart.

    ClaimError where nothing does, or an end cannot be run. ``good`` and ``bad`` are asked for runs 0, 1, 2 ..., each once.
    """
    goods: list[Outcome] = []
    bads: list[Outcome] = []
    for step in (1, 2, 4, 8):
        while len(bads) < MOST_LEARNT * step and bads.count("fail") < ENOUGH * step:
            bads.append(_told("bad", bad(len(bads))))
        while len(goods) < len(bads):
            goods.append(_told("good", good(len(goods))))
        seen_good, seen_bad = _summed(goods), _summed(bads)
        try:
            return calibrated(seen_good, seen_bad, error / 4), seen_good, seen_bad
        except ClaimError:
            if step == 8 or not seen_bad.failed:
                raise
    raise AssertionError("the last step returns or raises")


def _summed(runs: list[Outcome]) -> Trial:
    return Trial("fail" if "fail" in runs else "pass", len(runs), runs.count("fail"))


def _told(end: str, outcome: Outcome) -> Outcome:
    if outcome == "unresolved":
        raise ClaimError(f"the {end} end cannot be run: its runs tell neither success nor the failure that is looked for")
    return outcome


def calibrated(good: Trial, bad: Trial, error: float) -> Rates:
    """Rates to decide by, from runs of both ends, which may have stopped at a number of failures.

    ClaimError unless their failure rates are apart: the exact lower limit of the bad one above the upper limit of the good one, each
    wrong with probability at most ``error`` (Clopper-Pearson; the lower one holds for a stop at a failure as well).
    """
    low, high = clopper_pearson(bad.failed, bad.runs, error).low, clopper_pearson(good.failed, good.runs, error).high
    if low <= high:
        raise ClaimError(
            f"the bad end failed in {bad.failed} of {bad.runs} runs, the good end in {good.failed} of {good.runs}: "
            "that does not tell them apart. Take a test that fails more often, or an end that is good"
        )
    return Rates(Seen(good.failed, good.runs - good.failed), Seen(bad.failed, bad.runs - bad.failed))
