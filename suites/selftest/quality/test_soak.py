"""The drift of a soak: how often none is shown although there is as much as the bound, and how often one is found.

A lap's log time has sd .03 about a line; neighbours are alike by ``phi``, as they are on a machine with neighbours of its own.
The stretches of laps half a soak apart are judged as shipped, as blocks that are independent, which they are for phi = 0 only.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import Claim, Measurement, at_most
from harness.judge import judge
from harness.serve import soak
from suites.selftest.quality.conftest import Effort
from suites.selftest.quality.queues import ar1
from suites.selftest.quality.simulate import generator, most

pytestmark = pytest.mark.selftest

LAPS, SD, BOUND = 48, 0.03, 1.10
CLAIM = Claim("L6.x", "no drift", at_most(BOUND), estimand="run_ratio", min_n=4)


def _outcomes(drift: float, phi: float, replicates: int) -> dict[str, float]:
    """Shares of verdicts where half a soak later a lap takes ``drift`` times as long."""
    noise = SD * np.log(ar1(phi, LAPS, replicates, generator("soak", drift, phi)))
    line = math.log(drift) * np.arange(LAPS) / (LAPS // 2)
    found = dict.fromkeys(("holds", "fails", "inconclusive"), 0)
    for logs in (noise + line).tolist():
        rows = [{"lap": i, "figures": {"e2e_p50": math.exp(x)}, "invalid": []} for i, x in enumerate(logs)]
        found[judge(CLAIM, Measurement("e2e_p50", soak.later(rows, "e2e_p50"))).outcome] += 1
    return {name: count / replicates for name, count in found.items()}


def test_a_drift_at_the_bound_is_rarely_missed(effort: Effort) -> None:
    replicates, rows = effort.replicates(4000, 150), []
    for phi in (0.0, 0.3, 0.6):
        for drift in (1.0, 1.05, BOUND, 1.2):
            rows.append({"phi": phi, "drift": drift, "replicates": replicates, **_outcomes(drift, phi, replicates)})
    effort.write("soak", rows)
    for row in rows:
        if row["drift"] == 1.0:
            assert row["holds"] > 0.95 and row["fails"] == 0, row
        if row["drift"] == 1.2:
            assert row["fails"] > 0.9 and row["holds"] == 0, row
        if row["drift"] == BOUND:  # alike neighbours make the stretches fewer than they look
            held, failed = {0.0: (0.05, 0.01), 0.3: (0.08, 0.03), 0.6: (0.12, 0.05)}[row["phi"]]
            assert row["holds"] * replicates <= most(replicates, held), row
            assert row["fails"] * replicates <= most(replicates, failed), row
