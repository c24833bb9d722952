"""K6: with too little memory for keys and values a request gives way to another, is counted, and is answered as if nothing had been."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from harness import Claim, Control, Measurement, identical
from harness.serve import telemetry
from harness.types import Generation
from suites import controls
from suites.serve import company, margins

pytestmark = pytest.mark.serve


def _claim(primary: str) -> Claim:
    text = f"under pressure on its cache {primary} preempts requests, counts them, and answers as it does without, up to numeric ties"
    return Claim(f"K6.preemption[{primary}]", text, identical(), min_n=margins.PREEMPTED_PROMPTS)


@pytest.mark.claim(each=_claim)
def test_preemption_leaves_the_answers_alone(claim, bench, primary):
    prompts = bench.serving.prompts(primary, margins.PREEMPTED_PROMPTS)
    alone = company.answers(bench, primary, prompts)
    beside = company.answers(bench, primary, prompts, concurrency=margins.PREEMPTED_AT)
    pressed, preempted = _pressed(bench, primary, prompts)
    garbled = company.garbled(alone, 5)
    judge = company.Judge(bench, primary, prompts, alone, company.texts(beside, pressed, garbled))
    void = () if preempted > 0 else ("vacuous_pressure: no request was preempted; the cache was large enough, or nobody counted",)

    def measured(said, invalid=void) -> Measurement:
        conditions = {"server": primary, "preemptions": preempted, "options": dict(margins.PRESSED), "tie_nats": judge.allowed.tie}
        rows = company.kept_same(judge.flips(said))
        return Measurement("same_answer", rows, (bench.serving.subject(primary),), conditions, invalid, (f"{preempted:g} preemptions",))

    claim.check(
        measured(pressed),
        controls=[
            Control("A/A: as many at a time, and room for all", controls.HOLDS, measured(beside, ())),
            Control("planted: one answer in five is written backwards", controls.FAILS, measured(garbled, ())),
        ],
    )


def _pressed(bench, server: str, prompts) -> tuple[dict[str, Generation], float]:
    """Answers of a server with room for some of the requests that it takes at once, and how often one had to give way."""
    options = {**bench.serving.spec(server).options, **margins.PRESSED}
    tokens = bench.serving.sampling(server).max_tokens
    inputs = {**bench.serving.inputs(server, options), "prompts": [asdict(p) for p in prompts], "max_tokens": tokens}

    def run() -> dict[str, Any]:
        target = bench.serving.target(server, options)
        said = company.asked(target, prompts, tokens, margins.PREEMPTED_AT)
        return {"said": [asdict(row) for row in said.values()], "preempted": telemetry.scrape(target).preemptions or 0.0}

    kept = bench.cached("preempted", inputs, run)
    return {row["id"]: Generation(**row) for row in kept["said"]}, kept["preempted"]
