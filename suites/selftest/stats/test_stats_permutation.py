"""The sign-flip test: arithmetic, scipy, McNemar, ties, seeds and what must not matter."""

import hashlib
import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.paired import mcnemar
from harness.stats.permutation import sign_flip, sign_flip_min_nonzero

pytestmark = pytest.mark.selftest

few = settings(max_examples=60, deadline=None, derandomize=True)
binary = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=40).filter(lambda ds: sum(map(abs, ds)) <= 14)
thirds = st.lists(st.integers(-3, 3).map(lambda i: i / 3), min_size=1, max_size=10)  # three reruns an item


def test_small_arithmetic() -> None:
    assert sign_flip([1, 1, 1, 1, 0, -1], "any") == (6 / 32, 31 / 32)
    assert sign_flip([2.5], "any") == (0.5, 1.0)
    assert sign_flip([0.0, 0.0], "any") == (1.0, 1.0)
    # Fisher (1935), Darwin's maize, 15 pairs in eighths of an inch: 863 of 32768 patterns are as high as the sum of 314
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sum(maize) == 314
    assert sign_flip(maize, "any").p_hold == 863 / 32768


@pytest.mark.parametrize("n", [2, 5, 11])
def test_against_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for d in (rng.normal(0.3, 1, n), rng.exponential(1, n) - 0.7, rng.integers(-3, 4, n) / 3):
        for alternative, p in zip(("greater", "less"), sign_flip(d.tolist(), "any"), strict=True):
            result = stats.permutation_test(
                (d,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf, alternative=alternative
            )
            assert p == pytest.approx(result.pvalue, rel=1e-9)


@few
@given(binary)
def test_on_binary_scores_it_is_mcnemar(differences: list[float]) -> None:
    b, c = differences.count(1.0), differences.count(-1.0)
    tests = sign_flip(differences, "any")
    assert tests.p_hold == Fraction(sum(math.comb(b + c, k) for k in range(b, b + c + 1)), 2 ** (b + c))
    assert tests.p_fail == Fraction(sum(math.comb(b + c, k) for k in range(c, b + c + 1)), 2 ** (b + c))
    assert tests == pytest.approx(mcnemar(b, c), rel=1e-12)


@few
@given(thirds)
def test_ties_are_those_of_exact_arithmetic(differences: list[float]) -> None:
    whole = [round(3 * d) for d in differences]
    sums = [sum(signs) for signs in itertools.product(*[(d, -d) for d in whole])]
    at_least = sum(s >= sum(whole) for s in sums)
    at_most = sum(s <= sum(whole) for s in sums)
    assert sign_flip(differences, "any") == pytest.approx((at_least / len(sums), at_most / len(sums)), rel=1e-15)


def test_ties_that_floats_miss() -> None:
    assert 0.1 + 0.2 != 0.3
    assert sign_flip([0.1, 0.2, -0.3], "any") == (5 / 8, 5 / 8)
    assert sign_flip([0.7, 0.2, -0.9, 1.0], "any") == sign_flip([7, 2, -9, 10], "any")
    near = [1.0, 1.0, -2.0 - 1e-6]  # far enough from a tie
    assert sign_flip(near, "any") == (5 / 8, 4 / 8)


@few
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_what_must_not_matter(differences: list[float], rng: random.Random) -> None:
    tests = sign_flip(differences, "s", 99)
    shuffled = [*differences, 0.0, 0.0]
    rng.shuffle(shuffled)
    assert sign_flip(shuffled, "s", 99) == tests
    assert sign_flip([d * 4 for d in differences], "s", 99) == tests
    assert 1 / 2**20 <= min(tests) <= max(tests) <= 1
    assert sum(tests) > 1
    if sum(d != 0 for d in differences) <= 20:
        assert sign_flip([-d for d in differences], "other") == tests[::-1]


def test_twenty_are_counted_and_twenty_one_drawn() -> None:
    assert sign_flip([1.0] * 20, "a") == (2**-20, 1.0)
    assert sign_flip([1.0] * 20 + [0.0] * 50, "b", flips=1) == (2**-20, 1.0)
    assert sign_flip([1.0] * 60, "a") == (1 / 10_000, 1.0)
    assert sign_flip([1.0] * 60, "a", flips=19) == (1 / 20, 1.0)
    assert sign_flip([-1.0] * 60, "a", flips=19) == (1.0, 1 / 20)
    drawn = sign_flip([1.0] * 14 + [-1.0] * 7, "a")
    assert drawn == pytest.approx(mcnemar(14, 7), abs=0.01)
    assert drawn != sign_flip([1.0] * 14 + [-1.0] * 7, "b")


def test_random_patterns_are_fair() -> None:
    """37 sizes (an incomplete byte) and 300 (more than one digest): the drawn p is the normal one of a large sum."""
    rng = np.random.default_rng(3)
    for n in (37, 300):
        d = rng.normal(0.1, 1, n)
        z = d.sum() / math.sqrt((d**2).sum())
        assert sign_flip(d.tolist(), "seed").p_hold == pytest.approx(stats.norm.sf(z), abs=0.015)
    lonely = [1000.0] + [1.0] * 40  # the first sign decides
    assert sign_flip(lonely, "seed").p_hold < 0.001
    assert sign_flip([-1000.0] + [1.0] * 40, "seed").p_hold > 0.5


@pytest.mark.parametrize("n", [21, 257, 300])
def test_patterns_by_their_definition(n: int) -> None:
    """Byte j of SHA-256("seed:flip:block") chooses among the j-th eight sizes in rising order, lowest bit first."""
    d = [float(i + 1) * (-1) ** i for i in range(n)]  # near 0, so that some patterns lie on either side
    sizes = sorted(map(abs, d))
    gain = sum(x for x in d if x > 0)
    high = low = 1
    for flip in range(50):
        stream = b"".join(hashlib.sha256(f"plan:{flip}:{block}".encode()).digest() for block in range(2))
        chosen = sum(size for i, size in enumerate(sizes) if stream[i // 8] >> i % 8 & 1)
        high += chosen >= gain
        low += chosen <= gain
    assert min(high, low) > 5
    assert sign_flip(d, "plan", flips=50) == (high / 51, low / 51)


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 5), (0.025, 6), (0.01, 7), (0.25, 2), (0.125, 3), (0.1249, 4), (0.49, 2)])
def test_attainability(alpha: float, n: int) -> None:
    assert sign_flip_min_nonzero(alpha) == n
    assert sign_flip([1.0] * n, "any").p_hold <= alpha < sign_flip([1.0] * (n - 1), "any").p_hold


@pytest.mark.parametrize(
    "call",
    [
        lambda: sign_flip([], "s"),
        lambda: sign_flip([1.0, math.nan], "s"),
        lambda: sign_flip([math.inf, 1.0], "s"),
        lambda: sign_flip([1e308, 1e308], "s"),
        lambda: sign_flip([1.0], "s", flips=0),
        lambda: sign_flip_min_nonzero(0.5),
        lambda: sign_flip_min_nonzero(0.0),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
