"""L6: a server that runs for long takes no longer, holds no more, and gives everything back."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical
from harness.lifecycle.serving import voided
from harness.serve import blocks, soak, telemetry
from suites import controls
from suites.serve import margins, runs

pytestmark = pytest.mark.serve

FIGURE = "e2e_p50"
STUB_OUTPUT = 4  # tokens: laps of the stub are short


def _latency_claim(primary: str) -> Claim:
    text = f"late in a soak a request to {primary} takes no longer than early: ratio of late stretches to those half a soak before"
    return Claim(f"L6.latency[{primary}]", text, at_most(margins.DRIFT), estimand="run_ratio", min_n=4, expected=1.0)


@pytest.mark.claim(each=_latency_claim)
def test_it_takes_no_longer_late_than_early(claim, bench, primary):
    found = _soaked(bench, primary)
    steady, slower = (soak.later(rows, FIGURE) for rows in _stubs())
    drifted = tuple(replace(s, value=s.value and s.value * (2 if s.arm == "new" else 1)) for s in soak.later(found["laps"], FIGURE))
    claim.check(
        _measured(bench, primary, found, FIGURE, soak.later(found["laps"], FIGURE)),
        controls=[
            Control("A/A: the stub, which stays as it is", controls.HOLDS, Measurement(FIGURE, steady)),
            Control("planted in the stub: slower in the second half", controls.FAILS, Measurement(FIGURE, slower)),
            Control("planted in the laps: twice as long in the second half", controls.FAILS, Measurement(FIGURE, drifted)),
        ],
    )


def _memory_claim(primary: str) -> Claim:
    text = f"late in a soak the idle processes of {primary} hold no more memory than early: median of the last third over the first"
    return Claim(f"L6.memory[{primary}]", text, at_most(margins.LEAK), estimand="exact")


@pytest.mark.claim(each=_memory_claim)
def test_its_memory_does_not_grow(claim, bench, primary):
    found = _soaked(bench, primary)
    rows = found["laps"]
    leaking = [{**row, "pss": row["pss"] and row["pss"] * (1 + 0.10 * row["lap"] / len(rows))} for row in rows]
    steady = [{**row, "pss": 1 << 30} for row in rows]

    def measured(laps) -> Measurement:
        grown = soak.growth(laps)
        sizes = [row["pss"] for row in laps]
        row = Sample(primary, grown, status="ok" if grown is not None else "not_told", detail={"pss": sizes})
        return _measured(bench, primary, found, "pss_growth", (row,))

    claim.check(
        measured(rows),
        controls=[
            Control("A/A: laps that all hold the same", controls.HOLDS, replace(measured(steady), invalid=())),
            Control("planted in the laps: a tenth more by the end", controls.FAILS, replace(measured(leaking), invalid=())),
        ],
    )


def _held_claim(primary: str) -> Claim:
    return Claim(f"L6.kv[{primary}]", f"after each lap of a soak {primary} holds no request and no block of its cache", identical())


@pytest.mark.claim(each=_held_claim)
def test_its_cache_is_given_back(claim, bench, primary):
    found = _soaked(bench, primary)
    free = [{**row, "running": 0.0, "kv": 0.0} for row in found["laps"]]
    kept = [{**row, "kv": 0.01} if row["lap"] == len(free) - 1 else row for row in free]
    claim.check(
        _measured(bench, primary, found, "held", soak.held(found["laps"])),
        controls=[
            Control("A/A: laps after which nothing is held", controls.HOLDS, Measurement("held", soak.held(free))),
            Control("planted in the laps: a block is held after the last", controls.FAILS, Measurement("held", soak.held(kept))),
        ],
    )


def _measured(bench, name, found, metric, samples) -> Measurement:
    about = {"laps": len(found["laps"]), "at_once": margins.SOAKED, "seconds": found["seconds"], "pairs": "half a soak apart"}
    causes = tuple(sorted({cause for row in found["laps"] for cause in row["invalid"][:1]}))
    return Measurement(metric, samples, (bench.serving.subject(name),), about, tuple(found["invalid"]), causes)


def _soaked(bench, name):
    """The laps of one boot, why they are void, and how long they took. Kept."""
    inputs = {
        **bench.serving.inputs(name),
        "laps": margins.LAPS,
        "at_once": margins.SOAKED,
        "turns": 3,
        "prompt": runs.PROMPT,
        "output": runs.OUTPUT,
    }

    def make():
        server = bench.serving.server(name)
        begun = time.monotonic()

        def run():
            return _lapped(
                lambda number: server.target, server.pids, margins.LAPS, lambda n: bench.progress(f"soak of {name}", n, margins.LAPS)
            )

        laps, guards = bench.serving.guarded(name, run)
        return {"laps": laps, "invalid": voided(guards), "seconds": round(time.monotonic() - begun, 1)}

    return bench.timed("soak", inputs, make)


def _lapped(target, pids, count, said=lambda n: None, seen=lambda load: load, **how):
    """Laps against ``target(number)``, and a look at it after each."""

    def lap(number):
        said(number)
        load, _ = runs.closed(target(number), margins.SOAKED, blocks.seed_of("soak", number), turns=3, **how)
        telemetry.idle(target(number), limit_s=30)
        return seen(load), telemetry.scrape(target(number), pids=pids())

    return soak.laps(lap, count, (FIGURE,))


@cache
def _stubs():
    """The laps of a stub that stays as it is, and those of one that half way becomes a quarter slower."""
    half, slow = margins.LAPS // 2, {**runs.SATURATING, "step_s": 1.25 * runs.SATURATING["step_s"]}
    with runs.stubbed(runs.SATURATING) as steady, runs.stubbed(slow) as slower:
        rows = _lapped(lambda number: steady.target, lambda: (steady.pid,), margins.LAPS, output=STUB_OUTPUT, seen=runs.lenient)
        late = _lapped(lambda number: slower.target, lambda: (slower.pid,), half, output=STUB_OUTPUT, seen=runs.lenient)
    return rows, rows[:half] + [{**row, "lap": half + row["lap"]} for row in late]
