"""A soak: pairs of laps half a soak apart, memory by thirds, what is held while idle; and the approved verdicts beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness import Claim, Measurement, at_most, config
from harness.errors import GoldenError
from harness.judge import judge
from harness.records import Load, Record
from harness.serve import soak
from harness.serve.telemetry import Scrape
from suites.serve import baseline

pytestmark = pytest.mark.selftest


def load(seconds, n=20):
    micro = round(seconds * 1e6)
    rows = tuple(
        Record(round(i * seconds * 1e9), i, i, "complete", "length", 100, None, micro // 5, micro, micro + 10, 9, 5, 5, 1, 0, 200)
        for i in range(n)
    )
    return Load({"schedule": {"kind": "closed"}, "window": [0, 0]}, rows)


def laps(growth=0.0, count=48, leak=0.0, kv=0.0):
    """Laps whose requests take 1 s and ``growth`` more by the end, give or take 2 %."""

    def lap(number):
        at = number / count
        jitter = 0.02 * math.sin(997.0 * number)
        return load((1 + growth * at) * math.exp(jitter)), Scrape(number, running=0.0, kv=kv * at, pss=round((1 + leak * at) * 2**30))

    return soak.laps(lap, count, ("e2e_p50",))


def verdict(rows):
    claim = Claim("L6.x", "no drift", at_most(1.1), estimand="run_ratio", min_n=4)
    return judge(claim, Measurement("e2e_p50", soak.later(rows, "e2e_p50")))


def test_a_drift_is_found_and_none_is_not():
    assert verdict(laps()).outcome == "holds"
    drifting = verdict(laps(growth=0.5))  # a quarter of the first half's time by half a soak later, about
    assert drifting.outcome == "fails" and 1.15 < drifting.estimate < 1.25


def test_stretches_lie_half_a_soak_apart_and_leave_void_laps_out():
    rows = laps(count=49)
    found = soak.later(rows, "e2e_p50")  # of 49 laps the last is left out
    assert len(found) == 24
    at = {(s.item, s.arm, s.replicate): s.detail["laps"] for s in found}
    assert at["stretch-00", "old", 0] == [0, 2] and at["stretch-00", "new", 0] == [24, 26] and at["stretch-05", "new", 1] == [46, 48]
    for i in (0, 2, 3):
        rows[i] = {**rows[i], "invalid": ["client_limited: late"], "figures": {"e2e_p50": None}}
    first, second = soak.later(rows, "e2e_p50")[:2]
    assert first.value == pytest.approx(rows[1]["figures"]["e2e_p50"], abs=1e-6)
    assert second.value is None and second.status == "client_limited"
    assert verdict(rows).reason == "missing_data"  # one block of six


def test_the_warm_up_is_in_no_lap():
    asked = []
    rows = soak.laps(lambda n: asked.append(n) or (load(1.0), Scrape(n)), 4, ("e2e_p50",), warmup=3)
    assert asked == list(range(7)) and [row["lap"] for row in rows] == [0, 1, 2, 3]


def test_memory_is_compared_by_thirds():
    assert soak.growth(laps()) == 1
    assert soak.growth(laps(leak=0.3)) == pytest.approx(1.19, abs=0.01)
    assert soak.growth([{**row, "pss": None} for row in laps()]) is None


def test_what_is_held_while_idle_is_counted():
    assert all(s.value == 1 for s in soak.held(laps()))
    assert sum(s.value == 0 for s in soak.held(laps(kv=0.1))) == 48  # after the warm-up each lap holds some
    untold = soak.held([{**laps(count=2)[0], "running": None, "kv": None}])
    assert untold[0].value is None and untold[0].status == "not_told"


# --- the approved verdicts ------------------------------------------------------------------------

LIFECYCLE = Path(__file__).parents[3] / "fixtures" / "lifecycle.toml"


def test_an_approved_verdict_is_of_this_lifecycle_or_none(tmp_path):
    settings = replace(config.load(LIFECYCLE), golden=tmp_path)
    assert baseline.approved(settings) == {}
    (tmp_path / "baselines").mkdir()
    path = tmp_path / "baselines" / "serve.json"
    path.write_text('{"lifecycle": "another", "servers": {"a": {"verdicts": {}}}}')
    assert baseline.approved(settings) == {}
    path.write_text(f'{{"lifecycle": "{settings.name}", "day": "2026-11-21", "servers": {{"a": {{"verdicts": {{"ttft_p95": "holds"}}}}}}}}')
    assert baseline.approved(settings)["a"]["verdicts"] == {"ttft_p95": "holds"}
    path.write_text("{")
    with pytest.raises(GoldenError, match=r"serve\.json: not JSON"):
        baseline.approved(settings)


def test_only_what_is_decided_is_approved():
    served = next(iter(config.load(LIFECYCLE).serve.values()))
    few = load(0.1, n=200)
    varied = Load(
        few.header, tuple(r._replace(first=r.first + 97 * i % 1000, end=r.end + 97 * i % 1000) for i, r in enumerate(few.records))
    )
    made = baseline.approve(varied, served)
    assert set(made["verdicts"]) <= {each.name for each in served.slo}
    assert all(outcome in ("holds", "fails") for outcome in made["verdicts"].values())
    assert made["verdicts"].get("ttft_p95") == "holds" and "ttft_p99" not in made["verdicts"]  # 200 requests cannot say
    assert made["seen_s"]["e2e_p50"] == pytest.approx(0.1, abs=0.01)
