"""Families of claims: the published oracle, parity with two libraries, and the gates."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from harness.stats.families import Family, benjamini_hochberg, fixed_sequence, holm, intersection_union

pytestmark = pytest.mark.selftest

some = settings(max_examples=200, deadline=None, derandomize=True)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_oracle() -> None:
    """Section 3.12; by hand: 4 x .01, 3 x .02, then 2 x .03 = .06 and 1 x .04 below it."""
    ps = [0.01, 0.02, 0.03, 0.04]
    assert holm(ps) == pytest.approx([0.04, 0.06, 0.06, 0.06], abs=1e-15)
    assert benjamini_hochberg(ps) == pytest.approx([0.04] * 4, abs=1e-15)
    assert intersection_union(ps) == 0.04


def test_the_order_of_claims_is_kept() -> None:
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06], abs=1e-15)
    assert benjamini_hochberg([0.9, 0.001, 0.5]) == pytest.approx([0.9, 0.003, 0.75], abs=1e-15)
    assert holm([0.9, 0.001, 0.5]) == pytest.approx([1.0, 0.003, 1.0], abs=1e-15)


def test_parity_with_statsmodels_and_scipy() -> None:
    rng = random.Random(12)
    for i in range(400):
        ps = [rng.choice([rng.random(), rng.random() ** 6, 0.02, 0.0, 1.0]) for _ in range(rng.randint(1, 15))]
        if i < 20:  # slow there: its corrected level is searched for
            assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist(), abs=1e-12)
        assert benjamini_hochberg(ps) == pytest.approx(multipletests(ps, method="fdr_bh")[1].tolist(), abs=1e-12)
        assert benjamini_hochberg(ps) == pytest.approx(false_discovery_control(ps).tolist(), abs=1e-12)


@some
@given(p_values)
def test_holm_is_above_bh_is_above_raw_and_order_is_preserved(ps: list[float]) -> None:
    strict, loose = holm(ps), benjamini_hochberg(ps)
    for i, p in enumerate(ps):
        assert 1 >= strict[i] >= loose[i] >= p
        for j, q in enumerate(ps):
            if p <= q:
                assert strict[i] <= strict[j] and loose[i] <= loose[j]


@some
@given(p_values, st.randoms(use_true_random=False))
def test_shuffling_the_claims_shuffles_the_answers(ps: list[float], rng: random.Random) -> None:
    order = rng.sample(range(len(ps)), len(ps))
    for method in (holm, benjamini_hochberg):
        answers = method(ps)
        assert method([ps[i] for i in order]) == [answers[i] for i in order]


@some
@given(p_values)
def test_bounds_of_holm(ps: list[float]) -> None:
    """The smallest is Bonferroni's, and of one claim the p-value is its own."""
    assert min(holm(ps)) == min(1.0, len(ps) * min(ps))
    assert holm(ps[:1]) == benjamini_hochberg(ps[:1]) == ps[:1]


# --- gates ------------------------------------------------------------------------------------------

SEQUENCE = ("all", "all", "any")


def test_all_gates_open() -> None:
    integrity, guardrails, better = fixed_sequence([[0.0, 0.05], [0.01, 0.03], [0.02, 0.6]], SEQUENCE, 0.05)
    assert integrity == Family(0.05, True, (0.0, 0.05))  # at the level: held
    assert guardrails == Family(0.03, True, (0.01, 0.03))  # no adjustment
    assert better == Family(0.04, True, (0.04, 0.6))  # Holm's: 2 x .02, .6


def test_a_closed_gate_stays_closed() -> None:
    first, second, third = fixed_sequence([[0.01], [0.01, 0.051], [0.0]], SEQUENCE, 0.05)
    assert first is not None and first.held
    assert second == Family(0.051, False, (0.01, 0.051))
    assert third is None
    assert fixed_sequence([[0.06], [0.0], [0.0]], SEQUENCE, 0.05)[1:] == [None, None]
    assert fixed_sequence([[0.06], [0.0], [0.0]], SEQUENCE, 0.1)[1] is not None


def test_any_needs_one_by_holm() -> None:
    (family,) = fixed_sequence([[0.03, 0.04]], ("any",), 0.05)
    assert family == Family(0.06, False, (0.06, 0.06))
    (family,) = fixed_sequence([[0.9, 0.025]], ("any",), 0.05)
    assert family is not None and family.held


@some
@given(st.lists(p_values, min_size=1, max_size=4), st.sampled_from([0.01, 0.05]))
def test_the_gated_are_those_after_the_first_that_did_not_hold(families: list[list[float]], alpha: float) -> None:
    results = fixed_sequence(families, ["all"] * len(families), alpha)
    not_held = [i for i, ps in enumerate(families) if max(ps) > alpha]
    first = not_held[0] if not_held else len(families)
    assert [r is None for r in results] == [i > first for i in range(len(families))]
    assert all(r.held == (i < first) for i, r in enumerate(results) if r is not None)


@pytest.mark.parametrize("method", [holm, benjamini_hochberg, intersection_union])
@pytest.mark.parametrize("ps", [[], [math.nan], [0.1, math.nan], [-1e-9], [1.0000001], [math.inf]])
def test_domain_errors(method, ps: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        method(ps)


@pytest.mark.parametrize(
    ("families", "rules", "alpha"),
    [
        ([], [], 0.05),
        ([[0.1]], ["all", "all"], 0.05),
        ([[0.1]], ["some"], 0.05),
        ([[0.1], [0.1]], ["any", "all"], 0.05),
        ([[0.1], [0.1]], ["any", "any"], 0.05),
        ([[0.1]], ["all"], 0.5),
        ([[0.9], []], ["all", "all"], 0.05),
        ([[0.9], [math.nan]], ["all", "any"], 0.05),
    ],
)
def test_domain_errors_of_the_sequence(families, rules, alpha: float) -> None:
    """Also behind a closed gate."""
    with pytest.raises(ValueError, match="expected"):
        fixed_sequence(families, rules, alpha)
