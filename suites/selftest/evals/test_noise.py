"""Flips between runs: against a table written by hand, and what may be said of any runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from harness.evals import noise
from harness.types import Sample

pytestmark = pytest.mark.selftest


def run(scores, start=0):
    return [
        Sample(f"i{n:02}", float(v) if v is not None else None, status="ok" if v is not None else "error")
        for n, v in enumerate(scores, start)
    ]


def test_an_item_flips_if_any_rerun_differs():
    first, reruns = run([1, 1, 0, 0, None]), [run([1, 0, 0, 1, 0]), run([1, 1, 0, 1, None])]
    assert [s.value for s in noise.flips(first, reruns)] == [0, 1, 0, 1, 0]
    found = noise.flaky(first, reruns)
    assert [(f.item, f.first, f.changed, f.reruns) for f in found] == [("i01", True, 1, 2), ("i03", False, 2, 2)]
    assert found[0].low == pytest.approx(beta.ppf(0.05, 1, 2))
    assert found[0].high == pytest.approx(beta.ppf(0.95, 2, 1))
    assert noise.discordance(reruns[0], first) == pytest.approx(2 / 5)


def test_reruns_may_hold_a_part_of_the_items():
    assert [s.item for s in noise.flips(run([1, 0, 1, 1]), [run([1, 1], start=2)])] == ["i02", "i03"]


@pytest.mark.parametrize(
    ("first", "reruns", "said"),
    [
        (run([1]), [], "no rerun"),
        (run([1]), [[]], "no rerun"),
        (run([1, 1]), [run([1, 1]), run([1])], "rerun 2"),
        (run([1, 1]), [run([1, 1]) + run([1])], "rerun 1"),
        (run([1]), [run([1, 0])], "not in the first run, like 'i01'"),
    ],
)
def test_runs_that_do_not_match_are_refused(first, reruns, said):
    with pytest.raises(ValueError, match=said):
        noise.flips(first, reruns)


SCORES = st.integers(1, 4).flatmap(
    lambda k: st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from([0, 1, None]), min_size=n, max_size=n), min_size=k + 1, max_size=k + 1)
    )
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(SCORES)
def test_flips_quarantine_and_best_of_agree(scores):
    first, *reruns = map(run, scores)
    flipped = {s.item for s in noise.flips(first, reruns) if s.value}
    assert flipped == {f.item for f in noise.flaky(first, reruns)}
    oracle = {f"i{n:02}" for n, column in enumerate(zip(*scores, strict=True)) if len({v == 1 for v in column}) > 1}
    assert flipped == oracle
    best = noise.best_of(first, reruns)
    assert [s.value == 1 for s in best] == [any(v == 1 for v in column) for column in zip(*scores, strict=True)]
    gained = {b.item for b, f in zip(best, first, strict=True) if b.value == 1 and f.value != 1}
    assert gained <= flipped  # rerun until green only ever gains, and only on flaky items
    assert all(b.value == 1 for b, f in zip(best, first, strict=True) if f.value == 1)
    assert noise.discordance(reruns[0], first) <= len(flipped) / len(first)
