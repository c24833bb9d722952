"""What may be claimed of a load, and the measurements that decide it.

    limit     ``ttft_p99 = 300ms``: at most 1 % of all scheduled requests are slower, or fail
    goodput   at least 95 % of them are complete and inside every limit
    errors    at most 1 % of them are not complete within the time a request is waited for
    tokens    tokens a second, by means over batches of the window
    requests  completed requests a second, likewise

The denominator is always every request that was scheduled inside the window. What needs how many requests is known
before the first is sent (``plan``). ``described`` says percentiles with intervals; they decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from harness.bounds import at_least, at_most
from harness.judge.settle import inconclusive
from harness.records import Load, Objective, Record, samples
from harness.serve.validity import late, promised, remarks, unmeasurable, validity
from harness.stats import series, steady
from harness.types import Claim, Measurement, Sample, Subject, Verdict

__all__ = [
    "Described",
    "Plan",
    "described",
    "errors",
    "errors_claim",
    "goodput",
    "goodput_claim",
    "limit_claim",
    "limit_text",
    "measurement",
    "plan",
    "stated",
    "throughput",
    "throughput_claim",
    "unapplied",
]

WELL = 5  # a service that is well has a fifth of the allowed share over its limit: what is expected, where the plan wants power
BATCH = 10  # times the requests that count as one, in a batch
BATCHES = (30, 100)  # Student's t asks for 30 independent units; more than 100 would only be smaller
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
What = Literal["tokens", "requests"]


# --- claims -----------------------------------------------------------------------------------------


def limit_claim(objective: Objective, who: str, *, alpha: float | None = None) -> Claim:
    """``L1.ttft_p99[who]``: the share of requests over the limit, or failed, is at most what the quantile leaves."""
    text = (
        f"{objective.name} of {who} is at most {limit_text(objective.limit)}: at most {objective.share:.3g} of all requests are slower, "
        "timed from when each was due, or fail"
    )
    return _share(f"L1.{objective.name}[{who}]", text, objective.share, objective.limit, alpha)


def goodput_claim(share: float, who: str, *, alpha: float | None = None) -> Claim:
    """``L2.goodput[who]``: at least ``share`` of all requests are complete and inside every limit."""
    text = f"at least {share:.4g} of all requests to {who} are complete and inside every limit"
    return _share(f"L2.goodput[{who}]", text, round(1 - share, 9), 1.0, alpha)


def errors_claim(limit_s: float, share: float, who: str, *, alpha: float | None = None) -> Claim:
    """``L2.errors[who]``: at most ``share`` of all requests are not complete ``limit_s`` seconds after they were due."""
    text = f"at most {share:.3g} of all requests to {who} are not complete within {limit_text(limit_s)}"
    return _share(f"L2.errors[{who}]", text, share, limit_s, alpha)


def _share(name: str, text: str, share: float, limit: float, alpha: float | None) -> Claim:
    claim = Claim(name, text, at_most(share), estimand="over_limit", slo=limit, alpha=alpha, expected=share / WELL)
    return replace(claim, min_n=series.slo_min_n(share, claim.level))


def throughput_claim(what: What, least: float, who: str, *, alpha: float | None = None) -> Claim:
    """``L2.tokens[who]``, ``L2.requests[who]``: at least ``least`` of them a second."""
    text = f"{who} delivers at least {least:g} {what} a second, over the whole window"
    return Claim(f"L2.{what}[{who}]", text, at_least(least), estimand="mean", alpha=alpha, min_n=BATCHES[0])


# --- before the first request -----------------------------------------------------------------------


class Plan(NamedTuple):
    """What ``n`` requests can show of a claim: nothing below ``least``; with power .80 from ``likely`` on, if it is as ``expected``.

    All for ``tau``: how many neighbouring requests count as one (1: none share a queue). Of a throughput, ``likely`` is for
    ten times that: in a closed loop, or behind a queue, neighbours are alike, and nothing is known of it before the run.
    """

    claim: Claim
    n: int
    least: int
    likely: int
    tau: float

    @property
    def refusal(self) -> Verdict | None:
        """The verdict where n can show nothing: to be given before anything is sent."""
        if self.n >= self.least:
            return None
        sentence = f"n = {self.n} requests can show nothing, {self.least} are the least; {self.likely} would do. Nothing was sent"
        return inconclusive("min_n", sentence, self.n, n_needed=self.least, alpha=self.claim.level)


def plan(claim: Claim, n: int, *, tau: float = 1.0) -> Plan:
    """What ``n`` requests can show of a claim; ``tau`` of a pilot run, 1 where none is known."""
    if claim.estimand == "mean":
        least = math.ceil(BATCHES[0] * BATCH * tau)
        return Plan(claim, n, least, 10 * least, tau)
    share, level = claim.bound.limit, claim.level
    likely = series.slo_n(share, share / WELL if claim.expected is None else claim.expected, level, 0.80, tau)
    return Plan(claim, n, max(claim.min_n, series.slo_min_n(share, level, tau)), likely, tau)


# --- measurements -----------------------------------------------------------------------------------


def stated(load: Load, within: Sequence[Objective], **more: Any) -> Load:
    """The load with what was promised in its header, where ``validity`` reads it; ``more`` are further keys."""
    return Load({**load.header, "slo": _table(within), **more}, load.records)


def measurement(load: Load, objective: Objective, subjects: Sequence[Subject] = ()) -> Measurement:
    """A Sample for each scheduled request, for ``limit_claim``. Void where the run is, or where the metric applies to too few."""
    return _of_requests(load, objective.metric, (), unmeasurable(load, (objective,)), subjects)


def goodput(load: Load, within: Sequence[Objective] = (), subjects: Sequence[Subject] = ()) -> Measurement:
    """The largest multiple of its limits of each request, for ``goodput_claim``; ``within`` where the header promises nothing."""
    within = tuple(within) or promised(load)
    return _of_requests(load, "worst", within, unmeasurable(load, within), subjects)


def errors(load: Load, subjects: Sequence[Subject] = ()) -> Measurement:
    """The end of each request, for ``errors_claim``."""
    return _of_requests(load, "e2e", (), (), subjects)


def throughput(load: Load, what: What, subjects: Sequence[Subject] = ()) -> Measurement:
    """A Sample for each batch of the window: tokens, or completions, a second inside it.

    The batches are of equal length, each of more than ten times as many requests as count as one, so that neighbours are
    independent; ``too_short`` where there are fewer than thirty. Tokens lie evenly between the first and the last frame.
    """
    requests = load.judged
    start, end = _window(load)
    tau, problem = _time(load)
    count = min(BATCHES[1], math.floor(len(requests) / (BATCH * tau)))
    void = list(validity(load))
    if problem or count < BATCHES[0]:
        void.append(problem or f"too_short: {_short(len(requests), count, tau)}")
        count = BATCHES[0]
    width = (end - start) / count
    sums = [0.0] * count
    for record in load.records:  # of warm-up too: what comes inside the window counts, whenever it was asked for
        for first, last, amount in _arrived(record, what):
            for i in range(max(0, int((first - start) // width)), min(count, int((last - start) // width) + 1)):
                sums[i] += amount * _inside(first, last, start + i * width, start + (i + 1) * width)
    rows = tuple(Sample(f"batch {i:03d}", round(x / width, 9), at=round(start + i * width, 9)) for i, x in enumerate(sums))
    return Measurement(f"{what}_per_second", rows, tuple(subjects), {**_conditions(load), "tau": tau}, tuple(void), _notes(load))


def _short(n: int, count: int, tau: float) -> str:
    return (
        f"{count} batches of 10 tau = {BATCH * tau:.0f} requests, expected at least {BATCHES[0]}: "
        f"n = {math.ceil(BATCHES[0] * BATCH * tau)} would do, not {n}, if neighbours stay as alike as they were"
    )


def unapplied(struck: int) -> tuple[str, ...]:
    """Void for a claim on a fault that struck no request, as whoever planted it counts."""
    return () if struck else ("fault_not_applied: the planted fault touched no request: nothing was shown of it",)


def _of_requests(load: Load, metric: str, within: Sequence[Objective], void: tuple[str, ...], subjects: Sequence[Subject]) -> Measurement:
    derived = {"metric": metric, "within": _table(within)}
    conditions = {**_conditions(load), "derived": derived}
    invalid = (*validity(load), *void)
    rows = samples(load, metric, within)
    return Measurement(metric, rows, tuple(subjects), conditions, invalid, _notes(load), load.to_bytes())


def _table(within: Sequence[Objective]) -> dict[str, str]:
    return {each.name: limit_text(each.limit) for each in within}


def _conditions(load: Load) -> dict[str, Any]:
    kept = {key: load.header[key] for key in ("schedule", "workload", "window", "limit_s", "target") if key in load.header}
    return {**kept, "shards": len(load.header.get("shards", ())), "client_lag_p99_s": round(late(load), 9)}


def _notes(load: Load) -> tuple[str, ...]:
    return (*remarks(load), *_warm_up(load))


def _warm_up(load: Load) -> tuple[str, ...]:
    """MSER-5 over warm-up and window in the order of arrival must put its cut inside the warm-up."""
    before = [r for r in load.records if r.scheduled < load.header["window"][0]]
    ends = [r.end for r in (*before, *load.judged) if r.outcome == "complete" and r.end is not None]
    cut = steady.mser(ends)
    if cut is None or cut <= len(before):
        return ()
    return (f"MSER-5 would leave out the first {cut} requests, the warm-up had {len(before)}: a longer one may be needed",)


def _window(load: Load) -> tuple[float, float]:
    """In seconds after the origin. A closed loop has none: from its first request to when the last was sent, while all slots were full."""
    start, end = load.header["window"]
    if end <= start:
        start, end = (pick((r.scheduled for r in load.judged), default=0) for pick in (min, max))
    return start * 1e-9, max(end, start + 1) * 1e-9


def _time(load: Load) -> tuple[float, str]:
    """How many requests count as one, by their ends in the order of arrival; 1 and why where that is unknown."""
    ends = [s.value for s in samples(load, "e2e")]
    try:
        return series.slo_time(ends, max((x for x in ends if x is not None), default=0.0)), ""
    except ValueError as error:
        return 1.0, f"degenerate_series: {error}"


def _arrived(record: Record, what: What) -> list[tuple[float, float, float]]:
    """(from, to, amount), in seconds after the origin: what came of a complete request, and when."""
    if record.outcome != "complete" or record.end is None:
        return []
    due = record.scheduled * 1e-9
    if what == "requests":
        return [(due + record.end * 1e-6,) * 2 + (1.0,)]
    if record.first is None or record.last is None or not record.tokens:
        return []
    first, last = due + record.first * 1e-6, due + record.last * 1e-6
    return [(first, first, 1.0), (first, last, record.tokens - 1.0)]


def _inside(first: float, last: float, start: float, end: float) -> float:
    """The share of [first, last] that lies in [start, end); all or none of an instant."""
    if last <= first:
        return float(start <= first < end)
    return max(0.0, min(last, end) - max(first, start)) / (last - first)


# --- for the eye ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """Percentiles of all scheduled requests, failures above every latency, each with a 95 % interval at ``n_eff``.

    ``quantiles`` maps q to (value, low, high) in seconds; None where n cannot carry it, or where it falls on a failure.
    """

    n: int
    n_eff: float
    quantiles: Mapping[float, tuple[float | None, float | None, float | None]]


def described(load: Load, metric: str, quantiles: Sequence[float] = QUANTILES, within: Sequence[Objective] = ()) -> Described:
    """Order statistics and their intervals. ``n_eff`` is 0 where there is nothing, or nothing that varies."""
    values = [s.value for s in samples(load, metric, within)]
    n, done = len(values), sorted(x for x in values if x is not None)
    try:
        n_eff = n / series.slo_time(values, max(done, default=0.0))
    except ValueError:
        n_eff = 0.0

    def at(rank: int | None) -> float | None:
        return done[rank - 1] if rank is not None and 1 <= rank <= len(done) else None

    def row(q: float) -> tuple[float | None, float | None, float | None]:
        whole = math.floor(n_eff)
        low, high = series.quantile_ranks(whole, q, 0.025) if whole >= 1 else (None, None)
        near, far = (None if low is None else math.floor((low - 1) / whole * n) + 1, None if high is None else math.ceil(high / whole * n))
        return at(math.ceil(q * n)), at(near), at(far)  # the same ranks, of n

    return Described(n, n_eff, {q: row(q) for q in quantiles})


def limit_text(seconds: float) -> str:
    """As ``harness.records.objective`` reads it, to the last bit: 300ms, 1.5s."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        text = f"{seconds / scale:.9g}"
        if seconds >= scale and "e" not in text and float(text) * scale == seconds:
            return text + unit
    return f"{Decimal(repr(seconds)):f}s"
