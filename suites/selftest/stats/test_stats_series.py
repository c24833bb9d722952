"""Dependent latencies: published iid tables, autocorrelations against numpy, the Markov chain binomial by enumeration."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from harness.stats.intervals import clopper_pearson
from harness.stats.series import (
    early_stopping_n,
    integrated_time,
    over_limit,
    quantile_ranks,
    quantile_upper_rank,
    slo_interval,
    slo_min_n,
    slo_n,
    slo_tests,
    slo_time,
)

pytestmark = pytest.mark.selftest

quick = settings(derandomize=True, deadline=None, max_examples=60)


def geyer(values):
    """Geyer's estimate after the reference, by numpy."""
    y = np.asarray(values, float) - np.mean(values)
    covariance = np.correlate(y, y, "full")[len(y) - 1 :]
    total, last = 0.0, math.inf
    for j in range(0, len(y) - 1, 2):
        last = min(last, covariance[j] + covariance[j + 1])
        if last <= 0:
            break
        total += last
    return max(1.0, 2 * total / covariance[0] - 1)


def autoregression(phi, n, seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    for i in range(1, n):
        z[i] = phi * z[i - 1] + math.sqrt(1 - phi * phi) * z[i]
    return z.tolist()


# --- integrated time ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 101, 1000, 3001])
@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.8, 0.99])
def test_integrated_time_is_geyers(phi, n):
    z = autoregression(phi, n, n)
    assert integrated_time(z) == pytest.approx(geyer(z), abs=1e-9)
    high = [float(x > 0.5) for x in z]
    if len(set(high)) == 2:
        assert integrated_time(high) == pytest.approx(geyer(high), abs=1e-9)


def test_integrated_time_by_hand() -> None:
    # 0 0 1 1: deviations -1/2 -1/2 1/2 1/2, products over lags 1, 1/4, -1/2, -1/4; pairs 5/4, -3/4
    assert integrated_time([0, 0, 1, 1]) == 2 * 1.25 - 1
    # 0 1 0 1 falls at once: 1 - 3/4 = 1/4, then 1/2 - 1/4 = 1/4; -1 + 2 (1/4 + 1/4) = 0
    assert integrated_time([0, 1, 0, 1]) == 1.0
    # 1 2 4 7 11 16 by fractions: products 1010/6, 503/6, ... pairs 1513/6, then negative
    y = [x - 41 / 6 for x in (1, 2, 4, 7, 11, 16)]
    lag0, lag1 = sum(a * a for a in y), sum(a * b for a, b in itertools.pairwise(y))
    assert integrated_time([1, 2, 4, 7, 11, 16]) == pytest.approx(2 * (lag0 + lag1) / lag0 - 1, rel=1e-11)


def test_the_sequence_is_made_monotone() -> None:
    """A slow wave: a later pair exceeds an earlier one and counts as the earlier."""
    z = [math.sin(i / 2) + 3 * (i // 100 % 2) + (0.7 if i % 16 == 0 else 0) for i in range(1600)]
    y = np.array(z) - np.mean(z)
    covariance = np.correlate(y, y, "full")[1599:]
    pairs = covariance[0::2] + covariance[1::2]
    cut = int(np.argmax(pairs <= 0))
    assert np.any(np.diff(pairs[:cut]) > 0)
    assert integrated_time(z) == pytest.approx(2 * np.minimum.accumulate(pairs[:cut]).sum() / covariance[0] - 1, abs=1e-9)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_integrated_time_of_an_autoregression(phi):
    """tau = (1 + phi) / (1 - phi): the mean of 30 runs of 4000 within 8 %."""
    mean = np.mean([integrated_time(autoregression(phi, 4000, seed)) for seed in range(30)])
    assert mean == pytest.approx((1 + phi) / (1 - phi), rel=0.08)


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_integrated_time_knows_no_scale_or_origin(values, scale, shift):
    if max(values) - min(values) < 1:
        return
    assert integrated_time(values) >= 1
    assert integrated_time([scale * x + shift for x in values]) == pytest.approx(integrated_time(values), rel=1e-5)
    assert integrated_time(values[::-1]) == pytest.approx(integrated_time(values), rel=1e-9)


def test_integrated_time_errors() -> None:
    for values in ([], [3.0], [2.0] * 9):
        with pytest.raises(ValueError, match=r"^degenerate: "):
            integrated_time(values)
    for values in ([1.0, math.nan], [math.nan, 1.0], [1.0, math.inf], [-1e308, 1e308]):
        with pytest.raises(ValueError, match="expected finite numbers"):
            integrated_time(values)


# --- the time of a run ----------------------------------------------------------------------------


def scores(latencies):
    """Mid-ranks and Savage scores, tied scores averaged, by scipy."""
    x = np.array([np.inf if v is None else v for v in latencies])
    n = len(x)
    savage = np.cumsum(1 / np.arange(n, 0, -1))
    mean = np.array([savage[(np.sort(x) == v).nonzero()[0]].mean() for v in x])
    return stats.rankdata(x), mean


@pytest.mark.parametrize(
    ("phi", "digits", "failures", "limit"), [(0.0, 9, 0, 5.0), (0.9, 9, 0, 5.0), (0.9, 0, 7, 3.0), (0.5, 1, 40, 9e9), (0.97, 9, 3, -1.0)]
)
def test_slo_time(phi, digits, failures, limit):
    x = [round(math.exp(z), digits) for z in autoregression(phi, 600, 7)]
    for i in range(failures):
        x[13 * i % 600] = None
    series = list(scores(x))
    over = np.array([v is None or v > limit for v in x])
    if 0 < over.sum() < 600:
        series.append(over)
    tau = max(map(geyer, series))
    assert slo_time(x, limit) == pytest.approx(tau + 6 * tau * math.sqrt((tau - 1) / 600), rel=1e-9)


def test_each_series_is_needed() -> None:
    """The slow end alone, the body alone, and "over the limit" alone can be what depends."""
    rng = random.Random(5)
    n = 2000
    noise = [rng.random() for _ in range(n)]
    bursts = [x + 5 * (i // 40 % 25 == 3) for i, x in enumerate(noise)]  # 4 in 100 are slow, 40 at a time
    body = [x / 100 + (i // 20 % 2) for i, x in enumerate(noise)]
    band = [0.5 + i % 2 / 4 + x / 9 if 400 <= i < 420 else x for i, x in enumerate(noise)]
    ranks, savage = scores(bursts)
    assert geyer(savage) > 1.5 * geyer(ranks) and slo_time(bursts, 9.0) > geyer(savage)
    ranks, savage = scores(body)
    assert geyer(ranks) > 1.1 * geyer(savage) and slo_time(body, 9.0) > geyer(ranks)
    worst = [x + (9 if 700 <= i < 712 else 0) for i, x in enumerate(band)]
    assert slo_time(worst, 8.0) > 1.5 * slo_time(worst, 99.0)


def test_ties_share_their_mean_score() -> None:
    x = [2.0 if i // 12 % 21 == 4 else (7 * i * i + i) % 31 / 30 for i in range(500)]
    ranks, savage = scores(x)
    assert geyer(savage) > 1.05 * geyer(ranks)
    tau = geyer(savage)
    assert slo_time(x, 9.0) == pytest.approx(tau + 6 * tau * math.sqrt((tau - 1) / 500), rel=1e-9)


def test_failures_rank_above_every_latency() -> None:
    x = [math.exp(z) for z in autoregression(0.9, 500, 1)]
    cut = sorted(x)[450]
    failed = [v if v <= cut else None for v in x]
    clipped = [v if v <= cut else 1e12 for v in x]
    assert slo_time(failed, cut) == slo_time(clipped, cut)
    assert over_limit(failed, 2 * cut) == over_limit(clipped, 2 * cut) == 49


def test_independent_requests_have_no_time() -> None:
    times = [slo_time([math.exp(z) for z in autoregression(0.0, 1000, seed)], 20.0) for seed in range(40)]
    assert times.count(1.0) >= 10
    assert np.mean(times) < 1.2


@quick
@given(st.integers(0, 10**6), st.floats(0.001, 1000))
def test_slo_time_invariances(seed, scale):
    rng = random.Random(seed)
    x = [round(rng.lognormvariate(0, 1), 1) if rng.random() > 0.05 else None for _ in range(80)]
    tau = slo_time(x, 2.0)
    assert tau >= 1
    assert slo_time([v and scale * v for v in x], 2.0 * scale) == pytest.approx(tau, rel=1e-12)
    assert slo_time([v if v is None else v + 1 for v in x], 3.0) == tau
    assert slo_time([v if v is None else v**3 for v in x], 8.0) == tau


def test_degenerate_runs() -> None:
    for x in ([0.0] * 500, [1.0], [2.0] * 91 + [float(i) for i in range(9)], [2.0] * 91 + [None] * 9):
        with pytest.raises(ValueError, match=r"^degenerate: .* expected a clock"):
            slo_time(x, 1.0)
    assert slo_time([2.0] * 90 + [float(i) for i in range(3, 13)], 1.0) > 1
    assert slo_time([None] * 5, 1.0) == 1.0
    assert slo_time([None] * 99 + [0.2], 1.0) >= 1  # nearly all failed: no sign of a broken clock


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_latencies_are_refused(bad):
    for latencies, limit in (([1.0, bad, 2.0], 1.5), ([1.0, 2.0], bad)):
        with pytest.raises(ValueError, match="expected finite"):
            over_limit(latencies, limit)
        with pytest.raises(ValueError, match="expected finite"):
            slo_time(latencies, limit)


def test_a_run_without_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="no latencies, expected"):
        slo_time([], 1.0)


def test_over_limit() -> None:
    assert over_limit([1.0, 2.0, 2.0000001, None, 0.0], 2.0) == 2
    assert over_limit([], 1.0) == 0


# --- the share over the limit ---------------------------------------------------------------------


@pytest.mark.parametrize(("share", "tau"), [(0.1, 3.0), (0.5, 19.0), (0.3, 1.0), (0.01, 200.0)])
def test_the_chain_by_enumeration(share, tau):
    rho = (tau - 1) / (tau + 1)
    step = {(1, 1): share + (1 - share) * rho, (0, 1): share * (1 - rho)}
    step |= {(1, 0): 1 - step[1, 1], (0, 0): 1 - step[0, 1]}
    n = 9
    mass = [0.0] * (n + 1)
    for path in itertools.product((0, 1), repeat=n):
        mass[sum(path)] += (share if path[0] else 1 - share) * math.prod(step[pair] for pair in itertools.pairwise(path))
    for k in range(n + 1):
        assert slo_tests(k, n, tau, share).p_hold == pytest.approx(sum(mass[: k + 1]), abs=1e-13)


@pytest.mark.parametrize(("k", "n"), [(40, 900), (300, 700), (2, 5000), (699, 700)])
@pytest.mark.parametrize("tau", [1.5, 30.0, 400.0])
def test_the_chain_by_steps(k, n, tau):
    """The law of the count by one step of the chain after another."""
    for share in (0.05, 0.4):
        rho = (tau - 1) / (tau + 1)
        leave, enter = (1 - share) * (1 - rho), share * (1 - rho)
        over, within = np.zeros(k + 1), np.zeros(k + 1)
        over[1], within[0] = share, 1 - share
        for _ in range(n - 1):
            up = np.concatenate([[0.0], (over * (1 - leave) + within * enter)[:-1]])  # mass above k is dropped
            over, within = up, over * leave + within * (1 - enter)
        assert slo_tests(k, n, tau, share).p_hold == pytest.approx((over + within).sum(), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("k", "n"), [(0, 299), (1, 473), (3, 1000), (50, 60), (5000, 5000)])
def test_independent_requests_are_binomial(k, n):
    for share in (0.01, 0.05, 0.5):
        expected = (stats.binom.cdf(k, n, share), stats.binom.sf(k - 1, n, share))
        assert slo_tests(k, n, 1.0, share) == pytest.approx(expected, rel=1e-9, abs=1e-20)
    for alpha in (0.05, 0.01):
        assert slo_interval(k, n, 1.0, alpha) == pytest.approx(clopper_pearson(k, n, alpha), rel=1e-9)


@pytest.mark.parametrize(("k", "n", "tau"), [(7, 400, 2.5), (300, 5000, 40.0), (1, 10, 3.0), (12, 12, 5.0)])
def test_p_fail_counts_fewer_independent_requests(k, n, tau):
    for share in (0.01, 0.2):
        assert slo_tests(k, n, tau, share).p_fail == pytest.approx(special.betainc(k / tau, (n - k) / tau + 1, share), rel=1e-9, abs=1e-300)
    assert slo_interval(k, n, tau, 0.05).low == pytest.approx(special.betaincinv(k / tau, (n - k) / tau + 1, 0.05), rel=1e-9)


@quick
@given(st.integers(1, 400), st.floats(0, 1), st.floats(1, 60), st.floats(0.005, 0.5), st.sampled_from([0.05, 0.01, 0.2]))
def test_interval_and_tests_agree(n, part, tau, share, alpha):
    k = round(part * n)
    p_hold, p_fail = slo_tests(k, n, tau, share)
    low, high = slo_interval(k, n, tau, alpha)
    assert 0 <= low <= k / n <= high <= 1
    assert 0 <= p_hold <= 1 + 1e-12 and 0 <= p_fail <= 1
    assert not (p_hold <= alpha and p_fail <= alpha)
    if abs(high - share) > 1e-9:
        assert (p_hold <= alpha) == (high < share)
    if abs(low - share) > 1e-9:
        assert (p_fail <= alpha) == (low > share)
    wide = slo_interval(k, n, tau, alpha / 2)
    assert wide.low <= low + 1e-15 and wide.high >= high - 1e-15


@quick
@given(st.integers(2, 600), st.floats(0, 1), st.floats(1, 80), st.floats(0, 20), st.floats(0.005, 0.2))
def test_dependence_and_more_over_never_help(n, part, tau, more, share):
    k = int(part * share * n)
    p_hold, p_fail = slo_tests(k, n, tau, share)
    longer = slo_tests(k, n, tau + more, share)
    if longer.p_hold <= 0.2:
        assert p_hold <= longer.p_hold + 1e-12
    worse = slo_tests(k + 1, n, tau, share)
    assert worse.p_hold >= p_hold - 1e-12 and worse.p_fail <= p_fail + 1e-12
    assert slo_tests(k, n, tau, share * 1.1).p_hold <= p_hold + 1e-12


def test_every_request_over_fails() -> None:
    tests = slo_tests(600, 600, 1.0, 0.01)
    assert tests.p_hold == 1.0 and tests.p_fail < 1e-300
    assert slo_interval(600, 600, 1.0, 0.05).high == 1.0
    assert slo_tests(0, 600, 4.0, 0.01).p_fail == 1.0
    assert slo_interval(0, 600, 4.0, 0.05).low == 0.0


@pytest.mark.parametrize(
    ("k", "n", "tau", "share"),
    [
        (-1, 5, 1, 0.1), (6, 5, 1, 0.1), (0, 0, 1, 0.1), (1, 5, 0.99, 0.1), (1, 5, math.inf, 0.1), (1, 5, math.nan, 0.1),
        (1, 5, 1, 0.0), (1, 5, 1, 0.51),
    ],
)  # fmt: skip
def test_domain_errors(k, n, tau, share):
    with pytest.raises(ValueError, match=r"expected (n >= 1, 0 <= k <= n and 1 <= tau|0 < share)"):
        slo_tests(k, n, tau, share)
    if 0 < share <= 0.5:
        with pytest.raises(ValueError, match=r"expected (n >= 1, 0 <= k <= n and 1 <= tau|0 < share)"):
            slo_interval(k, n, tau, 0.05)


# --- how many requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "row"), [(0.05, (59, 299, 2995)), (0.01, (90, 459, 4603))])
def test_min_n(alpha, row):
    """Section 3.8."""
    assert tuple(slo_min_n(share, alpha) for share in (0.05, 0.01, 0.001)) == row


@pytest.mark.parametrize("tau", [1.0, 2.5, 40.0])
def test_min_n_is_where_none_over_begins_to_hold(tau):
    for share, alpha in ((0.01, 0.05), (0.05, 0.01), (0.5, 0.2)):
        n = slo_min_n(share, alpha, tau)
        assert slo_tests(0, n, tau, share).p_hold <= alpha < (slo_tests(0, n - 1, tau, share).p_hold if n > 1 else 1.0)
        enter = share * 2 / (tau + 1)  # none over: (1 - share) (1 - enter)^(n - 1)
        assert n == 1 + max(0, math.ceil(math.log(alpha / (1 - share)) / math.log1p(-enter)))


@pytest.mark.parametrize(
    ("q", "confidence", "row"),
    [
        # section 5.6; 459, 662 and 64 are LoadGen's
        (0.90, 0.99, (44, 64, 81, 127, 197, 325, 681, 1246)),
        (0.95, 0.99, (90, 130, 165, 259, 398, 656, 1372, 2504)),
        (0.99, 0.99, (459, 662, 838, 1307, 2010, 3304, 6898, 12571)),
        (0.999, 0.99, (4603, 6636, 8403, 13105, 20140, 33097, 69058, 125826)),
        (0.95, 0.95, (59, 93, 124, 208, 336, 577, 1260, 2353)),
        (0.99, 0.95, (299, 473, 628, 1049, 1693, 2902, 6323, 11799)),
    ],
)
def test_early_stopping(q, confidence, row):
    assert tuple(early_stopping_n(t, q, confidence) for t in (0, 1, 2, 5, 10, 20, 50, 100)) == row
    for t, n in zip((0, 5, 100), (row[0], row[3], row[7]), strict=True):
        assert quantile_upper_rank(n, q, 1 - confidence) == n - t
        rank = quantile_upper_rank(n - 1, q, 1 - confidence)
        assert rank == n - t if t else rank is None


def test_early_stopping_at_its_smallest() -> None:
    """One request within the limit may already be enough; none never is."""
    assert early_stopping_n(3, 0.005, 0.95) == 4
    assert early_stopping_n(0, 0.01, 0.95) == 1


@pytest.mark.parametrize(("rate", "power", "stays"), [(0.005, 0.8, 2185), (0.005, 0.9, 2784), (0.002, 0.8, 773), (0.002, 0.9, 913)])
def test_n_for_power(rate, power, stays):
    """The first n, against a scan, and below the n of section 5.6 from which the power stays."""
    n = np.arange(200, 2800)
    held = (stats.binom.cdf(np.arange(40)[:, None], n, 0.01) <= 0.05).sum(0) - 1
    enough = stats.binom.cdf(held, n, rate) >= power
    assert slo_n(0.01, rate, 0.05, power) == n[enough][0] <= stays
    assert n[~enough][-1] == stays - 1


@pytest.mark.parametrize("tau", [3.0, 25.0])
def test_n_for_power_grows_with_the_time(tau):
    n = slo_n(0.01, 0.002, 0.05, 0.8, tau)
    held = [k for k in range(200) if slo_tests(k, n, tau, 0.01).p_hold <= 0.05]
    assert slo_tests(held[-1], n, tau, 0.002).p_hold >= 0.8
    assert tau / 2 < n / slo_n(0.01, 0.002, 0.05, 0.8) < tau
    assert slo_n(0.01, 0.0, 0.05, 0.8, tau) == slo_min_n(0.01, 0.05, tau)


def test_planning_errors() -> None:
    for call in (
        lambda: slo_interval(1, 5, 1.0, 0.5), lambda: slo_interval(1, 5, 1.0, 0.0),
        lambda: slo_min_n(0.6, 0.05), lambda: slo_min_n(0.01, 0.5), lambda: slo_min_n(0.01, 0.05, 0.9),
        lambda: slo_n(0.01, 0.01, 0.05, 0.8), lambda: slo_n(0.01, -0.1, 0.05, 0.8), lambda: slo_n(0.01, 0.002, 0.05, 1.0),
        lambda: slo_n(0.01, 0.002, 0.05, 0.0), lambda: slo_n(0.01, 0.002, 0.05, 0.8, 0.5), lambda: slo_n(0.0, 0.0, 0.05, 0.8),
        lambda: slo_n(0.01, 0.002, 0.5, 0.8), lambda: early_stopping_n(-1, 0.99, 0.95), lambda: early_stopping_n(0, 1.0, 0.95),
        lambda: early_stopping_n(0, 0.99, 0.5), lambda: early_stopping_n(0, 0.99, 1.0), lambda: quantile_ranks(0, 0.5, 0.05),
        lambda: quantile_ranks(10, 0.0, 0.05), lambda: quantile_ranks(10, 0.5, 0.5), lambda: quantile_upper_rank(10, 0.5, 0.0),
        lambda: quantile_upper_rank(0, 0.5, 0.05), lambda: quantile_upper_rank(10, 1.0, 0.05),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            call()


@pytest.mark.parametrize("tau", [0.9, math.inf, math.nan])
def test_planning_needs_a_time(tau):
    for call in (lambda: slo_min_n(0.01, 0.05, tau), lambda: slo_n(0.01, 0.002, 0.05, 0.8, tau)):
        with pytest.raises(ValueError, match="1 <= tau < inf"):
            call()


# --- order statistics -----------------------------------------------------------------------------


def test_published_ranks() -> None:
    """Section 3.8: sample p98.3 to p99.7 at n = 1000; both ends exist from 72, 368, 3688 requests on."""
    assert quantile_ranks(1000, 0.99, 0.025) == (983, 997)
    assert tuple(round(r / 10_000, 3) for r in quantile_ranks(10_000, 0.99, 0.025)) == (0.988, 0.992)
    for q, n in ((0.95, 72), (0.99, 368), (0.999, 3688)):
        assert quantile_ranks(n, q, 0.025)[1] == n
        assert quantile_ranks(n - 1, q, 0.025)[1] is None
        assert quantile_ranks(n, 1 - q, 0.025)[0] == 1
        assert quantile_ranks(n - 1, 1 - q, 0.025)[0] is None


@pytest.mark.parametrize(("n", "q"), [(368, 0.99), (1000, 0.99), (5000, 0.99), (200, 0.9), (33, 0.5), (72, 0.95), (367, 0.99), (6, 0.02)])
def test_ranks_against_scipy(n, q):
    values = list(range(1, n + 1))
    for alpha in (0.025, 0.05):
        limits = stats.quantile_test(values, q=1, p=q).confidence_interval(1 - 2 * alpha)
        expected = tuple(None if math.isnan(limit) else int(limit) for limit in limits)
        assert quantile_ranks(n, q, alpha) == expected


def test_ranks_cover_by_enumeration() -> None:
    """X_(r) <= quantile iff at least r of n are below it."""
    for n, q, alpha in ((50, 0.5, 0.05), (400, 0.99, 0.025), (300, 0.9, 0.01)):
        low, high = quantile_ranks(n, q, alpha)
        assert stats.binom.cdf(low - 1, n, q) <= alpha < stats.binom.cdf(low, n, q)
        assert stats.binom.sf(high - 1, n, q) <= alpha < stats.binom.sf(high - 2, n, q)
        upper = quantile_upper_rank(n, q, alpha)
        assert stats.binom.sf(upper - 1, n, q) < alpha <= stats.binom.sf(upper - 2, n, q)


def test_the_upper_rank_is_the_binomial_test() -> None:
    """The order statistic lies within the limit iff the number over it holds the claim."""
    for n in (299, 473, 1000, 2500):
        rank = quantile_upper_rank(n, 0.99, 0.05)
        assert slo_tests(n - rank, n, 1.0, 0.01).p_hold < 0.05 < slo_tests(n - rank + 1, n, 1.0, 0.01).p_hold
