"""Kinds of ill health exclude each other, and every item counts in each of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evals import health
from harness.types import Sample

pytestmark = pytest.mark.selftest


def sample(status, text="{}", item="a"):
    return Sample(item, 1.0 if status == "ok" else None, status=status, detail={"text": text})


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("ok", "{}", ""),
        ("ok", "  ", "empty"),
        ("parse_failure", "", "empty"),
        ("parse_failure", "Sure!", "parse_failure"),
        ("truncated", "", "truncated"),
        ("truncated", '{"a', "truncated"),
        ("error", "", "error"),
        ("timeout", "x", "error"),
    ],
)
def test_one_kind_for_each_answer(status, text, kind):
    assert health.kind_of(sample(status, text)) == kind


ROWS = st.lists(
    st.tuples(st.sampled_from(["ok", "truncated", "parse_failure", "error"]), st.sampled_from(["", " ", "{}", "x"])), max_size=30
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ROWS)
def test_nothing_is_dropped_and_the_kinds_add_up(rows):
    samples = [sample(status, text, str(n)) for n, (status, text) in enumerate(rows)]
    counted = health.rates(samples)
    each = {kind: health.of_kind(samples, kind) for kind in health.KINDS}
    for kind, marked in each.items():
        assert [s.item for s in marked] == [s.item for s in samples]
        assert all(s.status == "ok" and s.value in (0.0, 1.0) for s in marked)
        assert sum(s.value for s in marked) == counted[kind]
    per_item = Counter(s.item for marked in each.values() for s in marked if s.value)
    assert all(count == 1 for count in per_item.values())
    healthy = sum(s.status == "ok" and bool(s.detail["text"].strip()) for s in samples)
    assert counted["n"] == len(samples) == healthy + sum(counted[kind] for kind in health.KINDS)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="truncated"):
        health.of_kind([], "rude")


def test_the_sentence_says_every_rate():
    assert health.sentence("tuned", [sample("ok"), sample("error", "", "b")]) == (
        "tuned: of 2 answers truncated 0, empty 0, parse_failure 0, error 1"
    )
