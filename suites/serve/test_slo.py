"""L1, L2, L5: the latency that was promised at the rate that was promised, goodput and throughput, and what cannot pass for them.

One load of each server serves every objective: golden prompts as a Poisson stream, each timed from when it was due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.config import Served
from harness.judge import judge
from harness.records import Load, Objective, Record
from harness.serve import load, schedule, slo, stub, workload
from suites import controls
from suites.serve import margins

pytestmark = pytest.mark.serve


# --- L1: each objective --------------------------------------------------------------------------------


def _limit_claim(server: str, objective: str) -> Claim:
    return slo.limit_claim(_stated(server, objective), server)


@pytest.mark.claim(each=_limit_claim)
def test_it_answers_as_fast_as_it_promised(claim, bench, server, objective):
    promised = bench.serving.spec(server).objective(objective)
    claim.needs(bench.tier.load(bench.serving.spec(server).requests))
    subjects = (bench.serving.subject(server),)
    kept, rerun = (bench.serving.promised(server, rerun=turn).load for turn in (0, 1))
    late = _delayed(kept, promised, share=4 * promised.share)
    claim.check(
        slo.measurement(kept, promised, subjects),
        controls=[
            Control("A/A: the same schedule once more", controls.NOT_FAILS, slo.measurement(rerun, promised, subjects)),
            Control(f"planted in the records: {4 * promised.share:.0%} of the requests over the limit", controls.FAILS,
                    slo.measurement(late, promised, subjects)),
        ],
    )  # fmt: skip


def _stated(server: str, objective: str) -> Objective:
    return _SETTINGS[server].objective(objective)


_SETTINGS: dict[str, Served] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Claims are made before any fixture is: what the lifecycle file says of a server has to be here by then."""
    from harness.plugin import settings_of

    _SETTINGS.update(settings_of(metafunc.config).serve)


def _delayed(kept: Load, promised: Objective, share: float) -> Load:
    """The same run with every so many-th request of the window beyond the limit, and the rest as it was."""
    every = max(1, round(1 / share))
    over = round(2e6 * promised.limit)
    rows = [_slower(r, over, promised.metric) if r.judged and r.sequence % every == 0 else r for r in kept.records]
    return Load(kept.header, tuple(rows))


def _slower(r: Record, by: int, metric: str) -> Record:
    if r.first is None or r.last is None or r.end is None:
        return r  # it failed: it is over as it is
    if metric == "gap":
        return r._replace(gap=(r.gap or 0) + by)
    later = by * max(1, (r.tokens or 2) - 1) if metric == "tpot" else by
    first = r.first + (by if metric == "ttft" else 0)
    return r._replace(first=first, last=r.last + later, end=r.end + later)


# --- L2: goodput, throughput ---------------------------------------------------------------------------

# Of what the server said of itself meanwhile: kept with this claim, one of each server, for whoever draws it.
_DRAWN = ("t", "dt", "running", "waiting", "kv", "preemptions", "tokens_s", "prompt_tokens_s", "cpu", "client_cpu")


def _goodput_claim(server: str) -> Claim:
    return slo.goodput_claim(_SETTINGS[server].goodput, server)


@pytest.mark.claim(each=_goodput_claim)
def test_nearly_all_requests_keep_every_limit(claim, bench, server):
    spec, subjects = bench.serving.spec(server), (bench.serving.subject(server),)
    claim.needs(bench.tier.load(spec.requests))
    first, again = (bench.serving.promised(server, rerun=turn) for turn in (0, 1))
    kept, rerun = first.load, again.load
    found = slo.goodput(kept, spec.slo, subjects)
    about = {"server": dict(first.server), "timeline": {name: [row.get(name) for row in first.timeline] for name in _DRAWN}}
    worse = kept
    for i, each in enumerate(spec.slo):  # each limit is broken by requests of its own: one at a time, all look better than they are
        worse = _shifted(worse, each, len(spec.slo), i, share=4 * (1 - spec.goodput))
    claim.check(
        replace(found, conditions={**found.conditions, **about}),
        controls=[
            Control("A/A: the same schedule once more", controls.NOT_FAILS, slo.goodput(rerun, spec.slo, subjects)),
            Control("planted in the records: each limit broken by other requests", controls.FAILS, slo.goodput(worse, spec.slo, subjects)),
        ],
    )


def _shifted(kept: Load, promised: Objective, count: int, turn: int, share: float) -> Load:
    every = max(1, round(1 / share))
    over = round(2e6 * promised.limit)
    hit = {r.sequence for i, r in enumerate(r for r in kept.judged if r.sequence % every == 0) if i % count == turn}
    return Load(kept.header, tuple(_slower(r, over, promised.metric) if r.sequence in hit else r for r in kept.records))


def _requests_claim(primary: str) -> Claim:
    return slo.throughput_claim("requests", margins.DELIVERED * _SETTINGS[primary].rate, primary)


@pytest.mark.claim(each=_requests_claim)
def test_it_completes_what_it_is_asked(claim, bench, primary):
    _throughput(claim, bench, primary, "requests")


def _tokens_claim(primary: str) -> Claim:
    return slo.throughput_claim("tokens", margins.LEAST_TOKENS * _SETTINGS[primary].rate, primary)


@pytest.mark.claim(each=_tokens_claim)
def test_it_delivers_tokens_at_the_rate_of_the_requests(claim, bench, primary):
    _throughput(claim, bench, primary, "tokens")


def _throughput(claim, bench, server: str, what: slo.What) -> None:
    subjects = (bench.serving.subject(server),)
    kept, rerun = (bench.serving.promised(server, rerun=turn).load for turn in (0, 1))
    keep = claim.claim.bound.limit / _mean(slo.throughput(kept, what)) / 2  # so much of it is half of what was claimed
    lost = Load(kept.header, tuple(_failed(r) if (r.sequence * 0.6180339887) % 1 >= keep else r for r in kept.records))
    claim.check(
        slo.throughput(kept, what, subjects),
        controls=[
            Control("A/A: the same schedule once more", controls.NOT_FAILS, slo.throughput(rerun, what, subjects)),
            Control("planted in the records: so many fail that half of it is left", controls.FAILS, slo.throughput(lost, what, subjects)),
        ],
    )


def _mean(found: Measurement) -> float:
    return max(1e-9, sum(s.value or 0.0 for s in found.samples) / len(found.samples))


def _failed(r: Record) -> Record:
    return r._replace(outcome="error", why="truncated")


# --- L5: what cannot pass ------------------------------------------------------------------------------

_LIMIT = Objective("e2e", 0.95, 10.0)
_WAIT_S = 1.5
GUARDS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "no request completes": ({"what": "status", "code": 500}, "zero_completed"),
    "a quarter is refused at once": ({"what": "status", "code": 503, "when": {"p": 0.25}}, "shed"),
    "a quarter is an error inside a stream": ({"what": "error_frame", "after_frame": 3, "when": {"p": 0.25}}, "error_frame"),
    "a quarter is cut off": ({"what": "fin", "after_frame": 3, "when": {"p": 0.25}}, "truncated"),
    "a quarter is never answered": ({"what": "never_answer", "when": {"p": 0.25}}, "never_ended"),
    "a quarter is empty": ({"what": "zero_tokens", "when": {"p": 0.25}}, "zero_tokens"),
    "the client is saturated": ({}, "client_limited"),
    "half of the load is not sent": ({}, "rate_not_delivered"),
}


def _guards_claim() -> Claim:
    text = "no completed request, errors, a saturated client, a load that was not sent: none of them can pass for a latency that was kept"
    return Claim("L5.guards[stub]", text, identical(), min_n=len(GUARDS))


@pytest.mark.claim(_guards_claim())
def test_nothing_that_went_wrong_passes(claim, bench):
    rows = [_guarded(name, fault, code) for name, (fault, code) in GUARDS.items()]
    healthy = [_guarded(name, {}, code, planted=False) for name, (_, code) in GUARDS.items()]
    known = [replace(row, value=1.0 - (row.value or 0.0)) for row in _sound()]
    claim.check(
        Measurement("guards_tripped", tuple(rows)),
        controls=[
            Control("A/A: nothing goes wrong, and it holds", controls.HOLDS, Measurement("guards_tripped", tuple(known))),
            Control(
                "planted: nothing goes wrong, and each guard is asked for", controls.FAILS, Measurement("guards_tripped", tuple(healthy))
            ),
        ],
    )


def _guarded(name: str, fault: Mapping[str, Any], code: str, *, planted: bool = True) -> Sample:
    """1 where the verdict is red by exactly this code."""
    made = _stub_load((fault,) if fault else ())
    if planted and code == "client_limited":
        shards = [{**shard, "cpu_s": 0.99 * shard["wall_s"]} for shard in made.header["shards"]]
        made = Load({**made.header, "shards": shards}, made.records)
    if planted and code == "rate_not_delivered":
        half = tuple(_unsent(r) if r.sequence % 2 else r for r in made.records)
        made = Load({**made.header, "shards": [{"lost": True}]}, half)
    verdict = judge(slo.limit_claim(_LIMIT, "stub"), slo.measurement(made, _LIMIT))
    right = verdict.outcome != "holds" and verdict.reason == code
    return Sample(name, float(right), detail={"outcome": verdict.outcome, "reason": verdict.reason, "expected": code})


def _sound() -> Sequence[Sample]:
    """1 for each guard that a sound run trips."""
    verdict = judge(slo.limit_claim(_LIMIT, "stub"), slo.measurement(_stub_load(()), _LIMIT))
    return [Sample(name, float(verdict.outcome != "holds"), detail={"outcome": verdict.outcome}) for name in GUARDS]


def _unsent(r: Record) -> Record:
    return r._replace(outcome="never_ended", why="client_limited", sent=None, connect=None, first=None, last=None, end=None)


_LOADS: dict[str, Load] = {}


def _stub_load(faults: Sequence[Mapping[str, Any]]) -> Load:
    """150 requests at 75 a second on a queue of eight servers; the same faults once."""
    key = repr(faults)
    if key not in _LOADS:
        service = {"kind": "mgc", "servers": 8, "service_s": 0.02, "cv": 0.5, "tokens": 8}
        with stub.start({"service": service, "seed": 3, "faults": [dict(each) for each in faults]}) as server:
            due = schedule.poisson(75.0, requests=150, seed=1, warmup_s=0.3)
            size = workload.fixed(8)
            asked = workload.synthetic(server.target.model, len(due), 1, prompt=size, output=size)
            ran = load.run_load(server.target, due, asked, limit_s=_WAIT_S)
        _LOADS[key] = slo.stated(ran.load, (_LIMIT,))
    return _LOADS[key]
