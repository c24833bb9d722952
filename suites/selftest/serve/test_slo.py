"""What is claimed of a load: the counts, the plan before it, the batches, the percentiles, each from records written by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge import judge
from harness.records import Load, Objective, objective, objectives, samples
from harness.serve import schedule, slo
from harness.stats import series
from suites.selftest.serve.test_validity import Made, some

pytestmark = pytest.mark.selftest

TTFT = objective("ttft_p95", "300ms")
FAILED = {"outcome": "error", "why": "shed", "first": None, "last": None, "end": None, "tokens": None}


def test_a_limit_holds_or_fails_on_all_that_was_scheduled() -> None:
    claim = slo.limit_claim(TTFT, "stub")
    assert (claim.id, claim.bound.limit, claim.slo, claim.min_n, claim.expected) == ("L1.ttft_p95[stub]", 0.05, 0.3, 59, 0.01)
    assert claim.text == (
        "ttft_p95 of stub is at most 300ms: at most 0.05 of all requests are slower, timed from when each was due, or fail"
    )
    found = slo.measurement(Made().load(), TTFT)
    assert (found.metric, found.invalid, len(found.samples)) == ("ttft", (), 400)
    assert judge(claim, found).outcome == "holds"
    shed = Made(change=dict.fromkeys(range(60, 400, 7), FAILED)).load()
    verdict = judge(claim, slo.measurement(shed, TTFT))
    assert (verdict.outcome, verdict.reason, verdict.n) == ("fails", "shed", 400)
    slow = Made(change={i: {"first": 300_001} for i in range(60, 400, 7)}).load()
    assert judge(claim, slo.measurement(slow, TTFT)).reason == "over_slo"
    edge = Made(change={i: {"first": 300_000} for i in range(60, 400, 7)}).load()
    assert judge(claim, slo.measurement(edge, TTFT)).outcome == "holds"


def test_a_measurement_can_be_derived_from_its_raw_bytes() -> None:
    load = Made(change=some(9, FAILED)).load()
    for found in (slo.measurement(load, TTFT), slo.goodput(load), slo.errors(load)):
        derived = found.conditions["derived"]
        again = samples(Load.from_bytes(found.raw), derived["metric"], objectives(derived["within"]))
        assert again == found.samples
    assert slo.goodput(load).conditions["derived"] == {"metric": "worst", "within": {"ttft_p95": "300ms", "tpot_p95": "20ms"}}
    assert "derived" not in slo.throughput(load, "tokens").conditions


def test_goodput_is_the_share_inside_every_limit() -> None:
    claim = slo.goodput_claim(0.95, "stub")
    assert (claim.id, claim.bound.limit, claim.slo, claim.min_n) == ("L2.goodput[stub]", 0.05, 1.0, 59)
    load = Made().load()
    assert judge(claim, slo.goodput(load)).outcome == "holds"
    # 6 % too slow to the first token and 6 % too slow after it: each limit alone would be read off 94 %
    change = {i: {"first": 310_000, "last": 320_000, "end": 330_000} for i in range(60, 400, 16)}
    change |= {i: {"first": 10_000, "last": 10_000 + 15 * 21_000, "end": 400_000} for i in range(61, 400, 16)}
    worse = slo.goodput(Made(change=change).load())
    over = [s for s in worse.samples if s.value > 1]
    assert len(over) == len(change)
    assert judge(claim, worse).outcome == "fails"
    strict = slo.goodput(load, objectives({"ttft_p95": "1ms"}))
    assert all(s.value > 0.5 for s in strict.samples)


def test_errors_count_whatever_did_not_end_in_time() -> None:
    claim = slo.errors_claim(10.0, 0.05, "stub")
    assert (claim.id, claim.bound.limit, claim.slo) == ("L2.errors[stub]", 0.05, 10.0)
    assert judge(claim, slo.errors(Made().load())).outcome == "holds"
    assert judge(claim, slo.errors(Made(change=dict.fromkeys(range(60, 400, 7), FAILED)).load())).reason == "shed"


def test_a_void_run_decides_nothing_in_either_direction() -> None:
    for made in (Made(lag_us=9000), Made(lag_us=9000, change=dict.fromkeys(range(400), FAILED))):
        for claim, found in (
            (slo.limit_claim(TTFT, "s"), slo.measurement(made.load(), TTFT)),
            (slo.goodput_claim(0.95, "s"), slo.goodput(made.load())),
            (slo.throughput_claim("tokens", 1.0, "s"), slo.throughput(made.load(), "tokens")),
        ):
            verdict = judge(claim, found)
            assert (verdict.outcome, verdict.reason) == ("inconclusive", "client_limited")


def test_an_objective_that_applies_to_too_few_voids_its_own_claim() -> None:
    tpot = objective("tpot_p95", "20ms")
    load = Made(change={turn: {"tokens": 1} for turn in range(52, 450, 4)}).load()
    assert judge(slo.limit_claim(tpot, "s"), slo.measurement(load, tpot)).reason == "objective_unmeasurable"
    assert judge(slo.limit_claim(TTFT, "s"), slo.measurement(load, TTFT)).outcome == "holds"
    assert judge(slo.goodput_claim(0.95, "s"), slo.goodput(load)).outcome == "holds"  # the other limits apply


# --- the plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "least"), [("p95", 59), ("p99", 299), ("p99.9", 2995), ("p90", 29)])
def test_too_few_requests_are_refused_before_the_first(quantile: str, least: int) -> None:
    claim = slo.limit_claim(objective(f"ttft_{quantile}", "1s"), "s")
    assert slo.plan(claim, least).refusal is None
    found = slo.plan(claim, least - 1)
    assert (found.least, found.n) == (least, least - 1)
    assert found.likely == series.slo_n(claim.bound.limit, claim.bound.limit / 5, 0.05, 0.80)
    verdict = found.refusal
    assert verdict is not None
    assert (verdict.outcome, verdict.reason, verdict.n_needed) == ("inconclusive", "min_n", least)
    assert (
        verdict.sentence == f"n = {least - 1} requests can show nothing, {least} are the least; {found.likely} would do. Nothing was sent"
    )


def test_a_queue_asks_for_more() -> None:
    claim = slo.limit_claim(TTFT, "s", alpha=0.01)
    assert claim.min_n == 90
    alone, queued = slo.plan(claim, 500), slo.plan(claim, 500, tau=4.0)
    assert queued.least > 2 * alone.least
    assert queued.likely > 2 * alone.likely
    assert slo.plan(replace(claim, expected=0.02), 500).likely > alone.likely


# --- throughput -------------------------------------------------------------------------------------


def test_throughput_counts_what_came_inside_the_window() -> None:
    """Against a sum over single tokens, each at its own instant, warm-up included."""
    load = Made().load()
    start, end = (x * 1e-9 for x in load.header["window"])
    for what in ("tokens", "requests"):
        found = slo.throughput(load, what)
        width = (end - start) / len(found.samples)
        instants = []
        for r in load.records:
            due = r.scheduled * 1e-9
            if what == "requests":
                instants.append(due + r.end * 1e-6)
            else:
                instants.append(due + r.first * 1e-6)
                step = (r.last - r.first) / 15
                instants += [due + (r.first + (k - x / 100) * step) * 1e-6 for k in range(1, 16) for x in range(100)]
        weights = [1.0] * len(instants) if what == "requests" else [1.0 if i % 1501 == 0 else 0.01 for i in range(len(instants))]
        counts, _ = np.histogram(instants, bins=np.linspace(start, end, len(found.samples) + 1), weights=weights)
        assert [s.value for s in found.samples] == pytest.approx(counts / width, rel=0.01)
        assert found.conditions["tau"] == pytest.approx(series.slo_time([s.value for s in samples(load, "e2e")], 9e9))


def test_throughput_is_claimed_by_batch_means() -> None:
    plan = schedule.poisson(50.0, requests=3000, seed=2, warmup_s=1.0)
    load = Made(plan=plan).load()
    found = slo.throughput(load, "tokens")
    assert len(found.samples) == 100
    assert len(load.judged) / len(found.samples) >= 10 * found.conditions["tau"]
    rate = 16 * 3000 / ((plan.window[1] - plan.window[0]) * 1e-9)
    assert judge(slo.throughput_claim("tokens", 0.9 * rate, "s"), found).outcome == "holds"
    verdict = judge(slo.throughput_claim("tokens", 1.1 * rate, "s"), found)
    assert (verdict.outcome, verdict.estimate) == ("fails", pytest.approx(rate, rel=0.01))
    assert judge(slo.throughput_claim("requests", 0.9 * rate / 16, "s"), slo.throughput(load, "requests")).outcome == "holds"


def test_a_run_that_is_too_short_for_its_dependence_has_no_batches() -> None:
    busy = {i: {"end": 100_000 + 900_000 * (i // 40 % 2)} for i in range(450)}
    found = slo.throughput(Made(change=busy).load(), "requests")
    assert found.invalid[-1].startswith("too_short: ")
    assert judge(slo.throughput_claim("requests", 1.0, "s"), found).reason == "too_short"
    same = slo.throughput(Made(change=some(450, {"end": 70_000}, 0)).load(), "requests")
    assert judge(slo.throughput_claim("requests", 1.0, "s"), same).reason == "degenerate_series"


def test_failures_deliver_nothing() -> None:
    plan = schedule.poisson(50.0, requests=1000, seed=2)
    half = dict.fromkeys(range(0, 1000, 2), FAILED)
    whole, less = (math.fsum(s.value for s in slo.throughput(Made(plan=plan, change=c).load(), "tokens").samples) for c in ({}, half))
    counts = [len(slo.throughput(Made(plan=plan, change=c).load(), "tokens").samples) for c in ({}, half)]
    assert less / counts[1] == pytest.approx(whole / counts[0] / 2, rel=0.05)


def test_a_closed_loop_is_measured_from_its_first_request_to_its_last() -> None:
    header = {"window": [0, 0], "schedule": {"kind": "closed", "numbers": {}}}
    load = Made(plan=schedule.poisson(50.0, requests=1000, seed=2), header=header).load()
    found = slo.throughput(load, "requests")
    assert math.fsum(s.value for s in found.samples) / len(found.samples) == pytest.approx(50, rel=0.15)


# --- percentiles ------------------------------------------------------------------------------------


def test_percentiles_are_order_statistics_of_all_requests() -> None:
    load = Made().load()
    found = slo.described(load, "ttft")
    values = sorted(s.value for s in samples(load, "ttft"))
    assert found.n == 400
    assert 200 < found.n_eff <= 400
    for q, (value, low, high) in found.quantiles.items():
        assert value == values[math.ceil(q * 400) - 1]
        ranks = series.quantile_ranks(math.floor(found.n_eff), q, 0.025)
        for rank, limit, sign in zip(ranks, (low, high), (-1, 1), strict=True):
            assert (rank is None) == (limit is None)
            assert limit is None or sign * (limit - value) >= 0
    assert found.quantiles[0.99][2] is not None or found.n_eff < 368
    assert found.quantiles[0.999][2] is None  # 400 cannot carry it


def test_a_percentile_on_a_failure_is_no_number() -> None:
    load = Made(change=dict.fromkeys(range(60, 450, 13), FAILED)).load()
    found = slo.described(load, "ttft").quantiles
    assert None not in found[0.5] and found[0.9][0] is not None
    assert found[0.99] == found[0.999] == (None, None, None)
    nothing = slo.described(Made(change=dict.fromkeys(range(450), FAILED)).load(), "ttft")
    assert all(row == (None, None, None) for row in nothing.quantiles.values())
    assert slo.described(Load(load.header, ()), "ttft").quantiles[0.5] == (None, None, None)


def test_intervals_cover_the_true_percentile() -> None:
    """Of 300 runs of independent latencies at most a tenth miss; of a stated 95 %."""
    rng = random.Random(4)
    missed = open_ended = 0
    made = Made().load()
    for _ in range(300):
        rows = tuple(r._replace(first=round(1e5 * rng.random())) for r in made.records[:200])
        _, low, high = slo.described(Load(made.header, rows), "ttft", (0.9,)).quantiles[0.9]
        missed += not (low or 0.0) <= 0.09 <= (high or 1.0)
        open_ended += high is None
    assert missed <= 30
    assert open_ended <= 15


@settings(derandomize=True, deadline=None)
@given(st.floats(1e-6, 900, allow_nan=False, exclude_min=False))
def test_a_limit_is_written_so_that_it_reads_the_same(seconds: float) -> None:
    assert objective("e2e_p95", slo.limit_text(seconds)).limit == seconds


def test_limits_read_well() -> None:
    for text in ("300ms", "1.5s", "20ms", "4s", "750us", "90s"):
        assert slo.limit_text(objective("e2e_p95", text).limit) == text
    assert slo.stated(Made().load(), (Objective("ttft", 0.99, 0.3),), more=1).header["slo"] == {"ttft_p99": "300ms"}


def test_a_short_warm_up_is_remarked() -> None:
    slow = {i: {"first": 400_000 - 2000 * i, "last": 900_000, "end": 2_000_000 - 10_000 * i} for i in range(150)}
    notes = slo.measurement(Made(change=slow).load(), TTFT).notes
    assert any(note.startswith("MSER-5 would leave out the first ") for note in notes)
    assert slo.measurement(Made().load(), TTFT).notes == ()
