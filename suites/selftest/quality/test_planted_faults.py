"""Mistakes found in tools of the field, each planted here and caught by name (statistics.md section 8).

None of the checks fires on the clean control beside it.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

import harness
from harness import Claim, Control, Measurement, Sample, at_least, at_most, better_than, identical, non_inferior
from harness.judge import judge
from harness.stats import means, paired, plan
from suites.selftest.quality.simulate import generator, most

pytestmark = pytest.mark.selftest

NI = Claim("d", "t", non_inferior(0.05))


def rate(k: int, n: int, **more) -> Measurement:
    return Measurement("rate", tuple(Sample(f"i{i:05d}", float(i < k)) for i in range(n)), **more)


def arms(b: int, c: int, n: int) -> Measurement:
    rows = []
    for i in range(n):
        new, old = (1.0, 0.0) if i < b else (0.0, 1.0) if i < b + c else (1.0, 1.0)
        rows += [Sample(f"i{i:05d}", new, "new"), Sample(f"i{i:05d}", old, "old")]
    return Measurement("accuracy", tuple(rows))


def test_standard_error_divided_by_the_root_of_the_resamples():
    """lighteval's bootstrap_stderr: the standard error of the resamples, 31.6 times too small at 1000 of them."""
    claim = Claim("p", "t", at_least(0.5))
    honest = math.sqrt(0.7 * 0.3 / 99)
    assert judge(claim, rate(70, 100, conditions={"reported_se": honest})).outcome == "holds"
    verdict = judge(claim, rate(70, 100, conditions={"reported_se": honest / math.sqrt(1000)}))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "reported_se")


def test_twenty_of_twenty_is_no_certainty():
    """inspect_ai's t interval is [1, 1] at 20 of 20; ours ends at .861."""
    verdict = judge(Claim("p", "t", at_least(0.9)), rate(20, 20))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "straddles")
    assert verdict.low == pytest.approx(0.05 ** (1 / 20))
    assert judge(Claim("p", "t", at_least(0.9)), rate(29, 29)).outcome == "holds"


def test_twenty_items_cannot_carry_a_floor_of_eighty_percent():
    """sigeval's default: 20 of 20 must be right, so a system that is 95 % reliable fails 64 % of the time."""
    assert pytest.approx(0.642, abs=1e-3) == 1 - 0.95**20
    assert plan.proportion_n(0.8, 0.95, 0.05, 0.80, "at_least").first == 30


def test_two_unpaired_intervals_are_no_comparison():
    """inspect_ai compares two intervals by their overlap; here arms without pairs are refused, and no name does it."""
    rows = tuple(Sample(f"{arm}{i}", 1.0, arm) for arm in ("new", "old") for i in range(200))
    assert judge(NI, Measurement("m", rows)).reason == "unpaired_items"
    assert judge(NI, arms(0, 0, 200)).outcome == "holds"
    assert not [name for name in dir(harness) if "overlap" in name.lower()]


def test_unpaired_z_on_paired_items():
    """lm-eval's comparator on 1319 items, 996 right before, b = 13, c = 53: unpaired z = 1.78, p = .076, a tick."""
    p1, p2 = 996 / 1319, (996 - 40) / 1319
    z = (p1 - p2) / math.sqrt((p1 * (1 - p1) + p2 * (1 - p2)) / 1319)
    assert z == pytest.approx(1.78, abs=0.01)
    assert 2 * paired.mcnemar(13, 53).p_fail == pytest.approx(7.2e-7, rel=0.02)
    assert judge(Claim("d", "t", non_inferior(0.01)), arms(13, 53, 1319)).outcome != "holds"
    assert judge(Claim("s", "t", better_than()), arms(13, 53, 1319)).outcome == "fails"


def test_percentile_bootstrap_of_no_flips():
    """A bootstrap of 100 pairs without a flip is [0, 0] and passes; with a true loss of 2 points that happens 13 % of the time."""
    assert pytest.approx(0.133, abs=5e-4) == 0.98**100
    verdict = judge(Claim("d", "t", non_inferior(0.02)), arms(0, 0, 100))
    assert verdict.outcome == "inconclusive"
    assert verdict.n_needed >= 149
    assert judge(Claim("d", "t", non_inferior(0.02)), arms(0, 0, 149)).outcome == "holds"


def test_zero_variance_is_no_zero_width():
    """statgate ships what has no variance: a width of zero lies below any margin."""
    claim = Claim("m", "t", at_most(0.9), estimand="mean")
    assert judge(claim, Measurement("m", tuple(Sample(f"i{i}", 0.5) for i in range(60)))).reason == "zero_variance"
    assert judge(claim, Measurement("m", tuple(Sample(f"i{i}", 0.5 + (i % 3) / 100) for i in range(60)))).outcome == "holds"


def test_an_unchanged_model_can_pass():
    """evalsig's assert_no_regression can never pass one; here it does, as often as the plan said."""
    n = plan.ni_n(0.05, 0.10, 0.05, 0.80)
    assert plan.ni_power(n, 0.05, 0.10, 0.05) >= 0.80
    region = paired.noninferiority_region(n, -0.05, 0.05)
    for b, c, _ in generator("unchanged", n).multinomial(n, [0.05, 0.05, 0.90], size=25):
        assert (judge(NI, arms(int(b), int(c), n)).outcome == "holds") == (b >= region.starts[b + c])


def test_p_is_never_zero_and_pairs_stay_pairs():
    """rotalabs-eval counts permutations: 0 of 1000 is p = 0, and its permutation ignores the pairs."""
    rows = tuple(Sample(f"i{i}", value, arm) for i in range(60) for arm, value in (("new", 1.0 + i / 100), ("old", 0.0)))
    verdict = judge(Claim("s", "t", better_than(), estimand="paired_mean"), Measurement("m", rows))
    assert verdict.outcome == "holds"
    assert 0 < verdict.p_hold <= 1e-4
    assert judge(Claim("s", "t", better_than(), estimand="paired_mean"), Measurement("m", rows[:-1])).reason == "unpaired_items"


def test_nothing_measured_is_never_a_pass():
    """k6 passes a threshold that saw no samples."""
    for claim in (
        NI,
        Claim("p", "t", at_most(0.01)),
        Claim("l", "t", at_most(0.01), estimand="over_limit", slo=1.0),
        Claim("x", "t", identical()),
    ):
        verdict = judge(claim, Measurement("m", ()))
        assert (verdict.outcome, verdict.reason) == ("inconclusive", "no_data")


def requests(values: list[float | None]) -> Measurement:
    rows = tuple(Sample(f"r{i:05d}", v, status="ok" if v is not None else "timeout", at=i * 0.1) for i, v in enumerate(values))
    return Measurement("ttft", rows)


P99 = Claim("l", "t", at_most(0.01), estimand="over_limit", slo=1.0)


def test_all_requests_failed():
    """vLLM's bench prints a p99 of 0.00 ms and exits with 0."""
    assert judge(P99, requests([None] * 2000)).outcome == "fails"


def test_fast_errors_are_no_goodput():
    """inference-perf and llmperf take latencies of the successes alone."""
    rng = random.Random(3)
    good = [rng.uniform(0.1, 0.5) for _ in range(2000)]
    assert judge(P99, requests(good)).outcome == "holds"
    assert judge(P99, requests([v if i % 10 == 0 else None for i, v in enumerate(good)])).outcome == "fails"


def test_more_replicates_do_not_help_a_bad_build():
    """aiperf calls a setting feasible if any replicate passes; pooled per item, replicates add no chance at the boundary."""
    claim = Claim("s", "t", non_inferior(0.2), estimand="paired_mean", support=(0.0, 1.0))
    rng, runs, passes = generator("replicates"), 25, {1: 0, 8: 0}
    any_passes = 0
    for _ in range(runs):
        items = rng.random((40, 1)) < 0.2  # truly lost: the build is worse by the margin itself
        per_run = []
        for k in range(8):
            noise = rng.random((40, 1)) < 0.02
            new = 1.0 - (items ^ noise)[:, 0]
            per_run.append([Sample(f"i{i:03d}", float(v), "new", replicate=k) for i, v in enumerate(new)])
        old = [Sample(f"i{i:03d}", 1.0, "old") for i in range(40)]
        for count in passes:
            rows = tuple(old + [s for one in per_run[:count] for s in one])
            passes[count] += judge(claim, Measurement("m", rows)).outcome == "holds"
        any_passes += any(
            judge(claim, Measurement("m", tuple(old + [replace(s, replicate=0) for s in one]))).outcome == "holds" for one in per_run
        )
    assert max(passes.values()) <= most(runs, 0.05)
    assert any_passes >= passes[8]


def test_margins_are_compared_unrounded():
    """llm-compressor: round(new / base, 2) >= .95 lets .945 pass."""
    assert round(0.9451, 2) >= 0.95
    claim = Claim("x", "t", at_least(0.95), estimand="exact")
    assert judge(claim, Measurement("m", (Sample("ratio", 0.9499),))).outcome == "fails"
    assert judge(claim, Measurement("m", (Sample("ratio", 0.95),))).outcome == "holds"


def test_reruns_are_not_new_items():
    """deepeval #1992 counts reruns as independent."""
    rows = rate(20, 20).samples * 3
    assert judge(Claim("p", "t", at_least(0.9)), Measurement("m", rows)).reason == "duplicate_rows"
    indexed = tuple(replace(s, replicate=k) for k in range(3) for s in rate(20, 20).samples)
    assert judge(Claim("p", "t", at_least(0.9)), Measurement("m", indexed)).reason == "clustered"


def test_tokens_are_no_units():
    """llama.cpp's perplexity tool divides by the number of tokens; by document the error is 2.5 times as large at ICC .02."""
    rng = generator("tokens")
    documents = [rng.normal(0.05, math.sqrt(0.02)) + rng.normal(0, math.sqrt(0.98), 255) for _ in range(100)]
    tokens = [float(x) for document in documents for x in document]
    by_token = means.cluster_mean(tokens, range(len(tokens)), 0.05).se
    by_document = means.cluster_mean(tokens, [i // 255 for i in range(len(tokens))], 0.05).se
    assert 1.9 < by_document / by_token < 3.1


def test_swapped_arms():
    loss = arms(2, 40, 400)
    swapped = Measurement("m", tuple(replace(s, arm="old" if s.arm == "new" else "new") for s in loss.samples))
    assert judge(NI, loss).outcome == "fails"
    assert judge(NI, swapped).outcome == "holds"
    # a planted loss that comes out as a gain tells that the arms are swapped somewhere on the way
    verdict = judge(NI, arms(0, 0, 400), controls=[Control("planted", ("fails",), swapped)])
    assert verdict.reason == "control_failed"


def test_dropped_errors_and_cut_off_answers():
    rows = arms(0, 0, 300).samples
    for status in ("error", "truncated"):
        broken = tuple(replace(s, value=None, status=status) if s.arm == "new" and s.item < "i00050" else s for s in rows)
        verdict = judge(NI, Measurement("m", broken))
        assert (verdict.outcome, verdict.n, verdict.n_unusable) == ("fails", 300, 50)
    dropped = tuple(s for s in rows if not (s.arm == "new" and s.item < "i00050"))
    assert judge(NI, Measurement("m", dropped)).reason == "unpaired_items"


def test_replicated_items():
    """The same 50 items under new names would be 400; under one cluster name they are 50."""
    base = arms(0, 2, 50).samples
    copies = tuple(replace(s, item=f"{s.item}-{k}", cluster=s.item) for k in range(8) for s in base)
    assert judge(NI, Measurement("m", copies)).reason == "clustered"


def test_a_judge_that_prefers_the_first_answer():
    """Shown in both orders, its preference for a position is its own flip rate, and bounded like any other."""
    claim = Claim("j.position", "verdicts that change with the order", at_most(0.10))
    biased = rate(60, 200)  # 30 % of its verdicts change when the answers trade places
    assert judge(claim, biased).outcome == "fails"
    assert judge(claim, rate(8, 200)).outcome == "holds"
