"""Run against run through the shipped design: false alarms of A/A, and +5 % of the median and +10 % of p99 found, of 50.

A queue of four servers stands for the server: Poisson arrivals and what the prompts cost are the block's, a run adds its own
luck (log sd .02: a machine is never twice the same) and each request its own. The runs are loads of records, as a client
writes them. The same on the stub with the real client: suites/selftest/bench/load_aa.py.
"""

from __future__ import annotations

import heapq
import math
import random

import pytest

from harness import Claim, at_most
from harness.judge import judge
from harness.records import Load, Record
from harness.serve import blocks
from suites.selftest.quality.conftest import Effort
from suites.selftest.quality.simulate import most

pytestmark = pytest.mark.selftest

SERVERS, LOAD, BLOCKS = 4, 0.5, 6
PROMPT_SD, OWN_SD, RUN_SD = 0.43, 0.10, 0.02
FIGURES = {"ttft_p50": 0.05, "ttft_p99": 0.10}  # and the effect that is to be found


def simulated(requests: int, seed: int, own: random.Random, times: float = 1.0) -> Load:
    """A run: first come, first served; every latency ``times`` as long."""
    shared = random.Random(seed)
    free, now, records = [0.0] * SERVERS, 0.0, []
    scale = math.exp(own.gauss(0, RUN_SD))
    for i in range(-200, requests):
        now += shared.expovariate(LOAD * SERVERS)
        service = scale * math.exp(shared.gauss(0, PROMPT_SD) + own.gauss(0, OWN_SD) - (PROMPT_SD**2 + OWN_SD**2) / 2)
        end = max(now, heapq.heappop(free)) + service
        heapq.heappush(free, end)
        if i >= 0:
            micro = round((end - now) * times * 1e6)
            records.append(Record(round(now * 1e9), i, i, "complete", "length", 0, None, micro, micro + 1, micro + 2, 9, 2, 2, 1, 0, 200))
    header = {"schedule": {"kind": "closed"}, "window": [0, round(now * 1e9)], "seed": seed}
    return Load(header, tuple(records))


def alarm(design: int, figure: str, times: float, requests: int) -> bool:
    """Whether six blocks show that the new arm is slower, at .01."""
    own = random.Random(f"{design} {figure} {times}")
    rows = blocks.blocks(
        lambda arm, seed: simulated(requests, seed, own, times if arm == "new" else 1.0), BLOCKS, f"design {design}", [figure]
    )
    claim = Claim("L4.x", "new is no slower than old", at_most(1.0), estimand="run_ratio", min_n=4)
    return judge(claim, blocks.measurement(rows, figure)).outcome == "fails"


def test_alarms_and_effects_found(effort: Effort) -> None:
    designs, rows = effort.replicates(50, 6), []
    for figure, effect in FIGURES.items():
        requests = 2000 if effort.full else blocks.least("ttft_p99")
        found = {size: sum(alarm(design, figure, 1 + size, requests) for design in range(designs)) for size in (0.0, effect)}
        rows.append(
            {
                "figure": figure,
                "blocks": BLOCKS,
                "requests": requests,
                "designs": designs,
                "aa_alarms": found[0.0],
                "effect": effect,
                "found": found[effect],
            }
        )
    effort.write("load_aa", rows)
    for row in rows:
        assert row["aa_alarms"] <= most(designs, 0.01), row
    median, p99 = rows
    if effort.full:
        assert median["found"] >= 45 and p99["found"] >= 25, rows
    else:  # short runs
        assert median["found"] >= designs / 2, median
