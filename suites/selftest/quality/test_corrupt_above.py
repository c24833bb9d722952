"""K5 inside a load: a server that speaks wrongly only above forty in flight is caught every time, and its clean twin never.

No probe on an idle server sees it (as in vllm-project/vllm#51187): the golden prompts have to ride in the load.
"""

from __future__ import annotations

import pytest

from harness import Claim, Measurement, at_most
from harness.judge import judge
from harness.serve import parity, schedule, workload
from harness.serve.load import ask, run_load
from harness.serve.parity import floor
from harness.serve.stub import start
from harness.types import Sampling
from suites.selftest.serve.double import Double, chats
from suites.serve import margins

pytestmark = pytest.mark.selftest

ABOVE, TOKENS = 40, 12
PLAN = {
    "service": {"kind": "tokens", "ttft_s": 0.1, "gap_s": 0.01, "tokens": TOKENS},
    "faults": [{"what": "wrong_tokens", "when": {"inflight_above": ABOVE}}],
}  # a fifth of a second an answer: 250 a second are fifty in flight, 40 are nine
CLAIM = Claim("K5.in_load[stub]", "golden answers are right inside the load", at_most(margins.FLIPS), estimand="proportion", min_n=59)


@pytest.fixture(scope="module")
def expected():
    exact, prompts = Double(), chats(60)
    rows = parity.along(exact, prompts, exact.generate(prompts, sampling=Sampling(max_tokens=TOKENS)))
    return prompts, {row.id: row for row in rows}, parity.tolerance(rows, rows)


def in_load(expected, rate: float, seed: int):
    """The verdict on the golden answers of one load, how many were in flight at most, and how often the fault was applied."""
    prompts, alone, allowed = expected
    due = schedule.poisson(rate, requests=160, seed=seed, warmup_s=0.5)
    asked = workload.golden_prompts(prompts, "stub", due.requests, seed, max_tokens=TOKENS, golden_share=0.6)
    with start({**PLAN, "seed": seed}) as stub:
        probes = ask(stub.target, [asked.bodies[i] for i in range(4)])
        assert [p.text for p in probes] == [alone[asked.ids[i]].text for i in range(4)]  # alone it is right
        ran = run_load(stub.target, due, asked, limit_s=10.0)
        applied = sum(bool(row["faults"]) for row in stub.truth())
    samples = floor.in_load(ran.load, ran.golden, asked.id, alone, floor.reader(Double()), allowed)
    return judge(CLAIM, Measurement("error_flips", samples)), floor.crowd(ran.load), applied


def test_what_only_a_crowd_sees_is_caught_every_time(expected, effort):
    for seed in range(effort.replicates(100, 2)):
        verdict, crowd, applied = in_load(expected, 250.0, seed)
        assert crowd > ABOVE and applied > 0, f"seed {seed}: the crowd never came ({crowd} in flight)"
        assert verdict.outcome == "fails", f"seed {seed}: {verdict.sentence}"


def test_the_same_server_with_fewer_at_a_time_holds(expected, effort):
    for seed in range(effort.replicates(100, 2)):
        verdict, crowd, applied = in_load(expected, 40.0, seed)
        assert crowd <= ABOVE and applied == 0, f"seed {seed}: {crowd} in flight, {applied} corrupted: a crowd on a slow machine"
        assert verdict.outcome == "holds", f"seed {seed}: {verdict.sentence}"
