"""Preference pairs against plain Python, and the interval against its own definition."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import forms
from harness.audit.model import FORMS, Batch
from harness.audit.preferences import Preferences
from harness.audit.text import canonical

from .making import batch, found, report

pytestmark = pytest.mark.selftest

PREFERENCE = FORMS.index("preference")


def pair(prompt, chosen, rejected):
    return [("user", "prompt", prompt), ("assistant", "answer", chosen), ("assistant", "rejected", rejected)]


def made(rows):
    """(batch, where each row lies)."""
    kept = list(dict.fromkeys(rows))
    return batch([pair(*row) for row in kept], form=[PREFERENCE] * len(kept)), [kept.index(row) for row in rows]


ANSWERS = st.sampled_from(["yes", "Yes!", "no", "é é é", "longer than that", "", " ", "?", "..!"])
ROWS = st.lists(st.tuples(st.sampled_from(["p", "P?", "q"]), ANSWERS, ANSWERS), min_size=1, max_size=30)


def form(text):
    return tuple(canonical(text)) or "".join(text.split())


@given(ROWS)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_pairs_are_what_plain_python_says(rows):
    said = report(Preferences(), *made(rows))
    expected, compared = set(), []
    for i, (_, chosen, rejected) in enumerate(rows):
        blanks = {"empty_chosen": not chosen.strip(), "empty_rejected": not rejected.strip()}
        expected |= {(kind, i) for kind, blank in blanks.items() if blank}
        if not any(blanks.values()):
            if form(chosen) == form(rejected):
                expected.add(("equal" if chosen == rejected else "equal_canonical", i))
            else:
                compared.append(i)
    told = {(row["kind"], row["row"]) for row in found(said) if row["kind"] != "flipped"}
    assert told == expected
    assert said.summary["pairs"] == len(rows) and said.summary["compared"] == len(compared)
    for measure, size in (("characters", len), ("words", lambda text: len(canonical(text)))):
        scores = [(size(rows[i][1]) > size(rows[i][2])) - (size(rows[i][1]) < size(rows[i][2])) for i in compared]
        length = said.summary["length"][measure]
        assert (length["wins"], length["losses"], length["ties"]) == (scores.count(1), scores.count(-1), scores.count(0))
        if compared:
            assert Fraction(length["num"], length["den"]) == sum(Fraction(score + 1, 2) for score in scores) / len(compared)
            assert 2 * length["wins"] + length["ties"] == length["num"]


@given(ROWS)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_flipped_pairs_are_those_of_a_dictionary(rows):
    seen = defaultdict(list)
    for i, (prompt, chosen, rejected) in enumerate(rows):
        if chosen.strip() and rejected.strip() and form(chosen) != form(rejected):
            key = (form(prompt), frozenset([form(chosen), form(rejected)]))
            seen[key].append((i, form(chosen)))
    expected = {}
    for members in seen.values():
        for i, chosen in members:
            mine = [j for j, other in members if other == chosen]
            theirs = [j for j, other in members if other != chosen]
            if len(mine) < len(theirs) or (len(mine) == len(theirs) and members[0][1] != chosen):
                expected[i] = (theirs[0], len(mine), len(members))
    said = report(Preferences(), *made(rows))
    told = {row["row"]: (row["partner"], row["num"], row["den"]) for row in found(said) if row["kind"] == "flipped"}
    assert told == expected
    assert said.summary["flipped"]["num"] == len(expected)
    assert said.summary["flipped"]["den"] == sum(len(members) for members in seen.values() if len(members) > 1)


def test_the_interval_is_that_of_pairs_of_different_length():
    from scipy.stats import binomtest

    rows = [(f"p{i}", "longer answer" if i % 4 else "no", "no" if i % 4 else "longer answer") for i in range(40)] + [("q", "one", "two")]
    length = report(Preferences(), *made(rows)).summary["length"]["characters"]
    truth = binomtest(30, 40).proportion_ci(0.95, "exact")
    assert length["interval"] == pytest.approx([truth.low, truth.high], abs=1e-9) and length["ties"] == 1


def read(*rows):
    raw = [json.dumps(row).encode() for row in rows]
    return Batch(forms.parse(raw, np.arange(2 * len(raw), dtype=np.uint64).reshape(-1, 2), forms.Shape()))


def dialogue(*texts):
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def test_an_answer_to_another_prompt_is_seen_where_the_rows_tell_it():
    rows = [
        {"chosen": dialogue("a?", "b"), "rejected": dialogue("a?", "c")},
        {"chosen": dialogue("a?", "b"), "rejected": dialogue("other?", "c")},
        {"chosen": dialogue("a?", "b", "then?", "x"), "rejected": dialogue("a?", "c", "so?", "y")},  # they part at an answer
        {"chosen": dialogue("a?", "b", "then?", "x"), "rejected": dialogue("a?", "b", "so?", "y")},
        {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"},
        {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: ho\n\nAssistant: b"},
        {"prompt": "a?", "chosen": "b", "rejected": "c"},
    ]
    assert [row["row"] for row in found(report(Preferences(), read(*rows))) if row["kind"] == "other_prompt"] == [1, 3, 5]


def test_a_missing_side_is_empty_and_other_forms_are_counted():
    said = report(Preferences(), read({"prompt": "a", "chosen": None, "rejected": "c"}, {"prompt": "a", "completion": "b"}, {"text": "t"}))
    assert [(row["kind"], row["row"]) for row in found(said)] == [("empty_chosen", 0)]
    assert said.summary["rows_of_other_forms"] == 2 and "not_evaluated" not in said.summary


def test_without_pairs_nothing_was_evaluated():
    said = report(Preferences(), read({"text": "t"}))
    assert found(said) == [] and said.summary["not_evaluated"]
