"""Each estimand by hand: what holds, what fails, and what is refused with which reason."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, better_than, equivalent, identical, non_inferior, within
from harness.errors import ClaimError
from harness.judge import judge, sequence
from harness.types import items_digest

pytestmark = pytest.mark.selftest


def pairs(*scores: tuple[float | None, float | None], replicate: int = 0) -> tuple[Sample, ...]:
    rows = []
    for i, values in enumerate(scores):
        for arm, value in zip(("new", "old"), values, strict=True):
            rows.append(Sample(f"i{i:05d}", value, arm, "ok" if value is not None else "error", replicate=replicate))
    return tuple(rows)


def measured(rows: tuple[Sample, ...], **more) -> Measurement:
    return Measurement("m", rows, **more)


def flips(b: int, c: int, n: int) -> Measurement:
    return measured(pairs(*[(1.0, 0.0)] * b, *[(0.0, 1.0)] * c, *[(1.0, 1.0)] * (n - b - c)))


# --- equivalence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "c", "n", "outcome"),
    [(0, 0, 200, "holds"), (4, 4, 400, "holds"), (60, 0, 300, "fails"), (0, 60, 300, "fails"), (10, 10, 100, "inconclusive")],
)
def test_equivalence_needs_both_sides(b, c, n, outcome):
    verdict = judge(Claim("d", "t", equivalent(0.05)), flips(b, c, n))
    assert verdict.outcome == outcome
    assert verdict.exactness == "bracketed"


def test_equivalence_implies_non_inferiority_and_is_no_absence_of_a_difference():
    for b, c, n in [(0, 0, 200), (4, 4, 400), (9, 3, 500), (3, 9, 500)]:
        both, one = (judge(Claim("d", "t", bound(0.05)), flips(b, c, n)) for bound in (equivalent, non_inferior))
        assert both.p_hold >= one.p_hold
        if both.outcome == "holds":
            assert one.outcome == "holds"
    # 5 against 3 of 40: no significant difference whatever, and nothing is shown
    assert judge(Claim("d", "t", equivalent(0.05)), flips(5, 3, 40)).outcome == "inconclusive"


def test_above_the_exact_size_limit_the_verdict_says_that_it_is_asymptotic():
    one = judge(Claim("d", "t", non_inferior(0.05)), flips(100, 120, 6000))
    both = judge(Claim("d", "t", equivalent(0.05)), flips(100, 120, 6000))
    assert (one.outcome, one.exactness, both.outcome, both.exactness) == ("holds", "asymptotic", "holds", "asymptotic")
    assert judge(Claim("d", "t", equivalent(0.05)), flips(900, 100, 6000)).outcome == "fails"


# --- any scores, paired ---------------------------------------------------------------------------


def graded(shift: float, n: int, noise: float = 0.1, runs: int = 1, seed: int = 7) -> Measurement:
    rng = random.Random(seed)
    rows: list[Sample] = []
    for i in range(n):
        level = rng.uniform(0.3, 0.6)
        for k in range(runs):
            for arm, by in (("new", shift), ("old", 0.0)):
                value = min(1.0, max(0.0, level + by + rng.gauss(0, noise)))
                rows.append(Sample(f"i{i:04d}", value, arm, replicate=k))
    return measured(tuple(rows))


@pytest.mark.parametrize(
    ("claim", "shift", "outcome"),
    [
        (Claim("s", "t", better_than(), estimand="paired_mean"), 0.1, "holds"),
        (Claim("s", "t", better_than(), estimand="paired_mean"), -0.1, "fails"),
        (Claim("s", "t", better_than(0.05), estimand="paired_mean", support=(0, 1), expected=0.2), 0.2, "holds"),
        (Claim("s", "t", non_inferior(0.1), estimand="paired_mean", support=(0, 1)), 0.0, "holds"),
        (Claim("s", "t", non_inferior(0.1), estimand="paired_mean", support=(0, 1)), -0.25, "fails"),
        (Claim("s", "t", equivalent(0.1), estimand="paired_mean", support=(0, 1)), 0.0, "holds"),
        (Claim("s", "t", equivalent(0.1), estimand="paired_mean", support=(0, 1)), 0.3, "fails"),
        (Claim("s", "t", non_inferior(0.1), estimand="paired_mean"), 0.0, "holds"),
        (Claim("s", "t", equivalent(0.1), estimand="paired_mean"), 0.0, "holds"),
        (Claim("s", "t", non_inferior(0.1), estimand="paired_mean"), -0.25, "fails"),
        (Claim("s", "t", at_least(0.8), estimand="relative_score", support=(0, 1)), 0.0, "holds"),
        (Claim("s", "t", at_least(0.95), estimand="relative_score", support=(0, 1)), -0.2, "fails"),
    ],
)
def test_graded_scores(claim, shift, outcome):
    assert judge(claim, graded(shift, 400)).outcome == outcome


def test_reruns_of_an_item_are_no_new_items():
    """Eight items rerun fifty times: pooled it would be 400 units of overwhelming evidence."""
    claim = Claim("s", "t", non_inferior(0.1), estimand="paired_mean", support=(0, 1))
    many = judge(claim, graded(0.0, 8, runs=50))
    assert (many.outcome, many.n) == ("inconclusive", 8)
    exact = judge(Claim("d", "t", non_inferior(0.1)), measured(pairs((1.0, 1.0)) + pairs((1.0, 1.0), replicate=1)))
    assert (exact.outcome, exact.reason) == ("inconclusive", "duplicate_rows")
    rate = measured(tuple(Sample("a", 1.0, replicate=k) for k in range(60)))
    assert judge(Claim("p", "t", at_least(0.9)), rate).reason == "clustered"


def test_five_training_seeds_can_never_show_superiority():
    verdict = judge(Claim("s", "t", better_than(), estimand="paired_mean"), measured(pairs(*[(0.9 + i / 100, 0.1) for i in range(5)])))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "unattainable")
    assert verdict.p_hold == pytest.approx(2**-5)
    same = judge(Claim("s", "t", better_than(), estimand="paired_mean"), measured(pairs(*[(0.9, 0.1)] * 50)))
    assert (same.outcome, same.reason) == ("inconclusive", "zero_variance")


def test_clusters_are_the_units():
    rows = tuple(replace(s, cluster=f"c{int(s.item[1:]) // 40}") for s in graded(0.1, 400).samples)
    verdict = judge(Claim("s", "t", non_inferior(0.1), estimand="paired_mean", support=(0, 1)), measured(rows))
    assert verdict.n == 10


def test_one_score_without_variance_decides_nothing_by_t():
    same = measured(pairs(*[(0.5, 0.5)] * 60))
    assert judge(Claim("s", "t", non_inferior(0.1), estimand="paired_mean"), same).reason == "zero_variance"
    assert judge(Claim("m", "t", at_most(0.9), estimand="mean"), measured(tuple(Sample(f"i{i}", 0.5) for i in range(60)))).reason == (
        "zero_variance"
    )


def test_missing_scores_are_the_worst_where_a_range_is_known_and_refused_where_not():
    rows = pairs(*[(1.0, 1.0)] * 150, *[(None, 1.0)] * 50)
    known = Claim("s", "t", non_inferior(0.05), estimand="paired_mean", support=(0, 1))
    assert judge(known, measured(rows)).outcome == "fails"
    assert judge(Claim("s", "t", non_inferior(0.05), estimand="paired_mean"), measured(rows)).reason == "missing_data"
    assert judge(Claim("m", "t", at_most(1.0), estimand="mean"), measured((Sample("a", None, status="error"),))).reason == "missing_data"


def test_a_mean_above_a_floor_mirrors_a_mean_below_a_ceiling():
    rng = random.Random(3)
    values = [rng.random() for _ in range(80)]
    low = Claim("m", "t", at_most(0.7), estimand="bounded_mean", support=(0, 1), expected=0.5)
    high = Claim("m", "t", at_least(0.3), estimand="bounded_mean", support=(0, 1), expected=0.5)
    below = judge(low, measured(tuple(Sample(f"i{i:02d}", v) for i, v in enumerate(values))))
    above = judge(high, measured(tuple(Sample(f"i{i:02d}", 1 - v) for i, v in enumerate(values))))
    assert (above.p_hold, above.p_fail) == pytest.approx((below.p_hold, below.p_fail))
    assert (above.low, above.high) == pytest.approx((1 - below.high, 1 - below.low), abs=1e-7)
    assert above.outcome == below.outcome == "holds"


def test_rare_large_losses_are_no_gain():
    """Small gains in most units, large losses in few: the mean is 0, and flips of the signs alone would call it a gain."""
    rng, held = random.Random(9), {None: 0, (0.0, 1.0): 0}
    for _ in range(200):
        losses = [rng.random() < 0.05 for _ in range(40)]
        rows = measured(pairs(*[(0.0, 0.95) if lost else (0.05 + rng.random() / 1000, 0.0) for lost in losses]))
        for support in held:
            held[support] += judge(Claim("s", "t", better_than(), estimand="paired_mean", support=support), rows).outcome == "holds"
    assert held[(0.0, 1.0)] <= 15  # binom.isf(1e-4, 200, .025)
    assert held[None] <= 40  # no loss at all is seen in 13 % of the runs; a range is what protects


def test_a_share_of_the_reference_is_shown_as_one():
    verdict = judge(Claim("s", "t", at_least(0.8), estimand="relative_score", support=(0, 1)), graded(0.0, 400))
    assert 0.8 < verdict.low < verdict.estimate < verdict.high < 1.2
    nothing = measured(pairs(*[(0.5, 0.0)] * 50))
    assert judge(Claim("s", "t", at_least(0.8), estimand="relative_score", support=(0, 1)), nothing).reason == "domain"


# --- sequential -----------------------------------------------------------------------------------


def test_a_sequential_claim_stops_when_it_knows_and_the_order_is_not_the_data_s():
    claim = Claim("s", "t", non_inferior(0.05), estimand="sequential_difference", support=(0, 1))
    order = sequence(claim, [f"i{i:04d}" for i in range(400)])
    assert order != sorted(order)
    assert order == sequence(claim, order[::-1])
    outcomes = []
    for looks in (20, 77, 78, 200):
        rows = tuple(Sample(item, 1.0, arm) for item in order[:looks] for arm in ("new", "old"))
        outcomes.append(judge(claim, measured(rows)).outcome)
    assert outcomes == ["inconclusive", "inconclusive", "holds", "holds"]  # 78 equal pairs (statistics.md 3.11)


def test_what_was_known_stays_known():
    """More data never take a sequential verdict back: the capital once reached was reached."""
    claim = Claim("s", "t", non_inferior(0.05), estimand="sequential_difference", support=(0, 1))
    order = sequence(claim, [f"i{i:04d}" for i in range(200)])
    scores = {item: (1.0, 1.0) if k < 100 else (0.0, 1.0) for k, item in enumerate(order)}
    rows = tuple(Sample(item, scores[item][a], arm) for item in order for a, arm in enumerate(("new", "old")))
    first, later = judge(claim, measured(rows[:200])), judge(claim, measured(rows))
    assert first.outcome == later.outcome == "holds"
    assert (first.n, later.n, first.statistics["measured"], later.statistics["measured"]) == (78, 78, 100, 200)
    assert (first.estimate, first.low, first.high) == (later.estimate, later.low, later.high)
    # the other way round: refuted first, and then nothing but gains
    scores = {item: (0.0, 1.0) if k < 60 else (1.0, 0.0) for k, item in enumerate(order)}
    rows = tuple(Sample(item, scores[item][a], arm) for item in order for a, arm in enumerate(("new", "old")))
    assert judge(claim, measured(rows)).outcome == "fails"


def test_a_second_look_at_a_fixed_plan_is_refused():
    claim = Claim("d", "t", non_inferior(0.05))
    data = flips(0, 0, 200)
    assert judge(claim, replace(data, conditions={"look": 2})).reason == "multiple_looks"
    planned = replace(claim, looks=2)
    assert planned.level == 0.025
    assert judge(planned, replace(data, conditions={"look": 2})).outcome == "holds"
    assert judge(planned, replace(data, conditions={"look": 3})).reason == "multiple_looks"
    assert judge(claim, replace(data, conditions={"look": "all"})).reason == "multiple_looks"


# --- latency --------------------------------------------------------------------------------------


def latencies(n: int, over: int, seed: int = 1, failed: int = 0) -> Measurement:
    rng = random.Random(seed)
    values = [rng.uniform(0.1, 0.9) for _ in range(n - over)] + [1.5] * over
    rng.shuffle(values)
    rows = [Sample(f"r{i:05d}", v, at=0.1 * i) for i, v in enumerate(values)]
    rows[:failed] = [replace(r, value=None, status="timeout") for r in rows[:failed]]
    return measured(tuple(rows))


P99 = Claim("l", "t", at_most(0.01), estimand="over_limit", slo=1.0, expected=0.002)


@pytest.mark.parametrize(
    ("data", "outcome", "reason"),
    [
        (latencies(3000, 3), "holds", "proven"),
        (latencies(3000, 90), "fails", "over_slo"),
        (latencies(3000, 30), "inconclusive", "straddles"),
        (latencies(250, 0), "inconclusive", "unattainable"),
        (latencies(3000, 0, failed=3000), "fails", "zero_completed"),  # all failed is not a p99 of 0.00 ms
        (latencies(3000, 0, failed=2700), "fails", "timeout"),  # nor is 90 % of fast errors a good service
        (Measurement("m", tuple(Sample(f"r{i}", 0.25, at=float(i)) for i in range(500))), "inconclusive", "degenerate_series"),
        (Measurement("m", tuple(Sample(f"r{i}", 0.25) for i in range(500))), "inconclusive", "domain"),
        (Measurement("m", ()), "inconclusive", "no_data"),
    ],
)
def test_latency_limits(data, outcome, reason):
    verdict = judge(P99, data)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_requests_that_share_a_queue_count_for_less():
    """The same latencies, rising and falling once: one long congestion instead of many independent ones."""
    shuffled = latencies(3000, 3)
    values = sorted(s.value for s in shuffled.samples)
    slow = values[::2] + values[1::2][::-1]
    congested = measured(tuple(Sample(f"r{i:05d}", v, at=float(i)) for i, v in enumerate(slow)))
    ours, theirs = judge(P99, shuffled), judge(P99, congested)
    assert ours.outcome == "holds"
    assert ours.n_eff > 1500
    assert theirs.n_eff < 100
    assert (theirs.outcome, theirs.reason) == ("inconclusive", "unattainable")
    assert theirs.n_needed > 3000


def test_the_order_of_rows_does_not_matter_the_order_in_time_does():
    data = latencies(1000, 2)
    assert judge(P99, data) == judge(P99, replace(data, samples=data.samples[::-1]))


# --- runs -----------------------------------------------------------------------------------------


def blocks(k: int, ratio: float, void: int = 0) -> Measurement:
    rng, rows = random.Random(5), []
    for j in range(k):
        for arm, level in (("old", 100.0), ("new", 100.0 * ratio)):
            rows += [Sample(f"block-{j:02d}", level * math.exp(rng.gauss(0, 0.01)), arm, replicate=r) for r in (0, 1)]
    rows[: 4 * void : 4] = [replace(r, value=None, status="error") for r in rows[: 4 * void : 4]]
    return measured(tuple(rows))


def test_a_failed_run_voids_its_block_and_many_void_the_claim():
    claim = Claim("r", "t", at_least(1.1), estimand="run_ratio")
    one = judge(claim, blocks(12, 1.3, void=1))
    assert (one.outcome, one.n, one.statistics["void"]) == ("holds", 11, 1)
    two = judge(claim, blocks(12, 1.3, void=2))
    assert (two.outcome, two.reason) == ("inconclusive", "missing_data")


# --- raters and judges ----------------------------------------------------------------------------


def rated(table: list[list[int]]) -> Measurement:
    scores = [(float(a), float(b)) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]
    return measured(pairs(*scores))


def test_kappa_counts_chance():
    claim = Claim("j", "t", at_least(0.6), estimand="kappa")
    assert judge(claim, rated([[95, 5], [5, 95]])).outcome == "holds"
    assert judge(claim, rated([[20, 5], [10, 15]])).outcome == "inconclusive"
    # 93.5 % agreement with a judge that nearly always says yes: (.935 - .9275) / (1 - .9275)
    lazy = judge(claim, rated([[186, 9], [4, 1]]))
    assert (lazy.outcome, lazy.estimate) == ("fails", pytest.approx(0.0075 / 0.0725))
    few = judge(claim, rated([[3, 0], [0, 2]]))  # perfect agreement, of five
    assert (few.outcome, few.reason, few.n_needed) == ("inconclusive", "unattainable", 6)
    constant = judge(claim, rated([[190, 10], [0, 0]]))
    assert (constant.outcome, constant.reason) == ("inconclusive", "domain")


def test_a_pair_without_a_label_is_dropped_as_a_pair_and_counted():
    """ragas drops missing labels from either list by itself and zips the rest: kappa .10 for perfect agreement."""
    gold = (1, 0, 1, 0, None, 1, 0, 1, 0, 1)
    said = (1, 0, 1, 0, 1, 1, 0, 1, 0, None)
    verdict = judge(Claim("j", "t", at_least(0.2), estimand="kappa"), measured(pairs(*zip(said, gold, strict=True))))
    assert (verdict.estimate, verdict.n, verdict.statistics["dropped"], verdict.n_unusable) == (1.0, 8, 2, 2)


def test_any_number_of_raters():
    rng = random.Random(2)
    rows = []
    for i in range(200):
        truth = rng.randrange(4)
        for rater in range(3):
            if rng.random() < 0.1:
                continue
            value = truth if rng.random() < 0.95 else rng.randrange(4)
            rows.append(Sample(f"i{i:03d}", float(value), replicate=rater))
    for estimand in ("alpha_nominal", "alpha_ordinal", "alpha_interval"):
        verdict = judge(Claim("j", "t", at_least(0.7), estimand=estimand), measured(tuple(rows)))
        assert verdict.outcome == "holds"
        assert 0.8 < verdict.estimate < 1


def judged(n: int, m: int, shift: float, bias: float, seed: int = 4) -> Measurement:
    """A judge that likes the new arm by ``bias`` too much; people labelled m items in both arms."""
    rng, rows = random.Random(seed), []
    for i in range(n + m):
        item = f"i{i:05d}"
        for arm, rate in (("old", 0.7), ("new", 0.7 + shift)):
            truth = float(rng.random() < rate)
            said = truth if rng.random() < 0.9 else float(rng.random() < 0.5 + (bias if arm == "new" else -bias))
            rows.append(Sample(item, said, arm))
            if i < m:
                rows.append(Sample(item, truth, f"{arm}:human"))
    return measured(tuple(rows))


def test_a_judge_is_corrected_by_people():
    claim = Claim("j", "t", non_inferior(0.15), estimand="corrected_difference")
    assert judge(claim, judged(2000, 400, 0.0, 0.5)).outcome == "holds"
    assert judge(claim, judged(2000, 400, -0.4, 0.5)).outcome == "fails"
    few = judge(claim, judged(2000, 50, 0.0, 0.5))
    assert (few.outcome, few.reason) == ("inconclusive", "domain")
    torn = judged(200, 120, 0.0, 0.5)
    without = tuple(s for s in torn.samples if (s.item, s.arm) != ("i00003", "old:human"))
    assert judge(claim, replace(torn, samples=without)).reason == "unpaired_items"


def test_labels_by_people_alone_are_no_measurement():
    row = (Sample("a", 0.0, "new:human"),)
    for estimand in ("paired_mean", "paired_difference", "corrected_difference"):
        assert judge(Claim("s", "t", better_than(), estimand=estimand), measured(row)).outcome == "inconclusive"
    both = (*row, Sample("a", 0.0, "old:human"))
    assert judge(Claim("s", "t", better_than(), estimand="corrected_difference"), measured(both)).reason == "unpaired_items"


def test_a_judge_without_calibration_is_refused_and_a_changed_one_too():
    claim = Claim("p", "t", at_least(0.5))
    data = measured(tuple(Sample(f"i{i}", 1.0) for i in range(100)))
    assert judge(claim, replace(data, conditions={"judge": "abc"})).reason == "uncalibrated_judge"
    assert judge(claim, replace(data, conditions={"judge": "abc", "calibration": "old"})).reason == "uncalibrated_judge"
    assert judge(claim, replace(data, conditions={"judge": "abc", "calibration": "abc"})).outcome == "holds"


def test_the_n_that_would_do_is_that_of_the_declared_alternative():
    rng = random.Random(8)
    drawn = [rng.gauss(0, 0.2) for _ in range(64)]
    values = [v - sum(drawn) / 64 + 0.53 for v in drawn]  # on the good side, and not far enough
    rows = measured(tuple(Sample(f"i{i:02d}", v) for i, v in enumerate(values)))
    near = judge(Claim("m", "t", at_most(0.55), estimand="mean", expected=0.52), rows)
    assert near.reason == "straddles"
    sd = near.statistics["se"] * 8
    assert near.n_needed == pytest.approx((1.6449 + 0.8416) ** 2 * (sd / 0.03) ** 2, rel=0.03)
    assert near.n_needed < near.n_needed_90
    assert judge(Claim("m", "t", at_most(0.55), estimand="mean"), rows).n_needed is None
    assert judge(Claim("m", "t", at_most(0.55), estimand="mean", expected=0.6), rows).n_needed is None  # on the wrong side
    scores = measured(pairs(*[(v, 0.55) for v in values]))
    one = judge(Claim("s", "t", non_inferior(0.04), estimand="paired_mean"), scores)
    both = judge(Claim("s", "t", equivalent(0.04), estimand="paired_mean"), scores)
    assert 64 < one.n_needed < both.n_needed
    kappa = judge(Claim("j", "t", at_least(0.5), estimand="kappa", expected=0.7), rated([[30, 10], [8, 32]]))
    assert kappa.reason == "straddles"
    assert 80 < kappa.n_needed < kappa.n_needed_90


# --- what fresh eyes got past the judge, once ------------------------------------------------------


def clustered(rows: tuple[Sample, ...], size: int = 10) -> Measurement:
    return measured(tuple(replace(s, cluster=f"c{int(s.item[1:]) // size}") for s in rows))


def test_clusters_are_averaged_or_refused():
    same = pairs(*[(1.0, 1.0)] * 100, *[(0.0, 0.0)] * 100)
    for claim in (
        Claim("s", "t", non_inferior(0.05), estimand="sequential_difference", support=(0, 1)),
        Claim("j", "t", at_least(0.6), estimand="kappa"),
        Claim("j", "t", non_inferior(0.05), estimand="corrected_difference"),
    ):
        assert judge(claim, clustered(same)).reason == "clustered"
    rated_twice = tuple(Sample(s.item, s.value, replicate=r) for s in same[::2] for r in (0, 1))
    assert judge(Claim("j", "t", at_least(0.6), estimand="alpha_nominal"), clustered(rated_twice)).reason == "clustered"
    torn = tuple(replace(s, cluster="one" if s.arm == "new" else None) for s in same)
    for claim in (Claim("d", "t", non_inferior(0.05)), Claim("s", "t", non_inferior(0.05), estimand="paired_mean", support=(0, 1))):
        assert judge(claim, measured(torn)).reason == "clustered"
        assert judge(claim, measured(torn[::-1])).reason == "clustered"


def test_one_arm_is_one_arm():
    both = pairs(*[(0.0, 1.0)] * 80, *[(1.0, 1.0)] * 120)
    for claim in (
        Claim("p", "t", at_least(0.7)),
        Claim("m", "t", at_least(0.7), estimand="bounded_mean", support=(0, 1)),
        Claim("m", "t", at_least(0.7), estimand="mean"),
        Claim("j", "t", at_least(0.5), estimand="alpha_nominal"),
    ):
        assert judge(claim, measured(both)).reason == "domain"
    assert judge(Claim("p", "t", at_least(0.7)), measured(tuple(s for s in both if s.arm == "old"))).outcome == "holds"


def test_units_without_labels_do_not_count_towards_the_plan():
    rows = pairs(*[(float(i % 2), float(i % 2)) for i in range(20)], *[(None, 1.0)] * 180)
    assert judge(Claim("j", "t", at_least(0.6), estimand="kappa", min_n=200), measured(rows)).reason == "min_n"
    rows = tuple(Sample(f"i{i:03d}", float(i % 2), replicate=r) for i in range(20) for r in (0, 1))
    rows += tuple(Sample(f"j{i:03d}", 1.0) for i in range(180))
    assert judge(Claim("j", "t", at_least(0.6), estimand="alpha_nominal", min_n=200), measured(rows)).reason == "min_n"


def test_failed_units_widen_both_ends_of_a_range():
    rows = tuple(Sample(f"i{i:04d}", 1.0 if i < 100 else None, status="ok" if i < 100 else "error") for i in range(1000))
    assert judge(Claim("p", "t", within(0.05, 0.15)), measured(rows)).outcome == "inconclusive"
    assert judge(Claim("p", "t", within(0.2, 0.9)), measured(rows[:50])).outcome == "fails"


def test_a_broken_reference_proves_nothing():
    rows = pairs(*[(1.0, None)] * 100, *[(0.0, None)] * 100)
    for claim in (
        Claim("d", "t", better_than()),
        Claim("d", "t", non_inferior(0.05)),
        Claim("s", "t", non_inferior(0.05), estimand="sequential_difference", support=(0, 1)),
        Claim("s", "t", at_least(0.9), estimand="relative_score", support=(0, 1)),
    ):
        verdict = judge(claim, measured(rows))
        assert (verdict.outcome, verdict.reason) == ("inconclusive", "missing_data")


def test_requests_without_an_order_and_impossible_latencies():
    good = latencies(3000, 3)
    together = tuple(replace(s, at=0.0) for s in good.samples)
    assert judge(P99, measured(together)).reason == "degenerate_series"
    negative = (replace(good.samples[0], value=-5.0), *good.samples[1:])
    assert judge(P99, measured(negative)).reason == "domain"


def test_scores_outside_the_declared_range_are_refused():
    rows = pairs(*[(5.0, 4.9)] * 200)
    for bound, estimand in (
        (non_inferior(0.3), "paired_mean"),
        (at_least(0.9), "relative_score"),
        (non_inferior(0.3), "sequential_difference"),
    ):
        assert judge(Claim("s", "t", bound, estimand=estimand, support=(0, 1)), measured(rows)).reason == "domain"


def test_a_sequential_claim_may_fix_its_pool_and_then_takes_its_first_items_only():
    pool = [f"i{i:04d}" for i in range(400)]
    claim = Claim("s", "t", non_inferior(0.05), estimand="sequential_difference", support=(0, 1), items=items_digest(pool))
    order = sequence(claim, pool)

    def first(items: list[str], known: object = pool) -> Measurement:
        return measured(tuple(Sample(i, 1.0, arm) for i in items for arm in ("new", "old")), conditions={"pool": known})

    assert judge(claim, first(order[:100])).outcome == "holds"
    assert judge(claim, first(order[1:101])).reason == "plan_mismatch"
    assert judge(claim, first(order[:100], pool[:-1])).reason == "plan_mismatch"
    assert judge(claim, first(order[:100], None)).reason == "plan_mismatch"


@pytest.mark.parametrize(
    "row",
    [
        Sample("a", 10**400),
        Sample("a", 1.0, at=10**400),
        Sample("a", 1.0, detail=None),
        Sample(7, 1.0),
        Sample("a", "1"),
        Sample("a", 1.0, weight=None),
        Sample("a", 1.0, replicate="x"),
        Sample("a", 1e308),
        Sample("a", None),
    ],
    ids=repr,
)
def test_rows_of_the_wrong_kind_are_refused_not_raised(row):
    for claim in (Claim("p", "t", at_least(0.7)), P99, Claim("m", "t", at_most(0.7), estimand="mean"), Claim("x", "t", identical())):
        for conditions in ({}, {"reported_se": 0.1}, {"reported_se": 1e308}):
            verdict = judge(claim, measured((row, Sample("b", 1.0), Sample("c", 1.0)), conditions=conditions))
            assert verdict.outcome == "inconclusive"


# --- the plan, the clean items, the floor ---------------------------------------------------------


def test_items_that_the_plan_did_not_fix_are_refused():
    data = flips(0, 0, 200)
    planned = items_digest(s.item for s in data.samples)
    claim = Claim("d", "t", non_inferior(0.05), items=planned)
    assert judge(claim, data).outcome == "holds"
    easier = tuple(s for s in data.samples if s.item != "i00007")  # dropped in both arms: still paired
    assert judge(claim, replace(data, samples=easier)).reason == "plan_mismatch"


def test_contaminated_items_cannot_carry_a_claim():
    def mixed(b: int, c: int, n: int, seen: int) -> Measurement:
        rows = flips(b, c, n).samples
        return measured(tuple(replace(s, detail={"contaminated": True}) if int(s.item[1:]) >= n - seen else s for s in rows))

    claim = Claim("d", "t", non_inferior(0.05))
    assert judge(claim, mixed(2, 2, 400, 20)).outcome == "holds"
    lost = judge(claim, mixed(2, 2, 400, 380))  # only 20 clean items: losing items alone is no failure
    assert (lost.outcome, lost.reason) == ("inconclusive", "contaminated")
    rotten = judge(Claim("d", "t", non_inferior(0.3)), mixed(0, 60, 600, 530))  # all the losses are among the clean ones
    assert (rotten.outcome, rotten.reason) == ("fails", "refuted")
    assert "contaminated" in rotten.sentence


def test_a_bound_within_the_noise_of_an_unchanged_subject_decides_nothing():
    def rate(k: int, n: int) -> Measurement:
        return measured(tuple(Sample(f"i{i:04d}", float(i < k)) for i in range(n)))

    claim = Claim("f", "t", at_most(0.05))
    quiet, noisy = Control("A/A", ("holds",), rate(1, 300)), Control("A/A", ("holds",), rate(14, 300))
    assert judge(claim, rate(2, 300), controls=[quiet]).outcome == "holds"
    verdict = judge(claim, rate(2, 300), controls=[noisy])
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "below_noise_floor")
    same = Claim("x", "t", identical())
    assert judge(same, rate(300, 300), controls=[Control("A/A", ("holds",), rate(298, 300))]).reason == "below_noise_floor"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claim("a", "t", equivalent(0.0)),
        lambda: Claim("a", "t", equivalent(1.0)),
        lambda: Claim("a", "t", non_inferior(0.0), estimand="paired_mean"),
        lambda: Claim("a", "t", non_inferior(1.0), estimand="paired_mean", support=(0, 1)),
        lambda: Claim("a", "t", non_inferior(0.1), estimand="paired_mean", support=(1, 0)),
        lambda: Claim("a", "t", non_inferior(0.1), estimand="paired_mean", support=(0, math.inf)),
        lambda: Claim("a", "t", non_inferior(0.1), estimand="sequential_difference"),
        lambda: Claim("a", "t", at_least(0.9), estimand="relative_score"),
        lambda: Claim("a", "t", at_least(0.9), estimand="relative_score", support=(-1, 1)),
        lambda: Claim("a", "t", at_least(0.0), estimand="relative_score", support=(0, 1)),
        lambda: Claim("a", "t", at_most(0.01), estimand="over_limit"),
        lambda: Claim("a", "t", at_most(0.01), estimand="over_limit", slo=0.0),
        lambda: Claim("a", "t", at_most(1.0), estimand="over_limit", slo=1.0),
        lambda: Claim("a", "t", at_most(0.6), estimand="over_limit", slo=1.0),
        lambda: Claim("a", "t", at_least(1.0), estimand="kappa"),
        lambda: Claim("a", "t", at_least(-0.1), estimand="alpha_ordinal"),
        lambda: Claim("a", "t", at_most(0.1), estimand="kappa"),
        lambda: Claim("a", "t", at_least(0.8), looks=0),
    ],
)
def test_undecidable_claims_cannot_be_made(make):
    with pytest.raises(ClaimError):
        make()


def test_a_margin_on_another_scale_is_a_claim():
    Claim("a", "t", non_inferior(5.0), estimand="paired_mean", support=(0, 100))
    Claim("a", "t", non_inferior(5.0), estimand="paired_mean")


# --- exact: a row may stand for many units -------------------------------------------------------


def test_a_row_stands_for_as_many_units_as_its_weight_says():
    rows = (Sample("clean", 1.0, weight=999_990.0), Sample("row 7", 0.0), Sample("row 9", 0.0, weight=9.0))
    verdict = judge(Claim("c", "t", identical()), measured(rows))
    assert (verdict.outcome, verdict.n, verdict.statistics["mismatches"]) == ("fails", 1_000_000, 10)
    assert verdict.estimate == pytest.approx(1 - 1e-5)


@pytest.mark.parametrize(("flagged", "outcome"), [(20, "holds"), (21, "fails")])
def test_a_share_of_all_rows_is_counted_and_its_bound_belongs_to_it(flagged, outcome):
    rows = (Sample("clean", 0.0, weight=1000.0 - flagged), *(Sample(f"row {i}", 1.0) for i in range(flagged)))
    verdict = judge(Claim("c", "t", at_most(0.02), estimand="exact_share"), measured(rows))
    assert (verdict.outcome, verdict.n, verdict.estimate) == (outcome, 1000, flagged / 1000)
    assert (verdict.low, verdict.high) == (None, None)


def test_a_row_that_failed_counts_against_a_share():
    rows = (Sample("clean", 0.0, weight=9.0), Sample("row", None, status="error"))
    assert judge(Claim("c", "t", at_most(0.05), estimand="exact_share"), measured(rows)).outcome == "fails"
    rows = (Sample("good", 1.0, weight=9.0), Sample("row", None, status="error"))
    assert judge(Claim("c", "t", at_least(0.95), estimand="exact_share"), measured(rows)).outcome == "fails"


@pytest.mark.parametrize("rows", [(Sample("a", 1.0, weight=0.5),), (Sample("a", 1.0, weight=0.0),), (Sample("a", 0.5),)])
def test_a_share_of_half_rows_or_half_values_is_refused(rows):
    verdict = judge(Claim("c", "t", at_most(0.9), estimand="exact_share"), measured(rows))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "domain")


@pytest.mark.parametrize("limit", [-0.1, 1.1])
def test_a_share_bound_outside_0_and_1_is_no_claim(limit):
    with pytest.raises(ClaimError, match="share"):
        Claim("c", "t", at_most(limit), estimand="exact_share")
