"""Change points: the statistic against Kruskal-Wallis, p-values against enumeration, the Nile, invariances."""

import math
import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.datasets import nile

from harness.stats.changes import _doubled_ranks, _strongest_split, change_points

pytestmark = pytest.mark.selftest

some = settings(max_examples=30, deadline=None, derandomize=True)


def test_the_statistic_is_the_largest_kruskal_wallis() -> None:
    """Of two groups, H with correction for ties is the squared standardised rank sum."""
    rng = random.Random(3)
    for _ in range(60):
        n, shortest = rng.randint(6, 30), rng.choice([2, 3])
        values = [rng.choice([rng.gauss(0, 1), rng.randint(0, 4)]) for _ in range(n)]
        h = {k: stats.kruskal(values[:k], values[k:]).statistic for k in range(shortest, n - shortest + 1)}
        strongest, split = _strongest_split(_doubled_ranks(values), shortest)
        assert strongest == pytest.approx(max(h.values()), rel=1e-9)
        assert h[split] == pytest.approx(strongest, rel=1e-9)


def test_ranks() -> None:
    values = [3.0, 1.0, 3.0, 2.0, 3.0]
    assert _doubled_ranks(values) == [2 * r for r in stats.rankdata(values)]


def test_p_against_all_orders() -> None:
    """Ten runs, five on each side: one split is possible, and all 252 ways to fill it are counted."""
    values = [1.0, 2.0, 4.0, 3.0, 6.0, 5.0, 8.0, 10.0, 7.0, 9.0]

    def distance(first: tuple[float, ...]) -> float:
        return abs(sum(first) - 27.5)

    ways = [distance(w) >= distance(tuple(values[:5])) for w in combinations(values, 5)]
    exact = sum(ways) / len(ways)
    assert exact == 4 / 252
    (change,) = change_points(values, 0.05, "exact", permutations=4999)
    assert change.first == 5
    assert abs(change.p - exact) < 4 * math.sqrt(exact / 4999)


def test_the_nile_fell_in_1899() -> None:
    """Annual flow at Aswan 1871-1970, the field's example: one change, after 1898 (Cobb 1978), 1097.75 to 849.97."""
    data = nile.load().data
    (change,) = change_points(data["volume"].tolist(), 0.01, "nile")
    assert int(data["year"][change.first]) == 1899
    assert change.p == 1 / 1000
    assert change.before == pytest.approx(1097.75, abs=0.005)
    assert change.after == pytest.approx(849.97, abs=0.005)


def test_two_steps() -> None:
    rng = random.Random(2)
    values = [rng.gauss(0, 1) + 4 * (i >= 20) - 6 * (i >= 45) for i in range(60)]
    changes = change_points(values, 0.01, "two")
    assert [c.first for c in changes] == [20, 45]
    assert changes[0].before == pytest.approx(math.fsum(values[:20]) / 20)
    assert changes[0].after == changes[1].before == pytest.approx(math.fsum(values[20:45]) / 25)
    assert changes[1].after == pytest.approx(math.fsum(values[45:]) / 15)


def test_a_change_undone() -> None:
    """Both ways to split the whole are equally strong: the first is taken. What shows clearly then is no surer than it."""
    values = [0.0] * 15 + [1.0] * 10 + [0.0] * 15
    assert _strongest_split(_doubled_ranks(values), 5)[1] == 15
    changes = change_points(values, 0.2, "undone")
    assert [c.first for c in changes] == [15, 25]
    assert changes[0].p == changes[1].p > 0.005
    alone = change_points(values[15:], 0.2, "undone")
    assert [(c.first, c.p) for c in alone] == [(10, 0.001)]


def test_a_later_split_is_the_strongest_of_all_segments() -> None:
    """Among two segments chance has two places: about twice the p of the second segment by itself."""
    rng = random.Random(14)
    values = [rng.gauss(0, 1) for _ in range(20)] + [50 + rng.gauss(0, 1) + 1.7 * (i >= 10) for i in range(20)]
    first, second = change_points(values, 0.4, "all")
    (alone,) = change_points(values[20:], 0.4, "all")
    assert (first.first, first.p) == (20, 0.001)
    assert second.first == 20 + alone.first
    assert alone.p > 0.01
    assert 1.5 * alone.p < second.p < 2.5 * alone.p


def test_a_slow_drift_that_no_neighbours_show() -> None:
    values = [0.05 * i + (0.5 if i % 2 else -0.5) for i in range(40)]
    neighbours = [b - a for a, b in pairwise(values)]
    assert max(map(abs, neighbours)) == pytest.approx(1.05)  # as without any drift, but .05
    changes = change_points(values, 0.01, "drift")
    assert changes and all(c.after > c.before for c in changes)


def test_one_wild_run_is_no_change() -> None:
    rng = random.Random(9)
    values = [rng.gauss(0, 1) for _ in range(40)]
    assert change_points(values, 0.05, "calm") == []
    assert change_points([*values[:20], 1e6, *values[21:]], 0.05, "calm") == []


def test_shortest_side() -> None:
    """A change is seen with ``shortest`` runs after it, not with one fewer, and so before it."""
    for before, after in ((20, 5), (5, 20)):
        values = [0.0] * before + [1.0] * after
        assert [c.first for c in change_points(values, 0.01, "edge")] == [before]
        assert [c.first for c in change_points(values, 0.01, "edge", shortest=6)] != [before]
    assert [c.first for c in change_points([0.0] * 5 + [1.0] * 5, 0.05, "edge", permutations=199)] == [5]
    with pytest.raises(ValueError, match="9 values"):
        change_points([0.0] * 4 + [1.0] * 5, 0.05, "edge")


def test_the_smallest_p_is_at_the_level() -> None:
    """19 orders, none as strong: p = 1/20, which is at .05 and no longer above it."""
    values = [float(i >= 20) for i in range(40)]
    assert [c.p for c in change_points(values, 0.05, "level", permutations=19)] == [1 / 20]
    with pytest.raises(ValueError, match="18 permutations"):
        change_points(values, 0.05, "level", permutations=18)


def test_nothing_in_a_constant_history() -> None:
    assert change_points([0.7] * 30, 0.4, "flat") == []


steps = st.lists(st.integers(-6, 6).map(float), min_size=10, max_size=30)


@some
@given(steps, st.sampled_from(["a", "b"]))
def test_a_rising_transformation_changes_nothing_but_the_means(values: list[float], seed: str) -> None:
    here = change_points(values, 0.2, seed, permutations=19)
    there = change_points([math.exp(x) for x in values], 0.2, seed, permutations=19)
    mirrored = change_points([-x for x in values], 0.2, seed, permutations=19)
    assert [(c.first, c.p) for c in here] == [(c.first, c.p) for c in there] == [(c.first, c.p) for c in mirrored]
    assert [(-c.before, -c.after) for c in here] == [(c.before, c.after) for c in mirrored]


@some
@given(steps)
def test_a_lower_level_keeps_the_strongest_and_their_p(values: list[float]) -> None:
    few, many = (change_points(values, alpha, "nested", permutations=39) for alpha in (0.05, 0.4))
    assert {(c.first, c.p) for c in few} == {(c.first, c.p) for c in many if c.p <= 0.05}
    assert all(0.025 <= c.p <= 0.4 for c in many)
    places = [0, *(c.first for c in many), len(values)]
    assert all(b - a >= 5 for a, b in pairwise(places))


@pytest.mark.parametrize(
    "call",
    [
        lambda: change_points([math.nan] * 20, 0.05, "x"),
        lambda: change_points([math.inf] + [0.0] * 20, 0.05, "x"),
        lambda: change_points([], 0.05, "x"),
        lambda: change_points([0.0] * 20, 0.5, "x"),
        lambda: change_points([0.0] * 20, 0.05, "x", shortest=1),
        lambda: change_points([0.0] * 20, 0.05, "x", shortest=11),
        lambda: change_points([0.0] * 20, 0.0005, "x"),
        lambda: change_points([0.0] * 20, 0.05, "x", permutations=0),
    ],
)
def test_domain_errors(call) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
