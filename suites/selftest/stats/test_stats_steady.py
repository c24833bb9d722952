"""Steady state: the drift of ranks against numpy and scipy, its properties, and the MSER-5 cut against its definition."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.steady import drift, mser

pytestmark = pytest.mark.selftest

quick = settings(derandomize=True, deadline=None, max_examples=60)


def oracle(values: list[float | None]) -> tuple[float, float]:
    """Ranks by scipy, a pooled t test of the batch means by scipy, P(later is slower) by Mann and Whitney's U."""
    m = len(values) // 3 // 4 * 4
    x = np.array([math.inf if v is None else v for v in (*values[:m], *values[-m:])])
    first, last = stats.rankdata(x).reshape(2, 4, -1).mean(2)
    later = stats.mannwhitneyu(x[m:], x[:m]).statistic / m**2
    return later, stats.ttest_ind(first, last).pvalue


@quick
@given(st.integers(36, 400), st.integers(0, 10**6), st.floats(-1, 1), st.floats(0, 0.3))
def test_drift_is_a_t_test_of_batch_means_of_ranks(n: int, seed: int, shift: float, failing: float) -> None:
    rng = random.Random(seed)
    values = [None if rng.random() < failing else round(rng.lognormvariate(shift * i / n, 0.5), 2) for i in range(n)]
    found = drift(values)
    assert found == pytest.approx(oracle(values), rel=1e-9, abs=1e-12)
    assert 0 <= found.later <= 1 and 0 <= found.p <= 1


@quick
@given(st.integers(36, 200), st.integers(0, 10**6))
def test_only_the_order_of_latencies_matters(n: int, seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.expovariate(1.0) for _ in range(n)]
    found, back = drift(values), drift(values[::-1])
    assert drift([math.log(x) for x in values]) == found
    assert (1 - back.later, back.p) == pytest.approx(found, rel=1e-9)


def test_too_few_requests_show_nothing() -> None:
    rising = [float(i) for i in range(35)]
    assert drift(rising) == drift([]) == (0.5, 1.0)
    assert drift([*rising, 35.0]).p < 0.01


def test_what_does_not_vary_is_said_to_agree_or_not() -> None:
    assert drift([1.0] * 60) == (0.5, 1.0)
    assert drift([None] * 60) == (0.5, 1.0)
    assert drift([1.0] * 30 + [2.0] * 30) == (1.0, 0.0)
    assert drift([2.0] * 30 + [1.0] * 30) == (0.0, 0.0)


def test_the_middle_third_is_not_looked_at() -> None:
    rng = random.Random(1)
    ends = [rng.random() for _ in range(200)]
    assert drift([*ends[:100], *[9.0] * 100, *ends[100:]]) == drift([*ends[:100], *[None] * 100, *ends[100:]])


# --- MSER-5 -----------------------------------------------------------------------------------------


def by_definition(values: list[float], batch: int) -> int:
    means = np.array(values[: len(values) // batch * batch]).reshape(-1, batch).mean(1)
    k = len(means)
    errors = [means[d:].var() / (k - d) for d in range(k // 2 + 1)]
    return batch * int(np.argmin(errors))


@quick
@given(st.integers(50, 300), st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 20))
def test_the_cut_minimises_the_error_of_what_is_left(n: int, seed: int, batch: int, high: float) -> None:
    rng = random.Random(seed)
    values = [rng.random() + high * math.exp(-i / 20) for i in range(n)]
    assert mser(values, batch) == by_definition(values, batch)


def test_a_transient_is_cut_off() -> None:
    rng = random.Random(3)
    values = [rng.random() + (10.0 if i < 60 else 0.0) for i in range(600)]
    assert mser(values) == 60
    assert mser(values[60:]) < 60
    assert mser([5.0] * 49) is None
    assert mser([5.0] * 50) == 0
    late = [rng.random() + (10.0 if i < 400 else 0.0) for i in range(600)]
    assert mser(late) <= 300  # no further than half
