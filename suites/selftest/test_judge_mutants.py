"""What mutation testing found unpinned in the judge: that a verdict carries the numbers of its rule, and a refusal its count and words."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, better_than, equivalent, identical, non_inferior, within
from harness.bounds import from_dict
from harness.errors import ClaimError, ConfigError
from harness.judge import judge, not_evaluated, release
from harness.stats import agreement, betting, corrected, intervals, means, paired, permutation, plan, ratio, series
from harness.types import Family, Verdict

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
    statistics = {"k": k, "n": 900, "tau": tau, "slo": 0.8}
    carries(verdict, interval, tests, k / 900, 900, "over-limit-markov/1", "asymptotic", statistics)
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
    """.4^4 = .0256 < .05 < .4^3: three units that all agree show nothing, four do."""
    few = judge(KAPPA, arms([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]))
    assert (few.reason, few.n_needed, few.n_needed_90) == ("unattainable", 4, 4)
    assert "not even 3 units" in few.sentence
