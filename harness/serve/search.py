"""The largest arrival rate at which a service keeps its objectives: searched on verdicts, decided by a confirmation.

    explore    bisection of a geometric grid of rates; an inconclusive probe is run again, longer, instead of moving
    confirm    the highest rate that held, with a new seed; only this decides, and a plan says how often it may be tried

At the largest rate itself the share over the limit *is* the bound, so that no number of requests shows it: what is found lies
below, by as much as the length of a probe leaves undecided. "At least r" is what a confirmation proves, at ``alpha`` over all of
its tries; rates that failed bound it from above. Exploration spends no alpha, since it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.errors import ConfigError
from harness.serve.schedule import draws
from harness.types import Outcome, Verdict

__all__ = ["Found", "Probe", "Wanted", "estimate", "grid", "max_rate", "searching", "together"]

# What more requests can cure; any other reason (a slow client, a failed parity) voids a run of any length.
_SHORT = ("straddles", "unattainable", "min_n", "too_short", "degenerate_series", "not_steady")


class Wanted(NamedTuple):
    """A run to be made: ``n`` requests in the window at ``rate`` a second, with this seed."""

    stage: str  # "explore" or "confirm"
    rate: float
    seed: int
    n: int


class Probe(NamedTuple):
    """A run that was made, and what the judge said of it."""

    stage: str
    rate: float
    seed: int
    n: int
    outcome: Outcome
    reason: str = ""
    p_hold: float | None = None
    p_fail: float | None = None
    share: float | None = None  # over the limit
    bound: float | None = None  # on that share


@dataclass(frozen=True, slots=True)
class Found:
    """``holds``: at least ``rate`` a second is proven. ``failed`` is the lowest rate that was shown to be too high.

    ``estimate`` of the limit itself is proven by nothing. ``undecided``: rates that no run as long as allowed settled.
    ``requests`` were used in all windows together.
    """

    outcome: Outcome
    reason: str
    sentence: str
    rate: float | None
    failed: float | None
    estimate: float | None
    undecided: tuple[float, ...]
    probes: tuple[Probe, ...]
    requests: int


def grid(low: float, high: float, step: float = 0.05) -> tuple[float, ...]:
    """Rates from ``low`` to ``high`` or just above, each ``1 + step`` times the one before."""
    if not (0 < low < high < math.inf and 0 < step <= 1):
        raise ConfigError(f"max_rate: rates from {low} to {high} in steps of {step}; expected 0 < low < high, and a step in (0, 1]")
    return tuple(low * (1 + step) ** i for i in range(math.ceil(math.log(high / low) / math.log1p(step) - 1e-9) + 1))


def max_rate(
    probe: Callable[[float, int, int], Verdict],
    low: float,
    high: float,
    *,
    n: int,
    seed: int,
    alpha: float = 0.05,
    step: float = 0.05,
    confirmations: int = 3,
    lengthen: int = 4,
    bound: float | None = None,
    known: Iterable[Probe] = (),
    keep: Callable[[Probe], None] = lambda made: None,
) -> Found:
    """The largest rate of the grid that is proven to keep the objectives.

    ``probe(rate, seed, n)`` makes a run of ``n`` requests (Poisson, its own warm-up) and has it judged: p_hold and p_fail of the
    verdict are read, ``together`` joins those of several objectives. ``low`` should hold and ``high`` fail; neither is assumed.
    A probe has ``n`` requests, ``lengthen`` times as many if that did not decide; so has every confirmation, of which there are
    at most ``confirmations``, each one step lower and at alpha / confirmations. ``bound`` on the share over the limit, where
    one objective decides, makes an ``estimate`` too. Given ``known`` probes (``keep`` got each as it
    was made), a search that was interrupted goes on where it was.
    """
    made = {(p.stage, p.rate, p.seed, p.n): p for p in known}
    search = searching(low, high, n=n, seed=seed, alpha=alpha, step=step, confirmations=confirmations, lengthen=lengthen)
    try:
        wanted = next(search)
        while True:
            found = made.get(wanted)
            if found is None:
                found = _probe(wanted, probe(wanted.rate, wanted.seed, wanted.n), bound)
                keep(found)
            wanted = search.send(found)
    except StopIteration as end:
        result: Found = end.value
        return result


def _probe(wanted: Wanted, verdict: Verdict, bound: float | None) -> Probe:
    return Probe(*wanted, verdict.outcome, verdict.reason, verdict.p_hold, verdict.p_fail, verdict.estimate, bound)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that all objectives are kept: as likely to be false as the weakest of them (intersection-union)."""
    order: Mapping[Outcome, int] = {"fails": 0, "not_evaluated": 1, "inconclusive": 2, "holds": 3}
    worst = min(verdicts, key=lambda v: (order[v.outcome], -(v.p_hold if v.p_hold is not None else 1.0)))
    hold, fail = [v.p_hold for v in verdicts], [v.p_fail for v in verdicts if v.p_fail is not None]
    return replace(
        worst, p_hold=None if None in hold else max(p for p in hold if p is not None), p_fail=min(fail, default=None),
    )  # fmt: skip


def searching(
    low: float, high: float, *, n: int, seed: int, alpha: float, step: float, confirmations: int, lengthen: int
) -> Generator[Wanted, Probe, Found]:
    """The search itself: yields each run that it wants, is sent the probe, returns what was found."""
    rates = grid(low, high, step)
    if n < 1 or confirmations < 1 or lengthen < 1 or not 0 < alpha < 0.5:
        raise ConfigError(
            f"max_rate: n = {n}, confirmations = {confirmations}, lengthen = {lengthen}, alpha = {alpha}; "
            "expected at least 1 of each and 0 < alpha < .5"
        )
    probes: list[Probe] = []

    def run(stage: str, i: int, size: int) -> Generator[Wanted, Probe, Probe]:
        found = yield Wanted(stage, rates[i], draws.key(seed, f"{stage}/{i}/{size}") >> 65, size)
        probes.append(found)
        return found

    held, above, void = -1, len(rates), ""  # the highest that held, the lowest that did not
    while above - held > 1:
        middle = (held + above) // 2
        found = yield from run("explore", middle, n)
        if found.outcome == "inconclusive" and found.reason in _SHORT and lengthen > 1:
            found = yield from run("explore", middle, lengthen * n)
        if found.outcome == "not_evaluated" or (found.outcome == "inconclusive" and found.reason not in _SHORT):
            void = f"above, runs were void ({found.reason} at {found.rate:g}/s)"
        held, above = (middle, above) if found.outcome == "holds" else (held, middle)
    for i in range(held, max(-1, held - confirmations), -1):
        found = yield from run("confirm", i, lengthen * n)
        if found.outcome == "holds" and found.p_hold is not None and found.p_hold <= alpha / confirmations:
            return _found(probes, rates[i], void)
    return _found(probes, None, void)


def _found(probes: Sequence[Probe], rate: float | None, void: str) -> Found:
    """What the probes come to; verdicts that contradict each other decide nothing."""
    held, failed = ([p.rate for p in probes if p.outcome == outcome] for outcome in ("holds", "fails"))
    upper, used = min(failed, default=None), sum(p.n for p in probes)
    undecided = sorted({p.rate for p in probes} - set(held) - set(failed))
    about = estimate(probes)

    def found(outcome: Outcome, reason: str, said: str) -> Found:
        more = [void] if void else []
        more += [f"{upper:.4g}/s is too high"] if upper is not None else ["no rate was shown to be too high"]
        more += [f"the limit is estimated at {about:.4g}/s"] if about is not None else []
        sentence = "; ".join([said, *more, f"{used} requests in {len(probes)} runs"])
        proven = rate if outcome == "holds" else None
        return Found(outcome, reason, sentence, proven, upper, about, tuple(undecided), tuple(probes), used)

    if upper is not None and held and upper <= max(held):
        return found("inconclusive", "not_monotone", f"{max(held):.4g}/s held and {upper:.4g}/s failed: the service is not steady")
    if rate is not None:
        return found("holds", "proven", f"at least {rate:.4g}/s keep the objectives")
    if held:
        return found("inconclusive", "not_confirmed", f"{max(held):.4g}/s held, and no confirmation did")
    if upper is not None and upper == min(p.rate for p in probes):
        return found("fails", "refuted", f"even {upper:.4g}/s is too much")
    return found("inconclusive", "nothing_held", "no rate held")


def estimate(probes: Sequence[Probe]) -> float | None:
    """The rate at which the share over the limit reaches its bound, by the line of ln share against ln rate through the runs nearest to it.

    Weighted by the requests over the limit; runs with none, or with ten times the bound or more, say little of the crossing.
    None where fewer than two rates remain. An estimate, proven by nothing.
    """
    near = [
        (math.log(p.rate), math.log(p.share / p.bound), p.n * p.share) for p in probes if p.bound and p.share and p.share < 10 * p.bound
    ]
    weight = math.fsum(w for *_, w in near)
    if len({x for x, *_ in near}) < 2:
        return None
    mx, my = (math.fsum(row[i] * row[2] for row in near) / weight for i in range(2))
    spread = math.fsum(w * (x - mx) ** 2 for x, _, w in near)
    slope = math.fsum(w * (x - mx) * (y - my) for x, y, w in near) / spread
    crossing = mx - my / slope if slope > 0 else math.inf
    low, high = min(x for x, *_ in near), max(x for x, *_ in near)
    return math.exp(crossing) if low - 0.1 <= crossing <= high + 0.1 else None
