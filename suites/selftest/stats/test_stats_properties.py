"""Properties of section 7 that concern pure functions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.betting import bounded_mean_tests
from harness.stats.intervals import clopper_pearson, wilson
from harness.stats.paired import mcnemar, newcombe, noninferiority, tango_interval, tango_z
from harness.stats.special import normal_sf

pytestmark = pytest.mark.selftest

few = settings(max_examples=60, deadline=None, derandomize=True)
margins = st.sampled_from([0.01, 0.03, 0.05, 0.2])


@st.composite
def tables(draw: st.DrawFn, largest: int = 200) -> tuple[int, int, int]:
    n = draw(st.integers(1, largest))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@few
@given(tables())
def test_swapping_arms_mirrors(table: tuple[int, int, int]) -> None:
    b, c, n = table
    assert mcnemar(b, c) == mcnemar(c, b)[::-1]
    low, high = tango_interval(b, c, n, 0.05)
    assert tuple(tango_interval(c, b, n, 0.05)) == pytest.approx((-high, -low), abs=1e-12)
    low, high = newcombe(n - b - c, b, c, 0, 0.05)
    assert tuple(newcombe(n - b - c, c, b, 0, 0.05)) == pytest.approx((-high, -low), abs=1e-12)
    assert tango_z(b, c, n, 0.1) == -tango_z(c, b, n, -0.1)


@few
@given(tables())
def test_intervals_contain_the_estimate_and_widen(table: tuple[int, int, int]) -> None:
    b, c, n = table
    for narrow, wide in (
        (tango_interval(b, c, n, 0.05), tango_interval(b, c, n, 0.01)),
        (newcombe(n - b - c, b, c, 0, 0.05), newcombe(n - b - c, b, c, 0, 0.01)),
    ):
        assert wide.low - 1e-12 <= narrow.low - 1e-12 <= (b - c) / n <= narrow.high + 1e-12 <= wide.high + 2e-12
    for limits in (clopper_pearson, wilson):
        narrow, wide = limits(b, n, 0.05), limits(b, n, 0.01)
        assert wide.low <= narrow.low <= b / n + 1e-12
        assert b / n - 1e-12 <= narrow.high <= wide.high


@few
@given(tables(120), margins)
def test_z_rises_with_gains_and_falls_with_losses(table: tuple[int, int, int], margin: float) -> None:
    b, c, n = table
    z = tango_z(b, c, n, -margin)
    if b + c < n:
        assert tango_z(b + 1, c, n, -margin) > z > tango_z(b, c + 1, n, -margin)
    if c:
        assert tango_z(b + 1, c - 1, n, -margin) > z


@few
@given(tables(60), margins)
def test_exact_p_is_ordered_and_both_tests_never_hold(table: tuple[int, int, int], margin: float) -> None:
    b, c, n = table
    p_hold, p_fail, monotone = noninferiority(b, c, n, -margin)
    assert monotone
    assert p_hold.lower <= p_hold.upper
    assert 0 < p_hold.upper <= 1
    assert 0 < p_fail.upper <= 1
    assert p_hold.upper + p_fail.upper >= 1 - 1e-6
    if p_hold.upper <= 0.05:
        assert (b - c) / n > -margin
    if b + c < n:
        assert noninferiority(b + 1, c, n, -margin).p_hold.lower <= p_hold.upper + 1e-9
        assert noninferiority(b, c + 1, n, -margin).p_hold.upper >= p_hold.lower - 1e-9


@few
@given(tables())
def test_a_wider_margin_never_hurts(table: tuple[int, int, int]) -> None:
    b, c, n = table
    ps = [normal_sf(tango_z(b, c, n, -margin)) for margin in (0.01, 0.02, 0.05, 0.1, 0.3)]
    assert ps == sorted(ps, reverse=True)


@few
@given(st.integers(0, 60), st.integers(0, 60), margins)
def test_p_hold_and_interval_agree_for_tango(b: int, c: int, margin: float) -> None:
    low = tango_interval(b, c, 150, 0.05).low
    if abs(low + margin) > 1e-9:
        assert (low > -margin) == (normal_sf(tango_z(b, c, 150, -margin)) < 0.05)


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.floats(0.05, 0.95), st.sampled_from([0.05, 0.01]))
def test_betting_p_is_a_probability_and_never_proves_both(values: list[float], u: float, alpha: float) -> None:
    hold, fail = bounded_mean_tests(values, (0.0, 1.0), u, list(range(len(values))))
    assert 0 < hold <= 1
    assert 0 < fail <= 1
    mirrored = bounded_mean_tests([1 - v for v in values], (0.0, 1.0), 1 - u, list(range(len(values))), gap=u / 2)
    assert tuple(mirrored[::-1]) == pytest.approx((hold, fail), rel=1e-6)
