"""Runs that claims share: closed loops up and down a ladder, two arms in blocks; of a server, or of the stub as a control.

Every prompt is made for its run: none is found in a prefix cache that an earlier one filled. All have the same length,
so that a run differs from its neighbour by what is asked of the server, not by what happened to be asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from harness.lifecycle.serving import voided
from harness.records import Load
from harness.serve import blocks, knee, schedule, stub, telemetry, workload
from harness.serve.load import run_load
from harness.serve.target import Target

PROMPT, OUTPUT = 24, 24  # words, tokens
LIMIT_S = 120.0


def closed(
    target: Target,
    concurrency: int,
    seed: int,
    *,
    pids: Any = (),
    turns: int = 4,
    prompt: int = PROMPT,
    output: int = OUTPUT,
    every_s: float = 0.25,
) -> tuple[Load, list[dict[str, Any]]]:
    """A closed loop, and the timeline of the server meanwhile: each place is taken ``turns`` times, and once to warm up."""
    requests = max(8, turns * concurrency)
    due = schedule.closed(concurrency, requests, warmup=concurrency)
    asked = workload.synthetic(
        target.model, requests + concurrency, seed, prompt=workload.fixed(prompt), output=workload.fixed(output), ignore_eos=True
    )
    with telemetry.Watch(target, pids=pids, every_s=every_s, memory_every_s=1e9) as watch:
        ran = run_load(target, due, asked, limit_s=LIMIT_S)
    return ran.load, telemetry.timeline(watch.scrapes, int(ran.load.header["origin_ns"]))


# --- the ladder -------------------------------------------------------------------------------------


def climbed(target: Target, rungs: Sequence[int], rounds: int, seed: str, **how: Any) -> list[dict[str, Any]]:
    """The runs of ``knee.order``, each with prompts of its own."""
    rows: list[dict[str, Any]] = []
    for number, order in enumerate(knee.order(rungs, rounds, seed)):
        for place, concurrency in enumerate(order):
            load, timeline = closed(target, concurrency, blocks.seed_of(seed, 1000 * number + place), **how)
            replicate = int(place >= len(order) // 2)
            rows.append({"round": f"round-{number:02d}", "replicate": replicate, **knee.run_row(load, timeline, concurrency)})
    return rows


def ladder(bench: Any, name: str, most: int) -> dict[str, Any]:
    """``look``, the ``knee`` read off it, ``confirm`` on new seeds around it, and why all of it is ``invalid``. Kept."""
    rounds = bench.tier.blocks
    inputs = {**bench.serving.inputs(name), "most": most, "rounds": rounds, "prompt": PROMPT, "output": OUTPUT, "v": 1}

    def run() -> dict[str, Any]:
        server = bench.serving.server(name)
        bench.progress(f"ladder of {name}", 0, 2)
        look = climbed(server.target, knee.ladder(most), 1, f"look:{name}", pids=server.pids)
        at = max(2, knee.knee(knee.curve(look)))
        bench.progress(f"ladder of {name}", 1, 2)
        confirm = climbed(server.target, (at // 2, at, 2 * at), rounds, f"confirm:{name}", pids=server.pids)
        bench.progress(f"ladder of {name}", 2, 2)
        return {"look": look, "knee": at, "confirm": confirm}

    def make() -> dict[str, Any]:
        found, guards = bench.serving.guarded(name, run)
        return {**found, "invalid": voided(guards)}

    found: dict[str, Any] = bench.timed("ladder", inputs, make)
    return found


# --- the stub ---------------------------------------------------------------------------------------

# Requests of half a second, so that the client's own milliseconds are no part of it; they vary, as real ones do.
SEATS = 4
SATURATING = {"kind": "batch", "slots": SEATS, "step_s": 0.02, "sequence_s": 0.0004, "tokens": OUTPUT}


def lenient(load: Load) -> Load:
    """A load whose client may be late by 10 ms, where the effect that is claimed, or planted, is many times that."""
    return Load({**load.header, "slo": {"e2e_p50": "1s"}}, load.records)


@contextmanager
def stubbed(service: Mapping[str, Any], faults: Sequence[Mapping[str, Any]] = ()) -> Iterator[stub.Stub]:
    """A stub of this service."""
    with stub.start({"service": dict(service), "faults": [dict(each) for each in faults]}) as running:
        yield running


def stub_ladder(service: Mapping[str, Any], rungs: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """As ``climbed``, on a stub; once a session."""
    return json.loads(_stub_ladder(json.dumps(service, sort_keys=True), tuple(rungs), rounds))


@cache
def _stub_ladder(service: str, rungs: tuple[int, ...], rounds: int) -> str:
    with stubbed(json.loads(service)) as running:
        return json.dumps(climbed(running.target, rungs, rounds, "stub", pids=(running.pid,), turns=3, every_s=0.1))
