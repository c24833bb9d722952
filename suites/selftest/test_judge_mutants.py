"""What mutation testing found unpinned in the judge: that a verdict carries the numbers of its rule, and a refusal its count and words."""

from __future__ import annotations

import hashlib
import importlib
import math
import random
import re
from dataclasses import replace
from unittest import mock

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, better_than, equivalent, identical, non_inferior, within
from harness.bounds import from_dict
from harness.errors import ClaimError, ConfigError
from harness.judge import judge, not_evaluated, release, sequence
from harness.judge.settle import Decided, settle, tidy, wrong_side
from harness.stats import agreement, betting, corrected, intervals, means, paired, permutation, plan, ratio, series, steady
from harness.stats.special import normal_sf
from harness.types import Family, Verdict, items_digest

pytestmark = pytest.mark.selftest


def measured(*rows: Sample) -> Measurement:
    return Measurement("m", rows)


def units(*values: float | None, **more) -> Measurement:
    return measured(*(Sample(f"i{i:04d}", v, status="error" if v is None else "ok", **more) for i, v in enumerate(values)))


def arms(new: list[float], old: list[float], **more) -> Measurement:
    both = (("new", new), ("old", old))
    return measured(*(Sample(f"i{i:04d}", v, arm, **more) for arm, values in both for i, v in enumerate(values)))


def blocks(*rows: tuple[float | None, float | None, float | None, float | None]) -> Measurement:
    keys = (("old", 0), ("new", 0), ("new", 1), ("old", 1))
    return measured(*(
        Sample(f"block-{j}", x, arm, "ok" if x is not None else "error", replicate=r)
        for j, row in enumerate(rows)
        for (arm, r), x in zip(keys, row, strict=True)
    ))  # fmt: skip


RUNS = [(100.0, 103.0, 105.0, 104.0), (98.0, 101.0, 99.0, 97.0), (110.0, 108.0, 111.0, 109.0), (100.0, 104.0, 103.0, 99.0)]


# --- deterministic checks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "values", "outcome", "worst", "bad", "first"),
    [
        (identical(), [1.0, 1.0], "holds", 1.0, 0, ""),
        (identical(), [1.0, 0.0, 2.0, 1.0], "fails", 0.5, 2, "i0001, i0002"),
        (identical(), [1.0, None, 1.0, 1.0], "fails", 0.75, 1, "i0001"),
        (at_most(2.0), [0.5, 2.0], "holds", 2.0, 0, ""),
        (at_most(2.0), [0.5, 2.5, 3.0], "fails", 3.0, 2, "i0001, i0002"),
        (at_most(2.0), [None, 0.5], "fails", 0.5, 1, "i0000"),
        (at_most(2.0), [None, None], "fails", None, 2, "i0000, i0001"),
        (at_least(2.0), [2.0, 9.0], "holds", 2.0, 0, ""),
        (at_least(2.0), [1.0, 9.0, 1.5], "fails", 1.0, 2, "i0000, i0002"),
        (within(0.2, 0.5), [0.2, 0.5], "holds", 0.5, 0, ""),
        (within(0.2, 0.5), [0.1, 0.6], "fails", 0.6, 2, "i0000, i0001"),
        (at_most(0.0), [1.0] * 7, "fails", 1.0, 7, "i0000, i0001, i0002, i0003, i0004"),
    ],
)
def test_a_deterministic_check_counts_every_row(bound, values, outcome, worst, bad, first) -> None:
    verdict = judge(Claim("x", "t", bound, estimand="exact"), units(*values))
    assert (verdict.outcome, verdict.reason) == (outcome, {"holds": "proven", "fails": "refuted"}[outcome])
    assert (verdict.estimate, verdict.n, verdict.method, verdict.exactness) == (worst, len(values), "exact/1", "exact")
    assert verdict.statistics == {"n": len(values), "mismatches": bad}
    if bad:
        assert verdict.sentence.startswith(f"{bad} of {len(values)} rows")
        assert verdict.sentence.endswith(f"first: {first}")
    else:
        said = "are as expected" if bound == identical() else f"satisfy {bound}; worst {worst:g}"
        assert verdict.sentence == f"all {len(values)} rows {said}"


# --- refusals -------------------------------------------------------------------------------------

SPEED = Claim("r", "t", at_least(1.1), estimand="run_ratio")
SHARE = Claim("p", "t", at_least(0.8))
KLD = Claim("m", "t", at_most(0.2), estimand="bounded_mean", support=(0.0, 1.0))
PPL = Claim("l", "t", at_most(1.1), estimand="log_ratio")
NI = Claim("d", "t", non_inferior(0.05))
NI_MEAN = Claim("s", "t", non_inferior(0.1), estimand="paired_mean")
SLO = Claim("o", "t", at_most(0.01), estimand="over_limit", slo=1.0)
KAPPA = Claim("k", "t", at_least(0.4), estimand="kappa")
PPI = Claim("c", "t", better_than(), estimand="corrected_difference")


@pytest.mark.parametrize(
    ("claim", "data", "reason", "n", "words"),
    [
        (SPEED, measured(*blocks(*RUNS).samples[:-1]), "unpaired_items", 4, "two runs of either arm"),
        (SPEED, blocks(*RUNS, (1.0, None, 1.0, 1.0)), "missing_data", 4, "1 of 5 blocks"),
        (SPEED, blocks(*RUNS[:3]), "few_clusters", 3, "3 blocks"),
        (SPEED, blocks(*RUNS, (1.0, 0.0, 1.0, 1.0)), "non_finite", 5, "no positive"),
        (SPEED, blocks(*[(1.0, 2.0, 2.0, 1.0)] * 4), "zero_variance", 4, "zero-width"),
        (SHARE, measured(*(Sample(f"i{i}", 1.0, cluster="one") for i in range(9))), "clustered", 9, "one row per independent unit"),
        (SHARE, units(0.5, 1.0, 1.0), "domain", 3, "0 or 1"),
        (SHARE, measured(), "no_data", 0, "nothing was measured"),
        (SHARE, replace(units(1.0, 1.0), invalid=("late", "hot")), "invalid_run", 2, "late; hot"),
        (
            SHARE,
            replace(units(1.0, 1.0), invalid=("late", "clock_step: 2 s", "x: y")),
            "clock_step",
            2,
            "void: late; clock_step: 2 s; x: y",
        ),
        (
            SHARE,
            replace(units(1.0, 1.0), invalid=("Late: a", "too-late: b", "so late: c", "late:d", "_a: e")),
            "invalid_run",
            2,
            "Late: a; ",
        ),
        (SHARE, measured(*units(1.0, 1.0).samples, *units(1.0).samples), "duplicate_rows", 2, "1 rows stand twice, first: item 'i0000'"),
        (SHARE, units(math.inf, 1.0, math.nan), "non_finite", 3, "2 rows hold no finite number, first: item 'i0000'"),
        (replace(SHARE, min_n=10), units(1.0, 1.0, 1.0), "min_n", 3, "3 units, the plan asks for 10"),
        (replace(SHARE, items="0" * 64), units(1.0, 1.0), "plan_mismatch", 2, "2 items"),
        (SHARE, replace(units(1.0, 1.0), conditions={"look": 2}), "multiple_looks", 2, "look 2"),
        (SHARE, replace(units(1.0, 1.0), conditions={"judge": "abc"}), "uncalibrated_judge", 2, "'abc'"),
        (NI, arms([1.0, 0.5], [1.0, 1.0]), "domain", 2, "0 or 1"),
        (NI, arms([1.0] * 6, [1.0] * 6, cluster="one"), "clustered", 6, "one item per independent unit"),
        (NI, arms([1.0] * 6, [1.0] * 6, replicate=1), "duplicate_rows", 6, "averaged first"),
        (NI, measured(*arms([1.0, 1.0], [1.0, 1.0]).samples[:-1]), "unpaired_items", 2, "1 items are not in both arms: i0001"),
        (KLD, units(0.5, 1.5, 2.0), "domain", 3, "2 values lie outside"),
        (PPL, units(0.1, None, 0.2, weight=10.0), "missing_data", 3, "1 documents"),
        (PPL, units(*[0.0] * 40, weight=10.0), "zero_variance", 40, "all documents agree"),
        (replace(PPL, estimand="mean"), units(0.1, None, None), "missing_data", 3, "2 units"),
        (SLO, units(0.5, 0.6), "domain", 2, "2 requests say not when"),
        (KAPPA, measured(Sample("a", None, "new", "error"), Sample("a", 1.0, "old")), "no_data", 0, "both raters"),
        (KAPPA, arms([1.0, 0.0], [1.0, 0.0], replicate=1), "duplicate_rows", 2, "4 rows are replicates, first: item 'i0000'"),
        (PPI, measured(*arms([1.0], [1.0]).samples, Sample("i0000", 1.0, "new:human")), "unpaired_items", 1, "not labelled in both arms"),
    ],
)
def test_a_refusal_counts_its_units_and_says_why(claim: Claim, data: Measurement, reason: str, n: int, words: str) -> None:
    verdict = judge(claim, data)
    assert (verdict.outcome, verdict.reason, verdict.n) == ("inconclusive", reason, n)
    assert isinstance(verdict.n, int)
    assert words in verdict.sentence
    assert verdict.alpha == claim.level
    assert verdict.n_needed == {"min_n": claim.min_n, "few_clusters": 4}.get(reason)


# --- verdicts carry the numbers of their rule -----------------------------------------------------


def carries(verdict, interval, tests, estimate: float, n: int, method: str, exactness: str, statistics: dict) -> None:
    claimed = (verdict.estimate, verdict.low, verdict.high, verdict.p_hold, verdict.p_fail)
    assert claimed == pytest.approx((estimate, *interval, *tests), rel=1e-8, abs=1e-300)
    assert (verdict.n, verdict.method, verdict.exactness) == (n, method, exactness)
    assert verdict.level == pytest.approx(1 - 2 * verdict.alpha)
    assert verdict.statistics == pytest.approx(statistics, rel=1e-8)


@pytest.mark.parametrize(("bound", "direction"), [(at_most(1.2), "below"), (at_least(1.01), "above"), (at_most(1.0), "below")])
def test_run_ratio(bound, direction) -> None:
    verdict = judge(Claim("r", "t", bound, estimand="run_ratio"), blocks(*RUNS))
    result = ratio.abba(RUNS, 0.05, 0.05)
    tests = ratio.abba_tests(result, math.log(bound.limit), direction)
    statistics = {"mean_log": result.mean_log, "sd_log": result.sd_log, "k": 4}
    carries(verdict, result[1:3], tests, result.ratio, 4, "abba-log-t/1", "asymptotic", statistics)
    void = judge(Claim("r", "t", bound, estimand="run_ratio"), blocks(*RUNS * 3, (1.0, None, 1.0, 1.0)))
    assert void.statistics["void"] == 1


def test_a_regression_of_runs_is_refuted_at_one_percent() -> None:
    """A p_fail between .01 and .05 refutes nothing, where two runs are compared."""
    result = ratio.abba(RUNS, 0.05, 0.05)
    limit = math.exp(result.mean_log - 3.0 * result.sd_log / 2)  # t = 3 with 3 degrees of freedom: p = .029
    verdict = judge(Claim("r", "t", at_most(limit), estimand="run_ratio"), blocks(*RUNS))
    assert 0.01 < verdict.p_fail < 0.05
    assert (verdict.outcome, verdict.n_needed) == ("inconclusive", None)


def test_over_limit() -> None:
    rng = random.Random(4)
    latencies = [None if i == 7 else rng.expovariate(6.0) for i in range(900)]
    rows = [Sample(f"q{i:04d}", x, status="ok" if x is not None else "error", at=float(i)) for i, x in enumerate(latencies)]
    verdict = judge(Claim("o", "t", at_most(0.05), estimand="over_limit", slo=0.8), measured(*rows[::-1]))
    tau, k = series.slo_time(latencies, 0.8), series.over_limit(latencies, 0.8)
    tests, interval = series.slo_tests(k, 900, tau, 0.05), series.slo_interval(k, 900, tau, 0.05)
    later = steady.drift(latencies)
    statistics = {"k": k, "n": 900, "tau": tau, "slo": 0.8, "later": later.later, "p_steady": later.p}
    carries(verdict, interval, tests, k / 900, 900, "over-limit-markov/2", "asymptotic", statistics)
    assert verdict.n_eff == pytest.approx(900 / tau, rel=1e-8)
    assert verdict.n_unusable == 1


@pytest.mark.parametrize(("bound", "direction"), [(at_most(0.4), "below"), (at_least(0.1), "above")])
def test_bounded_mean(bound, direction) -> None:
    rng = random.Random(6)
    values = [rng.random() ** 2 for _ in range(80)]
    claim = Claim("b", "t", bound, estimand="bounded_mean", support=(0.0, 1.0))
    order = betting.seeded_order(80, "b")
    tests = betting.bounded_mean_tests(values, (0.0, 1.0), bound.limit, order, direction=direction)
    interval = betting.bounded_mean_interval(values, (0.0, 1.0), 0.05, order, direction=direction)
    statistics = {"n": 80, "support": [0.0, 1.0]}
    verdict = judge(claim, units(*values))
    assert verdict.statistics.pop("support") == statistics.pop("support")
    carries(verdict, interval, tests, math.fsum(values) / 80, 80, "betting-mean/1", "exact", statistics)


@pytest.mark.parametrize(("bound", "direction"), [(at_most(0.6), "below"), (at_least(0.3), "above")])
def test_mean_and_log_ratio(bound, direction) -> None:
    rng = random.Random(7)
    values, weights = [rng.gauss(0.4, 0.2) for _ in range(60)], [float(rng.randint(5, 50)) for _ in range(60)]
    clusters = [f"c{i % 40}" for i in range(60)]
    rows = measured(
        *(Sample(f"i{i:04d}", v, weight=w, cluster=c) for i, (v, w, c) in enumerate(zip(values, weights, clusters, strict=True)))
    )
    found = means.cluster_mean(values, clusters, 0.05)
    tests = means.t_test_p(found.estimate, found.se, found.df, bound.limit, direction)
    statistics = {"mean": found.estimate, "se": found.se, "df": 39, "skewness": found.skewness, "n": 40}
    verdict = judge(Claim("m", "t", bound, estimand="mean"), rows)
    carries(verdict, found[2:4], tests, found.estimate, 40, "cluster-t/1", "asymptotic", statistics)
    if direction == "below":
        found = means.ratio_estimator(values, weights, clusters, 0.05)
        tests = means.t_test_p(found.estimate, found.se, found.df, math.log(1.01))
        statistics = {"log_ratio": found.estimate, "se": found.se, "df": 39, "skewness": found.skewness, "n": 40}
        interval = (math.exp(found.low), math.exp(found.high))
        verdict = judge(Claim("l", "t", at_most(1.01), estimand="log_ratio"), rows)
        carries(verdict, interval, tests, math.exp(found.estimate), 40, "ratio-cluster-t/1", "asymptotic", statistics)


def test_paired_means() -> None:
    rng = random.Random(8)
    new, old = [rng.random() for _ in range(64)], [rng.random() * 0.9 for _ in range(64)]
    differences = [x - y for x, y in zip(new, old, strict=True)]
    found = means.cluster_mean(differences, range(64), 0.025)
    verdict = judge(Claim("s", "t", better_than(), estimand="paired_mean"), arms(new, old))
    flips, student = permutation.sign_flip(differences, "s"), means.t_test_p(found.estimate, found.se, 63, 0.0, "above")
    statistics = {"n": 64, "nonzero": 64, "p_sign_flip": flips.p_hold, "skewness": found.skewness}
    tests = (max(flips.p_hold, student.p_hold), max(flips.p_fail, student.p_fail))
    carries(verdict, found[2:4], tests, found.estimate, 64, "sign-flip-and-t/1", "asymptotic", statistics)
    found = means.cluster_mean(differences, range(64), 0.05)
    tests = means.t_test_p(found.estimate, found.se, 63, -0.1, "above")
    verdict = judge(NI_MEAN, arms(new, old))
    statistics = {"mean": found.estimate, "se": found.se, "df": 63, "skewness": found.skewness, "n": 64}
    carries(verdict, found[2:4], tests, found.estimate, 64, "paired-cluster-t/1", "asymptotic", statistics)
    order = betting.seeded_order(64, "s")
    tests = betting.bounded_mean_tests(differences, (-1.0, 1.0), -0.1, order, 0.1, direction="above")
    interval = betting.bounded_mean_interval(differences, (-1.0, 1.0), 0.05, order, 0.1, direction="above")
    verdict = judge(replace(NI_MEAN, support=(0.0, 1.0)), arms(new, old))
    carries(verdict, interval, tests, found.estimate, 64, "betting-difference/1", "exact", {"n": 64, "gap": 0.1})


def test_agreement() -> None:
    rng = random.Random(9)
    old = [float(rng.random() < 0.4) for _ in range(90)]
    new = [x if rng.random() < 0.85 else 1 - x for x in old]
    table = [[sum((a, b) == (x, y) for a, b in zip(new, old, strict=True)) for y in (0.0, 1.0)] for x in (0.0, 1.0)]
    found = agreement.cohen_kappa(table, 0.05)
    agreed, commonest = sum(x == y for x, y in zip(new, old, strict=True)) / 90, max(old.count(0.0), old.count(1.0)) / 90
    statistics = {"n": 90, "se": found.se, "chance": found.chance, "dropped": 0, "agreed": agreed, "constant_judge": commonest}
    verdict = judge(KAPPA, arms(new, old))
    tests = agreement.agreement_tests(found, 0.4)
    carries(verdict, (found.low, found.high), tests, found.estimate, 90, "kappa-raised/1", "asymptotic", statistics)
    rows = [Sample(f"i{i:04d}", x, replicate=r) for r, values in enumerate((new, old)) for i, x in enumerate(values)]
    found = agreement.krippendorff(list(zip(new, old, strict=True)), "nominal", 0.05)
    statistics = {"n": 90, "se": found.se, "chance": found.chance, "dropped": 0, "raters": 2}
    verdict = judge(Claim("a", "t", at_least(0.4), estimand="alpha_nominal"), measured(*rows))
    tests = agreement.agreement_tests(found, 0.4)
    carries(verdict, (found.low, found.high), tests, found.estimate, 90, "krippendorff-jackknife/1", "asymptotic", statistics)


def test_corrected_difference() -> None:
    rng = random.Random(10)
    rows, judged, human, alone = [], [], [], []
    for i in range(400):
        ours, theirs = float(rng.random() < 0.7), float(rng.random() < 0.6)
        item = f"i{i:04d}"
        rows += [Sample(item, ours, "new"), Sample(item, theirs, "old")]
        if i < 120:
            labels = [x if rng.random() < 0.9 else 1 - x for x in (ours, theirs)]
            rows += [Sample(item, labels[0], "new:human"), Sample(item, labels[1], "old:human")]
            judged.append(ours - theirs)
            human.append(labels[0] - labels[1])
        else:
            alone.append(ours - theirs)
    found = corrected.ppi_difference(alone, judged, human, 0.025)
    statistics = {"n": 280, "m": 120, "lambda": found.lam, "se": found.se, "df": found.df, "skewness": found.skewness}
    tests = corrected.corrected_tests(found, 0.0)
    carries(judge(PPI, measured(*rows)), (found.low, found.high), tests, found.estimate, 400, "ppi-plus-plus/1", "asymptotic", statistics)


def test_proportion() -> None:
    values = [1.0] * 90 + [0.0] * 9 + [None]
    verdict = judge(SHARE, units(*values))
    interval, tests = intervals.clopper_pearson(90, 100, 0.05), intervals.proportion_tests(90, 100, 0.8)
    carries(verdict, interval, tests, 0.9, 100, "clopper-pearson/1", "exact", {"k": 90, "n": 100})
    # the unit that failed is taken as either, whichever is worse
    p_hold = max(intervals.proportion_tests(90, 100, 0.8)[0], intervals.proportion_tests(91, 100, 0.95)[1])
    tests = (p_hold, min(1.0, 2 * min(intervals.proportion_tests(91, 100, 0.8)[1], intervals.proportion_tests(90, 100, 0.95)[0])))
    interval = (interval.low, intervals.clopper_pearson(91, 100, 0.05).high)
    carries(
        judge(Claim("w", "t", within(0.8, 0.95)), units(*values)),
        interval,
        tests,
        0.9,
        100,
        "clopper-pearson/1",
        "exact",
        {"k": 90, "n": 100},
    )


def test_paired_difference() -> None:
    new, old = [1.0] * 30 + [0.0] * 12 + [1.0] * 140 + [0.0] * 18, [0.0] * 30 + [1.0] * 12 + [1.0] * 140 + [0.0] * 18
    statistics = {"b": 30, "c": 12, "both_right": 140, "both_wrong": 18, "n": 200}
    interval = paired.tango_interval(30, 12, 200, 0.025)
    verdict = judge(Claim("d", "t", better_than()), arms(new, old))
    carries(verdict, interval, paired.mcnemar(30, 12), 0.09, 200, "mcnemar-exact/1", "exact", statistics)
    interval = paired.tango_interval(30, 12, 200, 0.05)
    for bound, found, method in (
        (non_inferior(0.05), paired.noninferiority(30, 12, 200, -0.05, slack=1e-3), "exact-unconditional-tango/1"),
        (equivalent(0.05), paired.equivalence(30, 12, 200, 0.05, slack=1e-3), "exact-unconditional-tango/1/tost"),
    ):
        tests = (found.p_hold.upper, found.p_fail.upper)
        carries(judge(Claim("d", "t", bound), arms(new, old)), interval, tests, 0.09, 200, method, "bracketed", statistics)


# --- bounds ---------------------------------------------------------------------------------------

BOUNDS = [at_least(0.5), at_most(1.5), within(0.2, 0.4), non_inferior(0.05), better_than(), better_than(0.1), equivalent(0.03), identical()]


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_bounds_survive_their_sealed_form(bound) -> None:
    assert from_dict(bound.to_dict(), "here") == bound


@pytest.mark.parametrize("make", [at_least, at_most, non_inferior, better_than, equivalent, lambda x: within(0.1, x)])
@pytest.mark.parametrize("value", ["0.5", "abc", b"1", True, None, [0.5]])
def test_a_bound_that_is_no_number_is_refused(make, value) -> None:
    with pytest.raises(ClaimError, match=r"expected a number"):
        make(value)


def test_bounds_keep_their_numbers() -> None:
    assert (within(0.2, 0.4).limit, within(0.2, 0.4).high, better_than(0.1).limit, better_than().limit) == (0.2, 0.4, 0.1, 0.0)
    assert from_dict({"kind": "better_than"}, "here") == better_than()
    assert (better_than().default_alpha, non_inferior(0.1).default_alpha) == (0.025, 0.05)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "at_most", "limit": 0.1, "lmit": 1},
        {"kind": "at_mots", "limit": 0.1},
        {"kind": "at_most", "limit": "0.1"},
        {"kind": "at_most", "limit": True},
        {"kind": "within", "limit": 0.1, "high": "0.4"},
        {"kind": "within", "limit": 0.1, "high": True},
    ],
)
def test_a_bound_in_a_file_is_checked(data) -> None:
    with pytest.raises(ConfigError, match="here"):
        from_dict(data, "here")


@pytest.mark.parametrize(
    ("bound", "more"),
    [
        (non_inferior(1.0), {}),
        (equivalent(1.0), {}),
        (non_inferior(0.0), {}),
        (non_inferior(0.0), {"estimand": "paired_mean"}),
        (better_than(-0.1), {}),
        (better_than(1.0), {}),
        (within(0.4, 0.4), {}),
        (within(0.4, 1.0), {}),
        (at_least(0.0), {}),
        (at_least(1.0), {}),
        (at_most(math.inf), {}),
        (at_most(0.51), {"estimand": "over_limit", "slo": 1.0}),
        (at_most(0.1), {"estimand": "over_limit"}),
        (at_most(0.1), {"estimand": "over_limit", "slo": 0.0}),
        (at_most(0.1), {"estimand": "over_limit", "slo": math.inf}),
        (at_most(0.0), {"estimand": "log_ratio"}),
        (at_least(0.0), {"estimand": "run_ratio"}),
        (at_least(-0.1), {"estimand": "kappa"}),
        (at_least(1.0), {"estimand": "alpha_ordinal"}),
        (at_most(0.1), {"estimand": "bounded_mean"}),
        (at_most(0.1), {"estimand": "bounded_mean", "support": (0.1, 1.0)}),
        (at_most(1.0), {"estimand": "bounded_mean", "support": (0.0, 1.0)}),
        (at_most(0.5), {"estimand": "bounded_mean", "support": (0.0, math.inf)}),
        (at_most(0.5), {"estimand": "bounded_mean", "support": (-math.inf, 1.0)}),
        (non_inferior(1.0), {"estimand": "paired_mean", "support": (0.0, 1.0)}),
        (non_inferior(0.1), {"estimand": "paired_mean", "support": (1.0, 1.0)}),
        (at_least(0.9), {"estimand": "relative_score", "support": (-0.1, 1.0)}),
        (non_inferior(0.1), {"estimand": "kappa"}),
    ],
)
def test_what_no_data_could_decide_is_refused(bound, more) -> None:
    with pytest.raises(ClaimError, match="claim x"):
        Claim("x", "t", bound, **more)


@pytest.mark.parametrize(
    ("bound", "more"),
    [
        (better_than(1.0), {"estimand": "paired_mean"}),
        (at_most(0.5), {"estimand": "over_limit", "slo": 1.0}),
        (at_least(0.0), {"estimand": "kappa"}),
        (at_least(0.9), {"estimand": "relative_score", "support": (0.0, 1.0)}),
        (non_inferior(2.0), {"estimand": "paired_mean"}),
    ],
)
def test_what_stands_at_the_edge_is_allowed(bound, more) -> None:
    assert Claim("x", "t", bound, **more).bound == bound


# --- controls, absence, release -------------------------------------------------------------------


def test_absence_is_named() -> None:
    verdict = not_evaluated(SHARE, "gpu", "no GPU here")
    found = (verdict.outcome, verdict.reason, verdict.sentence, verdict.alpha)
    assert found == ("not_evaluated", "missing:gpu", "no GPU here", 0.05)


def test_a_control_leaves_its_own_numbers_beside_the_verdict() -> None:
    alike, worse = arms([1.0] * 200, [1.0] * 200), arms([0.0] * 40 + [1.0] * 160, [1.0] * 200)
    verdict = judge(NI, alike, controls=[Control("loss", ("fails",), worse), Control("aa", ("holds",), alike)])
    assert verdict.outcome == "holds"
    for record, name, data in zip(verdict.controls, ("loss", "aa"), (worse, alike), strict=True):
        got = judge(NI, data)
        fields = {key: getattr(got, key) for key in ("outcome", "reason", "sentence", "estimate", "low", "high", "n", "p_hold", "p_fail")}
        expect = ["fails" if name == "loss" else "holds"]
        assert record == {"name": name, "expect": expect, "met": True, **fields, "statistics": dict(got.statistics)}


WORSE = arms([0.0] * 40 + [1.0] * 160, [1.0] * 200)


@pytest.mark.parametrize(
    ("claim", "control", "reason", "words"),
    [
        (
            NI,
            Control("aa", ("holds",), arms([0.0] * 40 + [1.0] * 160, [1.0] * 200)),
            "control_failed",
            "prove itself: aa: expected holds, got fails",
        ),
        (NI, Control("aa", ("holds",), arms([1.0] * 20, [1.0] * 20)), "control_undecided", "small for the controls: aa"),
        (
            replace(NI, min_n=100),
            Control("aa", ("holds",), arms([1.0] * 90, [1.0] * 90)),
            "control_undecided",
            "small for the controls: aa",
        ),
    ],
)
def test_a_control_that_contradicts_is_named_before_the_numbers(claim: Claim, control, reason: str, words: str) -> None:
    verdict = judge(claim, arms([1.0] * 200, [1.0] * 200), controls=[control])
    assert (verdict.outcome, verdict.reason) == ("inconclusive", reason)
    assert words in verdict.sentence
    assert "Its own numbers: 0 [" in verdict.sentence


@pytest.mark.parametrize("reason", ["few_clusters", "skewed"])
def test_a_control_of_few_or_skewed_clusters_is_undecided(reason: str) -> None:
    rng = random.Random(11)
    rows = [Sample(f"i{i:03d}", rng.gauss(0.1, 0.05), weight=1.0) for i in range(60)]
    odd = rows[:20] if reason == "few_clusters" else [replace(rows[0], value=30.0), *rows[1:]]
    claim = Claim("m", "t", at_most(0.9), estimand="mean")
    assert judge(claim, measured(*odd)).reason == reason
    verdict = judge(claim, measured(*rows), controls=[Control("aa", ("holds",), measured(*odd))])
    assert verdict.reason == "control_undecided"


def test_noise_that_reaches_an_upper_bound_is_named() -> None:
    verdict = judge(
        Claim("p", "t", at_most(0.2)), units(*[0.0] * 100), controls=[Control("aa", ("holds",), units(*[1.0] * 15, *[0.0] * 85))]
    )
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "below_noise_floor")
    assert "does not lie above the noise of an unchanged subject: aa" in verdict.sentence


def shown(outcome: str, p: float | None, reason: str = "straddles", alpha: float | None = 0.05) -> Verdict:
    return Verdict(outcome, reason, "s", p_hold=p, p_fail=None if p is None else 1 - p, alpha=alpha)


def test_a_release_tells_each_family() -> None:
    names = tuple(f"e{i}" for i in range(5))
    families = (Family("guard", "all", ("g",)), Family("gain", "any", ("a", "b")), Family("look", "exploratory", names))
    verdicts = {
        "g": shown("holds", 0.01),
        "a": shown("holds", 0.01),
        "b": shown("fails", 0.9),
        **{name: shown("holds", 0.004) for name in names},
    }
    found = release(families, verdicts)
    assert (found.outcome, found.alpha) == ("holds", 0.05)
    guard, gain, look = found.families
    assert guard == {"name": "guard", "rule": "all", "claims": {"g": "holds"}, "adjusted": {}, "outcome": "holds", "reason": ""}
    assert gain["adjusted"] == {"a": 0.02, "b": 0.9}
    assert (look["outcome"], look["adjusted"]) == ("not_evaluated", pytest.approx(dict.fromkeys(names, 0.004)))
    assert look["reason"].endswith("e0, e1, e2 and 2 more")
    assert found.sentence.startswith("guard (1): holds; gain (2): holds (shown after Holm: a); look (5): not_evaluated (exploratory")
    closed = release(families, {**verdicts, "g": shown("inconclusive", 0.4)})
    assert closed.families[1]["adjusted"] == {}
    assert closed.families[2]["outcome"] == "not_evaluated"
    assert closed.families[2]["reason"].startswith("exploratory")


def test_a_release_of_checks_without_sampling_has_no_error_rate() -> None:
    family = (Family("integrity", "all", ("i",)),)
    assert release(family, {"i": shown("holds", None, alpha=None)}).alpha == 0.0
    assert release(family, {}).alpha == 0.025
    assert release(family, {"i": shown("fails", None, alpha=None)}).outcome == "fails"
    assert release(family, {"i": replace(shown("fails", 0.99), alpha=None)}).outcome == "inconclusive"


def test_a_gain_exactly_at_its_level_counts() -> None:
    family = (Family("gain", "any", ("a",)),)
    assert release(family, {"a": shown("holds", 0.025)}).outcome == "holds"
    assert release(family, {"a": shown("inconclusive", 0.025, "control_failed")}).outcome == "inconclusive"
    assert release(family, {"a": replace(shown("holds", 0.01), p_hold=None)}).outcome == "holds"  # no sampling error
    assert release(family, {"a": replace(shown("fails", 0.99), p_hold=None)}).outcome == "inconclusive"


# --- the n that would do --------------------------------------------------------------------------


def test_n_needed_for_runs_is_that_of_the_declared_ratio() -> None:
    result = ratio.abba(RUNS, 0.05, 0.05)
    for bound, expected, sign in ((at_most(1.03), 1.005, 1), (at_least(1.01), 1.03, -1)):
        verdict = judge(Claim("r", "t", bound, estimand="run_ratio", expected=expected), blocks(*RUNS))
        needed = [plan.ratio_k(result.sd_log, sign * math.log(bound.limit), 0.05, power, sign * math.log(expected)) for power in (0.8, 0.9)]
        assert [verdict.n_needed, verdict.n_needed_90] == needed
        assert judge(Claim("r", "t", bound, estimand="run_ratio"), blocks(*RUNS)).n_needed is None


def test_relative_score() -> None:
    """The limits are the ratios at which the tests of new - r old stop rejecting."""
    rng = random.Random(12)
    old = [0.4 + 0.5 * rng.random() for _ in range(60)]
    new = [x - 0.05 + 0.1 * rng.random() for x in old]
    order = betting.seeded_order(60, "q")
    for support, expected, r in (((0.0, 1.0), None, 0.9), ((0.2, 1.2), 0.98, 0.95), ((0.0, 1.0), None, 1.0)):
        claim = Claim("q", "t", at_least(r), estimand="relative_score", support=support, expected=expected)
        gap = abs((expected or 1.0) - r) * sum(support) / 2 or 0.05

        def above(ratio: float, support=support, gap=gap):
            span = (support[0] - ratio * support[1], support[1] - ratio * support[0])
            values = [x - ratio * y for x, y in zip(new, old, strict=True)]
            return betting.bounded_mean_tests(values, span, 0.0, order, gap, direction="above")

        verdict = judge(claim, arms(new, old))
        statistics = {"n": 60, "mean_new": math.fsum(new) / 60, "mean_old": math.fsum(old) / 60}
        carries(
            verdict, (verdict.low, verdict.high), above(r), math.fsum(new) / math.fsum(old), 60, "betting-relative/1", "exact", statistics
        )
        assert above(verdict.low).p_hold == pytest.approx(0.05, abs=1e-6)
        assert above(verdict.high).p_fail == pytest.approx(0.05, abs=1e-6)


def test_labels_without_a_value_are_counted() -> None:
    broken = [Sample("i0000", None, arm, "error") for arm in ("new:human", "old:human")]
    verdict = judge(PPI, measured(*arms([1.0, 1.0], [1.0, 0.0]).samples, *broken))
    assert (verdict.reason, verdict.n) == ("missing_data", 2)
    assert verdict.sentence == "2 labels have no value, first: 'i0000'"


def test_agreement_of_too_few_units_asks_for_those_that_can() -> None:
    """.4^4 = .0256 < .05 < .4^3: three units cannot show it even if no agreement is chance; with fewer than four n is what lacks."""
    few = judge(KAPPA, arms([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]))
    assert (few.reason, few.n_needed, few.n_needed_90) == ("unattainable", 4, 4)
    assert "not even 3 units" in few.sentence


# --- the n that would do, of every rule -----------------------------------------------------------


def asks(verdict: Verdict, n_of) -> None:
    """A verdict between its bounds asks for the n of its plan at power .80 and .90, and says so."""
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "straddles")
    assert (verdict.n_needed, verdict.n_needed_90) == (n_of(0.8), n_of(0.9))
    assert verdict.sentence.endswith(f"not decided; n = {n_of(0.8)} would settle it with power .80, {n_of(0.9)} with .90")


def leans_the_wrong_way(verdict: Verdict) -> None:
    assert (verdict.outcome, verdict.n_needed, verdict.n_needed_90) == ("inconclusive", None, None)
    assert verdict.sentence.endswith("not decided, and the estimate lies on the wrong side; more data are not expected to help")


def binary(b: int, c: int, n: int) -> Measurement:
    same = [1.0] * (n - b - c)
    return arms([1.0] * b + [0.0] * c + same, [0.0] * b + [1.0] * c + same)


def test_n_needed_of_a_proportion() -> None:
    least, most = Claim("p", "t", at_least(0.8), expected=0.9), Claim("p", "t", at_most(0.2), expected=0.08)
    asks(judge(least, units(*[1.0] * 17, *[0.0] * 3)), lambda power: plan.proportion_n(0.8, 0.9, 0.05, power, "at_least").first)
    asks(judge(most, units(*[0.0] * 17, *[1.0] * 3)), lambda power: plan.proportion_n(0.2, 0.08, 0.05, power, "at_most").first)
    assert judge(Claim("p", "t", within(0.2, 0.8), expected=0.1), units(0.0, 1.0)).n_needed is None  # none is planned for a range
    leans_the_wrong_way(judge(least, units(*[1.0] * 8, *[0.0] * 2)))
    leans_the_wrong_way(judge(most, units(*[0.0] * 8, *[1.0] * 2)))


def test_a_range_is_refuted_at_half_of_alpha_on_either_side() -> None:
    verdict = judge(Claim("p", "t", within(0.2, 0.5)), units(*[1.0] * 70, *[0.0] * 30))
    assert (verdict.outcome, verdict.reason) == ("fails", "refuted")
    assert verdict.p_fail == pytest.approx(2 * intervals.proportion_tests(70, 100, 0.5)[0], rel=1e-8)


@pytest.mark.parametrize(("b", "c", "n", "gain"), [(12, 8, 100, 0.1), (12, 8, 100, 0.3), (4, 3, 60, 0.1)])
def test_n_needed_for_superiority(b: int, c: int, n: int, gain: float) -> None:
    """At the discordance seen, which cannot be less than the gain."""
    psi = max((b + c + 0.5) / (n + 1), gain)
    verdict = judge(Claim("d", "t", better_than(), expected=gain), binary(b, c, n))
    needed = [plan.superiority_n(psi, gain, 0.025, power) for power in (0.8, 0.9)]
    assert [verdict.n_needed, verdict.n_needed_90] == needed
    assert judge(Claim("d", "t", better_than()), binary(b, c, n)).n_needed is None


def test_superiority_needs_six_discordant_items() -> None:
    """2^-6 = .016 < .025 < 2^-5."""
    claim = Claim("d", "t", better_than())
    few = judge(claim, binary(5, 0, 40))
    assert (few.outcome, few.reason) == ("inconclusive", "unattainable")
    assert few.sentence.endswith("not decided; 5 discordant items; significance needs at least 6")
    assert judge(claim, binary(6, 0, 40)).outcome == "holds"
    assert judge(claim, binary(4, 2, 40)).reason == "straddles"  # six of them could have shown it
    leans_the_wrong_way(judge(replace(claim, expected=0.1), binary(8, 9, 40)))
    assert judge(claim, binary(0, 0, 40)).reason == "unattainable"


def test_n_needed_against_a_margin() -> None:
    """Nothing changed; equivalence must pass two tests, each of which misses as often."""
    asks(judge(NI, binary(6, 9, 100)), lambda power: max(59, plan.ni_n(0.05, 15.5 / 101, 0.05, power)))
    for expected in (None, 0.04):  # a gain is none of the plan of a guardrail
        claim = Claim("d", "t", equivalent(0.05), expected=expected)
        asks(judge(claim, binary(6, 6, 100)), lambda power: plan.ni_n(0.05, 12.5 / 101, 0.05, (1 + power) / 2))
    leans_the_wrong_way(judge(NI, binary(0, 3, 50)))


def test_n_needed_for_a_gain_beyond_a_margin() -> None:
    better = Claim("d", "t", better_than(0.02), expected=0.12)
    asks(judge(better, binary(10, 4, 100)), lambda power: plan.ni_n(-0.02, 14.5 / 101, 0.025, power, 0.12))
    for expected in (None, 0.02, 0.01):
        assert judge(replace(better, expected=expected), binary(10, 4, 100)).n_needed is None
    leans_the_wrong_way(judge(better, binary(4, 4, 50)))
    assert judge(better, binary(1, 0, 1)).reason == "straddles"  # a gain has no number of zero flips to wait for


def test_without_a_flip_the_margin_itself_asks_for_items() -> None:
    """.95^59 < .05 < .95^58; at a level of .49 it is .95^14, which is more than the normal formula asks for."""
    verdict = judge(NI, binary(0, 0, 58))
    needed = [plan.ni_n(0.05, 0.5 / 59, 0.05, power) for power in (0.8, 0.9)]
    assert [verdict.reason, verdict.n_needed, verdict.n_needed_90] == ["unattainable", *needed]
    assert "with n = 58 not even zero flips prove a margin of 0.05 (that takes 59)" in verdict.sentence
    assert judge(NI, binary(0, 0, 59)).outcome == "holds"
    assert judge(NI, binary(0, 1, 59)).reason == "straddles"
    verdict = judge(replace(NI, alpha=0.49), binary(0, 0, 13))
    assert plan.ni_n(0.05, 0.5 / 14, 0.49, 0.8) < 14
    assert (verdict.reason, verdict.n_needed) == ("unattainable", 14)


def test_the_p_that_decides_is_refined_until_its_side_is_certain() -> None:
    """Of 47 items six flipped to wrong: p of "worse by more than .05" is .0494, and at first bracketed to both sides of .05."""
    first, then = (paired.noninferiority(0, 6, 47, -0.05, **how).p_fail for how in ({"slack": 1e-3}, {"decide_at": 0.05}))
    assert first.lower < 0.05 < first.upper
    verdict = judge(NI, binary(0, 6, 47))
    assert (verdict.outcome, verdict.p_fail) == ("fails", pytest.approx(then.upper, rel=1e-8))
    shown = judge(NI, binary(10, 12, 100)).p_hold  # where the side is certain at once, the first bracket is what is shown
    assert shown == pytest.approx(paired.noninferiority(10, 12, 100, -0.05, slack=1e-3).p_hold.upper, rel=1e-8)


def test_a_region_that_is_not_monotone_decides_nothing() -> None:
    unproven = paired.ExactTests(paired.Bracket(0.0, 1.0), paired.Bracket(0.0, 1.0), False)
    with mock.patch.object(paired, "noninferiority", return_value=unproven):
        verdict = judge(NI, binary(0, 0, 100))
    assert (verdict.outcome, verdict.reason, verdict.n, verdict.p_hold) == ("inconclusive", "domain", 100, None)
    assert verdict.sentence == "the rejection region is not monotone at this n: not decided"


def test_up_to_five_thousand_items_the_rule_is_exact() -> None:
    assert [judge(NI, binary(0, 0, n)).method for n in (5000, 5001)] == ["exact-unconditional-tango/1", "tango-score/1"]


def test_better_by_a_margin() -> None:
    found = paired.noninferiority(40, 5, 200, 0.1, slack=1e-3)
    verdict = judge(Claim("d", "t", better_than(0.1)), binary(40, 5, 200))
    assert (verdict.p_hold, verdict.p_fail) == pytest.approx((found.p_hold.upper, found.p_fail.upper), rel=1e-8)


@pytest.mark.parametrize(("b", "c"), [(100, 120), (300, 500), (150, 150), (60, 700)])
def test_above_the_exact_size_limit(b: int, c: int) -> None:
    """Tango's score in the normal law; two-sided refutation doubles the smaller of two."""
    counts = {"b": b, "c": c, "both_right": 6000 - b - c, "both_wrong": 0, "n": 6000}
    interval = paired.tango_interval(b, c, 6000, 0.05)
    z, other = paired.tango_z(b, c, 6000, -0.03), paired.tango_z(b, c, 6000, 0.03)
    below, above = normal_sf(-z), normal_sf(other)
    estimate = (b - c) / 6000
    verdict = judge(Claim("d", "t", non_inferior(0.03)), binary(b, c, 6000))
    carries(verdict, interval, (normal_sf(z), below), estimate, 6000, "tango-score/1", "asymptotic", counts)
    verdict = judge(Claim("d", "t", equivalent(0.03)), binary(b, c, 6000))
    tests = (max(normal_sf(z), normal_sf(-other)), min(1.0, 2 * min(below, above)))
    carries(verdict, interval, tests, estimate, 6000, "tango-score/1/tost", "asymptotic", counts)


@pytest.mark.parametrize(("limit", "expected", "value", "sign"), [(1.5, 0.8, 1.2, 1), (1.5, 2.2, 1.8, -1)])
def test_n_needed_of_a_bounded_mean(limit: float, expected: float, value: float, sign: int) -> None:
    """The units that would do if each were as expected; told only while there are fewer, and for no power."""
    bound, support = at_most(limit) if sign > 0 else at_least(limit), (0.5, 2.5)
    claim = Claim("b", "t", bound, estimand="bounded_mean", support=support, expected=expected)
    least = plan.betting_min_n(sign * expected, sign * limit, support if sign > 0 else (-2.5, -0.5), 0.05)
    for n, needed in ((2, least), (least - 1, least), (least, None)):
        verdict = judge(claim, units(*[value] * n))
        assert (verdict.reason, verdict.n_needed, verdict.n_needed_90) == ("straddles", needed, None)
    assert judge(claim, units(value, value)).sentence.endswith(f"not decided; n = {least} would settle it")
    assert judge(replace(claim, expected=None), units(value, value)).n_needed is None
    leans_the_wrong_way(judge(claim, units(3.0 - value, 3.0 - value)))


@pytest.mark.parametrize(("bound", "direction", "worst"), [(at_most(0.6), "below", 1.0), (at_least(0.3), "above", 0.0)])
def test_a_failed_unit_of_a_bounded_mean_is_the_worst_there_is(bound, direction: str, worst: float) -> None:
    rng = random.Random(13)
    values = [0.0, 1.0, None, *(rng.random() for _ in range(57))]
    kept = [worst if v is None else v for v in values]
    claim = Claim("b", "t", bound, estimand="bounded_mean", support=(0.0, 1.0))
    order = betting.seeded_order(60, "b")
    tests = betting.bounded_mean_tests(kept, (0.0, 1.0), bound.limit, order, direction=direction)
    verdict = judge(claim, units(*values))
    assert (verdict.p_hold, verdict.p_fail) == pytest.approx(tuple(tests), rel=1e-8)
    twice = measured(
        *(Sample(f"{name}{s.item}", s.value, status=s.status, cluster=s.item) for s in units(*values).samples for name in "ab")
    )
    again = judge(claim, twice)
    assert (again.n, again.estimate, again.p_hold) == (60, verdict.estimate, verdict.p_hold)


@pytest.mark.parametrize(("bound", "expected"), [(at_most(0.57), 0.5), (at_least(0.49), 0.56), (at_most(0.57), 0.2), (at_least(0.49), 0.9)])
def test_n_needed_of_a_mean(bound, expected: float) -> None:
    rng = random.Random(14)
    values = [rng.gauss(0.53, 0.25) for _ in range(36)]
    values = [v - math.fsum(values) / 36 + 0.53 for v in values]
    found = means.cluster_mean(values, range(36), 0.05)
    claim = Claim("m", "t", bound, estimand="mean", expected=expected)
    effect = abs(bound.limit - expected) / (found.se * 6)
    verdict = judge(claim, units(*values))
    needed = [max(30, plan.t_n(effect, 0.05, power)) for power in (0.8, 0.9)]
    assert [verdict.reason, verdict.n_needed, verdict.n_needed_90] == ["straddles", *needed]
    assert (needed[0] == 30) == (expected in (0.2, 0.9))
    leans_the_wrong_way(judge(replace(claim, bound=at_most(0.52) if bound.kind == "at_most" else at_least(0.54)), units(*values)))


@pytest.mark.parametrize(
    ("bound", "expected", "gap"), [(non_inferior(0.05), None, 0.05), (non_inferior(0.05), 0.02, 0.07), (equivalent(0.05), 0.02, 0.05)]
)
def test_n_needed_of_a_paired_mean_against_a_margin(bound, expected: float | None, gap: float) -> None:
    rng = random.Random(15)
    values = [rng.gauss(0.0, 0.3) for _ in range(49)]
    values = [v - math.fsum(values) / 49 for v in values]
    found = means.cluster_mean(values, range(49), 0.05)
    effect = gap / (found.se * 7)
    verdict = judge(Claim("s", "t", bound, estimand="paired_mean", expected=expected), arms(values, [0.0] * 49))
    needed = [plan.t_n(effect, 0.05, (1 + power) / 2 if bound.kind == "equivalent" else power) for power in (0.8, 0.9)]
    assert [verdict.reason, verdict.n_needed, verdict.n_needed_90] == ["straddles", *needed]


@pytest.mark.parametrize(
    ("n", "spike", "reason"), [(20, 0.5, "few_clusters"), (29, 6.0, "few_clusters"), (30, 6.0, "skewed"), (60, 9.0, "skewed")]
)
def test_few_or_skewed_units_ask_for_those_that_t_needs(n: int, spike: float, reason: str) -> None:
    rng = random.Random(16)
    values = [spike, *(rng.gauss(0.5, 0.2) for _ in range(n - 1))]
    found = means.cluster_mean(values, range(n), 0.05)
    need = max(30, math.ceil(121 * found.skewness**2))
    verdict = judge(Claim("m", "t", at_most(0.9), estimand="mean", expected=0.1), units(*values))
    assert (verdict.outcome, verdict.reason, verdict.n_needed, verdict.n_needed_90) == ("inconclusive", reason, need, None)
    assert verdict.sentence == f"{n} units with skewness {found.skewness:.2f}; the t interval needs {need}"
    assert (need > 30) == (spike > 1)


def test_units_without_variance_are_named() -> None:
    verdict = judge(Claim("m", "t", at_most(0.9), estimand="mean"), units(*[0.5] * 40))
    assert verdict.sentence == "all units agree exactly: a zero-width interval never decides"


def pairs_that_agree(n: int, differ: int = 0) -> Measurement:
    labels = [float(i % 2) for i in range(n)]
    return arms([1 - x if i < differ else x for i, x in enumerate(labels)], labels)


def test_n_needed_of_an_agreement() -> None:
    claim = Claim("k", "t", at_least(0.6), estimand="kappa", expected=0.85)
    found = agreement.cohen_kappa([[18, 3], [4, 15]], 0.05)
    table = arms([0.0] * 21 + [1.0] * 19, [0.0] * 18 + [1.0] * 3 + [0.0] * 4 + [1.0] * 15)
    asks(judge(claim, table), lambda power: plan.agreement_n(0.85, 0.6, found.se * math.sqrt(40), 0.05, power))
    assert judge(replace(claim, expected=None), table).n_needed is None
    leans_the_wrong_way(judge(replace(claim, bound=at_least(0.7)), table))
    assert judge(claim, pairs_that_agree(8)).n_needed is None  # no spread was seen to plan with


def test_the_least_number_of_units_that_can_agree_enough() -> None:
    """.9^29 < .05 < .9^28: one disagreement in 28 is of too few units, in 29 it is one too many."""
    claim = Claim("k", "t", at_least(0.9), estimand="kappa", expected=0.95)
    few, enough = judge(claim, pairs_that_agree(28, 1)), judge(claim, pairs_that_agree(29, 1))
    assert (few.reason, few.n_needed, few.n_needed_90) == ("unattainable", 29, 29)
    assert (enough.reason, enough.n_needed > 29) == ("straddles", True)
    assert judge(Claim("k", "t", at_least(0.0), estimand="kappa"), pairs_that_agree(20, 1)).outcome == "holds"  # above chance


def test_units_with_labels_are_what_the_plan_counts() -> None:
    data = measured(*pairs_that_agree(20).samples, Sample("j", None, "new", "error"), Sample("j", 1.0, "old"))
    claim = Claim("k", "t", at_least(0.4), estimand="kappa")
    assert judge(replace(claim, min_n=20), data).outcome == "holds"
    verdict = judge(replace(claim, min_n=21), data)
    assert (verdict.outcome, verdict.reason, verdict.n, verdict.n_needed) == ("inconclusive", "min_n", 20, 21)
    assert verdict.sentence == "20 units with labels enough, the plan asks for 21; 1 were dropped"


@pytest.mark.parametrize(("support", "worst"), [(None, 0.0), ((0.25, 1.5), 0.25)])
def test_a_judge_that_gave_no_score_gave_the_worst(support, worst: float) -> None:
    rng = random.Random(17)
    rows, judged, human, alone = [], [], [], []
    for i in range(300):
        scores = [None if i == at else rng.randint(2, 6) / 4 for at in (150, 151)]
        said = [worst if x is None else x for x in scores]
        rows += [Sample(f"i{i:04d}", x, arm, "ok" if x is not None else "error") for arm, x in zip(("new", "old"), scores, strict=True)]
        if i < 110:
            labels = [x if rng.random() < 0.8 else rng.randint(2, 6) / 4 for x in said]
            rows += [Sample(f"i{i:04d}", x, f"{arm}:human") for arm, x in zip(("new", "old"), labels, strict=True)]
            judged.append(said[0] - said[1])
            human.append(labels[0] - labels[1])
        else:
            alone.append(said[0] - said[1])
    found = corrected.ppi_difference(alone, judged, human, 0.05)
    verdict = judge(Claim("c", "t", non_inferior(0.5), estimand="corrected_difference", support=support), measured(*rows))
    assert (verdict.estimate, verdict.low, verdict.high) == pytest.approx((found.estimate, found.low, found.high), rel=1e-8)
    assert found.estimate < 0
    beyond = Claim("c", "t", non_inferior(0.999 * -found.estimate), estimand="corrected_difference", support=support)
    leans_the_wrong_way(judge(beyond, measured(*rows)))


def test_runs_on_the_wrong_side_ask_for_none() -> None:
    limit = ratio.abba(RUNS, 0.05, 0.05).ratio
    leans_the_wrong_way(judge(Claim("r", "t", at_most(limit * 0.999), estimand="run_ratio", expected=0.9), blocks(*RUNS)))
    leans_the_wrong_way(judge(Claim("r", "t", at_least(limit * 1.001), estimand="run_ratio", expected=1.2), blocks(*RUNS)))


# --- requests -------------------------------------------------------------------------------------


def requests(values: list[float], together: int = 1) -> Measurement:
    return measured(*(Sample(f"q{i:05d}", x, at=float(i // together)) for i, x in enumerate(values)))


def slow_ones(n: int, k: int) -> list[float]:
    """k of n over 1.0, evenly spread."""
    return [2.0 if (i * k) % n < k else 0.25 + (i * 7 % 11) / 32 for i in range(n)]


def test_n_needed_of_requests() -> None:
    values = slow_ones(1000, 40)
    tau, k = series.slo_time(values, 1.0), series.over_limit(values, 1.0)
    least = series.slo_min_n(0.05, 0.05, tau)
    claim = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0, expected=0.03)
    verdict = judge(claim, requests(values))
    assert (verdict.reason, verdict.statistics["k"], k / 1000 < 0.05, least < 1000) == ("straddles", k, True, True)
    assert [verdict.n_needed, verdict.n_needed_90] == [series.slo_n(0.05, 0.03, 0.05, power, tau) for power in (0.8, 0.9)]
    unplanned = judge(replace(claim, expected=None), requests(values))
    assert (unplanned.reason, unplanned.n_needed, unplanned.n_needed_90) == ("straddles", least, least)
    leans_the_wrong_way(judge(replace(claim, bound=at_most(k / 1000), expected=0.001), requests(values)))


def test_too_few_requests_can_show_nothing() -> None:
    values = slow_ones(1000, 0)
    claim = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0)
    tau = series.slo_time(values[:40], 1.0)
    least = series.slo_min_n(0.05, 0.05, tau)
    verdict = judge(claim, requests(values[:40]))
    assert (verdict.reason, verdict.n_needed) == ("unattainable", least)
    assert f"n = 40 counts as {40 / tau:.0f}; below n = {least} nothing can pass" in verdict.sentence


def test_the_least_number_of_requests_that_can_pass_is_enough() -> None:
    """.95^59 < .05: with one of them over it is not shown, and could have been."""
    values = [2.0 if i == 20 else 0.25 + (i * 7 % 11) / 32 for i in range(59)]
    assert series.slo_min_n(0.05, 0.05, series.slo_time(values, 1.0)) == 59
    verdict = judge(Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0), requests(values))
    assert (verdict.outcome, verdict.reason, verdict.n_needed) == ("inconclusive", "straddles", 59)


def test_requests_scheduled_together_have_no_order() -> None:
    claim = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0)
    values = slow_ones(600, 6)
    assert judge(claim, requests(values, together=2)).outcome == "holds"  # half of them say when
    verdict = judge(claim, requests(values, together=3))
    assert (verdict.outcome, verdict.reason, verdict.n) == ("inconclusive", "degenerate_series", 600)
    assert verdict.sentence == "most requests were scheduled at the same time as another: no order, no queue"


def test_a_run_whose_end_is_slower_than_its_start_holds_nothing() -> None:
    """Each third alone is well within the limit: it is the change that is refused, and only where it would have held."""
    rng = random.Random(12)
    claim = replace(OVER, expected=0.01)
    values = [rng.uniform(0.1, 0.5) + 0.2 * (i > 700) for i in range(1200)]
    verdict = judge(claim, requests(values))
    found = steady.drift(values)
    assert (verdict.outcome, verdict.reason, verdict.n_needed, verdict.n_needed_90) == ("inconclusive", "not_steady", None, None)
    assert (verdict.statistics["later"], verdict.statistics["p_steady"]) == pytest.approx(found[:2], rel=1e-8)
    assert verdict.sentence.startswith(
        f"the run was not steady: a request of the last third is slower than one of the first with a chance of {found.later:.2f}"
    )
    assert f"(p = {found.p:.2g})" in verdict.sentence
    assert judge(claim, requests(values[::-1])).reason == "not_steady"  # nor one that grows faster
    assert judge(replace(claim, slo=0.15), requests(values)).reason == "over_slo"  # it may fail


@pytest.mark.parametrize(("later", "p", "outcome"), [
    (0.6, 0.0101, "holds"), (0.6, 0.01, "inconclusive"), (0.549, 0.001, "holds"), (0.55, 0.001, "inconclusive"),
    (0.4, 0.01, "inconclusive"), (0.451, 0.001, "holds"),
])  # fmt: skip
def test_how_much_of_a_change_is_refused(monkeypatch, later: float, p: float, outcome: str) -> None:
    claim = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0)
    monkeypatch.setattr(steady, "drift", lambda latencies: steady.Drift(later, p))
    assert judge(claim, requests(slow_ones(600, 6))).outcome == outcome


def ended(*ends: float | str) -> Measurement:
    """A row each, at 0, 1, 2 ...: a latency, or what it died of."""
    return measured(*(
        Sample(f"q{i:05d}", None, status=x, at=float(i)) if isinstance(x, str) else Sample(f"q{i:05d}", x, at=float(i))
        for i, x in enumerate(ends)
    ))  # fmt: skip


FINE = [0.25 + (i * 7 % 11) / 32 for i in range(100)]
OVER = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0)


def mixed(*ends: float | str) -> list[float | str]:
    return random.Random(1).sample([*ends, *FINE], len(ends) + len(FINE))


@pytest.mark.parametrize(
    ("ends", "reason", "said"),
    [
        (mixed(*[2.0 + i for i in range(60)]), "over_slo", "60 over_slo"),
        (mixed(*["http_error"] * 60), "error_share", "60 http_error"),
        (mixed(*["error"] * 60), "error_share", "60 error"),
        (mixed(*["shed"] * 60), "shed", "60 shed"),
        (mixed(*["truncated", "reset"] * 30), "reset", "30 reset, 30 truncated"),  # the first by name where as many
        (mixed(*["truncated"] * 31, *["reset"] * 29, 2.0), "truncated", "31 truncated, 29 reset, 1 over_slo"),
        (["shed", "reset"] * 30, "zero_completed", "30 reset, 30 shed"),
        ([*mixed(*["connect_failed"] * 60), 0.5], "connect_failed", "60 connect_failed"),  # it came back
        ([*mixed(*["connect_failed"] * 59), "reset"], "connect_failed", "59 connect_failed, 1 reset"),  # somebody listens
    ],
)
def test_a_failure_names_what_most_died_of(ends, reason: str, said: str) -> None:
    verdict = judge(OVER, ended(*ends))
    assert (verdict.outcome, verdict.reason) == ("fails", reason)
    assert verdict.sentence.endswith(f"; over: {said}")
    assert "the opposite is shown" in verdict.sentence


@pytest.mark.parametrize(
    ("ends", "outcome", "reason", "gone"),
    [
        ([*FINE, *["reset"] * 9, *["connect_failed"] * 51], "fails", "server_died", "109.000 s after the origin on, 51 of 160"),
        ([*FINE, *["connect_failed", "reset"] * 30, "connect_failed"], "fails", "server_died", "100.000 s after the origin on, 61 of 161"),
        ([*FINE * 2, *["connect_failed"] * 10], "inconclusive", "server_died", "200.000 s after the origin on, 10 of 210"),
        ([*FINE * 2, *["connect_failed"] * 11], "fails", "server_died", "200.000 s after the origin on, 11 of 211"),
        ([*FINE * 9, "connect_failed"], "inconclusive", "server_died", "900.000 s after the origin on, 1 of 901"),
        ([*mixed(*["shed"] * 60), "connect_failed"], "fails", "server_died", "160.000 s after the origin on, 1 of 161"),
        (["connect_failed"] * 60, "fails", "zero_completed", "0.000 s after the origin on, 60 of 60"),
        (["reset"] + ["connect_failed"] * 59, "fails", "zero_completed", "1.000 s after the origin on, 59 of 60"),
    ],
)
def test_a_server_that_is_gone_for_good_holds_nothing(ends, outcome: str, reason: str, gone: str) -> None:
    verdict = judge(OVER, ended(*ends))
    assert (verdict.outcome, verdict.reason, verdict.n_needed, verdict.n_needed_90) == (outcome, reason, None, None)
    assert verdict.sentence.startswith(f"the server ended: nobody listened from {gone} requests: ")
    assert "claimed at_most(0.05)" in verdict.sentence and "not decided" not in verdict.sentence


def test_impossible_latencies_are_named() -> None:
    claim = Claim("o", "t", at_most(0.05), estimand="over_limit", slo=1.0)
    values = slow_ones(600, 6)
    assert judge(claim, requests([0.0, *values[1:]])).outcome == "holds"
    verdict = judge(claim, requests([-0.5, *values[1:]]))
    assert (verdict.reason, verdict.n, verdict.sentence) == ("domain", 600, "a latency is negative")
    verdict = judge(claim, requests([0.5] * 300))
    assert (verdict.reason, verdict.n) == ("degenerate_series", 300)
    assert verdict.sentence.endswith("the sign of a broken clock or a stub")


# --- scores in a range ----------------------------------------------------------------------------


@pytest.mark.parametrize(("support", "r"), [((0.25, 2.25), 1.0), ((0.2, 1.2), 0.9)])
def test_two_items_leave_every_ratio_of_the_range_open(support: tuple[float, float], r: float) -> None:
    low, high = support
    verdict = judge(Claim("q", "t", at_least(r), estimand="relative_score", support=support), arms([0.8, 0.9], [0.7, 0.8]))
    assert (verdict.low, verdict.high) == pytest.approx((low / high, high / low), rel=1e-7)


def test_a_relative_score_without_a_distance_bets_on_a_twentieth_of_the_range() -> None:
    rng = random.Random(18)
    old = [0.5 + rng.random() for _ in range(60)]
    new = [x + 0.3 + 0.3 * rng.random() for x in old]
    claim = Claim("q", "t", at_least(1.0), estimand="relative_score", support=(0.25, 2.25))
    differences = [x - y for x, y in zip(new, old, strict=True)]
    tests = betting.bounded_mean_tests(differences, (-2.0, 2.0), 0.0, betting.seeded_order(60, "q"), 0.1, direction="above")
    verdict = judge(claim, arms(new, old))
    assert (verdict.p_hold, verdict.p_fail) == pytest.approx(tuple(tests), rel=1e-8)


def test_where_scores_may_be_nothing_the_search_for_a_ratio_still_ends() -> None:
    claim = Claim("q", "t", at_least(0.8), estimand="relative_score", support=(0.0, 1.0))
    open_ended = judge(claim, arms([0.6, 0.9], [0.5, 1.0]))
    assert (open_ended.low, open_ended.high) == pytest.approx((0.8e-6, 10 * (0.8 + 1.0)), rel=1e-7)
    undefined = judge(claim, arms([0.5] * 40, [0.0] * 40))
    assert (undefined.outcome, undefined.reason, undefined.n) == ("inconclusive", "domain", 40)
    assert undefined.sentence == "the reference scores nothing, so that no share of it can be claimed"
    least = judge(replace(claim, support=(0.2, 1.2)), arms([0.2] * 40, [0.7] * 40))
    assert least.low == pytest.approx(0.2 / 1.2, rel=1e-8)  # no score, no ratio lies lower
    leans_the_wrong_way(judge(replace(claim, bound=at_least(1.0)), arms([0.5, 0.7], [0.7, 0.5])))
    nothing = judge(claim, arms([0.0] * 40, [0.5] * 40))
    assert (nothing.outcome, nothing.estimate, nothing.low) == ("fails", 0.0, 0.0)


@pytest.mark.parametrize(
    ("bound", "expected", "u", "gap"),
    [
        (non_inferior(0.2), None, -0.2, 0.2),
        (non_inferior(0.2), 0.1, -0.2, 0.3),
        (non_inferior(0.2), -0.3, -0.2, 0.1),
        (better_than(), None, 0.0, 0.1),
        (better_than(0.1), 0.4, 0.1, 0.3),
    ],
)
def test_bets_are_tuned_to_what_is_expected(bound, expected: float | None, u: float, gap: float) -> None:
    """Or to a twentieth of the width where nothing on the good side is. A sequential claim stops at the first decision."""
    rng = random.Random(19)
    claim = Claim("s", "t", bound, estimand="sequential_difference", support=(1.0, 3.0), expected=expected)
    scores = {f"i{i:04d}": (1.9 + rng.random(), 1.2 + rng.random() / 2) for i in range(300)}
    rows = measured(*(Sample(item, x, arm) for item, pair in scores.items() for arm, x in zip(("new", "old"), pair, strict=True)))
    differences = [scores[item][0] - scores[item][1] for item in sequence(claim, list(scores))]
    n = betting.first_decision(differences, (-2.0, 2.0), u, claim.level, claim.level, gap, "above").n
    tests = betting.bounded_mean_tests(differences[:n], (-2.0, 2.0), u, range(n), gap, direction="above")
    interval = betting.bounded_mean_interval(differences[:n], (-2.0, 2.0), claim.level, range(n), gap, direction="above")
    statistics = {"n": n, "gap": gap, "measured": 300}
    carries(judge(claim, rows), interval, tests, math.fsum(differences[:n]) / n, n, "betting-difference/1", "exact", statistics)
    differences, order = [new - old for _, (new, old) in sorted(scores.items())], betting.seeded_order(300, "s")
    tests = betting.bounded_mean_tests(differences, (-2.0, 2.0), u, order, gap, direction="above")
    interval = betting.bounded_mean_interval(differences, (-2.0, 2.0), claim.level, order, gap, direction="above")
    verdict, mean = judge(replace(claim, estimand="paired_mean"), rows), math.fsum(differences) / 300
    carries(verdict, interval, tests, mean, 300, "betting-difference/1", "exact", {"n": 300, "gap": gap})


def test_differences_in_a_range_that_lean_the_wrong_way() -> None:
    claim = Claim("s", "t", non_inferior(0.1), estimand="paired_mean", support=(0.0, 1.0))
    leans_the_wrong_way(judge(claim, arms([0.2, 0.5, 0.6], [0.4, 0.7, 0.8])))


# --- scores without a range -----------------------------------------------------------------------


def drawn(n: int, mean: float, sd: float, seed: int) -> list[float]:
    """n normal values whose mean is just that."""
    rng = random.Random(seed)
    values = [rng.gauss(0.0, sd) for _ in range(n)]
    return [v - math.fsum(values) / n + mean for v in values]


@pytest.mark.parametrize(
    ("bound", "mean"),
    [(better_than(0.1), 0.2), (better_than(0.1), 0.12), (equivalent(0.1), 0.0), (equivalent(0.1), 0.3), (equivalent(0.1), -0.3)],
)
def test_paired_means_against_a_margin(bound, mean: float) -> None:
    values = drawn(50, mean, 0.3, 20)
    claim = Claim("s", "t", bound, estimand="paired_mean")
    found = means.cluster_mean(values, range(50), claim.level)
    above, below = (means.t_test_p(found.estimate, found.se, 49, d, "above") for d in (bound.limit, -bound.limit))
    tests = tuple(above)
    if bound.kind == "equivalent":
        tests = max(below.p_hold, above.p_fail), min(1.0, 2 * min(below.p_fail, above.p_hold))
    statistics = {"mean": found.estimate, "se": found.se, "df": 49, "skewness": found.skewness, "n": 50}
    verdict = judge(claim, arms(values, [0.0] * 50))
    carries(verdict, found[2:4], tests, found.estimate, 50, "paired-cluster-t/1", "asymptotic", statistics)


def test_paired_rows_that_cannot_be_summed() -> None:
    broken = measured(*arms([0.5, 0.6], [0.5, 0.5]).samples, Sample("j", None, "new", "error"), Sample("j", 0.5, "old"))
    verdict = judge(NI_MEAN, broken)
    assert (verdict.reason, verdict.sentence) == ("missing_data", "1 rows have no value; a sum cannot do without")
    same = judge(NI_MEAN, arms([0.5] * 40, [0.5] * 40))
    assert same.sentence == "all units agree exactly: a zero-width interval never decides"


GAIN = Claim("s", "t", better_than(), estimand="paired_mean")


def gained(*values: float) -> Measurement:
    return arms(list(values), [0.0] * len(values))


def test_superiority_needs_six_units_that_differ() -> None:
    few = judge(GAIN, gained(1.0, 1.5, 0.5, 1.0, 0.7, *[0.0] * 35))
    assert (few.outcome, few.reason, few.statistics["nonzero"]) == ("inconclusive", "unattainable", 5)
    assert few.sentence.endswith("not decided; 5 units differ; significance needs at least 6")
    assert judge(GAIN, gained(-0.1, 0.5, -0.05, 0.45, 0.1, 0.3)).reason == "straddles"
    leans_the_wrong_way(judge(GAIN, gained(*[0.1, -0.1] * 20)))
    same = judge(GAIN, gained(*[0.5] * 12))
    assert (same.reason, same.n) == ("zero_variance", 12)
    assert same.sentence == "all units agree exactly: a zero-width interval never decides; declare the support"


@pytest.mark.parametrize("spike", [1.0, 2.0, 4.0])
def test_skewed_gains_ask_for_units_or_a_range(spike: float) -> None:
    values = [spike, *drawn(29, 0.2, 0.1, 21)]
    skewness = means.cluster_mean(values, range(30), 0.025).skewness
    need = math.ceil(121 * skewness**2)
    verdict = judge(GAIN, gained(*values))
    assert (verdict.outcome, verdict.reason, verdict.n_needed, verdict.n_needed_90) == ("inconclusive", "skewed", need, None)
    assert verdict.sentence == f"30 units with skewness {skewness:.2f}; a mean needs {need} of them, or a declared support"


def test_as_many_units_as_the_skewness_needs_are_enough() -> None:
    rest = [0.3, *(0.3 + side * i / 100 for i in range(1, 20) for side in (1, -1))]

    def need(spike: float) -> int:
        return math.ceil(121 * means.cluster_mean([spike, *rest], range(40), 0.025).skewness ** 2)

    spike = next(x for x in (0.3 + i / 500 for i in range(500)) if need(x) >= 40)
    assert need(spike) == 40
    assert judge(GAIN, gained(spike, *rest)).outcome == "holds"


def test_names_that_are_no_text_have_a_place_in_the_sequence_too() -> None:
    """File names may hold bytes that are no UTF-8; they stand as lone surrogates."""
    claim = Claim("s", "t", non_inferior(0.1), estimand="sequential_difference", support=(0.0, 1.0))
    names = ["a", "b\udc80", "c"]
    assert sequence(claim, names) == sorted(names, key=lambda name: hashlib.sha256(b"s:" + name.encode("utf-8", "surrogatepass")).digest())


# --- what a control may say -----------------------------------------------------------------------


MEAN = Claim("m", "t", at_most(0.5), estimand="mean")
SLOWER = Claim("r", "t", at_most(1.1), estimand="run_ratio")


def shares(k: int, n: int) -> Measurement:
    return units(*[1.0] * k, *[0.0] * (n - k))


@pytest.mark.parametrize(
    ("claim", "data", "control", "reason"),
    [
        (NI, binary(0, 0, 200), binary(10, 12, 100), "control_undecided"),  # straddles
        (Claim("p", "t", at_least(0.2)), shares(90, 100), shares(5, 100), "control_failed"),  # no upper bound, no floor
        (MEAN, units(*[i / 100 for i in range(40)]), units(*[i / 40 for i in range(40, 80)]), "control_failed"),
        (KLD, units(*[0.01] * 80), units(*[0.9] * 80), "below_noise_floor"),
        (SLOWER, blocks(*RUNS), blocks(*((a, 2 * b, 2 * c, d) for a, b, c, d in RUNS)), "below_noise_floor"),
        (Claim("p", "t", at_most(0.2)), shares(1, 100), shares(0, 5), "control_undecided"),  # too few, and no noise in them
        (Claim("p", "t", at_most(0.2)), shares(1, 100), shares(1, 6), "below_noise_floor"),
    ],
)
def test_what_an_unchanged_subject_says_against_a_gate(claim: Claim, data: Measurement, control: Measurement, reason: str) -> None:
    assert judge(claim, data).outcome == "holds"
    verdict = judge(claim, data, controls=[Control("aa", ("holds",), control)])
    assert (verdict.outcome, verdict.reason) == ("inconclusive", reason)


def test_an_undecided_verdict_keeps_its_own_reason_beside_an_undecided_control() -> None:
    alone = judge(NI, binary(10, 12, 100))
    beside = judge(NI, binary(10, 12, 100), controls=[Control("aa", ("holds",), binary(0, 0, 20))])
    assert (beside.outcome, beside.reason, beside.sentence) == (alone.outcome, "straddles", alone.sentence)
    assert not beside.controls[0]["met"]


def test_a_release_names_three_claims_and_counts_the_others() -> None:
    names = tuple("abcd")
    for k, said in ((0, "none"), (1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more")):
        verdicts = {name: shown("holds", 0.001 if i < k else 0.9) for i, name in enumerate(names)} | {"g": shown("holds", 0.01)}
        found = release((Family("look", "exploratory", names), Family("guard", "all", ("g",))), verdicts)
        assert found.families[0]["reason"] == f"exploratory, gates nothing; below 0.025: {said}"


def test_a_refuted_gain_keeps_its_p() -> None:
    found = release((Family("gain", "any", ("a",)),), {"a": shown("fails", 0.9, "refuted")})
    assert found.families[0]["adjusted"] == {"a": 0.9}


# --- sides, words, edges --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "wrong", "right"),
    [
        (at_least(0.5), (0.4, 0.5), (0.6,)),
        (at_most(0.5), (0.6, 0.5), (0.4,)),
        (within(0.2, 0.5), (0.1, 0.2, 0.5, 0.6), (0.3,)),
        (non_inferior(0.1), (-0.2, -0.1), (-0.05, 0.1, 0.2)),
        (equivalent(0.1), (-0.2, -0.1, 0.1, 0.2), (-0.05, 0.0, 0.05)),
        (better_than(), (-0.1, 0.0), (0.1,)),
        (better_than(0.1), (0.0, 0.1), (0.2,)),
    ],
    ids=str,
)
def test_an_estimate_at_its_bound_lies_on_the_wrong_side(bound, wrong: tuple[float, ...], right: tuple[float, ...]) -> None:
    estimand = "mean" if bound.kind.startswith("at_") else None
    claim = Claim("x", "t", bound, estimand=estimand)
    assert all(wrong_side(claim, x) is True for x in wrong)
    assert all(wrong_side(claim, x) is False for x in right)


def test_what_is_asked_for_is_said() -> None:
    claim = Claim("p", "t", at_least(0.8), expected=0.9)
    some, most = (plan.proportion_n(0.8, 0.9, 0.05, power, "at_least").first for power in (0.8, 0.9))
    near = f"; n = {some} has power .80 where the declared alternative is true, so the truth may lie nearer to the bound"
    for n, said in ((most - 1, f"; n = {some} would settle it with power .80, {most} with .90"), (most, near), (most + 1, near)):
        verdict = judge(claim, shares(math.ceil(0.81 * n), n))
        assert (verdict.outcome, verdict.n_needed, verdict.n_needed_90) == ("inconclusive", some, most)
        assert verdict.sentence.endswith(f": not decided{said}")
    assert judge(replace(claim, expected=None), shares(9, 10)).sentence.endswith(": not decided")


def test_items_in_clusters_of_their_own_are_independent() -> None:
    rows = tuple(replace(s, cluster=f"c-{s.item}") for s in shares(95, 100).samples)
    assert judge(SHARE, measured(*rows)) == judge(SHARE, shares(95, 100))
    assert judge(SHARE, measured(*rows)).outcome == "holds"


@pytest.mark.parametrize(
    ("bound", "more", "words"),
    [
        (within(0.2, math.inf), {"estimand": "exact"}, "is not finite"),
        (within(0.2, 0.4), {"estimand": "mean"}, "within cannot decide 'mean'; it decides proportion, exact"),
        (non_inferior(0.0), {}, "inside (0, 1)"),
        (equivalent(0.0), {"estimand": "paired_mean"}, "the margin must be positive"),
        (at_most(0.0), {"estimand": "over_limit", "slo": 1.0}, "a share must be bounded inside (0, 1)"),
        (at_least(0.9), {"estimand": "relative_score", "support": (1.0, 1.0)}, "low < high"),
        (non_inferior(0.6), {"estimand": "paired_mean", "support": (0.5, 1.0)}, "less than the width of the support"),
    ],
    ids=str,
)
def test_a_bound_that_decides_nothing_says_why(bound, more, words: str) -> None:
    with pytest.raises(ClaimError, match=re.escape(words)):
        Claim("x", "t", bound, **more)


def test_a_bound_reads_as_it_is_written() -> None:
    said = [
        "at_least(0.5)",
        "at_most(1.5)",
        "within(0.2, 0.4)",
        "non_inferior(0.05)",
        "better_than(0)",
        "better_than(0.1)",
        "equivalent(0.03)",
    ]
    assert list(map(str, BOUNDS)) == [*said, "identical()"]


def decided(p_hold: float, p_fail: float, exactness: str = "exact", alpha_fail: float | None = None) -> Verdict:
    return settle(SHARE, Decided(p_hold, p_fail, 0.9, 0.85, 0.95, 100, "rule/1", exactness, {}, alpha_fail=alpha_fail))


def test_a_p_value_at_its_level_decides() -> None:
    assert [decided(p, 1.0).outcome for p in (0.05, 0.050001)] == ["holds", "inconclusive"]
    assert [decided(1.0, p).outcome for p in (0.05, 0.050001)] == ["fails", "inconclusive"]
    assert [decided(1.0, p, alpha_fail=0.01).outcome for p in (0.01, 0.010001)] == ["fails", "inconclusive"]


def test_a_decision_says_its_numbers() -> None:
    numbers = "0.9 [0.85, 0.95], n = 100; claimed at_least(0.8): "
    assert decided(0.0123, 1.0).sentence == numbers + "shown at p = 0.0123"
    assert decided(0.0123, 1.0, "bracketed").sentence == numbers + "shown at p <= 0.0123"
    assert decided(1.0, 0.0123).sentence == numbers + "the opposite is shown at p = 0.0123"
    assert decided(1.0, 0.0123, "bracketed").sentence == numbers + "the opposite is shown at p <= 0.0123"
    assert [decided(p, 1.0).reason for p in (0.01, 0.1)] + [decided(1.0, 0.01).reason] == ["proven", "straddles", "refuted"]


# --- a standard error from elsewhere --------------------------------------------------------------


def reporting(se: object, *rows: Sample) -> Measurement:
    return replace(measured(*rows), conditions={"reported_se": se})


def test_a_reported_standard_error_off_threefold_voids_the_verdict() -> None:
    values = sorted(drawn(60, 0.3, 0.1, 23))
    rows = [Sample(f"i{i:04d}", v, cluster=f"c{i // 2:04d}") for i, v in enumerate(values)] + [Sample("j", None, status="error")]
    ours = means.cluster_mean(values, [i // 2 for i in range(60)], 0.05).se
    assert ours > 1.3 * means.cluster_mean(values, range(60), 0.05).se  # two alike count once
    alone = judge(KLD_WIDE, measured(*rows))
    assert alone.outcome == "holds"
    for se in (ours / 3, ours, 3 * ours):
        assert judge(KLD_WIDE, reporting(se, *rows)) == alone
    for se in (ours / 3.005, ours * 3.005, 0, "small"):
        verdict = judge(KLD_WIDE, reporting(se, *rows))
        assert (verdict.outcome, verdict.reason, verdict.n) == ("inconclusive", "reported_se", 31)
        assert (
            verdict.sentence == f"the scores came with a standard error of {se}, the rows give {ours:.3g}: one of them is not what it says"
        )


def test_a_standard_error_takes_two_units() -> None:
    two = [Sample("a", 0.0), Sample("b", 0.2)]
    assert judge(KLD_WIDE, reporting(9.0, *two)).reason == "reported_se"
    assert judge(KLD_WIDE, reporting(0.1, *two)).reason == "straddles"
    assert judge(KLD_WIDE, reporting(9.0, *two[:1])).reason == "straddles"


KLD_WIDE = Claim("m", "t", at_most(0.6), estimand="bounded_mean", support=(-0.5, 1.0))


def test_a_third_arm_is_none_of_a_pair() -> None:
    rows = arms([1.0] * 30, [0.5] * 30).samples
    third = tuple(replace(s, arm="other") for s in rows[:30])
    verdict = judge(Claim("s", "t", better_than(), estimand="paired_mean", support=(0.0, 1.0)), measured(*rows, *third))
    assert (verdict.outcome, verdict.reason, verdict.n) == ("inconclusive", "unpaired_items", 30)
    assert verdict.sentence == "3 items are not in both arms: new, old, other"


def test_a_verdict_keeps_nine_digits() -> None:
    third = Verdict("holds", "proven", "s", 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, n=3, n_eff=1 / 3, statistics={"x": 1 / 3, "k": 7})
    kept = tidy(third)
    assert {kept.estimate, kept.low, kept.high, kept.level, kept.p_hold, kept.p_fail, kept.n_eff, kept.statistics["x"]} == {0.333333333}
    assert (kept.statistics["k"], kept.n) == (7, 3)
    verdict = judge(KAPPA, pairs_that_agree(40, 2))
    assert all(x == float(f"{x:.9g}") for x in (verdict.low, verdict.p_hold, *verdict.statistics.values()))


def test_rows_of_two_arms_are_no_single_sample_unless_each_is_checked_by_itself() -> None:
    data = arms([1.0] * 30, [1.0] * 30)
    assert judge(Claim("x", "t", identical()), data).outcome == "holds"
    verdict = judge(SHARE, data)
    assert (verdict.reason, verdict.n, verdict.sentence) == ("domain", 30, "one arm is judged, and the rows name new, old")


def test_numbers_without_room_for_their_squares_are_none() -> None:
    assert judge(SHARE, units(1.0, 1e300)).reason == "non_finite"
    assert judge(SHARE, units(1.0, -9e299)).reason == "domain"  # a number, and neither 0 nor 1


# --- refusals in words ----------------------------------------------------------------------------


def refused(verdict: Verdict, reason: str, n: int, sentence: str) -> None:
    assert (verdict.outcome, verdict.reason, verdict.n, verdict.sentence) == ("inconclusive", reason, n, sentence)


def test_clusters_that_a_rule_cannot_take_are_named() -> None:
    claim = Claim("s", "t", non_inferior(0.1), estimand="sequential_difference", support=(0.0, 1.0))
    both = arms([1.0] * 6, [1.0] * 6, cluster="one")
    refused(judge(claim, both), "clustered", 6, "sequential_difference takes independent items, and a cluster holds several")
    torn = tuple(replace(s, cluster=f"{s.arm}-{s.item}" if s.item != "i0000" else None) for s in arms([1.0] * 6, [1.0] * 6).samples)
    refused(judge(NI, measured(*torn)), "clustered", 6, "5 items belong to two clusters, first: 'i0001'")


def test_a_reference_may_fail_on_one_row_in_ten() -> None:
    def broken(failed: int, status: str = "error") -> Measurement:
        rows = arms([1.0] * 20, [1.0] * 20).samples
        return measured(*(replace(s, value=None, status=status) if s.arm == "old" and s.item < f"i{failed:04d}" else s for s in rows))

    assert judge(NI, broken(2)).reason != "missing_data"
    refused(judge(NI, broken(3)), "missing_data", 20, "the reference itself failed on 3 of 20 rows: nothing to compare with")
    assert judge(NI, broken(3, "truncated")).reason != "missing_data"  # a wrong answer, as it would be in the other arm
    void = judge(SPEED, blocks(*RUNS[:2], *((None, *row[1:3], None) for row in RUNS)))
    refused(void, "missing_data", 2, "4 of 6 blocks are void, a run in each failed; at most one in ten may be")


def test_malformed_rows_come_first_and_are_cut_short() -> None:
    verdict = judge(SHARE, replace(measured(Sample(7, 1.0, detail={"text": "x" * 400}), Sample("a", 1.0)), invalid=("late",)))
    assert (verdict.outcome, verdict.reason, verdict.n, len(verdict.sentence)) == ("inconclusive", "domain", 0, 300)
    assert verdict.sentence.startswith("1 rows are malformed, expected names as text: Sample(item=7")


def test_a_refusal_counts_what_could_not_be_used() -> None:
    verdict = judge(replace(SHARE, min_n=10), units(1.0, None, None))
    assert (verdict.reason, verdict.n_unusable, verdict.alpha, verdict.n_needed) == ("min_n", 2, 0.05, 10)


def test_what_a_rule_cannot_compute_is_a_refusal() -> None:
    verdict = judge(KAPPA, arms([1.0] * 5, [1.0] * 5))
    assert (verdict.reason, verdict.n, verdict.alpha) == ("domain", 10, 0.05)
    assert verdict.sentence.startswith("the data lie outside the domain of the rule: ")
    huge = judge(PPL, units(*(1e5 + i / 7 % 1 for i in range(60)), weight=1.0))
    refused(huge, "domain", 60, "the data lie outside the domain of the rule: math range error")


@pytest.mark.parametrize("field", ["estimate", "low", "high", "p_hold", "p_fail"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_no_rule_can_hold_on_a_number_that_overflowed(field: str, number: float) -> None:
    said = replace(Verdict("holds", "proven", "s", 0.9, 0.85, 0.95, 0.9, 0.01, 1.0, n=2), **{field: number})
    rules = importlib.import_module("harness.judge")._RULES
    with mock.patch.dict(rules, {"proportion": lambda claim, measurement: said}):
        verdict = judge(SHARE, units(1.0, None))
    refused(verdict, "domain", 2, "the values are too large for the rule: a number overflowed")
    assert (verdict.alpha, verdict.n_unusable, verdict.p_hold) == (0.05, 1, None)


# --- contaminated items ---------------------------------------------------------------------------


def seen(data: Measurement, *items: int) -> Measurement:
    names = {f"i{i:04d}" for i in items}
    return measured(*(replace(s, detail={"contaminated": True}) if s.item in names else s for s in data.samples))


def test_a_claim_must_hold_without_the_items_that_may_have_been_seen() -> None:
    planned = replace(SHARE, items=items_digest(f"i{i:04d}" for i in range(100)), min_n=100)
    data = shares(95, 100)
    assert judge(planned, seen(data, *range(10))) == judge(planned, data)  # the plan is that of all items
    undecided = judge(planned, seen(data, *range(80)))
    rest = judge(SHARE, measured(*data.samples[80:]))
    assert (undecided.outcome, undecided.reason, undecided.n) == ("inconclusive", "contaminated", 20)
    assert undecided.sentence == f"it holds with the contaminated items, and is not decided without them: {rest.sentence}"
    losing = judge(Claim("p", "t", at_least(0.4)), seen(shares(60, 100), *range(60)))
    rest = judge(Claim("p", "t", at_least(0.4)), measured(*shares(60, 100).samples[60:]))
    assert (losing.outcome, losing.reason, losing.n, losing.p_fail) == ("fails", "refuted", 40, rest.p_fail)
    assert losing.sentence == f"it holds only with contaminated items; without them: {rest.sentence}"
    failing = shares(10, 100)
    assert judge(planned, seen(failing, *range(50))) == judge(planned, failing)  # losing items strengthens nothing
    one_is_enough = Claim("x", "t", identical(), min_n=2)
    assert judge(one_is_enough, seen(shares(2, 2), 0)).outcome == "holds"
