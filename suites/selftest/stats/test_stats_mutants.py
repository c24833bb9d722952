"""What mutation testing found unpinned: edges, defaults and helpers, each a statement of its own, fast."""

import functools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from unittest import mock

import pytest
from scipy import optimize, stats

from harness.stats import changes, means, paired, plan, special
from harness.stats.agreement import krippendorff
from harness.stats.betting import betting_log_wealth, betting_p, bounded_mean_interval, bounded_mean_tests, first_decision, running_tests
from harness.stats.changes import change_points
from harness.stats.corrected import lee_interval
from harness.stats.intervals import wilson
from harness.stats.means import MeanResult, cluster_mean
from harness.stats.paired import equivalence, newcombe, noninferiority, noninferiority_region, staircase_probability, tango_interval
from harness.stats.permutation import sign_flip
from harness.stats.ratio import abba, abba_sign_flip, abba_tests, block_log_ratio
from harness.stats.series import integrated_time, quantile_ranks

pytestmark = pytest.mark.selftest


# --- means, ratio ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skewness", [-4.0, 4.0])
def test_the_guard_asks_for_121_squared_skewnesses(skewness: float) -> None:
    assert MeanResult(0.0, 1.0, -1.0, 1.0, 1936 - 1, skewness).guard_ok
    assert not MeanResult(0.0, 1.0, -1.0, 1.0, 1935 - 1, skewness).guard_ok


def test_two_clusters_are_enough_for_an_error() -> None:
    assert cluster_mean([1.0, 2.0], ["a", "b"], 0.05).se == 0.5


def test_skewness_is_about_the_mean() -> None:
    values = [3.0, 4.0, 4.5, 9.0, 30.0]
    assert means._skewness(values) == pytest.approx(float(stats.skew(values)), rel=1e-12)


def test_abba_claims_are_about_below_unless_said() -> None:
    result = abba([(100, 103, 105, 104), (98, 101, 99, 97), (110, 108, 111, 109), (100, 104, 103, 99)], 0.05)
    assert abba_tests(result, 0.1) == abba_tests(result, 0.1, "below") != abba_tests(result, 0.1, "above")


def test_sampled_sign_flips_of_blocks_take_the_seed_given() -> None:
    blocks = [(100.0, 101.0 + i / 7, 102.0, 100.0 + i % 3) for i in range(25)]
    logs = [0.015 - block_log_ratio(block) for block in blocks]
    assert abba_sign_flip(blocks, 0.015, "s") == sign_flip(logs, "s") != sign_flip(logs, "t")


# --- special --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: special.betainc(math.inf, 1, 0.5),
        lambda: special.betainc(1, math.inf, 0.5),
        lambda: special.betainc(1, 0, 0.5),
        lambda: special.betainc(1, 1, 1.5),
        lambda: special.t_cdf(1.0, math.inf),
        lambda: special.t_quantile(0.0, 3),
        lambda: special.normal_quantile(1.0),
        lambda: special.normal_quantile(1.5),
    ],
)
def test_the_edges_of_the_domains_are_outside(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


def test_certain_events_stay_certain_where_p_is_0_or_1() -> None:
    for p in (0.0, 0.5, 1.0):
        assert special.binom_cdf(3, 3, p) == special.binom_cdf(4, 3, p) == special.binom_sf(0, 3, p) == 1.0
        assert special.binom_pmf(0, 0, p) == 1.0
        assert special.binom_sf(4, 3, p) == special.binom_cdf(-1, 3, p) == 0.0


def test_nothing_happens_now_and_then_where_p_is_0_or_1() -> None:
    assert special.binom_pmf(1, 3, 0.0) == special.binom_pmf(1, 3, 1.0) == 0.0


@pytest.mark.parametrize(("k", "n", "p"), [(190, 200, 0.5), (2, 400, 0.25), (300, 400, 0.375), (60, 60, 0.0009765625)])
def test_far_tails_keep_their_digits(k: int, n: int, p: float) -> None:
    """Against sums of fractions, with no absolute tolerance, under which every small number is equal to 0."""
    x = Fraction(p)
    beyond = range(k, min(n, k + 120) + 1) if k > n * p else range(max(0, k - 120), k + 1)
    mass = [math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in beyond]
    tail = special.binom_sf if k > n * p else special.binom_cdf
    assert tail(k, n, p) == pytest.approx(float(sum(mass)), rel=1e-11, abs=0)
    assert special.binom_pmf(k, n, p) == pytest.approx(float(mass[0 if k > n * p else -1]), rel=1e-11, abs=0)


def test_quantiles_of_certainty_are_the_ends() -> None:
    assert (special.beta_quantile(0.0, 2, 3), special.beta_quantile(1.0, 2, 3)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("f", "root"),
    [
        (lambda x: 1 - 2 * x, 0.5),  # f is 1 and -1 at the ends: no zero
        (lambda x: 2 * x - 1, 0.5),
        (lambda x: 0.5 - x, 0.5),
        (lambda x: x, 0.0),  # a zero at an end is the answer
        (lambda x: 1 - x, 1.0),
        (lambda x: x + 1, 0.0),  # no change of sign: the end nearer to 0
        (lambda x: x - 2, 1.0),
        (lambda x: 1.0, 0.0),  # equally near: the low end
    ],
)
def test_bisection_at_the_ends(f, root: float) -> None:
    assert special.bisect(f, 0.0, 1.0) == root


def test_bisection_takes_the_sign_of_f_not_its_size() -> None:
    assert special.bisect(lambda x: 0.3 - x, 0.0, 1.0) == pytest.approx(0.3, rel=1e-15)


def test_stirlings_series_is_exact_to_rounding_from_16_on() -> None:
    tau = Decimal("6.28318530717958647692528676655900576839433879875")
    for n in (16, 17, 40, 1000):
        with localcontext(prec=60):
            exact = Decimal(math.factorial(n)).ln() - (n + Decimal("0.5")) * Decimal(n).ln() + n - tau.ln() / 2
        assert special._stirling(n) == pytest.approx(float(exact), rel=1e-15, abs=0)


@pytest.mark.parametrize("mean", [1000.001, 999.0, 1100.0, 1300.0, 500.0])
def test_the_deviance_does_not_cancel_near_the_mean(mean: float) -> None:
    with localcontext(prec=60):
        exact = 1000 * (Decimal(1000) / Decimal(mean)).ln() + Decimal(mean) - 1000
    assert special._deviance(1000, mean) == pytest.approx(float(exact), rel=1e-13, abs=0)


# --- betting, paired ------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "side"), [(0.1, 0), (0.9, 1)])
def test_a_p_equal_to_its_level_decides(x: float, side: int) -> None:
    values = [x] * 30
    stop = first_decision(values, (0.0, 1.0), 0.5, 0.05, 0.05)
    assert stop is not None
    levels = [0.4 * stop.tests[0], 0.4 * stop.tests[1]]
    levels[side] = stop.tests[side]
    assert first_decision(values, (0.0, 1.0), 0.5, *(min(level, 0.4) for level in levels)) == stop


def test_running_claims_are_about_below_unless_said() -> None:
    values = [0.2, 0.4, 0.1]
    assert list(running_tests(values, (0.0, 1.0), 0.6)) == list(running_tests(values, (0.0, 1.0), 0.6, direction="below"))


@pytest.mark.parametrize("u", [0.0, 1.0])
def test_the_ends_of_the_support_are_no_bounds(u: float) -> None:
    with pytest.raises(ValueError, match="inside the support"):
        bounded_mean_tests([0.5], (0.0, 1.0), u, [0])


def test_interval_and_tests_take_the_same_gap() -> None:
    values, order = [0.1, 0.3, 0.2, 0.4] * 20, list(range(80))
    low, high = bounded_mean_interval(values, (0.0, 1.0), 0.05, order, gap=0.03)
    assert bounded_mean_tests(values, (0.0, 1.0), low, order, gap=0.03).p_fail == pytest.approx(0.05, rel=1e-6)
    assert bounded_mean_tests(values, (0.0, 1.0), high, order, gap=0.03).p_hold == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("support", [(-math.inf, 1.0), (0.0, math.inf), (0.0, 0.0)])
def test_a_support_is_finite_and_not_empty(support: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        bounded_mean_tests([0.0], support, 0.0, [0])


def test_what_a_bet_may_be_told() -> None:
    assert betting_p([0.1], 1.0, 0.0, 1.0) == 1.0  # with no gap expected the first bet is nothing
    for x, half_range in ((math.inf, 1.0), (0.1, 0.0)):
        with pytest.raises(ValueError, match="expected"):
            betting_p([x], 1.0, 0.1, half_range)


BETS = {  # x, lower, gap, half_range
    "mixed": ([0.3, -0.2, 0.7, 0.1, -0.4, 0.5, 0.6], 0.4, 0.2, 0.55),
    "equal": ([1.0] * 300, 0.1, 1.0, 0.55),  # the variance comes to rest on its floor
}


@pytest.mark.parametrize("case", BETS)
def test_bets_do_not_depend_on_the_unit_of_measurement(case: str) -> None:
    xs, lower, gap, half_range = BETS[case]
    scaled = betting_log_wealth([8 * x for x in xs], 8 * lower, 8 * gap, 8 * half_range)
    assert list(scaled) == list(betting_log_wealth(xs, lower, gap, half_range))


@pytest.mark.parametrize("case", BETS)
def test_the_bets_are_those_of_the_docstring(case: str) -> None:
    xs, lower, gap, half_range = BETS[case]
    wealth = 1.0
    for i, x in enumerate(xs):
        past = xs[:i]
        m = (gap + sum(past)) / (i + 1)
        v = (0.1 * half_range**2 + gap**2 + sum(y * y for y in past)) / (i + 1) - m * m
        wealth *= 1 + x * min(max(m / (max(v, 0.001 * half_range**2) + m * m), 0.0), 0.75 / lower)
    *_, found = betting_log_wealth(xs, lower, gap, half_range)
    assert found == pytest.approx(math.log(wealth), rel=1e-12)


def test_newcombes_correction_takes_a_small_association_for_none() -> None:
    """ad - bc = 1 = n/2: phi is 0, and the two Wilson intervals combine as if independent."""
    low, high = wilson(1, 2, 0.05)
    assert newcombe(1, 0, 0, 1, 0.05).high == pytest.approx(math.hypot(high - 0.5, 0.5 - low), rel=1e-14)


@pytest.mark.parametrize("margin", [0.0, 1.0, 1.5])
def test_equivalence_names_the_margin_it_refuses(margin: float) -> None:
    with pytest.raises(ValueError, match=f"margin = {margin}, expected"):
        equivalence(3, 2, 40, margin)


@pytest.mark.parametrize(("rule", "margin"), [(noninferiority, -0.1), (equivalence, 0.1)])
def test_a_level_to_decide_at_is_decided_or_met_within_a_millionth(rule, margin: float) -> None:
    near = rule(5, 4, 100, margin, slack=1e-6).p_hold.upper - 5e-7
    found = rule(5, 4, 100, margin, decide_at=near).p_hold
    assert found.lower > near or found.upper <= near or found.upper - found.lower <= 1.01e-6


@pytest.mark.parametrize(("n", "delta0", "alpha"), [(5, -0.3, 0.4), (30, 0.1, 0.05), (60, -0.05, 0.025), (120, -0.1, 0.025)])
def test_the_region_is_the_largest_that_keeps_alpha(n: int, delta0: float, alpha: float) -> None:
    region = noninferiority_region(n, delta0, alpha)
    assert (region.n, region.delta0, region.alpha) == (n, delta0, alpha)
    assert region.size.upper <= alpha
    outside = [(b, m - b) for m, start in enumerate(region.starts) for b in (start - 1,) if b >= 0]
    nearest = max(outside, key=lambda table: paired.tango_z(*table, n, delta0))
    assert noninferiority(*nearest, n, delta0, decide_at=alpha).p_hold.upper > alpha


def test_a_region_of_all_tables_has_probability_one() -> None:
    assert noninferiority(0, 12, 12, -0.1).p_hold.upper == 1.0


def test_brackets_shown_are_wider_above_2000_items() -> None:
    assert [paired._display_slack(n) for n in (2000, 2001)] == [1e-4, 1e-3]


def test_brackets_are_as_narrow_as_said_unless_told() -> None:
    assert [paired._slack(n, None, None) for n in (2000, 2001)] == [1e-4, 1e-3]
    assert paired._slack(2001, 0.05, None) == 1e-6
    assert paired._slack(2001, 0.05, 1e-7) == 1e-7


def test_rows_are_found_where_z_rises_with_losses_too() -> None:
    """Never seen; but if it were, it had to be seen."""
    firsts = (1, 2, 0, 3, 2, 2)
    with mock.patch.object(paired, "_z", lambda b, c, n, delta0: b - firsts[b + c]):
        assert paired._starts(5, -0.1, 0.0) == list(firsts)
        assert noninferiority(2, 1, 5, -0.1) == ((0.0, 1.0), (0.0, 1.0), False)
    assert [paired._monotone(rows) for rows in ((0, 1, 1, 2), (1, 3), (1, 0))] == [True, False, False]


@pytest.mark.parametrize("delta0", [-1.0, 1.0, 1.5])
def test_a_difference_of_one_is_no_margin(delta0: float) -> None:
    with pytest.raises(ValueError, match="expected -1 < delta0 < 1"):
        paired.tango_z(2, 1, 5, delta0)


@pytest.mark.parametrize(("b", "c", "n", "delta0"), [(0, 12, 13, -0.99), (0, 5, 11, -0.3), (0, 17, 17, -0.99), (2, 15, 17, -0.9)])
def test_rounding_makes_no_cell_negative(b: int, c: int, n: int, delta0: float) -> None:
    assert -delta0 <= paired.tango_p21(b, c, n, delta0) <= (1 - delta0) / 2


def test_cells_may_exceed_one_by_rounding() -> None:
    probability = staircase_probability([0, 1, 1, 2, 3])
    assert probability(0.7 + 1e-15, 0.3) == pytest.approx(probability(0.7, 0.3), rel=1e-12)


def test_polishing_is_newton_with_the_true_slope() -> None:
    """(x - 1)(x - 2)(x - 3)(x - 4): three quadratic steps take an error of .01 below 1e-13."""
    coefficients = [Fraction(c) for c in (1, -10, 35, -50, 24)]
    polished = [paired._polish(coefficients, root + 0.01) for root in (1, 2, 3, 4)]
    assert polished == pytest.approx([1, 2, 3, 4], abs=1e-13)


def test_polishing_leaves_a_multiple_root_where_it_is() -> None:
    assert paired._polish([Fraction(c) for c in (1, -4, 6, -4, 1)], 1.0) == 1.0


@pytest.mark.parametrize(("b", "c", "n"), [(1, 2, 40), (7, 3, 50), (30, 20, 60), (2, 9, 200), (60, 45, 1319)])
def test_the_quartic_gives_its_roots_to_the_last_digit(b: int, c: int, n: int) -> None:
    coefficients = paired._tango_quartic(b, c, n, Fraction(special.normal_quantile(0.95)) ** 2)

    def quartic(x: float) -> Fraction:
        return functools.reduce(lambda value, coefficient: value * Fraction(x) + coefficient, coefficients)

    for root in tango_interval(b, c, n, 0.05, "quartic"):
        below, above = (quartic(math.nextafter(root, towards)) for towards in (-1, 1))
        assert below * above < 0


# --- changes --------------------------------------------------------------------------------------


def test_each_part_of_a_split_history_is_split_again() -> None:
    values = [level + (7 * i % 5) / 10 for level in (0, 3, 10, 13) for i in range(12)]
    assert [change.first for change in change_points(values, 0.05, "s")] == [12, 24, 36]


def test_two_runs_on_a_side_may_be_enough() -> None:
    assert [change.first for change in change_points([0.0, 0.1] + [5.0] * 28, 0.05, "s", shortest=2)] == [2]


def test_nothing_can_be_split_where_all_is_equal_or_short() -> None:
    assert changes._strongest_split([5, 5, 5, 5], 2) == (0.0, 0)
    assert changes._strongest_split([2, 4, 6], 2) == (0.0, 0)


# --- series ---------------------------------------------------------------------------------------


def test_a_low_quantile_is_bounded_by_the_first_value() -> None:
    assert quantile_ranks(1, 0.01, 0.05) == (None, 1)


def test_the_integrated_time_has_no_unit() -> None:
    values = [math.sin(i / 5) + (7 * i % 11) / 10 for i in range(200)]
    for unit in (1e-9, 1e9):
        assert integrated_time([unit * x for x in values]) == pytest.approx(integrated_time(values), rel=1e-9)


# --- agreement, corrected -------------------------------------------------------------------------


def test_one_rater_of_three_who_differs_is_a_disagreement() -> None:
    assert krippendorff([(1, 1, 2)] * 3 + [(2, 2, 3)] * 3 + [(1, 1, 1)], "interval", 0.05).estimate < 1


def test_perfect_agreement_has_no_error_and_the_normal_law() -> None:
    perfect = krippendorff([(1, 1), (2, 2)] * 5, "nominal", 0.05)
    assert (perfect.estimate, perfect.se, perfect.raised, perfect.df) == (1.0, 0.0, (1.0, 0.0), math.inf)


def test_a_judge_at_chance_corrects_nothing() -> None:
    with pytest.raises(ValueError, match="tpr"):
        lee_interval(0.5, 50, 0.9, 100, 0.1, 10, 0.05)
    with pytest.raises(ValueError, match="smoothed sum"):
        lee_interval(0.5, 50, 0.75, 2, 1 / 3, 6, 0.05)


def test_lee_limits_are_rates_even_of_one_item() -> None:
    low, high = lee_interval(0.0, 1, 1.0, 1, 1.0, 1, 0.05)
    assert 0 <= low < high <= 1
    assert lee_interval(1.0, 1000, 0.9, 1000, 0.6, 1000, 0.05) == (1.0, 1.0)


# --- plan -----------------------------------------------------------------------------------------


def test_no_difference_is_expected_unless_said() -> None:
    assert plan.ni_power_normal(200, 0.05, 0.1, 0.05) == plan.ni_power_normal(200, 0.05, 0.1, 0.05, 0.0)


def test_the_search_for_n_does_not_start_beyond_it() -> None:
    """psi = 1: all of 8 items, or all but one, show it, and P(Bin(8, .95) >= 7) = .943; 7 items have .95^7 = .698."""
    assert plan.superiority_n(1.0, 0.9, 0.05, 0.8) == 8


def test_one_unit_can_be_enough_where_almost_nothing_is_claimed() -> None:
    assert plan.proportion_n(0.01, 0.9, 0.05, 0.8, "at_least")[:2] == (1, 1)
    assert plan.proportion_n(0.5, 1.0, 0.05, 0.8, "at_least")[:2] == (5, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan.superiority_n(0.1, 0.0, 0.05, 0.8), "d > 0"),
        (lambda: plan.proportion_n(0.0, 0.5, 0.05, 0.8, "at_least"), "good side"),
        (lambda: plan.proportion_n(0.5, 0.5, 0.05, 0.8, "at_least"), "good side"),
        (lambda: plan.proportion_n(0.5, 1.5, 0.05, 0.8, "at_least"), "good side"),
        (lambda: plan.proportion_min_n(0.0, 0.05), "0 < p0"),
        (lambda: plan.proportion_power(10, 0.0, 0.5, 0.05, "at_least"), "0 < p0"),
        (lambda: plan.betting_min_n(0.4, 0.4, (-1, 2), 0.05), "value < u < hi"),
        (lambda: plan.betting_min_n(0.4, 2.0, (-1, 2), 0.05), "value < u < hi"),
        (lambda: plan.betting_stops([], [], 1.0, 0.1, 1.0, 0.05, 10, 10, "s"), "sum to 1"),
        (lambda: plan.ratio_k(0.1, 0.05, 0.05, 0.8, delta1=0.05), "delta1 < log_bound"),
        (lambda: plan.kappa_spread(0.5, 0.0), "0 < base < 1"),
        (lambda: plan.kappa_spread(0.5, 1.0), "0 < base < 1"),
        (lambda: plan.kappa_spread(0.5, 1.5), "0 < base < 1"),
        (lambda: plan.kappa_spread(-0.5, 0.8), "that it allows"),
        (lambda: plan.agreement_n(0.5, -1.0, 1.0, 0.05, 0.8), "-1 < bound"),
        (lambda: plan.agreement_n(0.5, -1.5, 1.0, 0.05, 0.8), "-1 < bound"),
        (lambda: plan.agreement_n(1.0, 0.5, 1.0, 0.05, 0.8), "truth < 1"),
        (lambda: plan.agreement_n(1.5, 0.5, 1.0, 0.05, 0.8), "truth < 1"),
        (lambda: plan.agreement_bound(10, -1.0, 1.0, 0.05, 0.8), "-1 < truth"),
        (lambda: plan.agreement_bound(10, -1.5, 1.0, 0.05, 0.8), "-1 < truth"),
        (lambda: plan.agreement_bound(10, 0.5, 0.0, 0.05, 0.8), "spread > 0"),
        (lambda: plan.corrected_se(10, 10, 0.0, 0.5), "sd > 0"),
        (lambda: plan.mcnemar_power(10, 0.0, 0.0, 0.05), "0 < psi <= 1"),
        (lambda: plan.mcnemar_power(10, 1.5, 0.0, 0.05), "0 < psi <= 1"),
        (lambda: plan.mcnemar_power(10, 0.1, 0.2, 0.05), "0 < psi <= 1"),
    ],
)
def test_plans_name_what_they_cannot_do(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_edges_that_plans_allow() -> None:
    assert plan.pass_all([0.0, 0.5]) == 0.0
    assert plan.pass_all([1.0, 1.0]) == 1.0
    assert plan.corrected_se(0, 2, 1.0, 1.0) == pytest.approx(math.sqrt(0.5))
    assert plan.mean_n(0.1, 0.0, 0.05, 0.8, noise=(0.1, 0.1)) == plan.mean_n(0.1, 0.2, 0.05, 0.8)


def test_equal_units_stop_where_the_capital_says() -> None:
    wide, narrow = (-1.0, 2.0), (0.0, 1.0)  # at the narrow end bets are large, and the gap expected counts
    bets = [(0.1, 0.4, wide, None), (0.1, 0.4, wide, 0.3), (0.2, 0.9, (0.0, 1.5), None)]
    bets += [(0.94, 0.95, narrow, None), (0.94, 0.95, narrow, 0.01)]
    for value, u, support, gap in bets:
        n = plan.betting_min_n(value, u, support, 1e-4, gap)
        expected = (u - support[0]) / 2 if gap is None else gap
        at, before = (betting_p([u - value] * k, support[1] - u, expected, (support[1] - support[0]) / 2) for k in (n, n - 1))
        assert at <= 1e-4 < before


def test_the_power_of_t_in_a_very_large_sample_is_the_normal_one() -> None:
    expected = float(stats.norm.sf(stats.norm.isf(0.05) - 2))
    assert plan.t_power(1_000_000, 0.002, 0.05) == pytest.approx(expected, rel=1e-5)
    assert all(plan.t_power(k, 50.0, 0.05) <= 1 for k in range(2, 60))


@pytest.mark.parametrize(("sd", "bound"), [(0.02, 0.05), (0.03, 0.05), (0.04, 0.05), (0.05, 0.05), (0.06, 0.05), (0.3, 0.05)])
def test_blocks_are_the_fewest_that_do(sd: float, bound: float) -> None:
    def enough(k: int) -> bool:
        return k >= (stats.t.isf(0.05, k - 1) + stats.t.ppf(0.8, k - 1)) ** 2 * (sd / bound) ** 2

    assert plan.ratio_k(sd, bound, 0.05, 0.8) == next(k for k in range(4, 1000) if enough(k))


@pytest.mark.parametrize(("n", "psi", "margin"), [(2, 0.10, 0.7764), (3, 0.05, 0.6316)])
def test_the_margin_of_no_flip_is_found_to_the_last_of_its_digits(n: int, psi: float, margin: float) -> None:
    """Only a table without flips shows it: (1 - margin)^n <= .05, and .9^2 and .95^3 are above .8."""
    assert plan.ni_margin(n, psi, 0.05, 0.8) == margin
    assert (1 - margin) ** n <= 0.05 < (1 - margin + 1e-4) ** n


def test_the_smallest_margin_there_is() -> None:
    assert plan.ni_margin(20, 1.0, 0.05, 0.8, delta1=1.0) == 0.0001


def test_a_weight_may_be_zero() -> None:
    never, without = ((0.05, 9.0), (1.0, 0.0)), ((0.05,), (1.0,))
    stops = [plan.betting_stops(*units, 0.95, 0.05, 1.0, 0.05, 100, 2, "s") for units in (never, without)]
    assert stops == [(78, 78), (78, 78)]


@pytest.mark.parametrize(("bound", "psi", "delta1"), [(0.1, 0.5, 0.3), (0.2, 0.6, 0.5), (0.4, 0.9, 0.6)])
def test_superiority_by_a_bound_is_planned_with_the_likeliest_cells_at_the_bound(bound: float, psi: float, delta1: float) -> None:
    p12, p21 = (psi + delta1) / 2, (psi - delta1) / 2

    def unlikely(q: float) -> float:
        return -p12 * math.log(q + bound) - p21 * math.log(q) - (1 - psi) * math.log(1 - bound - 2 * q)

    q = optimize.minimize_scalar(unlikely, bounds=(0, (1 - bound) / 2), method="bounded", options={"xatol": 1e-12}).x
    spread = stats.norm.isf(0.05) * math.sqrt(2 * q + bound - bound**2) + stats.norm.isf(0.2) * math.sqrt(psi - delta1**2)
    assert plan.ni_n(-bound, psi, 0.05, 0.8, delta1) == math.ceil((spread / (delta1 - bound)) ** 2)


def test_one_item_that_does_not_flip_shows_a_margin_of_all_but_alpha() -> None:
    assert plan.ni_exact_n(0.99, 0.02, 0.05, 0.8) == plan.equivalence_n(0.99, 0.02, 0.05, 0.8) == 1


def test_the_table_of_nothing_but_gains_is_a_region_too() -> None:
    """Where all items gain, superiority by .5 is shown from .75^n <= .05 on."""
    assert plan.ni_exact_n(-0.5, 1.0, 0.05, 0.8, delta1=1.0) == 11


def test_mcnemar_has_a_row_for_every_count_of_flips() -> None:
    assert [len(plan._mcnemar_starts(n, 0.05)) for n in (1, 1023, 1024, 1025)] == [2, 1024, 1025, 1026]
    assert plan.mcnemar_power(6, 1.0, 1.0, 2**-6) == 1.0  # a p equal to alpha is enough


@pytest.mark.parametrize(("n", "p"), [(500, 0.02), (2000, 0.01), (5000, 0.002)])
def test_the_rows_left_out_of_a_staircase_weigh_less_than_it_promises(n: int, p: float) -> None:
    """P(b >= 1) has a closed form, and its rows reach far to the right where flips are rare."""
    exact = -math.expm1(n * math.log1p(-p))
    assert abs(staircase_probability([1] * (n + 1))(p, p) - exact) < 1e-12


@pytest.mark.parametrize("monotone", [(True, False), (False, True)])
def test_one_region_that_is_not_monotone_decides_nothing(monotone: tuple[bool, bool]) -> None:
    with mock.patch.object(paired, "_monotone", side_effect=monotone):
        tests = noninferiority(3, 2, 20, -0.1)
    assert (tests.p_hold, tests.p_fail, tests.monotone) == ((0.0, 1.0), (0.0, 1.0), False)
