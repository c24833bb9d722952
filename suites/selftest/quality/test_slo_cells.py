"""False passes and power of the latency rule on queues whose share over the limit is known (section 5.6).

The limit is the true 99 % point, where a pass is false, or the true 99.8 % point. Both come from a long simulation of their
own; its standard error, relative to the share over, is in the table. Beside our rule: the raw p99, what is used for
independent requests (a binomial test, an order-statistic interval), and the rule that counts n / tau independent
requests with the tau of four series (section 3.8 to the letter). The ceiling is what no rule on the count alone can pass:
the largest count, known from the simulation itself, whose chance at the boundary is at most 5 %.
"""

from __future__ import annotations

import heapq
import math
from functools import cache

import numpy as np
import pytest
from scipy import special

from harness.stats.intervals import clopper_pearson
from harness.stats.series import over_limit, quantile_ranks, slo_n, slo_tests, slo_time
from suites.selftest.quality.queues import Queue, ar1, sojourns
from suites.selftest.quality.simulate import fewest, generator, most

pytestmark = pytest.mark.selftest

SHARE, TRUTH, ALPHA = 0.01, 0.002, 0.05
LENGTHS = (1000, 5000)
QUEUES = [Queue(servers, rho) for servers in (1, 16) for rho in (0.3, 0.6, 0.8, 0.9)]
HELD_OUT = [Queue(1, 0.5), Queue(1, 0.7), Queue(4, 0.6), Queue(4, 0.8), Queue(2, 0.8, 1.0), Queue(1, 0.8, 1.5), Queue(16, 0.9, 1.5),
            Queue(16, 0.95), Queue(64, 0.95)]  # fmt: skip


# --- the simulated world --------------------------------------------------------------------------


def run(queue, n, replicates, *key):
    """Stationary runs; queues in heavy traffic take longer to get there."""
    return sojourns(queue, n, replicates, generator("slo", *key, queue), 2000 if queue.rho < 0.95 else 10_000)


def limits(queue):
    """(limit, relative standard error of the share over it) for the two shares, from 20 million requests in 1000 runs."""
    x = run(queue, 20_000, 1000, "limits")
    found = []
    for share in (SHARE, TRUTH):
        at = x.size - round(x.size * share) - 1
        limit = np.partition(x.ravel(), at)[at]
        found.append((float(limit), float((x > limit).mean(1).std(ddof=1) / math.sqrt(len(x)) / share)))
    return found


def times(y):
    """``integrated_time`` of many series at once."""
    n = y.shape[1]
    out = np.ones(len(y))
    for start in range(0, len(y), 50):
        z = y[start : start + 50] - y[start : start + 50].mean(1, keepdims=True)
        spectrum = np.fft.rfft(z, 2 * n)
        covariance = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, 2 * n)[:, : n // 2 * 2]
        pairs = covariance.reshape(len(z), -1, 2).sum(2)
        stopped = np.maximum.accumulate(pairs <= 0, axis=1)
        total = np.where(stopped, 0, np.minimum.accumulate(pairs, axis=1)).sum(1)
        varies = np.ptp(y[start : start + 50], axis=1) > 0
        out[start : start + 50][varies] = np.maximum(1, 2 * total[varies] / covariance[varies, 0] - 1)
    return out


def times_of_all(x):
    """The larger tau of the series that do not know the limit: ranks and Savage scores; ranks, over q90 and over the median."""
    n = x.shape[1]
    rank = x.argsort(1).argsort(1)
    body = times(rank.astype(float))
    ours = np.maximum(body, times(np.cumsum(1 / np.arange(n, 0, -1))[rank]))
    return ours, np.maximum.reduce([body, *(times((rank >= math.ceil(n * q)).astype(float)) for q in (0.9, 0.5))])


@cache
def longest(k, n):
    """The tau up to which k of n over holds; 0 if none. The chance of at most k rises with tau."""
    low, high = 1.0, float(n)
    if slo_tests(k, n, low, SHARE).p_hold > ALPHA:
        return 0.0
    while high - low > 1e-9 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if slo_tests(k, n, middle, SHARE).p_hold <= ALPHA else (low, middle)
    return low


@cache
def independent(k, n, alpha):
    return clopper_pearson(k, n, alpha).high < SHARE


def decide(x, limit, of_all):
    """For each run: the count, tau, and what each rule says."""
    n = x.shape[1]
    k, over = (x > limit).sum(1), times((x > limit).astype(float))
    tau, four = (np.maximum(tau, over) for tau in of_all)
    tau = tau * (1 + 6 * np.sqrt((tau - 1) / n))
    low, high = quantile_ranks(n, 1 - SHARE, 0.025)
    return {
        "k": k,
        "tau": tau,
        "raw_p99": k <= n * SHARE,
        "binomial": np.array([independent(int(c), n, ALPHA) for c in k]),
        "order_statistic": k <= n - high,
        "covered": (k <= n - low) & (k > n - high),
        "four_series": special.betaincinv(k / four + 1, (n - k) / four, 1 - ALPHA) < SHARE,
        "ours": tau <= np.array([longest(int(c), n) for c in k]),
        "fails": (k > 0) & (special.betainc(np.maximum(k, 0.5) / tau, (n - k) / tau + 1, SHARE) <= ALPHA),
    }


def check_by_the_shipped_rule(latencies, limit, said):
    """tau to 1e-9, and both decisions, for the first run of every thousand."""
    tau = slo_time(latencies, limit)
    assert said["tau"] == pytest.approx(tau, rel=1e-9)
    tests = slo_tests(over_limit(latencies, limit), len(latencies), tau, SHARE)
    assert (said["ours"], said["fails"]) == (tests.p_hold <= ALPHA, tests.p_fail <= ALPHA)


def cell(queue, n, false, true, errors):
    """One row: false passes, passes at the smaller share, and the ceiling."""
    rules = ("raw_p99", "binomial", "order_statistic", "four_series", "ours")
    counts = false["k"]
    allowed = max((c for c in range(n) if np.mean(counts <= c) <= ALPHA), default=-1) if np.mean(counts == 0) <= ALPHA else -1
    tau = float(np.median(true["tau"]))
    row = {"servers": queue.servers, "rho": queue.rho, "cv": queue.cv, "n": n, "replicates": len(counts)}
    row |= {"limit": round(errors[0][0], 5), "limit_rse": round(errors[0][1], 4)}
    row |= {"limit_true": round(errors[1][0], 5), "limit_true_rse": round(errors[1][1], 4)}
    row |= {f"false_{rule}": round(float(false[rule].mean()), 4) for rule in rules}
    row |= {f"pass_{rule}": round(float(true[rule].mean()), 4) for rule in rules}
    row |= {"covered_order_statistic": round(float(false["covered"].mean()), 3), "false_fail": round(float(false["fails"].mean()), 4)}
    row |= {"none_over": round(float(np.mean(counts == 0)), 4), "ceiling_count": allowed}
    row |= {"ceiling_false": round(float(np.mean(counts <= allowed)), 4), "ceiling_pass": round(float(np.mean(true["k"] <= allowed)), 4)}
    row |= {"tau_of_count": round(float(counts.var() / (n * SHARE * (1 - SHARE))), 2)}
    row |= {"tau_median": round(tau, 2), "inconclusive": round(float(1 - true["ours"].mean() - true["fails"].mean()), 4)}
    return row | {"n_needed": slo_n(SHARE, TRUTH, ALPHA, 0.8, tau)}


def table(queues, replicates, known, *key):
    """The rows of all queues; both shares and both lengths are read from the same runs."""
    rows = []
    for queue in queues:
        found = known.get(queue) or limits(queue)
        parts = {(n, which): [] for n in LENGTHS for which in range(2)}
        for chunk in range(0, replicates, 1000):
            x = run(queue, LENGTHS[-1], min(1000, replicates - chunk), *key, chunk)
            for n in LENGTHS:
                of_all = times_of_all(x[:, :n])
                for which, (limit, _) in enumerate(found):
                    said = decide(x[:, :n], limit, of_all)
                    check_by_the_shipped_rule(x[0, :n].tolist(), limit, {name: values[0] for name, values in said.items()})
                    parts[n, which].append(said)
        for n in LENGTHS:
            false, true = ({name: np.concatenate([p[name] for p in parts[n, which]]) for name in parts[n, which][0]} for which in range(2))
            rows.append(cell(queue, n, false, true, found))
    return rows


def known_limits(effort, name):
    """A sampled run takes the limits of the committed table."""
    if effort.full:
        return {}
    return {
        Queue(int(row["servers"]), float(row["rho"]), float(row["cv"])): [
            (float(row["limit"]), float(row["limit_rse"])), (float(row["limit_true"]), float(row["limit_true_rse"])),
        ]
        for row in effort.read(name)
    }  # fmt: skip


# --- the simulator --------------------------------------------------------------------------------


def test_the_queue_is_first_come_first_served() -> None:
    """One run against a heap of servers, request by request."""
    x = sojourns(Queue(5, 0.9, 0.8), 400, 3, np.random.default_rng(3), 50)
    rng, sigma = np.random.default_rng(3), math.sqrt(math.log1p(0.8**2))
    now, free, expected = 0.0, [0.0] * 5, []
    for _ in range(450):
        now += rng.standard_exponential(3)[1] / 4.5
        end = max(now, heapq.heappop(free)) + math.exp(sigma * rng.standard_normal(3)[1] - sigma * sigma / 2)
        heapq.heappush(free, end)
        expected.append(end - now)
    assert x[1] == pytest.approx(expected[50:], rel=1e-9)


def test_the_mean_sojourn_is_pollaczek_and_khinchins() -> None:
    for rho, cv in ((0.3, 0.5), (0.6, 0.5), (0.6, 1.5)):
        means = sojourns(Queue(1, rho, cv), 4000, 300, generator("mean", rho, cv)).mean(1)
        expected = 1 + rho * (1 + cv * cv) / (2 * (1 - rho))
        assert abs(means.mean() - expected) < 4 * means.std(ddof=1) / math.sqrt(300)


# --- size and power -------------------------------------------------------------------------------


def test_the_cells(effort):
    """In all 16 cells at most 5 % of the runs at the boundary pass."""
    replicates = effort.replicates(6000, 60)
    rows = table(QUEUES, replicates, known_limits(effort, "slo_cells"), "cells")
    for row in rows:
        assert row["false_ours"] * replicates <= most(replicates, ALPHA), row
        assert row["false_fail"] * replicates <= most(replicates, ALPHA), row
    if effort.full:
        effort.write("slo_cells", rows)
        assert all(row["pass_ours"] >= row["pass_four_series"] - 0.03 for row in rows)
        assert max(row["false_binomial"] for row in rows) > 0.6
    for row, kept in zip(rows, effort.read("slo_cells"), strict=True):
        for name in (
            "false_raw_p99",
            "false_binomial",
            "false_ours",
            "pass_ours",
            "pass_binomial",
            "false_four_series",
            "pass_four_series",
        ):
            rate = float(kept[name])
            found, slack = round(row[name] * replicates), 4 * math.sqrt(rate * (1 - rate) * replicates * replicates / 6000) + 1
            assert fewest(replicates, rate) - slack <= found <= most(replicates, rate) + slack, (name, row, kept)


def test_held_out_cells(effort):
    """Queues beside the sixteen, on seeds of their own."""
    queues = HELD_OUT if effort.full else [Queue(1, 0.7), Queue(4, 0.8)]
    replicates = effort.replicates(3000, 60)
    rows = table(queues, replicates, known_limits(effort, "slo_held_out"), "held out")
    effort.write("slo_held_out", rows)
    for row in rows:
        assert row["false_ours"] * replicates <= most(replicates, ALPHA), row
        assert row["false_fail"] * replicates <= most(replicates, ALPHA), row


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_a_lognormal_autoregression(effort, phi):
    """The limit is known exactly here: extremes of a Gaussian series are nearly independent, and the rule is cautious."""
    replicates = effort.replicates(1500, 60)
    x = ar1(phi, 5000, replicates, generator("slo ar1", phi))
    false, true = (decide(x, math.exp(-special.ndtri(share)), times_of_all(x)) for share in (SHARE, TRUTH))
    assert abs(false["k"].mean() / 50 - 1) < 5 * false["k"].std() / 50 / math.sqrt(replicates)
    assert false["ours"].sum() <= most(replicates, ALPHA)
    assert phi == 0.9 or true["ours"].sum() >= fewest(replicates, 0.95)
