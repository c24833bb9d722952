"""Run against run: the statistic of a run, the design of the blocks, what voids a run."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Claim, at_least, at_most
from harness.errors import ConfigError
from harness.judge import judge
from harness.records import Flag, Load, Record, objective
from harness.serve import blocks

pytestmark = pytest.mark.selftest


def record(i, at, *, first=100_000, last=500_000, tokens=5, outcome="complete", **more):
    why = "length" if outcome == "complete" else "reset"
    return Record(
        round(at * 1e9),
        i,
        0,
        outcome,
        why,
        sent=100,
        first=first,
        last=last,
        end=last + 10,
        tokens=tokens,
        frames=tokens,
        status=200,
        **more,
    )


def load(records, *, kind="closed", window=(0, 0), **header):
    return Load({"schedule": {"kind": kind}, "window": list(window), **header}, tuple(records))


def closed_loop(seconds, n=20):
    """One place: each request takes ``seconds`` and is followed by the next; a token every fifth of it."""
    micro = round(seconds * 1e6)
    return load([record(i, i * seconds, first=micro // 5, last=micro) for i in range(n)], schedule={"kind": "closed"})


# --- the statistic of a run -------------------------------------------------------------------------


def test_a_quantile_is_an_order_statistic_of_all_that_was_scheduled():
    rows = [record(i, i, first=1000 * (i + 1)) for i in range(100)]
    assert blocks.figure(load(rows), "ttft_p50") == pytest.approx(0.050)
    assert blocks.figure(load(rows), "ttft_p95") == pytest.approx(0.095)
    failed = [r._replace(outcome="error", why="reset") if r.sequence >= 90 else r for r in rows]
    assert blocks.figure(load(failed), "ttft_p50") == pytest.approx(0.050)
    assert blocks.figure(load(failed), "ttft_p95") is None  # it falls on a failure, however fast that was
    assert blocks.figure(load(rows), "ttft_p99") is None  # one request lies beyond, five must
    outside = [*rows, record(100, 100, first=1, flags=Flag.WARMUP)]
    assert blocks.figure(load(outside), "ttft_p50") == pytest.approx(0.050)


def test_failures_count_as_over():
    within = (objective("ttft_p50", "50ms"),)
    rows = [record(i, i, first=1000 * (i + 1), outcome="error" if i < 10 else "complete") for i in range(100)]
    assert blocks.figure(load(rows), "over", within) == pytest.approx(0.60)


@pytest.mark.parametrize(("name", "n"), [("ttft_p50", 10), ("e2e_p95", 100), ("tpot_p99", 500), ("tokens_s", 1), ("over", 1)])
def test_a_quantile_needs_five_requests_beyond(name, n):
    assert blocks.least(name) == n


@pytest.mark.parametrize("name", ["ttft", "tfft_p50", "ttft_p100", "ttft_p5", "ttft_pp", "tokens"])
def test_an_unknown_figure_is_refused(name):
    with pytest.raises(ConfigError, match="figure of a run"):
        blocks.least(name)
    with pytest.raises(ConfigError):
        blocks.blocks(lambda arm, seed: load([]), 1, "s", [name])


def test_a_closed_loop_is_timed_while_all_places_are_taken():
    """Twenty requests of a second; the last runs after the window, which ends with its start."""
    run = closed_loop(1.0)
    assert blocks.span(run) == (0, 19)
    assert blocks.rate(run, "tokens_s") == pytest.approx(5)
    assert blocks.rate(run, "requests_s") == pytest.approx(18 / 19)  # the 19th ends 10 microseconds too late


def test_tokens_outside_the_window_do_not_count():
    rows = [record(0, 0, first=0, last=4_000_000, tokens=40), record(1, 9.0, first=0, last=4_000_000, tokens=40)]
    run = load(rows, kind="poisson", window=(2 * 10**9, 10 * 10**9))
    assert blocks.rate(run, "tokens_s") == pytest.approx((20 + 10) / 8)
    assert blocks.rate(load([], kind="poisson", window=(0, 10**9)), "tokens_s") is None
    assert blocks.rate(load([record(0, 0, outcome="error")], kind="poisson", window=(0, 10**9)), "tokens_s") is None
    assert blocks.rate(load(rows[:1]), "tokens_s") is None  # a window without length


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3000), st.integers(0, 5000), st.integers(2, 50)), min_size=1, max_size=10))
def test_windows_side_by_side_hold_every_token_once(requests):
    rows = [record(i, at, first=1000 * a, last=1000 * (a + b), tokens=n) for i, (at, a, b, n) in enumerate(requests)]
    edges = [0, 7, 20, 100]
    found = [
        blocks.rate(load(rows, kind="poisson", window=(a * 10**9, b * 10**9)), "tokens_s") * (b - a) for a, b in itertools.pairwise(edges)
    ]
    assert math.fsum(found) == pytest.approx(sum(r.tokens for r in rows))


# --- the design -------------------------------------------------------------------------------------


def design(factor=1.0, noise=0.01, count=6, **how):
    """Blocks over loops that take 1 s in the old arm and ``factor`` in the new, give or take; and the calls that were made."""
    calls = []

    def run(arm, seed):
        calls.append((arm, seed))
        jitter = math.exp(noise * math.sin(997.0 * len(calls)))
        return closed_loop((factor if arm == "new" else 1.0) * jitter)

    return blocks.blocks(run, count, "seed", ["tokens_s", "e2e_p50"], **how), calls


def test_blocks_take_turns_under_one_seed_each():
    rows, calls = design(count=4)
    by_block = [calls[i : i + 4] for i in range(0, 16, 4)]
    orders = ["".join("A" if arm == "old" else "B" for arm, _ in block) for block in by_block]
    assert set(orders) == {"ABBA", "BAAB"} and orders[0] == orders[2] != orders[1] == orders[3]
    seeds = [{seed for _, seed in block} for block in by_block]
    assert all(len(each) == 1 for each in seeds) and len(set.union(*seeds)) == 4
    for block in {row["block"] for row in rows}:
        mine = {(row["arm"], row["replicate"]) for row in rows if row["block"] == block}
        assert mine == {("old", 0), ("old", 1), ("new", 0), ("new", 1)}
    assert [row["arm"] for row in rows] == [arm for arm, _ in calls]


def test_both_arms_are_restarted_once_in_the_middle():
    done = []
    _, calls = design(count=6, restart=lambda: done.append(len(done)))
    assert done == [0]
    at = []
    design(count=6, restart=lambda: at.append("restart"), progress=lambda task, n, total: at.append(n))
    assert at.index("restart") == at.index(12) - 1  # before the 13th of 24 runs
    assert len(calls) == 24


def verdict(rows, name, bound):
    return judge(Claim("L4.x", "new against old", bound, estimand="run_ratio", min_n=4), blocks.measurement(rows, name))


def test_a_change_is_found_and_none_is_not():
    assert verdict(design()[0], "tokens_s", at_least(1.05)).outcome == "fails"
    assert verdict(design()[0], "e2e_p50", at_most(1.05)).outcome == "holds"
    faster = verdict(design(0.8)[0], "tokens_s", at_least(1.05))
    assert faster.outcome == "holds" and faster.low < 1.25 < faster.high
    assert verdict(design(1.1)[0], "e2e_p50", at_most(1.05)).outcome == "fails"
    planted = blocks.planted(design()[0], "e2e_p50", 1.10)
    assert verdict(planted, "e2e_p50", at_most(1.05)).outcome == "fails"
    assert verdict(planted, "tokens_s", at_most(1.05)).outcome == "holds"  # nothing else was changed


def test_a_void_run_voids_its_block_and_more_than_one_in_ten_the_claim():
    rows, _ = design(count=12)
    rows[5]["invalid"] = ["client_limited: late"]
    rows[5]["figures"] = dict.fromkeys(rows[5]["figures"])
    found = blocks.measurement(rows, "tokens_s")
    assert [s.status for s in found.samples if s.value is None] == ["client_limited"]
    assert "client_limited" in found.notes[0] and rows[5]["arm"] in found.notes[0]
    assert verdict(rows, "e2e_p50", at_most(1.05)).n == 11
    rows[9]["figures"] = dict.fromkeys(rows[9]["figures"])
    assert verdict(rows, "e2e_p50", at_most(1.05)).reason == "missing_data"


def test_an_invalid_load_has_no_figure():
    run = closed_loop(1.0)
    void = Load({**run.header, "invalid": ["parity_failed: another model"]}, run.records)
    rows = blocks.blocks(lambda arm, seed: void, 1, "s", ["tokens_s"])
    assert rows[0]["figures"] == {"tokens_s": None} and rows[0]["invalid"] == ["parity_failed: another model"]


def test_the_client_may_be_late_by_a_hundredth_of_what_a_request_takes():
    """Nothing is promised here, so that the run is its own measure; a promise made stays."""
    assert blocks.sized(closed_loop(2.0)).header["slo"] == {"e2e_p50": "2.000010s"}
    promised = load(closed_loop(2.0).records, slo={"ttft_p50": "1s"})
    assert blocks.sized(promised) is promised
    late = load([r._replace(sent=19_000) for r in closed_loop(2.0).records])
    later = load([r._replace(sent=21_000) for r in closed_loop(2.0).records])
    rows = blocks.blocks(lambda arm, seed: late if arm == "old" else later, 1, "s", ["tokens_s"])
    assert {(row["arm"], bool(row["invalid"])) for row in rows} == {("old", False), ("new", True)}
