"""The search of the largest rate on queues whose largest rate is known: how often it is right, and at what price.

The limit is the true p95 or p99 at a known utilisation, from a long simulation of its own, so that this utilisation is the largest
rate. At that rate no number of requests shows anything, and one step of 5 % below it the share over the limit is still a half to
three quarters of its bound: what a proof there costs follows from the queue, and is in the table. Beside it a bisection on the
point estimate: doubling until a rate fails, then between the highest that passed and the lowest that failed.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import median

import numpy as np
import pytest

from harness.bounds import at_most
from harness.judge import judge
from harness.serve.search import Probe, estimate, grid, searching
from harness.stats import paired
from harness.stats.series import slo_tests
from harness.stats.special import betainc
from harness.types import Claim, Measurement, Sample
from suites.selftest.quality.queues import Queue, sojourns
from suites.selftest.quality.simulate import fewest, generator, most
from suites.selftest.quality.test_slo_cells import times, times_of_all

pytestmark = pytest.mark.selftest

ALPHA, STEP, WITHIN = 0.05, 0.05, 0.05
# (queue at its largest rate, share over the limit, requests of a first probe)
CELLS = [(Queue(4, 0.8), 0.05, 2_500), (Queue(4, 0.8), 0.05, 12_500), (Queue(1, 0.7), 0.05, 12_500), (Queue(16, 0.8), 0.05, 5_000)]


@cache
def limit(queue, share):
    """The latency that a ``share`` exceeds, from two million requests."""
    x = sojourns(queue, 10_000, 200, generator("max rate", "limit", queue, share), 4000)
    at = x.size - round(x.size * share) - 1
    return float(np.partition(x.ravel(), at)[at])


def judged(queue, share, rates, n, *key):
    """A run at each rate, as the judge would say: (outcome, p_hold, p_fail, share over). Its tau by Fourier transform."""
    x = sojourns(queue._replace(rho=np.array(rates) / queue.servers), n, len(rates), generator("max rate", queue, share, n, *key))
    over = x > limit(queue, share)
    tau = np.maximum(times_of_all(x)[0], times(over.astype(float)))
    tau = tau * (1 + 6 * np.sqrt((tau - 1) / n))
    # on the wrong side of the bound p_hold is far from alpha: it is not worked out
    tests = [slo_tests(int(k), n, float(t), share) if k < share * n else paired.Tests(1.0, betainc(k / t, (n - k) / t + 1, share))
             for k, t in zip(over.sum(1), tau, strict=True)]  # fmt: skip
    outcomes = ["holds" if t.p_hold <= ALPHA else "fails" if t.p_fail <= ALPHA else "inconclusive" for t in tests]
    return x, [(o, t.p_hold, t.p_fail, float(k / n)) for o, t, k in zip(outcomes, tests, over.sum(1), strict=True)]


def in_step(searches, answer):
    """Many searches side by side: of every round, the runs of one length are simulated together."""
    found, wanted = {}, {i: next(search) for i, search in enumerate(searches)}
    turn = 0
    while wanted:
        n = min(w.n for w in wanted.values())
        mine = [i for i, w in wanted.items() if w.n == n]
        for i, probe in zip(mine, answer([wanted[i] for i in mine], turn), strict=True):
            try:
                wanted[i] = searches[i].send(probe)
            except StopIteration as end:
                found[i] = end.value
                del wanted[i]
        turn += 1
    return [found[i] for i in range(len(searches))]


def ours(queue, share, n, replicates):
    """Searches between a fifth of the capacity and a quarter above it; each grid begins elsewhere."""
    lows = 0.2 * queue.servers * 1.05 ** generator("max rate", "low", queue, share, n).random(replicates)
    searches = [searching(low, low * 6, n=n, seed=i, alpha=ALPHA, step=STEP, confirmations=3, lengthen=4) for i, low in enumerate(lows)]

    def answer(wanted, turn):
        _, said = judged(queue, share, [w.rate for w in wanted], wanted[0].n, "ours", turn)
        return [Probe(*w, o, "" if o != "inconclusive" else "straddles", hold, fail, k, share)
                for w, (o, hold, fail, k) in zip(wanted, said, strict=True)]  # fmt: skip

    return in_step(searches, answer)


def by_point_estimate(queue, share, n, replicates):
    """(rate, requests) of bisections that ask only whether the share over the limit is at most the bound."""
    lows = 0.2 * queue.servers * 1.05 ** generator("max rate", "low", queue, share, n).random(replicates)

    def search(low):
        rates, passed, failed, at, runs = grid(low, low * 6, STEP), -1, None, 0, 0
        while at > passed and at != failed:
            k = yield rates[at]
            runs += 1
            passed, failed = (at, failed) if k <= share else (passed, at)
            at = min(2 * at + 1, len(rates) - 1) if failed is None else (passed + failed) // 2
        return rates[passed], runs * n

    class Wants:
        def __init__(self, low):
            self.inner = search(low)

        def __next__(self):
            self.rate, self.n = next(self.inner), n
            return self

        def send(self, k):
            self.rate = self.inner.send(k)
            return self

    def answer(wanted, turn):
        return [k for *_, k in judged(queue, share, [w.rate for w in wanted], n, "point", turn)[1]]

    return in_step([Wants(low) for low in lows], answer)


def row(queue, share, n, replicates):
    """One line of the table."""
    truth = queue.rho * queue.servers
    found, points = ours(queue, share, n, replicates), by_point_estimate(queue, share, 4 * n, replicates)
    proven = [f.rate / truth for f in found if f.rate is not None]
    guesses = [f.estimate / truth for f in found if f.estimate is not None]
    rival = [rate / truth for rate, _ in points]
    return {
        "servers": queue.servers, "rho": queue.rho, "cv": queue.cv, "share": share, "n": n, "searches": replicates,
        "proven": len(proven), "proven_too_high": sum(bool(r > 1) for r in proven),
        "proven_within_5": sum(1 - WITHIN <= r <= 1 for r in proven), "proven_within_10": sum(0.9 <= r <= 1 for r in proven),
        "proven_median": round(median(proven), 4) if proven else "", "proven_least": round(min(proven), 4) if proven else "",
        "failed_too_low": sum(f.failed is not None and f.failed < truth for f in found),
        "not_monotone": sum(f.reason == "not_monotone" for f in found),
        "estimate_within_5": sum(abs(r - 1) <= WITHIN for r in guesses), "estimate_sd": round(float(np.std(guesses)), 4),
        "requests": round(median(f.requests for f in found)),
        "point_within_5": sum(abs(r - 1) <= WITHIN for r in rival), "point_too_high": sum(r > 1 for r in rival),
        "point_requests": round(median(used for _, used in points)),
    }  # fmt: skip


def test_the_searches(effort):
    """Of what is proven at most 5 % is false; the rate proven is near the truth wherever the probes are long enough for it."""
    cells, replicates = (CELLS, 100) if effort.full else (CELLS[:1], 12)
    rows = [row(*cell, replicates) for cell in cells]
    effort.write("max_rate", rows)
    for found in rows:
        assert found["proven_too_high"] <= most(replicates, ALPHA), found
        assert found["failed_too_low"] <= most(replicates, 4 * ALPHA), found  # of some four probes below the truth, each at alpha
    for found, kept in zip(rows, effort.read("max_rate"), strict=False):
        for name in ("proven", "proven_within_10", "estimate_within_5", "point_too_high"):
            rate = int(kept[name]) / int(kept["searches"])
            slack = 4 * math.sqrt(rate * (1 - rate) * replicates * replicates / 100) + 1
            assert fewest(replicates, rate) - slack <= found[name] <= most(replicates, rate) + slack, (name, found, kept)


def test_the_simulated_verdicts_are_the_judges() -> None:
    """One run at each of five rates, decided by the judge itself."""
    queue, share, n = Queue(4, 0.8), 0.05, 2000
    rates = [1.0, 2.4, 2.9, 3.2, 4.2]
    x, said = judged(queue, share, rates, n, "judge")
    claim = Claim("L1.e2e", "at most 5 % are over", at_most(share), estimand="over_limit", slo=limit(queue, share), alpha=ALPHA)
    for latencies, (outcome, hold, fail, over) in zip(x, said, strict=True):
        samples = tuple(Sample(f"{i:06d}", float(t), at=float(i)) for i, t in enumerate(latencies))
        verdict = judge(claim, Measurement("e2e", samples))
        assert (verdict.outcome, verdict.estimate) == (outcome, pytest.approx(over))
        assert verdict.p_fail == pytest.approx(fail, abs=1e-6)
        assert verdict.p_hold == pytest.approx(hold, abs=1e-6) or (hold == 1 and verdict.p_hold > 0.3)


def test_the_estimate_is_the_crossing_of_a_line() -> None:
    def probe(rate, share, n=1000):
        return Probe("explore", rate, 0, n, "inconclusive", "straddles", share=share, bound=0.05)

    assert estimate([probe(8, 0.025), probe(12.5, 0.1)]) == pytest.approx(10)
    assert estimate([probe(8, 0.025), probe(12.5, 0.1), probe(40, 0.9), probe(1, 0.0)]) == pytest.approx(10)
    assert estimate([probe(8, 0.025)]) is None
    assert estimate([probe(8, 0.1), probe(12.5, 0.025)]) is None
