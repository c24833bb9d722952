"""Outliers against slow Python, and what is none."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import outliers
from harness.audit.outliers import Outliers
from harness.audit.text import canonical

from .making import batch, found, report

pytestmark = pytest.mark.selftest

ORDINARY = [f"The {i} quick brown foxes of house number {i * 7} jump over {i * 3} lazy dogs while it rains on the roof." for i in range(60)]


def rows(*texts):
    return batch([[("user", "prompt", text)] for text in dict.fromkeys([*ORDINARY, *texts])])


def measured(text):
    """The features of one text, character by character."""
    places = np.cumsum([0, *(len(char.encode("utf-8", "surrogatepass")) for char in text)]).tolist()
    runs, words, at = [], [], 0
    for _, group in groupby(text):
        n = len(list(group))
        runs.append((n, places[at], places[at + n]))
        at += n
    at = None
    for i, char in enumerate([*text, " "]):
        breaks = char.isspace() or canonical(f"a{char}a") == ["a", char, "a"]
        if breaks and at is not None:
            words.append((i - at, places[at], places[i]))
        at = None if breaks else i if at is None else at
    solid = [char for char in text if not char.isspace()]
    said = canonical(text)
    grams = list(zip(said, said[1:], said[2:], strict=False))
    longest = [max(found, key=lambda item: item[0], default=(0, 0, 0)) for found in (runs, words)]
    other = sum(not char.isalnum() and canonical(f"a{char}a") != ["a", char, "a"] for char in solid)
    return [len(solid), other, *longest[0], *longest[1], len(grams), len(grams) - len(set(grams))]


@given(st.lists(st.text(alphabet="aab1 .-中ก\n\u00a0é👍\ud800", max_size=40), min_size=1, max_size=12, unique=True))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_features_are_those_of_slow_python(texts):
    facts = Outliers().partial(batch([[("user", "prompt", text)] for text in texts])).drop_columns("text")
    assert [list(row.values()) for row in facts.to_pylist()] == [measured(text) for text in texts]


def test_repetition_counts_every_3gram_of_a_long_text():
    text = "one two three four " * 5000 + " ".join(f"w{i}" for i in range(10_000))
    facts = Outliers().partial(batch([[("user", "prompt", text)], [("user", "prompt", "one two three four one two three")]])).to_pylist()
    assert [(row["grams"], row["repeated"]) for row in facts] == [tuple(measured(text)[-2:]), (5, 1)]


LOOP = "I am sorry. " * 40
DEFECTS = {
    "long_run": "ordinary words and then " + "é" * 100,
    "long_word": "see data " + "".join(chr(97 + i * i % 26) for i in range(200)) + " there",
    "repetition": LOOP,
    "non_text": "@@ ## {} [] -- ++ == ~~ !! ?? ;; ab",
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_kind_is_found_in_ordinary_texts(kind):
    said = report(Outliers(), rows(DEFECTS[kind]))
    assert [(row["kind"], row["row"], row["message"]) for row in found(said)] == [(kind, 60, 0)]
    (row,) = found(said)
    if "start" in row:
        span = DEFECTS[kind].encode()[row["start"] : row["end"]].decode()
        assert len(span) == row["num"] and len(set(span)) == {"long_run": 1, "long_word": 14}[kind]
    else:
        assert row["score"] == row["num"] / row["den"]


@pytest.mark.parametrize(
    "text",
    ["x" * 99, "a" * 99 + "b" * 99 + "c", "".join(chr(0x4E00 + i) for i in range(400)), "I am sorry. " * 17, "{}[]()<>+-*/=~^|&%", ""],
)
def test_what_is_within_the_bounds_is_none(text):
    assert found(report(Outliers(), rows(text))) == []


def test_where_it_is_usual_it_is_no_outlier_but_is_counted():
    links = ["see " + "Ab0/" * 50 + str(i) for i in range(100)]
    said = report(Outliers(), batch([[("user", "prompt", text)] for text in links]))
    assert found(said) == [] and said.summary["long_word"]["beyond_fixed_bound"] == 100


def test_what_one_text_in_ten_is_like_is_no_outlier_but_is_counted():
    rulers = ["words and " + "-" * (100 + i) for i in range(30)]
    ordinary = [f"{text} {i}" for i in range(5) for text in ORDINARY]
    for n, common in ((30, False), (29, False), (31, True)):
        texts = [*ordinary[: 300 - n], *rulers[: min(n, 30)], *["words and " + "+" * 150] * (n > 30)]
        said = report(Outliers(), batch([[("user", "prompt", text)] for text in texts]))
        told = [row for row in found(said) if row["kind"] == "long_run"]
        assert said.summary["long_run"]["common"] is common and said.summary["long_run"]["beyond_fixed_bound"] == n
        assert len(told) == (0 if common else n)


def test_a_text_is_told_once_and_what_lies_beside_it_is_not():
    made = batch([[("user", "prompt", "x")], [("user", "prompt", "y"), ("assistant", "answer", LOOP)], [("user", "prompt", LOOP)],
                  [("other", "meta", "-" * 500)], [("other", "tools", "+" * 500)]])  # fmt: skip
    assert [(row["kind"], row["row"], row["message"]) for row in found(report(Outliers(), made, [0, 0, 1, 2, 1, 3, 4]))] == [
        ("repetition", 2, 1)
    ]


def test_no_text_at_all():
    said = report(Outliers(), batch([[]]))
    assert found(said) == [] and said.summary["non_text"] == {"texts": 0, "beyond_fixed_bound": 0, "usual_up_to": 0.0, "common": False}


def test_the_usual_range_is_the_median_and_five_robust_deviations():
    assert outliers._usual(np.array([1.0, 2.0, 3.0, 4.0, 100.0] * 4)) == 3 + 5 * 1.4826
    assert outliers._usual(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == 0
