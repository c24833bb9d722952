"""A thousand runs by way of the index, beside reading their folders: seconds, and that both give the same.

    pytest -s suites/selftest/bench/bench_history.py

HISTORY_RUNS and HISTORY_CLAIMS take other numbers (1000 and 20). Not collected by default: times are for people to read, no
test asserts one.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from harness import Claim, Measurement, Sample, Verdict, at_least, evidence
from harness.history import index

pytestmark = pytest.mark.selftest

RUNS, CLAIMS = int(os.environ.get("HISTORY_RUNS", "1000")), int(os.environ.get("HISTORY_CLAIMS", "20"))


def _make(folder, number):
    run, rng = folder / f"run-{number:05d}", random.Random(number)
    claims = [Claim(f"c{i:03d}.rate", "t", at_least(0.5)) for i in range(CLAIMS)]
    plan = {"tier": "full", "lifecycle": "l", "golden": {}, "claims": [{"claim": evidence.claim_to_json(c)} for c in claims]}
    digest = evidence.seal_plan(run, plan)
    for claim in claims:
        rows = tuple(Sample(f"i{i:03d}", float(rng.random() < 0.8)) for i in range(200))
        rate = sum(s.value for s in rows) / 200
        verdict = Verdict("holds", "proven", "", estimate=rate, low=rate - 0.05, high=rate + 0.05, level=0.9, n=200)
        evidence.write_evidence(
            run, claim, verdict, plan_digest=digest, tier="full", measurement=Measurement("rate", rows), provenance={}, notes={}
        )  # fmt: skip
    finished = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00"
    evidence.write_atomic(run / "run.json", evidence.canonical({"finished": finished}))
    evidence.seal_bundle(run)
    return run


def test_a_thousand_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    runs = [_make(tmp_path / "runs", i) for i in range(RUNS)]
    base = tmp_path / "history.sqlite"

    def timed(what, *given):
        before, busy = time.perf_counter(), time.process_time()
        found, notes = index.seen(*given)
        assert notes == []
        times[what] = time.perf_counter() - before, time.process_time() - busy
        return found

    times: dict[str, tuple[float, float]] = {}
    read = timed("each folder read", runs, None)
    assert timed("index made", runs, base) == read
    assert timed("index warm", runs, base) == read
    assert len(timed("warm, one claim", runs, base, ["c000"])) == RUNS
    (runs[7] / "run.json").touch()
    assert timed("warm, one run touched", runs, base) == read
    print(f"\n{RUNS} runs of {CLAIMS} claims, {base.stat().st_size / 1e6:.1f} MB of index")
    for what, (wall, cpu) in times.items():
        share = times["each folder read"][1] / cpu
        print(f"{what:<24}{wall:8.2f} s{cpu:8.2f} s of CPU{share:8.1f}x")
