"""Finding the knee: how often each of its two claims is shown falsely, and how often the knee is found.

Throughput of a run is that of a batching server of known curve, with a log sd of .03 and a drift of the machine. The look
chooses, the confirmation decides; each claim is judged as shipped, on the shipped order of runs.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.serve import knee
from harness.stats.ratio import abba, abba_tests
from suites.selftest.quality.conftest import Effort
from suites.selftest.quality.simulate import generator, most

pytestmark = pytest.mark.selftest

ALPHA, SD = 0.05, 0.03
RUNGS = knee.ladder(16)


def _seats(slots: int, per_sequence: float) -> dict[int, float]:
    """A batch of at most ``slots``; a step takes 1 and ``per_sequence`` for each sequence in it."""
    return {c: min(c, slots) / (1 + per_sequence * min(c, slots)) for c in (*RUNGS, 32)}


def _gains(*gains: float) -> dict[int, float]:
    """A curve by what each doubling gains."""
    return dict(zip((*RUNGS, 32), np.cumprod([1.0, *gains]).tolist(), strict=True))


CURVES = {
    "four seats": _seats(4, 0.02),
    "eight seats": _seats(8, 0.02),
    "the step grows with its batch": _seats(64, 0.15),
    "soft": _gains(1.8, 1.5, 1.25, 1.12, 1.03),
    # at the bounds themselves, where showing a claim is false: chosen as the knee only by the noise of the look, or always
    "4 gains the least": _gains(1.9, knee.GROWS, knee.GROWS, 1.0, 1.0),
    "8 gains the most": _gains(1.9, 1.9, knee.STOPS, knee.STOPS, knee.STOPS),
}
AT_BOUNDS = {"4 gains the least": "ceiling", "8 gains the most": "saturated"}
MACHINES = {
    "steady": lambda rng, n: SD * rng.standard_normal(n),
    "drifting .01 a run": lambda rng, n: SD * rng.standard_normal(n) + 0.01 * np.arange(n),
    "walking .01 a run": lambda rng, n: SD * rng.standard_normal(n) + 0.01 * np.cumsum(rng.standard_normal(n)),
}


def _climb(curve, rungs, rounds, machine, rng):
    orders = knee.order(rungs, rounds, "calibration")
    noise = iter(MACHINES[machine](rng, rounds * len(orders[0])).tolist())
    told = {"n": 1, "failed": 0, "invalid": []}
    return [
        {"round": f"{i}", "replicate": int(place >= len(rungs)), "concurrency": c, "tokens_s": curve[c] * math.exp(next(noise)), **told}
        for i, order in enumerate(orders)
        for place, c in enumerate(order)
    ]


def _tests(rows, low, high, bound, direction):
    blocks = {}
    for s in knee.step(rows, low, high):
        blocks.setdefault(s.item, {})[s.arm, s.replicate] = s.value
    four = [(b["old", 0], b["new", 0], b["new", 1], b["old", 1]) for b in blocks.values()]
    return abba_tests(abba(four, ALPHA), math.log(bound), direction)


def test_neither_claim_is_shown_falsely_and_the_knee_is_found(effort: Effort) -> None:
    replicates, rows = effort.replicates(1000, 40), []
    for name, curve in CURVES.items():
        for machine in MACHINES:
            for rounds in (4, 6):
                rng = generator("knee", name, machine, rounds)
                counts = dict.fromkeys(("found", "ceiling", "saturated", "both", "false_ceiling", "false_saturated"), 0)
                for _ in range(replicates):
                    at = max(2, knee.knee(knee.curve(_climb(curve, RUNGS, 1, machine, rng))))
                    confirm = _climb(curve, (at // 2, at, 2 * at), rounds, machine, rng)
                    ceiling = _tests(confirm, at // 2, at, knee.GROWS, "above").p_hold <= ALPHA
                    saturated = _tests(confirm, at, 2 * at, knee.STOPS, "below").p_hold <= ALPHA
                    counts["found"] += at == knee.knee(curve)
                    counts["ceiling"] += ceiling
                    counts["saturated"] += saturated
                    counts["both"] += ceiling and saturated
                    counts["false_ceiling"] += ceiling and curve[at] <= knee.GROWS * curve[at // 2] * (1 + 1e-9)
                    counts["false_saturated"] += saturated and curve[2 * at] >= knee.STOPS * curve[at] * (1 - 1e-9)
                rates = {key: round(count / replicates, 4) for key, count in counts.items()}
                rows.append({"curve": name, "machine": machine, "rounds": rounds, "replicates": replicates, **rates})
    effort.write("knee", rows)
    for row in rows:
        for side in ("false_ceiling", "false_saturated"):
            assert round(row[side] * replicates) <= most(replicates, ALPHA), row
        if row["curve"] in ("four seats", "eight seats"):
            assert row["found"] > 0.99 and row["both"] > 0.99, row  # a sharp knee is found, and shown from both sides
    worst = [row[f"false_{side}"] for row in rows for name, side in AT_BOUNDS.items() if row["curve"] == name]
    assert max(worst) > 0  # the worst case does occur
    soft = [row["both"] for row in rows if row["curve"] in ("soft", "the step grows with its batch")]
    assert min(soft) > 0.8  # the two bounds lie apart, so that a soft knee is shown too
