"""The knee: the order of the ladder, the point rule, the step that is judged, the name of what stops it."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Claim, Measurement, at_least
from harness.errors import ConfigError
from harness.judge import judge
from harness.records import Load, Record
from harness.serve import knee

pytestmark = pytest.mark.selftest


def test_rungs_double():
    assert knee.ladder(16) == (1, 2, 4, 8, 16)
    for most in (0, 1, 3, 12):
        with pytest.raises(ConfigError, match="power of two"):
            knee.ladder(most)


def row(concurrency, tokens_s, place=0, number=0, **more):
    return {"round": f"round-{number:02d}", "replicate": place, "concurrency": concurrency, "tokens_s": tokens_s, "n": 9, "failed": 0,
            "invalid": [], "telemetry": {}, "ttft": None, "tpot": None, "e2e": None, **more}  # fmt: skip


@settings(derandomize=True, deadline=None)
@given(st.integers(2, 6), st.floats(-0.05, 0.05), st.floats(0.5, 2))
def test_a_drift_of_the_machine_cancels_in_every_step(rungs, drift, gain):
    """The logs of throughput change by ``drift`` a run: no step sees it."""
    ladder, rows, at = knee.ladder(2 ** (rungs - 1)), [], 0
    for number, order in enumerate(knee.order(ladder, 2, "seed")):
        assert sorted(order) == sorted(ladder * 2) and order == order[::-1]
        for place, c in enumerate(order):
            rows.append(row(c, gain ** math.log2(c) * math.exp(drift * at), int(place >= len(ladder)), number))
            at += 1
    for low, high in itertools.pairwise(ladder):
        samples = knee.step(rows, low, high)
        for name in ("round-00", "round-01"):
            logs = {arm: [math.log(s.value) for s in samples if s.item == name and s.arm == arm] for arm in ("old", "new")}
            assert sum(logs["new"]) / 2 - sum(logs["old"]) / 2 == pytest.approx(math.log(gain), abs=1e-9)
    first, second = knee.order(ladder, 2, "seed")
    assert first[0] != second[0]  # up and down, then down and up


def test_the_knee_is_where_doubling_stops_to_gain():
    assert knee.knee({1: 10, 2: 19, 4: 35, 8: 38, 16: 39}) == 4
    assert knee.knee({1: 61, 2: 60, 4: 94, 8: 100}) == 4  # a doubling without a gain is no end
    assert knee.knee({1: 10, 2: 20, 4: 40}) == 4
    assert knee.knee({1: 10, 2: 11.9}) == 1 and knee.knee({1: 10, 2: 12.0}) == 2  # sqrt(1.1 x 1.3) = 1.196
    with pytest.raises(ConfigError, match="void"):
        knee.knee({})


def test_void_runs_are_on_no_curve():
    rows = [row(1, 10.0), row(1, 40.0), row(2, None, invalid=["client_limited: late"])]
    assert knee.curve(rows) == {1: pytest.approx(20)}
    assert [s.status for s in knee.step(rows, 1, 2)] == ["ok", "ok", "client_limited"]


def test_a_step_is_judged_as_blocks():
    rows = []
    for number in range(4):
        for place in (0, 1):
            rows += [
                row(4, 100 + number + place, place, number),
                row(8, 150 + 2 * number + place, place, number),
                row(16, 1, place, number),
            ]
    found = Measurement("tokens_per_second", knee.step(rows, 4, 8))
    assert judge(Claim("L3.x", "gains", at_least(1.1), estimand="run_ratio", min_n=4), found).outcome == "holds"


def test_a_run_is_told_with_the_telemetry_of_its_own_window():
    records = tuple(
        Record(i * 10**9, i, 0, "complete", "length", sent=1, first=200_000, last=1_000_000, end=1_000_001, tokens=5, status=200)
        for i in range(10)
    )
    timeline = [
        {"t": t, "dt": 1.0, "running": r, "waiting": 0.0, "kv": None, "pss": None}
        for t, r in ((0.0, 9.0), (1.0, 1.0), (9.0, 3.0), (9.5, 9.0))
    ]
    told = knee.run_row(Load({"schedule": {"kind": "closed"}, "window": [0, 0]}, records), timeline, 1)
    assert told["tokens_s"] == pytest.approx(5) and told["n"] == 10 and not told["invalid"]
    assert told["tpot"] == pytest.approx(0.2) and told["ttft"] == pytest.approx(0.2)
    assert told["telemetry"]["running"] == 2  # from 0 to 9 s after the origin
    both = knee.together([{**told, "tokens_s": 4.0}, {**told, "tokens_s": 6.0}, {**told, "tokens_s": None, "invalid": ["x"]}], 1)
    assert both["tokens_s"] == 5 and both["telemetry"]["running"] == 2 and both["telemetry"]["kv"] is None


# --- what stops it --------------------------------------------------------------------------------


def at(concurrency, *, tpot=0.02, e2e=1.0, **telemetry):
    told = {
        "client_cpu": 0.1,
        "kv_max": 0.2,
        "preemptions": 0.0,
        "waiting": 0.0,
        "running": float(concurrency),
        "cpu": 1.0,
        "served_s": 0.95 * e2e,
    }
    return {"concurrency": concurrency, "tpot": tpot, "e2e": e2e, "telemetry": {**told, **telemetry}}


@pytest.mark.parametrize(
    ("beyond", "name", "why"),
    [
        (at(16, waiting=8.0, running=8.0), "queue", "8.0 requests waited on average while 8.0 ran"),
        (at(16, waiting=8.0, kv_max=0.97), "kv", "97% full"),
        (at(16, preemptions=3.0), "kv", "3 sequences thrown out"),
        (at(16, tpot=0.039), "engine", "1.95 times as long, with 1.00 of 1 cores busy"),
        (at(16, client_cpu=0.95, waiting=8.0), "client", "0.95 cores of 1"),
        (at(16, served_s=0.5, tpot=0.039), "network", "50%"),
        (at(16), "", "neither"),
        (at(16, kv_max=None, preemptions=None, served_s=None, waiting=8.0), "queue", "waited"),
        ({"concurrency": 16, "tpot": None, "e2e": None, "telemetry": {}}, "", "neither"),
    ],
)
def test_what_stops_it_is_named(beyond, name, why):
    found = knee.bottleneck(at(8), beyond, cores=1)
    assert found.name == name and why in found.why


def test_more_shards_give_the_client_more_room():
    assert knee.bottleneck(at(8), at(16, client_cpu=1.5), shards=2).name == ""
    assert knee.bottleneck(at(8), at(16, client_cpu=1.7), shards=2).name == "client"
