"""What is true of every estimand, on data that are well formed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import (
    Claim,
    Control,
    Measurement,
    Sample,
    at_least,
    at_most,
    better_than,
    equivalent,
    evidence,
    identical,
    non_inferior,
    within,
)
from harness.judge import judge

pytestmark = pytest.mark.selftest

BINARY, SCORE, CODE = st.sampled_from([0.0, 1.0]), st.integers(0, 20).map(lambda k: k / 20), st.integers(0, 2).map(float)
TWO = ("new", "old")


def _rows(claim: Claim, values: list[tuple[float, float]]) -> tuple[Sample, ...]:
    """Rows of the claim's kind; the second value of a pair is the other arm, or the weight."""
    kind = str(claim.estimand)
    rows: list[Sample] = []
    for i, (a, b) in enumerate(values):
        item = f"i{i:03d}"
        if kind == "run_ratio":
            rows += [Sample(item, v + 1 + i / 100 + r / 1000, arm, replicate=r) for arm, v in zip(TWO, (a, b), strict=True) for r in (0, 1)]
        elif kind == "log_ratio":
            rows.append(Sample(item, a - 0.5, weight=10 + b))
        elif kind.startswith("alpha"):
            rows += [Sample(item, a, replicate=0), Sample(item, b, replicate=1)]
        elif kind in ("paired_difference", "paired_mean", "relative_score", "sequential_difference", "kappa", "corrected_difference"):
            rows += [Sample(item, v, arm) for arm, v in zip(TWO, (a, b), strict=True)]
            if kind == "corrected_difference" and i % 2:
                rows += [Sample(item, 1 - v if i % 10 == 1 else v, f"{arm}:human") for arm, v in zip(TWO, (a, b), strict=True)]
        else:
            rows.append(Sample(item, a, at=float(i)))
    return tuple(rows)


KINDS = [
    (Claim("p.least", "t", at_least(0.7)), BINARY),
    (Claim("p.most", "t", at_most(0.4), expected=0.1), BINARY),
    (Claim("p.within", "t", within(0.2, 0.8)), BINARY),
    (Claim("d.ni", "t", non_inferior(0.2)), BINARY),
    (Claim("d.sup", "t", better_than(), expected=0.2), BINARY),
    (Claim("d.by", "t", better_than(0.1), expected=0.3), BINARY),
    (Claim("d.eq", "t", equivalent(0.2)), BINARY),
    (Claim("s.sup", "t", better_than(), estimand="paired_mean"), SCORE),
    (Claim("s.ni", "t", non_inferior(0.2), estimand="paired_mean", support=(0.0, 1.0)), SCORE),
    (Claim("s.eq", "t", equivalent(0.2), estimand="paired_mean", support=(0.0, 1.0)), SCORE),
    (Claim("s.t", "t", non_inferior(0.2), estimand="paired_mean"), SCORE),
    (Claim("s.rel", "t", at_least(0.8), estimand="relative_score", support=(0.0, 1.0)), SCORE),
    (Claim("s.seq", "t", non_inferior(0.2), estimand="sequential_difference", support=(0.0, 1.0)), BINARY),
    (Claim("m.most", "t", at_most(0.6), estimand="bounded_mean", support=(0.0, 1.0), expected=0.3), SCORE),
    (Claim("m.least", "t", at_least(0.4), estimand="bounded_mean", support=(0.0, 1.0), expected=0.7), SCORE),
    (Claim("m.mean", "t", at_most(0.6), estimand="mean", expected=0.3), SCORE),
    (Claim("r.ppl", "t", at_most(1.1), estimand="log_ratio"), SCORE),
    (Claim("l.p90", "t", at_most(0.1), estimand="over_limit", slo=0.9, expected=0.02), SCORE),
    (Claim("r.speed", "t", at_least(1.1), estimand="run_ratio", expected=1.3), SCORE),
    (Claim("j.kappa", "t", at_least(0.4), estimand="kappa", expected=0.7), CODE),
    (Claim("j.alpha", "t", at_least(0.4), estimand="alpha_ordinal", expected=0.7), CODE),
    (Claim("x.same", "t", identical()), BINARY),
    (Claim("x.share", "t", at_most(0.4), estimand="exact_share"), BINARY),
]
CASES = st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(st.just(kind[0]), st.lists(st.tuples(kind[1], kind[1]), min_size=4, max_size=70))
)
few = settings(max_examples=60, deadline=None, derandomize=True)


def measured(claim: Claim, values: list[tuple[float, float]]) -> Measurement:
    return Measurement("m", _rows(claim, values))


@few
@given(CASES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case, rng):
    claim, values = case
    data = measured(claim, values)
    shuffled = list(data.samples)
    rng.shuffle(shuffled)
    assert judge(claim, data) == judge(claim, replace(data, samples=tuple(shuffled)))


@few
@given(st.lists(BINARY, min_size=1, max_size=30), st.sampled_from([at_most(0.4), at_least(0.6), within(0.2, 0.8)]))
def test_one_row_for_many_alike_says_what_many_rows_say(values, bound):
    claim = Claim("x.share", "t", bound, estimand="exact_share")
    each = tuple(Sample(f"i{i}", value) for i, value in enumerate(values))
    alike = tuple(Sample(f"all {value}", value, weight=float(values.count(value))) for value in sorted(set(values)))
    assert judge(claim, Measurement("m", each)) == judge(claim, Measurement("m", alike))


@few
@given(CASES)
def test_a_verdict_is_one_of_three_its_numbers_fit_and_it_survives_json(case):
    claim, values = case
    verdict = judge(claim, measured(claim, values))
    assert verdict.outcome in ("holds", "fails", "inconclusive")
    assert bool(verdict.reason) and bool(verdict.sentence)
    if verdict.p_hold is not None and verdict.p_fail is not None:
        assert 0 <= verdict.p_hold <= 1 and 0 <= verdict.p_fail <= 1
        assert (verdict.outcome == "holds") <= (verdict.p_hold <= claim.level)
        assert verdict.low <= verdict.estimate + 1e-9 and verdict.estimate <= verdict.high + 1e-9
    assert evidence.verdict_from_json(evidence.verdict_to_json(verdict)) == verdict


@few
@given(CASES)
def test_a_stricter_level_never_decides_what_a_looser_one_did_not(case):
    claim, values = case
    data = measured(claim, values)
    loose, strict = judge(claim, data), judge(replace(claim, alpha=claim.level / 5), data)
    if strict.outcome in ("holds", "fails") and claim.estimand != "sequential_difference":  # that stops at another item
        assert loose.outcome == strict.outcome
    if loose.low is not None and strict.low is not None and claim.estimand != "sequential_difference":
        assert strict.low <= loose.low + 1e-9 and loose.high <= strict.high + 1e-9


@few
@given(CASES, CASES)
def test_controls_never_upgrade(case, other):
    claim, values = case
    alone = judge(claim, measured(claim, values))
    control = Control(
        "c", ("holds",), measured(claim, [pair for pair in other[1] if claim.estimand not in ("paired_difference", "proportion")])
    )
    beside = judge(claim, measured(claim, values), controls=[control])
    assert beside.outcome in (alone.outcome, "inconclusive")


@few
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100), st.integers(1, 100))
def test_pairs_that_agree_say_nothing_about_superiority(b, c, same, more):
    """McNemar's p does not move; a claim refuted with fewer of them is refuted with more."""
    claim = Claim("d", "t", better_than())

    def with_same(count: int):
        return judge(claim, measured(claim, [(1.0, 0.0)] * b + [(0.0, 1.0)] * c + [(1.0, 1.0)] * (count + 1)))

    first, later = with_same(same), with_same(same + more)
    assert (first.p_hold, first.p_fail, first.outcome) == (later.p_hold, later.p_fail, later.outcome)


@few
@given(st.integers(0, 25), st.integers(0, 25), st.integers(1, 200))
def test_equivalent_is_not_inferior(b, c, same):
    values = [(1.0, 0.0)] * b + [(0.0, 1.0)] * c + [(1.0, 1.0)] * same
    both, one = (judge(Claim("d", "t", bound(0.1)), measured(Claim("d", "t", bound(0.1)), values)) for bound in (equivalent, non_inferior))
    assert both.outcome != "holds" or one.outcome == "holds"
    assert one.outcome != "fails" or both.outcome != "holds"


@few
@given(st.lists(st.tuples(SCORE, SCORE), min_size=30, max_size=60), st.integers(1, 5))
def test_the_items_of_a_cluster_may_be_split_without_moving_the_estimate(values, size):
    claim = Claim("m", "t", at_most(0.6), estimand="mean")
    rows = _rows(claim, values)
    joined = tuple(replace(s, cluster=f"c{i // size}") for i, s in enumerate(rows))
    split, whole = judge(claim, Measurement("m", rows)), judge(claim, Measurement("m", joined))
    if split.estimate is not None and whole.estimate is not None:
        assert split.estimate == pytest.approx(whole.estimate, abs=1e-9)


@few
@given(st.lists(st.tuples(SCORE, SCORE), min_size=4, max_size=12), st.floats(0.01, 100))
def test_the_unit_of_a_run_does_not_matter(values, unit):
    claim = Claim("r", "t", at_least(1.1), estimand="run_ratio")
    rows = _rows(claim, values)
    scaled = tuple(replace(s, value=s.value * unit) for s in rows)
    one, other = judge(claim, Measurement("m", rows)), judge(claim, Measurement("m", scaled))
    assert one.outcome == other.outcome
    if one.estimate is not None and other.estimate is not None:
        assert other.estimate == pytest.approx(one.estimate, rel=1e-7)
